"""A run folder as the report reads it: what was run, and what became of each row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from catalogpose.errors import UsageError, first_line

COLUMNS = ("id", "status", "output", "source", "pose", "pose_width", "pose_height", "target",
           "product", "reference", "reference_pose", "stage", "error_class", "error_message",
           "seconds", "device")  # fmt: skip
"""Columns of `results.parquet` that a report reads; the manifest may lack the optional ones."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """One row with a picture, its paths resolved."""

    id: str
    """The row's id."""
    source: Path
    """The source photo."""
    pose: Path
    """The target pose; of a row with a reference that of the person in it."""
    pose_size: tuple[int, int] | None
    """Width and height of the pose's canvas; None where the manifest names none."""
    target: Path | None
    """The true picture; None where the row has none."""
    reference: Path | None
    """The photo that took the source's cloth; None where the source was re-posed."""
    product: str | None
    """The product's id; None where the manifest names none."""
    group: str
    """What rows that resemble each other have in common: the product, else the source photo."""
    output: Path
    """The picture made."""


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A run to report on."""

    folder: Path
    """Where it lies."""
    facts: Mapping[str, Any]
    """What `run.json` says."""
    results: pd.DataFrame
    """`results.parquet` with `COLUMNS`; optional ones that are not in the file are empty."""

    def finished(self) -> Iterator[Finished]:
        """Yield the rows that have a picture, in the manifest's order."""
        done = self.results[self.results["status"] == "done"]
        for cells in done.itertuples(index=False):
            yield _make_finished(self.folder, cells)

    def count(self, status: str) -> int:
        """Return the number of rows that are `done`, `failed` or `pending`."""
        return int((self.results["status"] == status).sum())


def newest_run(runs: Path) -> Path:
    """Return the folder under `runs` whose `run.json` changed last; UsageError if there is none."""
    found = sorted(runs.glob("*/run.json"), key=lambda file: (file.stat().st_mtime_ns, file))
    if not found:
        raise UsageError(f"no run under {runs}{'/'}; name a run folder or run catalogpose generate")
    return found[-1].parent


def read_run(folder: Path) -> RunFolder:
    """Read a run folder; UsageError where it is none or its files cannot be read."""
    if not (folder / "run.json").is_file():
        raise UsageError(f"{folder} is no run folder: it has no run.json")
    if not (folder / "results.parquet").is_file():
        raise UsageError(f"{folder} has no results.parquet yet; let catalogpose generate end first")
    try:
        facts = json.loads((folder / "run.json").read_text("utf-8"))
        results = pd.read_parquet(folder / "results.parquet")
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise UsageError(f"{folder} cannot be read: {reason}") from None
    missing = {"id", "status", "output", "source", "pose"} - set(results.columns)
    if missing or not isinstance(facts, dict):
        what = f"results.parquet lacks {', '.join(sorted(missing))}" if missing else "run.json"
        raise UsageError(f"{folder} is not a run that this version wrote: {what}")
    return RunFolder(folder=folder, facts=facts, results=results.reindex(columns=list(COLUMNS)))


def text_or_none(value: object) -> str | None:
    """Return a cell's text; None where it is empty (pandas has several kinds of nothing)."""
    return value if isinstance(value, str) and value else None


def _make_finished(folder: Path, cells: Any) -> Finished:
    """Resolve one line of `results.parquet` against the run folder."""
    sized = pd.notna(cells.pose_width) and pd.notna(cells.pose_height)
    target, product = text_or_none(cells.target), text_or_none(cells.product)
    reference = text_or_none(cells.reference)
    return Finished(
        id=cells.id,
        source=folder / cells.source,
        pose=folder / (cells.reference_pose if reference else cells.pose),
        pose_size=(int(cells.pose_width), int(cells.pose_height)) if sized else None,
        target=folder / target if target else None,
        reference=folder / reference if reference else None,
        product=product,
        group=product or cells.source,
        output=folder / cells.output,
    )
