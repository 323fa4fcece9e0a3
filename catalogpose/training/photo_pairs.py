"""Which pictures a manifest's pairs are made of, each once, with its pose and its map."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalogpose.errors import ManifestError
from catalogpose.records import Row


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A photo that some row names."""

    photo: Path
    """The file."""
    row: int
    """The first row that names it, counted from 1."""
    column: str
    """Where that row names it: `source` or `target`."""
    pose: Path | None = None
    """Its pose; None where it is a source only."""
    pose_size: tuple[int, int] | None = None
    """Width and height of the pose's canvas; None: what the file says, else the photo's size."""
    parsing: Path | None = None
    """A ready map, from a row that has the photo as its source; None: the parser makes one."""
    label_set: str | None = None
    """The label set of `parsing`; None only where `parsing` is None."""


@dataclass(frozen=True, kw_only=True)
class PicturePlan:
    """N distinct pictures and P pairs of them."""

    pictures: tuple[Picture, ...]
    """The pictures, in the order in which rows name them."""
    pairs: NDArray[np.int32]
    """(P, 2): indices of source and target, one a row."""


def plan_pictures(rows: Iterable[Row]) -> PicturePlan:
    """Find the distinct pictures of rows. A photo under two poses is two pictures.

    Raises:
        ManifestError: With every row that has no target, or asks for something in words.
    """
    chosen, faults = [], []
    ready: dict[Path, Row] = {}
    for row in rows:
        chosen.append(row)
        if row.target is None:
            faults.append(
                f"row {row.number}, column target: empty; training needs the true picture"
            )
        if row.description is not None:
            faults.append(f"row {row.number}, column prompt: given; these pairs are re-posed alone")
        elif row.parsing is not None:
            ready.setdefault(_source_of(row), row)
    if faults:
        raise ManifestError(faults)
    pictures: list[Picture] = []
    posed: dict[tuple[Path, Path | None], int] = {}
    first: dict[Path, int] = {}
    pairs = np.empty((len(chosen), 2), dtype=np.int32)
    # Targets first: a source that is a target somewhere is that same picture.
    for place, row in enumerate(chosen):
        assert row.target is not None  # else refused above
        key = (row.target, row.pose)
        if key not in posed:
            posed[key] = len(pictures)
            first.setdefault(row.target, len(pictures))
            pictures.append(
                Picture(
                    photo=row.target,
                    row=row.number,
                    column="target",
                    pose=row.pose,
                    pose_size=row.pose_size,
                )
            )
        pairs[place, 1] = posed[key]
    for place, row in enumerate(chosen):
        source = _source_of(row)
        if source not in first:
            first[source] = len(pictures)
            pictures.append(Picture(photo=source, row=row.number, column="source"))
        pairs[place, 0] = first[source]
    return PicturePlan(pictures=tuple(_with_map(p, ready) for p in pictures), pairs=pairs)


def _source_of(row: Row) -> Path:
    """Return the source of a row without description, which every such row has."""
    assert row.source is not None
    return row.source


def _with_map(picture: Picture, ready: dict[Path, Row]) -> Picture:
    """Return a picture with the ready map that some row has for its photo."""
    row = ready.get(picture.photo)
    if row is None:
        return picture
    return replace(picture, parsing=row.parsing, label_set=row.label_set)


def pick_evenly(rows: Iterable[Row], count: int) -> list[Row]:
    """Return at most `count` rows, evenly spread: always the same ones."""
    everyone = list(rows)
    places = np.linspace(0, len(everyone) - 1, min(count, len(everyone))).round().astype(int)
    return [everyone[place] for place in places]
