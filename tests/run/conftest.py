"""What the tests of a run share: a small catalogue, a model folder without weights and a runner."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from catalogpose.catalog.files import output_name
from catalogpose.catalog.manifest import read_rows, write_manifest
from catalogpose.catalog.poses import write_pose
from catalogpose.config import GenerateOptions
from catalogpose.records import Pose, Row
from catalogpose.run.plan import row_seed
from catalogpose.run.process import WorkerSettings
from catalogpose.truepose.model import ModelCard, write_card

HERE = Path(__file__).parent

FAKE = "fake_worker:FakeWorker"
"""The worker without a model."""

SCRIPT = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from functools import partial
import catalogpose.commands.generate as command
command.generate_pictures = partial(command.generate_pictures, factory={FAKE!r})
from catalogpose.cli import main
main()
"""
"""`catalogpose` with the fake worker."""


@pytest.fixture(autouse=True)
def _find_the_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let worker processes import `fake_worker`."""
    monkeypatch.syspath_prepend(str(HERE))


@dataclass(frozen=True, kw_only=True)
class Shop:
    """A catalogue on disk and the run that is made of it."""

    folder: Path
    """Where everything lies."""
    manifest: Path
    """The manifest."""
    run: Path
    """The run folder."""
    model: Path
    """A model folder whose card is all it has."""

    @property
    def rows(self) -> list[Row]:
        """The manifest's rows."""
        return list(read_rows(self.manifest))

    @property
    def pictures(self) -> dict[str, bytes]:
        """All files in the run's `images/`, by name."""
        return {path.name: path.read_bytes() for path in (self.run / "images").iterdir()}

    @property
    def expected_pictures(self) -> dict[str, bytes]:
        """What `pictures` must be once all rows are done."""
        from fake_worker import picture

        return {output_name(row.id): picture(row.id, row_seed(0, row.id)) for row in self.rows}

    @property
    def tried(self) -> list[str]:
        """The ids that workers began, each as often as it was tried."""
        files = (self.folder / "log").glob("tried-*")
        return [line for file in files for line in file.read_text().splitlines()]

    def options(self, **changes: object) -> GenerateOptions:
        """Return the options of the run, on one CPU process unless told otherwise."""
        plain = {"manifest": self.manifest, "out": self.run, "model": str(self.model)}
        return GenerateOptions(**(plain | {"device": "cpu"} | changes))

    def settings(self, **changes: object) -> WorkerSettings:
        """Return what a worker is told."""
        plain: dict[str, object] = {
            "model": self.model,
            "cache": self.folder / "cache",
            "device": "cpu",
            "threads": 1,
            "batch": 1,
            "steps": 2,
            "guidance": 2.0,
            "run_folder": self.run,
            "fingerprint": "f",
            "keypoint_table": None,
            "factory": FAKE,
        }
        return WorkerSettings(**(plain | changes))  # type: ignore[arg-type]

    def words(self, *more: str) -> list[str]:
        """Return the words of `catalogpose generate` for the run."""
        return ["generate", "--manifest", str(self.manifest), "--out", str(self.run),
                "--model", str(self.model), "--device", "cpu", *more]  # fmt: skip

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start the run in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *self.words(*more)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, *more: str) -> subprocess.CompletedProcess[str]:
        """Carry out the run."""
        with self.start(*more) as process:
            out, err = process.communicate(timeout=200)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def make_shop(tmp_path: Path) -> Callable[..., Shop]:
    """Make a catalogue with these ids; every two rows share a source."""

    def make(ids: Sequence[str], *, suffix: str = ".csv", **columns: Sequence[object]) -> Shop:
        joints = np.full((18, 3), (5.0, 6.0, 1.0), dtype=np.float32)
        write_pose(tmp_path / "pose.json", Pose(joints=joints, width=88, height=128))
        (tmp_path / "run" / "images").mkdir(parents=True)
        rows = []
        for index, row_id in enumerate(ids):
            source = tmp_path / f"photo-{index // 2}.png"
            source.write_bytes(b"photo %d" % (index // 2))
            extra = {name: values[index] for name, values in columns.items()}
            pose = tmp_path / "pose.json"
            rows.append(Row(number=index + 1, id=row_id, source=source, pose=pose, extra=extra))
        write_manifest(tmp_path / f"shop{suffix}", rows)
        (tmp_path / "model").mkdir()
        write_card(tmp_path / "model", ModelCard(name="none", height=128, width=88))
        return Shop(
            folder=tmp_path,
            manifest=tmp_path / f"shop{suffix}",
            run=tmp_path / "run",
            model=tmp_path / "model",
        )

    return make


@pytest.fixture
def reaped() -> Iterator[list[subprocess.Popen[str]]]:
    """Keep processes to be killed, with their groups, after the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
