import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from catalogpose.errors import LockedError
from catalogpose.run.lock import hold

HOLDER = """
import sys, time
from pathlib import Path
from catalogpose.run.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    """The message names process and machine; the lock of a killed process is free at once."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LockedError) as caught, hold(tmp_path / "run"):
            pass
        assert f"process {other.pid} on {socket.gethostname()} since" in str(caught.value)
        assert caught.value.exit_code == 5
        other.kill()
        other.wait()
        with hold(tmp_path / "run"):
            held = json.loads((tmp_path / "run" / ".lock").read_text())
            assert held["pid"] == os.getpid()


def test_a_lock_ends_with_its_block(tmp_path: Path) -> None:
    """The folder is made if need be, and free again afterwards, also after an error."""
    with pytest.raises(ZeroDivisionError), hold(tmp_path / "a" / "run"):
        1 / 0  # noqa: B018
    with hold(tmp_path / "a" / "run"), pytest.raises(LockedError), hold(tmp_path / "a" / "run"):
        pass


def test_a_lock_that_says_nothing_still_locks(tmp_path: Path) -> None:
    """Between a lock's taking and its writing there is no name to tell."""
    with hold(tmp_path):
        (tmp_path / ".lock").write_text("")
        with pytest.raises(LockedError, match="in use by another process"), hold(tmp_path):
            pass
