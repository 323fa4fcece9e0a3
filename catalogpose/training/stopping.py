"""How a training ends before its time: at a signal, once it has saved, or for lack of memory."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from catalogpose.errors import EnvironmentFault


class StopWish:
    """Whether somebody asked the training to stop, with Ctrl-C or SIGTERM."""

    number: int | None = None
    """The first signal that came; None: none did."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal, so that the step under way can end; leave at the second."""
        if self.number is not None:
            raise SystemExit(128 + number)
        self.number = number

    def leave(self) -> None:
        """Leave as the signal would have made the process leave; nothing happens without one."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number is not None:
            raise SystemExit(128 + self.number)


@contextmanager
def catch_stops() -> Iterator[StopWish]:
    """Turn SIGINT and SIGTERM into a wish while the block runs; in the main thread alone, since
    only that may listen.
    """
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, wish) for number in numbers]
    try:
        yield wish
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def needing_memory(what: str, remedy: str) -> Iterator[None]:
    """Say in one line that a GPU's memory does not hold `what`, and what helps.

    Raises:
        EnvironmentFault: If the GPU's memory runs out in the block.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise EnvironmentFault(f"the GPU's memory is too small for {what}; {remedy}") from None


def describe_step(batch: int, accumulation: int) -> tuple[str, str]:
    """Return what a step of training needs memory for, and what helps: for `needing_memory`."""
    return (
        f"a batch of {batch} in {accumulation} micro-batches",
        "raise --accumulate, or lower the recipe's batch",
    )
