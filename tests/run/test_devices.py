import os
from pathlib import Path

import pytest

from catalogpose.errors import EnvironmentFault
from catalogpose.run import devices
from catalogpose.run.devices import Device, count_gpus, find_devices


@pytest.fixture(autouse=True)
def _four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine have four cores and no wish for threads."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def have(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    """Let the machine have so many GPUs."""
    monkeypatch.setattr(devices, "count_gpus", lambda: gpus)


def test_processes_on_the_cpu_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process gets its share of the cores, one at least; OMP_NUM_THREADS bounds it."""
    assert find_devices("cpu", None, 2) == (Device(name="cpu", threads=2),) * 2
    assert find_devices("cpu", None, 9)[0].threads == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert find_devices("cpu", None, 1) == (Device(name="cpu", threads=1),)


def test_auto_takes_one_gpu_if_there_is_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it works on the CPU; one GPU needs no change of what the process sees."""
    have(monkeypatch, 0)
    assert find_devices("auto", None, 2) == (Device(name="cpu", threads=2),) * 2
    have(monkeypatch, 4)
    assert find_devices("auto", None, 1) == (Device(name="cuda:0", threads=4),)


@pytest.mark.parametrize(
    ("shown", "expected"), [(None, ["0", "1"]), ("3,GPU-5f,1", ["3", "GPU-5f"])]
)
def test_each_process_sees_one_gpu(
    monkeypatch: pytest.MonkeyPatch, shown: str | None, expected: list[str]
) -> None:
    """What CUDA_VISIBLE_DEVICES shows already is honoured."""
    have(monkeypatch, 3)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    found = find_devices("cuda", 2, 1)
    assert [device.visible for device in found] == expected
    assert [device.name for device in found] == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("device", "gpus", "there", "message"),
    [
        ("cuda", None, 0, "no GPU that torch can use; wanted: 1"),
        ("auto", 1, 0, "no GPU that torch can use; wanted: 1"),
        ("auto", 3, 2, r"only 2 GPU\(s\); wanted: 3"),
    ],
)
def test_missing_gpus_are_an_environment_fault(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int | None, there: int, message: str
) -> None:
    """A run on fewer GPUs than wished would take much longer than planned."""
    have(monkeypatch, there)
    with pytest.raises(EnvironmentFault, match=message):
        find_devices(device, gpus, 1)


def test_gpus_are_counted_in_another_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a GPU's device file none is looked for; a broken torch is an environment fault."""
    monkeypatch.setattr(devices, "GPU_FILES", ("no-such-file-*",))
    monkeypatch.setattr(devices, "PROBE", "raise SystemExit('broken')")
    assert count_gpus() == 0
    monkeypatch.setattr(devices, "GPU_FILES", ("null",))
    with pytest.raises(EnvironmentFault, match="torch cannot be used here: broken"):
        count_gpus()
    monkeypatch.setattr(devices, "PROBE", "print('a warning'); print(2)")
    assert count_gpus() == 2
