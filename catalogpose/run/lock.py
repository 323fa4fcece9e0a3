"""The lock of a run folder: one live process works in it, and another learns which."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from catalogpose.errors import LockedError


@contextmanager
def hold(run_folder: Path) -> Iterator[None]:
    """Make the run folder if need be and keep every other process out of it while the block runs.

    The kernel frees the lock when its process ends, however it ends, so a dead process's lock is
    taken over at once. Raises LockedError naming the live process that holds it.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    with (run_folder / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise LockedError(
                f"run folder {run_folder} is in use by {_holder(file.read())}"
            ) from None
        started = datetime.now(UTC).isoformat(timespec="seconds")
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "started": started}, file)
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _holder(text: str) -> str:
    """Say who wrote a lock file; it may be read between its truncation and its writing."""
    try:
        found = json.loads(text)
        return f"process {found['pid']} on {found['host']} since {found['started']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
