"""What all options share: the refusal of a value, and words of several commands."""

from __future__ import annotations

from collections.abc import Callable

from catalogpose.errors import UsageError

Progress = Callable[[int, int], None]
"""What a command calls as it goes: how many of its rows (or steps) are done, and of how many."""

DEVICES = ("auto", "cpu", "cuda")
"""What `--device` may say; `auto` is a GPU if there is one, else the CPU."""


def need(holds: bool, flag: str, rule: str, value: object) -> None:
    """Raise UsageError naming the flag, what it must be and what it was, unless `holds`."""
    if not holds:
        raise UsageError(f"{flag} must be {rule}, not {value}")


def need_device(device: str) -> None:
    """Raise UsageError unless `device` is one of `DEVICES`."""
    need(device in DEVICES, "--device", f"one of {', '.join(DEVICES)}", device)
