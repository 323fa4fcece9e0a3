import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from catalogpose.catalog.manifest import check_manifest
from catalogpose.commands.generate import generate_pictures
from catalogpose.errors import (
    EnvironmentFault,
    FailureLimitError,
    LockedError,
    ManifestError,
    UsageError,
)
from catalogpose.run.ledger import Ledger
from catalogpose.run.lock import hold
from catalogpose.run.process import WORKER
from catalogpose.run.summary import GenerateSummary

MakeShop = Callable[..., Any]


def generate(shop: Any, factory: str = "fake_worker:FakeWorker", **changes: Any) -> GenerateSummary:
    """Make a shop's pictures in this process's children."""
    return generate_pictures(shop.options(**changes), factory=factory)


def statuses(shop: Any) -> dict[str, str]:
    """Return each row's status in `results.parquet`."""
    table = pq.read_table(shop.run / "results.parquet", columns=["id", "status"])
    return {row["id"]: row["status"] for row in table.to_pylist()}


def leftovers(shop: Any) -> list[Path]:
    """Return temporary files in the run folder."""
    return list(shop.run.rglob("*.tmp"))


def test_a_run_leaves_what_the_contract_says(make_shop: MakeShop) -> None:
    """Pictures, run.json, ledger and results are there; the summary says what comes next."""
    shop = make_shop(["a", "b", "c"])
    said: list[tuple[int, int]] = []
    summary = generate_pictures(
        shop.options(), lambda *now: said.append(now), factory="fake_worker:FakeWorker"
    )
    assert said == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert shop.pictures == shop.expected_pictures
    assert statuses(shop) == dict.fromkeys("abc", "done")
    assert {path.name for path in shop.run.iterdir()} == {
        ".lock", "images", "ledger.jsonl", "results.parquet", "run.json",
    }  # fmt: skip
    card = json.loads((shop.run / "run.json").read_text())
    assert (card["rows"], card["options"]["steps"], card["options"]["guidance"]) == (3, 35, 3.5)
    assert card["fingerprint"] == Ledger(shop.run).outcomes()["a"].fingerprint
    assert Path(card["model_folder"]) == shop.model
    assert card["versions"]["torch"]
    assert (summary.done, summary.already_done, summary.exit_code) == (3, 0, 0)
    assert f"next: catalogpose report {shop.run}" in str(summary)


