"""What a command shows while it works, and the summary that it prints at the end."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Never

import typer
from tqdm import tqdm

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LINE_SECONDS = 30.0
"""How often progress is said where nobody watches a bar."""


def print_summary(summary: DataclassInstance, as_json: bool, exit_code: int = 0) -> None:
    """Print a summary on stdout and leave with an exit code."""
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(summary), default=str, ensure_ascii=False))
    else:
        typer.echo(str(summary))
    raise typer.Exit(exit_code)


@contextmanager
def show_progress(unit: str) -> Iterator[Stages]:
    """Show on stderr how far the block is: a bar for a person, else a line now and then."""
    stages = Stages(unit)
    try:
        yield stages
    finally:
        stages.close()


class Stages:
    """What a command calls as it goes; nothing is shown before the first call."""

    def __init__(self, unit: str) -> None:
        """Count in `unit`."""
        self._unit = unit
        self._name = ""
        self._shown: tqdm[Never] | Lines | None = None

    def __call__(self, done: int, total: int) -> None:
        """Show that so many are done, of so many."""
        if self._shown is None:
            make = tqdm if sys.stderr.isatty() else Lines
            self._shown = make(
                desc=self._name or None, total=total, initial=done, unit=f" {self._unit}"
            )
        self._shown.update(int(done - self._shown.n))

    def stage(self, name: str, done: int, total: int) -> None:
        """Show how far a named stage is; another name begins anew."""
        if name != self._name:
            self.close()
            self._name = name
        self(done, total)

    def close(self) -> None:
        """Show no more of this stage."""
        if self._shown is not None:
            self._shown.close()
        self._shown = None


class Lines:
    """What tqdm is to a terminal, for a log: a line every `LINE_SECONDS`, and one at the end."""

    def __init__(self, desc: str | None, total: int, initial: int, unit: str) -> None:
        """Start at `initial`."""
        self.n = self._first = initial
        self._begin, self._total, self._unit = f"{desc}: " if desc else "", total, unit
        self._started = self._said = time.monotonic()

    def update(self, more: int) -> None:
        """Count, and say it if the last line is old."""
        self.n += more
        if time.monotonic() - self._said >= LINE_SECONDS:
            self._say()

    def close(self) -> None:
        """Say how far it came, if it came anywhere."""
        if self.n != self._first:
            self._say()

    def _say(self) -> None:
        """Say how far it is, with rate and time left."""
        self._said = time.monotonic()
        rate = (self.n - self._first) / max(self._said - self._started, 1e-9)
        line = f"{self._begin}{self.n}/{self._total}{self._unit}, {rate:.2f} a second"
        if rate > 0 and self.n < self._total:
            line += f", {timedelta(seconds=round((self._total - self.n) / rate))} left"
        typer.echo(line, err=True)
