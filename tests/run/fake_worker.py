"""A worker without a model: id and seed decide its bytes, and some ids tell it to misbehave."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Sequence

from catalogpose.catalog.files import output_name, sha256_file, write_atomically
from catalogpose.errors import EnvironmentFault
from catalogpose.records import Outcome
from catalogpose.run.plan import Job
from catalogpose.run.process import WorkerSettings

SECONDS = 0.02
"""How long a row takes."""


def picture(row_id: str, seed: int) -> bytes:
    """Return the bytes of a row's picture, the same everywhere and always."""
    return hashlib.sha256(f"{row_id} {seed}".encode()).digest() * 400


class FakeWorker:
    """Does rows; `kill` in an id kills its process, `flaky` once, `bad` fails it."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Open nothing."""
        self.settings = settings
        self.log = settings.run_folder.parent / "log"
        self.log.mkdir(exist_ok=True)
        (self.log / f"started-{os.getpid()}").touch()

    def work(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Do the jobs one after another."""
        return [self._do(job) for job in jobs]

    def close(self) -> None:
        """Keep nothing."""

    def _do(self, job: Job) -> Outcome:
        with (self.log / f"tried-{os.getpid()}").open("a") as file:
            file.write(f"{job.row.id}\n")
        time.sleep(60 if "slow" in job.row.id else SECONDS)
        known = {
            "id": job.row.id,
            "digest": job.digest,
            "seed": job.seed,
            "source_sha256": sha256_file(job.row.source),
            "attempts": job.attempt,
            "seconds": SECONDS,
            "device": self.settings.device,
            "fingerprint": self.settings.fingerprint,
        }
        self._misbehave(job)
        if "bad" in job.row.id and not (self.log.parent / "mended").exists():
            return Outcome(
                status="failed",
                stage="photo",
                error_class="truncated",
                error_message="the photo ends too early",
                **known,
            )
        name = f"images/{output_name(job.row.id)}"
        path = self.settings.run_folder / name
        write_atomically(path, lambda file: file.write(picture(job.row.id, job.seed)))
        facts = {"model": "fake", "visible": os.environ.get("CUDA_VISIBLE_DEVICES")}
        return Outcome(
            status="done", output=name, output_sha256=sha256_file(path), facts=facts, **known
        )

    def _misbehave(self, job: Job) -> None:
        """Do what the row's id asks for."""
        if "kill" in job.row.id or ("flaky" in job.row.id and job.attempt == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if "segfault" in job.row.id:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "bug" in job.row.id:
            raise KeyError("a bug")
        if "eof" in job.row.id:
            raise EOFError
        if "full" in job.row.id:
            raise OSError(28, "No space left on device", "images/x.png")


class NeverStarts:
    """A worker whose model cannot be opened."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Say so."""
        raise EnvironmentFault(f"no weights in {settings.model}")


class DiesAtStart:
    """A worker that is killed while it opens its model."""

    def __init__(self, settings: WorkerSettings) -> None:
        """Die."""
        os.kill(os.getpid(), signal.SIGKILL)