def test_a_finished_run_again_does_nothing_quickly(make_shop: MakeShop) -> None:
    """No process is started, torch stays away, and the files are the same to the byte."""
    shop = make_shop(["a", "b"])
    generate(shop)
    before = {path: path.read_bytes() for path in shop.run.rglob("*") if path.is_file()}
    script = (
        "import sys; from pathlib import Path; from catalogpose.config import GenerateOptions\n"
        "from catalogpose.commands.generate import generate_pictures\n"
        f"generate_pictures(GenerateOptions(manifest=Path({str(shop.manifest)!r}), "
        f"out=Path({str(shop.run)!r}), model={str(shop.model)!r}, device='cpu'))\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'open_clip'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)\n"
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    again = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (0, "")
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - used < 3
    assert {p: p.read_bytes() for p in shop.run.rglob("*") if p.is_file()} == before
    assert generate(shop, gpus=1_000, device="auto").already_done == 2


def test_failed_rows_are_recorded_and_can_be_tried_again(make_shop: MakeShop) -> None:
    """They cost exit code 3 until they are mended; the failures are a manifest."""
    shop = make_shop(["a", "bad1", "b", "bad2"])
    summary = generate(shop)
    assert (summary.exit_code, summary.failed, summary.failures) == (3, 2, {"photo": 2})
    assert "2 failed: 2 photo. See " in str(summary)
    assert f"retry: catalogpose generate --manifest {shop.manifest}" in str(summary)
    assert check_manifest(shop.run / "failures.parquet") == 2
    assert statuses(shop) == {"a": "done", "bad1": "failed", "b": "done", "bad2": "failed"}
    kept = generate(shop, retry_failed=False)
    assert (kept.exit_code, kept.already_done, kept.failed) == (3, 2, 2)
    assert Counter(shop.tried)["bad1"] == 1
    (shop.folder / "mended").touch()
    mended = generate(shop)
    assert (mended.exit_code, mended.done, mended.already_done) == (0, 4, 2)
    assert Ledger(shop.run).outcomes()["bad1"].attempts == 2
    assert not (shop.run / "failures.parquet").exists()


def test_too_many_failures_stop_the_run(make_shop: MakeShop) -> None:
    """The limit counts; what is done stays done, and what is left is pending."""
    shop = make_shop(["a", "bad1", "bad2", "b", "c"])
    with pytest.raises(FailureLimitError) as caught:
        generate(shop, max_failures=1)
    assert caught.value.exit_code == 4
    assert str(caught.value).startswith("stopped: more than 1 rows failed (--max-failures)\n")
    assert statuses(shop) == {
        "a": "done", "bad1": "failed", "bad2": "failed", "b": "pending", "c": "pending",
    }  # fmt: skip
    (shop.folder / "mended").touch()
    assert generate(shop, max_failures=0).exit_code == 0
    assert Counter(shop.tried)["a"] == 1


def test_other_settings_redo_the_rows_and_say_so(make_shop: MakeShop) -> None:
    """A run folder may be used again with other steps, another seed or a changed photo."""
    shop = make_shop(["a", "b", "c"])
    generate(shop)
    for changes in ({"steps": 3}, {"seed": 1}):
        summary = generate(shop, **changes)
        assert (summary.done, summary.already_done, summary.changed) == (3, 0, 3)
        assert "3 rows were known with other files, seeds, model or settings" in str(summary)
        assert " ".join(f"--{key} {value}" for key, value in changes.items()) in summary.retry
    (shop.folder / "photo-1.png").write_bytes(b"new")
    assert generate(shop, seed=1).changed == 1


def test_a_picture_that_is_gone_or_spoilt_is_made_again(make_shop: MakeShop) -> None:
    """The ledger alone proves nothing."""
    shop = make_shop(["a", "b", "c"])
    generate(shop)
    first, second = sorted((shop.run / "images").iterdir())[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    assert (generate(shop).already_done, shop.pictures) == (1, shop.expected_pictures)


@pytest.mark.parametrize("fault", ["row", "model", "weights", "table", "file"])
def test_nothing_is_written_for_a_wrong_request(make_shop: MakeShop, fault: str) -> None:
    """Manifest, model folder, keypoint table and run folder are checked before anything else."""
    shop = make_shop(["a", "b"])
    (shop.run / "images").rmdir()
    shop.run.rmdir()
    changes: dict[str, Any] = {}
    expected: type[UsageError] = UsageError
    if fault == "row":
        (shop.folder / "photo-0.png").unlink()
        expected = ManifestError
    elif fault == "model":
        changes["model"] = str(shop.folder)
    elif fault == "weights":
        card = json.loads((shop.model / "catalogpose.json").read_text())
        card["weights"] = {"unet/weights.safetensors": "0"}
        (shop.model / "catalogpose.json").write_text(json.dumps(card))
    elif fault == "table":
        changes["keypoint_table"] = shop.manifest
    else:
        changes["out"] = shop.manifest
    with pytest.raises(expected):
        generate(shop, **changes)
    assert not shop.run.exists()


def test_two_runs_do_not_share_a_folder(make_shop: MakeShop) -> None:
    """The second one is told who is there, and changes nothing."""
    shop = make_shop(["a"])
    with hold(shop.run), pytest.raises(LockedError, match=socket.gethostname()):
        generate(shop)
    assert not (shop.run / "run.json").exists()


def test_only_our_own_leftovers_are_removed(make_shop: MakeShop) -> None:
    """A killed run's temporary files go; a stranger's file stays."""
    shop = make_shop(["a"])
    ours = shop.run / "images" / f".{'0' * 32}.tmp"
    theirs = shop.run / "images" / ".notes.tmp"
    for path in (ours, theirs):
        path.touch()
    generate(shop)
    assert leftovers(shop) == [theirs]


def test_a_full_disk_in_this_process_is_an_environment_fault(
    make_shop: MakeShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger's disk may be the one that is full."""
    shop = make_shop(["a"])

    def refuse(self: Ledger, outcome: object) -> None:
        raise OSError(28, "No space left on device", "ledger.jsonl")

    monkeypatch.setattr(Ledger, "record", refuse)
    with pytest.raises(EnvironmentFault, match=r"No space left on device \(ledger.jsonl\)"):
        generate(shop)


def test_more_gpus_than_there_are_is_an_environment_fault(
    make_shop: MakeShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run does not begin on fewer GPUs than wished."""
    monkeypatch.setattr("catalogpose.run.devices.count_gpus", lambda: 2)
    with pytest.raises(EnvironmentFault, match=r"only 2 GPU\(s\); wanted: 3"):
        generate(make_shop(["a"]), device="auto", gpus=3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_goes_on(
    make_shop: MakeShop, reaped: list[subprocess.Popen[str]], number: signal.Signals
) -> None:
    """A signal to the whole group ends it soon with its code, results and no torn row."""
    shop = make_shop([f"r{index}" for index in range(40)])
    process = shop.start("--workers", "2")
    reaped.append(process)
    wait_for(lambda: len(shop.tried) >= 4)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "go on: catalogpose generate --manifest" in out
    assert "Traceback" not in err
    counts = Counter(statuses(shop).values())
    assert counts["done"] == len(shop.tried) > 0
    assert counts["pending"] > 0
    assert shop.finish().returncode == 0
    assert shop.pictures == shop.expected_pictures
    assert max(Counter(shop.tried).values()) == 1


def test_killed_runs_lose_nothing(make_shop: MakeShop, reaped: list[subprocess.Popen[str]]) -> None:
    """After kills of parent, group and workers every row is done once, byte for byte."""
    shop = make_shop([f"r{index}" for index in range(60)])
    chance = random.Random(4)
    kills = 0
    for victim in ("parent", "group", "worker", "worker", "parent", "group"):
        process = shop.start("--workers", "2")
        reaped.append(process)
        begun = len(shop.tried)
        wait_for(lambda begun=begun: len(shop.tried) > begun + 2)
        time.sleep(chance.random() * 0.1)
        kills += 1
        if victim == "worker":
            workers = [path.name.split("-")[1] for path in (shop.folder / "log").glob("started-*")]
            alive = [int(pid) for pid in workers if is_alive(int(pid))]
            os.kill(chance.choice(alive), signal.SIGKILL)
            time.sleep(0.3)
        (os.killpg if victim == "group" else os.kill)(process.pid, signal.SIGKILL)
        process.communicate()
        for pid in (int(path.name.split("-")[1]) for path in (shop.folder / "log").glob("s*")):
            wait_for(lambda pid=pid: not is_alive(pid))
    last = shop.finish("--workers", "2")
    assert last.returncode == 0, last.stderr
    assert shop.pictures == shop.expected_pictures
    assert leftovers(shop) == []
    assert set(statuses(shop).values()) == {"done"}
    lines = (shop.run / "ledger.jsonl").read_text().splitlines()
    assert Counter(json.loads(line)["id"] for line in lines) == dict.fromkeys(statuses(shop), 1)
    assert len(shop.tried) - 60 <= 2 * (kills + 2)


def wait_for(happens: Callable[[], bool]) -> None:
    """Wait until something happens, for a minute at most."""
    deadline = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_real_worker_can_be_named() -> None:
    """The name by which worker processes find the real worker is right."""
    module, _, name = WORKER.partition(":")
    assert hasattr(__import__(module, fromlist=[name]), name)
