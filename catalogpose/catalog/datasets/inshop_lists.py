"""The lists that come with DeepFashion's pairs: CSV as in PATN, DPTN and CFLD, text as in NTED."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalogpose.catalog.datasets.collection import Missing, read_lines
from catalogpose.catalog.datasets.inshop_names import parse_inshop_name
from catalogpose.catalog.datasets.upright import check_axes, check_frame
from catalogpose.errors import UsageError
from catalogpose.records import JOINTS

SPELLINGS = ("fashion", "fasion")
"""The lists exist under both names: READMEs write the first, much code opens the second."""

SIZE = (176, 256)
"""Width and height of the frame that joints are counted on here, in pixels."""

BORDER = 40
"""White columns on either side of the picture in the 256 x 256 frame, in pixels. Cut off, 176 x 256
remain, in which a photo of 750 x 1101 lies whole and centred, as on our own canvas."""

Keypoints = dict[str, NDArray[np.float32]]
"""Joints (18, 3) by a picture's name: x, y in the frame `SIZE`, NaN where missing, confidence."""


@dataclass(frozen=True, kw_only=True)
class PairList:
    """A list of pairs and where the joints of its pictures are."""

    pairs: list[tuple[str, str]]
    """Source and target, names as in the lists of CFLD where they can be read."""
    file: Path
    """The list."""


def read_pair_list(root: Path, split: str) -> PairList | None:
    """Read the pairs of a split, whichever list is there; None where none is.

    Raises `UsageError` naming the line that is wrong.
    """
    for name in pair_list_names(split):
        file = root / name
        if file.is_file():
            lines = _csv_pairs(file) if file.suffix == ".csv" else _text_pairs(file)
            return PairList(pairs=list(lines), file=file)
    return None


def pair_list_names(split: str) -> list[str]:
    """Return the names that a list of pairs may have, in the order in which they are tried."""
    names = [f"{spelling}-resize-pairs-{split}.csv" for spelling in SPELLINGS]
    names += [f"{spelling}-pairs-{split}.csv" for spelling in SPELLINGS]
    return [*names, f"{split}_pairs.txt"]


def _csv_pairs(file: Path) -> Iterator[tuple[str, str]]:
    """Yield source and target from a CSV file with the header `from,to`."""
    lines = read_lines(file)
    _, header = next(lines, (0, ""))
    if [cell.strip() for cell in header.split(",")][:2] != ["from", "to"]:
        raise UsageError(f"{file}: line 1 is not the header from,to")
    for number, line in lines:
        cells = next(csv.reader([line]))
        if len(cells) != 2 or not all(cells):
            raise UsageError(f"{file}: line {number} is not a pair from,to")
        yield _list_name(cells[0]), _list_name(cells[1])


def _text_pairs(file: Path) -> Iterator[tuple[str, str]]:
    """Yield source and target from NTED's lines: the target first, then its sources."""
    for number, line in read_lines(file):
        target, *sources = [cell.strip() for cell in line.split(",")]
        if not sources or not all((target, *sources)):
            raise UsageError(f"{file}: line {number} is not target,source")
        for source in sources:
            yield _list_name(source), _list_name(target)


def _list_name(text: str) -> str:
    """Return a picture's name as CFLD's lists have it; one object for all its mentions."""
    name = parse_inshop_name(text.strip())
    return sys.intern(name.flat if name else text.strip())


def read_keypoints(
    root: Path, split: str, names: Collection[str], *, text: bool
) -> tuple[Keypoints, list[Missing]]:
    """Return the joints of these pictures and which have none.

    `text` reads NTED's `pose/`, one file a picture; else a CSV file of all. Raises `UsageError`
    where a file is wrong, x and y are swapped or the frame is another.
    """
    if text:
        where, read = str(root / "pose"), _text_keypoints(root / "pose", names)
        remedy = "each line of a file is x, then y, in a frame of 256 x 256"
    else:
        file = _annotation_file(root, split)
        where, read = str(file), _csv_keypoints(file, names)
        remedy = "swap the names keypoints_y and keypoints_x in its first line"
    if read:
        joints = np.stack(list(read.values()))
        check_axes(joints, where, remedy)
        check_frame(
            joints, SIZE, where,
            "a CSV file in a frame of 256 x 256 has no -resize- in its name, one in 176 x 256 has",
        )  # fmt: skip
    missing = [Missing(kind="keypoints", name=name) for name in names if name not in read]
    return read, missing


def _annotation_file(root: Path, split: str) -> Path:
    """Return the CSV file of joints; `UsageError` where there is none."""
    names = [f"{spelling}-resize-annotation-{split}.csv" for spelling in SPELLINGS]
    names += [f"{spelling}-annotation-{split}.csv" for spelling in SPELLINGS]
    for name in names:
        if (root / name).is_file():
            return root / name
    raise UsageError(
        f"--root {root} has no keypoints of the {split} split; looked for {', '.join(names)}"
    )


def _csv_keypoints(file: Path, names: Collection[str]) -> Keypoints:
    """Read `name:keypoints_y:keypoints_x`, columns in any order, for these pictures."""
    shift = 0 if "-resize-" in file.name else BORDER
    lines = read_lines(file)
    _, header = next(lines, (0, ""))
    columns = [cell.strip() for cell in header.split(":")]
    if sorted(columns) != ["keypoints_x", "keypoints_y", "name"]:
        raise UsageError(f"{file}: line 1 is not the header name:keypoints_y:keypoints_x")
    wanted = frozenset(names)
    found: Keypoints = {}
    for number, line in lines:
        cells = dict(zip(columns, (cell.strip() for cell in line.split(":")), strict=False))
        name = _list_name(cells.get("name", ""))
        if name not in wanted:
            continue
        xy = [_numbers(cells.get(axis, "")) for axis in ("keypoints_x", "keypoints_y")]
        if any(axis is None for axis in xy):
            raise UsageError(f"{file}: line {number} does not hold two lists of 18 numbers")
        found[name] = _joints(np.array(xy, dtype=np.float32).T, shift)
    return found


def _numbers(text: str) -> list[float] | None:
    """Return the 18 numbers of a JSON list; None where it is not one."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, list) or len(values) != len(JOINTS):
        return None
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        return None
    return [float(value) for value in values]


def _text_keypoints(folder: Path, names: Collection[str]) -> Keypoints:
    """Read NTED's files: 18 lines of x and y."""
    found: Keypoints = {}
    for name in names:
        known = parse_inshop_name(name)
        file = folder / Path(known.tree if known else name).with_suffix(".txt")
        if not file.is_file():
            continue
        try:
            xy = [[float(cell) for cell in line.split()] for _, line in read_lines(file)]
        except ValueError:
            xy = []
        if len(xy) != len(JOINTS) or any(len(point) != 2 for point in xy):
            raise UsageError(f"{file}: not 18 lines of x and y")
        found[name] = _joints(np.array(xy, dtype=np.float32), BORDER)
    return found


def _joints(xy: NDArray[np.float32], shift: int) -> NDArray[np.float32]:
    """Return (18, 3) out of x, y (18, 2) of which -1 means missing, x moved by `-shift`."""
    seen = np.isfinite(xy).all(axis=1) & (xy != -1).all(axis=1)
    joints = np.full((len(JOINTS), 3), np.nan, dtype=np.float32)
    joints[:, 2] = seen
    joints[seen, :2] = xy[seen] - np.array([shift, 0], dtype=np.float32)
    return joints
