"""Which devices a run works on, found out without loading torch into this process."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from catalogpose.errors import EnvironmentFault

GPU_FILES = ("nvidia[0-9]*", "nvidiactl", "dxg", "kfd")
"""Device files without one of which a machine has no GPU that torch could use."""

PROBE = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
"""What a short-lived process runs to count GPUs."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One worker process's share of the machine."""

    name: str
    """`cpu`, or `cuda:` and the GPU's place among those of the run."""
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES for the process; None: as it is."""
    threads: int = 1
    """Threads on the CPU."""


def find_devices(device: str, gpus: int | None, workers: int) -> tuple[Device, ...]:
    """Return the devices for a run, one a process.

    `device` is one of `config.DEVICES`, `gpus` the wish for GPUs (None: one if there is any), and
    `workers` the number of processes where the run works on the CPU. Raises EnvironmentFault where
    the machine has fewer GPUs than wished.
    """
    found = 0 if device == "cpu" else count_gpus()
    wanted = gpus or (1 if device == "cuda" else min(found, 1))
    if wanted > found:
        have = "no GPU that torch can use" if found == 0 else f"only {found} GPU(s)"
        raise EnvironmentFault(f"this machine has {have}; wanted: {wanted}")
    threads = _threads(wanted or workers)
    if wanted == 0:
        return (Device(name="cpu", threads=threads),) * workers
    if wanted == 1:
        return (Device(name="cuda:0", threads=threads),)
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index) for index in range(found)] if not shown else shown.split(",")
    return tuple(
        Device(name=f"cuda:{index}", visible=names[index].strip(), threads=threads)
        for index in range(wanted)
    )


def count_gpus() -> int:
    """Return the number of GPUs that torch can use, with CUDA_VISIBLE_DEVICES as it is."""
    if not any(any(Path("/dev").glob(pattern)) for pattern in GPU_FILES):
        return 0
    probe = subprocess.run(  # noqa: S603  our own interpreter and our own words
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        reason = (probe.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EnvironmentFault(f"torch cannot be used here: {reason}")
    return int(probe.stdout.split()[-1])


def _threads(processes: int) -> int:
    """Return the CPU threads for each of so many processes; OMP_NUM_THREADS is an upper bound."""
    # Only Linux can say which cores this process may use.
    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    share = max(1, cores // processes)
    bound = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(bound)) if bound.isdecimal() and int(bound) > 0 else share
