"""A run folder as the report reads it: what was run, and what became of each row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from catalogpose.errors import UsageError, first_line

COLUMNS = ("id", "status", "output", "source", "pose", "pose_width", "pose_height", "target",
           "product", "reference", "reference_pose", "prompt", "pose_map", "label_set",
           "region_sources", "picture_region_sources", "stage",
           "error_class", "error_message", "seconds", "device")  # fmt: skip
"""Columns of `results.parquet` that a report reads; the manifest may lack the optional ones."""


@dataclass(frozen=True, kw_only=True)
class Cloth:
    """A region of the catalogue that the words of a region found."""

    picture: str
    """Hash of the photo's file."""
    box: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels of the upright photo, the last two exclusive."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a text-driven row asks for."""

    prompt: str
    """Its words."""
    pose_map: Path
    """The map that says where."""
    label_set: str
    """The map's label set."""
    phrases: Mapping[str, str]
    """What words said of the regions that they filled, by label name."""
    cloth: Mapping[str, Sequence[Cloth]]
    """What their words found, by label name; empty where no memory was looked into."""
    kept: frozenset[str]
    """Label names of the regions that the source filled."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """One row with a picture, its paths resolved."""

    id: str
    """The row's id."""
    source: Path | None
    """The source photo; None where words alone said what to paint."""
    pose: Path | None
    """The target pose; of a row with a reference that of the person in it. None where a map alone
    said it."""
    asked: Asked | None
    """What the row asks for in words; None where it was re-posed."""
    pose_size: tuple[int, int] | None
    """Width and height of the pose's canvas; None where the manifest names none."""
    target: Path | None
    """The true picture; None where the row has none."""
    reference: Path | None
    """The photo that took the source's cloth; None where the source was re-posed."""
    product: str | None
    """The product's id; None where the manifest names none."""
    group: str
    """What rows that resemble each other have in common: the product, else the source photo, else
    the prompt."""
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
    reference, source = text_or_none(cells.reference), text_or_none(cells.source)
    pose = text_or_none(cells.reference_pose if reference else cells.pose)
    return Finished(
        id=cells.id,
        source=folder / source if source else None,
        pose=folder / pose if pose else None,
        asked=_make_asked(folder, cells),
        pose_size=(int(cells.pose_width), int(cells.pose_height)) if sized else None,
        target=folder / target if target else None,
        reference=folder / reference if reference else None,
        product=product,
        group=product or source or str(cells.prompt),
        output=folder / cells.output,
    )


def _make_asked(folder: Path, cells: Any) -> Asked | None:
    """Resolve what a line asks for in words; None where it does not."""
    prompt, pose_map = text_or_none(cells.prompt), text_or_none(cells.pose_map)
    if prompt is None or pose_map is None:
        return None
    # A manifest may bring a column of that name; the run's own then has another.
    own = text_or_none(cells.picture_region_sources) or text_or_none(cells.region_sources)
    told = json.loads(own or "{}")
    worded = {name: one for name, one in told.items() if isinstance(one, dict)}
    return Asked(
        prompt=prompt,
        pose_map=folder / pose_map,
        label_set=str(cells.label_set),
        phrases={name: one["phrase"] for name, one in worded.items()},
        cloth={name: _read_cloth(one) for name, one in worded.items()},
        kept=frozenset(name for name, one in told.items() if one == "source"),
    )


def _read_cloth(told: Mapping[str, Any]) -> list[Cloth]:
    """Return what words found; runs of earlier versions noted neither pictures nor boxes."""
    pictures, boxes = told.get("pictures", ()), told.get("boxes", ())
    return [
        Cloth(picture=picture, box=tuple(box)) for picture, box in zip(pictures, boxes, strict=True)
    ]
