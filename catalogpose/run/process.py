"""A worker's side of its pipe: a process that opens one worker and does what it is sent."""

from __future__ import annotations

import errno
import faulthandler
import importlib
import os
import signal
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from catalogpose.errors import CatalogposeError, EnvironmentFault, RowError
from catalogpose.records import Outcome
from catalogpose.run.plan import Job

IMAGES = "images"
"""Folder of a run's pictures, in the run folder."""

WORKER = "catalogpose.run.worker:Worker"
"""Module and name of what makes the real worker."""

MACHINE_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EFBIG,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
)
"""Errors of reading and writing that no row is to blame for."""

MESSAGE_LENGTH = 300
"""Longest reason that an outcome keeps, in characters."""


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """All that a worker process is told; it travels to the process by pickle."""

    model: Path
    """The model folder."""
    cache: Path
    """Folder of parsing maps and embeddings."""
    device: str
    """`cpu`, or `cuda:` and the GPU's place among those of the run; outcomes name it so."""
    visible: str | None = None
    """The value of CUDA_VISIBLE_DEVICES in the process; None: what the parent's is."""
    threads: int
    """Threads of torch on the CPU, 1 or more."""
    batch: int
    """Rows sampled together, 1 or more."""
    steps: int
    """Sampling steps, 1 or more."""
    guidance: float
    """Guidance scale ω, 0 or more."""
    run_folder: Path
    """The run folder; pictures go into its `images/`."""
    fingerprint: str
    """Fingerprint of the run's options and models."""
    keypoint_table: Path | None
    """Which labels each joint shows, a JSON file; None: the table that comes with the package."""
    memory: Path | None = None
    """The memory that text-driven rows look into; None: words stand for themselves."""
    memory_sha256: str | None = None
    """Hash of that file; None where there is none."""
    words: str | None = None
    """What `plan.words_fingerprint` gives, for text-driven rows; None where nobody asked."""
    factory: str = WORKER
    """Module and name of what makes the worker out of these settings."""


class DoesJobs(Protocol):
    """What `serve` needs of a worker."""

    def work(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Do the jobs; return one outcome each, in any order."""

    def close(self) -> None:
        """Keep what is worth keeping; no job follows."""


def serve(pipe: Connection, settings: WorkerSettings) -> None:
    """Be a worker process: open the worker, say so, then do what the pipe brings until it closes.

    Answers are pairs of a kind and a content: `ready` and None; `done` and the outcomes; `fault`
    and the exit code and message of an error that is no row's; `bug` and a traceback.
    """
    # The parent alone decides when to stop; a signal to the whole group must not cost rows.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.enable()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with suppress(BrokenPipeError, ConnectionResetError):  # nobody listens any more
        try:
            _work(pipe, settings)
        except Exception as error:
            fault = error if isinstance(error, CatalogposeError) else as_fault(error)
            if fault is not None:
                pipe.send(("fault", (fault.exit_code, str(fault))))
            else:
                pipe.send(("bug", traceback.format_exc()))


def _work(pipe: Connection, settings: WorkerSettings) -> None:
    """Open the worker and do what the pipe brings until it closes."""
    module, _, name = settings.factory.partition(":")
    worker: DoesJobs = getattr(importlib.import_module(module), name)(settings)
    pipe.send(("ready", None))
    while True:
        try:
            jobs = pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.close()
            return
        pipe.send(("done", worker.work(jobs)))


def failed_outcome(job: Job, settings: WorkerSettings, error: RowError, seconds: float) -> Outcome:
    """Turn a row's error into its outcome; `seconds` is the time that the row took."""
    return Outcome(
        id=job.row.id,
        digest=job.digest,
        status="failed",
        source_sha256=job.source_sha256,
        seed=job.seed,
        stage=error.stage,
        error_class=error.error_class,
        error_message=" ".join(error.message.split())[:MESSAGE_LENGTH],
        attempts=job.attempt,
        seconds=round(seconds, 4),
        device=settings.device,
        fingerprint=settings.fingerprint,
    )


def as_fault(error: Exception) -> EnvironmentFault | None:
    """Return what an error of the machine, such as a full disk, is to the user; else None."""
    if not isinstance(error, OSError) or error.errno not in MACHINE_ERRORS:
        return None
    where = "" if error.filename is None else f" ({error.filename})"
    return EnvironmentFault(
        f"{os.strerror(error.errno)}{where}; mend it and run the same command again"
    )


def _die_with_parent() -> None:
    """Wait until the parent process is gone, however it ended, and leave at once with it."""
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
