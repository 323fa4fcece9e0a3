"""Manifests: which photo becomes which pose, one row a picture; read as a stream, checked whole."""

from __future__ import annotations

import hashlib
import itertools
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from catalogpose.catalog.columns import (
    OPTIONAL,
    REQUIRED,
    Fault,
    column_fault,
    noting,
    read_cells,
    shown,
)
from catalogpose.catalog.descriptions import map_fault
from catalogpose.catalog.files import write_atomically
from catalogpose.catalog.poses import check_pose
from catalogpose.catalog.references import mask_fault, shape_fault, split_regions
from catalogpose.catalog.rows import make_row, row_cells
from catalogpose.catalog.tables import Table, TableError, open_table, write_table
from catalogpose.errors import ManifestError, RowError, UsageError
from catalogpose.records import Row

POSES = ("pose", "reference_pose")
"""Columns that name pose files."""

PEEK = 4096
"""Rows that `write_manifest` looks at to see which columns are in use."""


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a manifest one after another, paths resolved against its folder.

    Checks the form of each row but opens no file that it names; raises `ManifestError` with the
    faults of the first row that has any.
    """
    table = _open(path)
    try:
        for number, cells in enumerate(table.rows(), start=1):
            faults: list[str] = []
            values = read_cells(cells, noting(number, faults))
            if faults:
                raise ManifestError(faults)
            yield make_row(number, values, cells, table.path.parent)
    except TableError as error:
        raise ManifestError([f"{shown(str(path))}: {error}"]) from None


def read_extra_schema(path: Path) -> pa.Schema:
    """Return the columns that a manifest has beyond those we understand, with their Arrow types."""
    known = (*REQUIRED, *OPTIONAL)
    return pa.schema([field for field in _open(path).schema if field.name not in known])


def has_column(path: Path, name: str) -> bool:
    """Say whether a manifest has a column."""
    return name in _open(path).schema.names


def check_manifest(path: Path) -> int:
    """Check everything that can be checked without opening a photo; return the number of rows.

    Raises `ManifestError` with every fault, one line each, by row. Memory stays at eight bytes a
    row: ids are compared as hashes, and only where hashes meet, in a second pass, as text.
    """
    table = _open(path)
    known = [name for name in table.schema.names if name in (*REQUIRED, *OPTIONAL)]
    check = _Check(table.path.parent)
    try:
        for cells in table.rows(known):
            check.row(cells)
    except TableError as error:
        check.found.append((check.count + 1, f"{shown(str(path))}: {error}"))
    check.found.extend(_duplicates(table, check.hashes, check.count))
    if check.found:
        raise ManifestError([line for _, line in sorted(check.found, key=lambda pair: pair[0])])
    if check.count == 0:
        raise ManifestError([f"{shown(str(path))}: the manifest has no rows"])
    return check.count


class _Check:
    """The checks of one manifest, row after row."""

    def __init__(self, folder: Path) -> None:
        """Start before the first row; `folder` is where relative paths begin."""
        self.folder = folder
        self.count = 0
        self.hashes = array("Q")
        self.found: list[tuple[int, str]] = []
        self._is_file = lru_cache(65_536)(os.path.isfile)
        self._pose_fault = lru_cache(65_536)(_pose_fault)
        self._mask_fault = lru_cache(65_536)(mask_fault)
        self._shape_fault = lru_cache(65_536)(shape_fault)
        self._map_fault = lru_cache(65_536)(map_fault)

    def row(self, cells: Mapping[str, object]) -> None:
        """Check one row and that its files exist; a photo is decoded later."""
        self.count += 1
        lines: list[str] = []
        fault = noting(self.count, lines)
        values = read_cells(cells, fault)
        if values["id"] is not None:
            self.hashes.append(_hash(str(values["id"])))
        sound = True
        for column, name in _files(values):
            file = self.folder / name
            if not self._is_file(file):
                fault(column, f"missing file {shown(name)}")
                sound = False
            elif column in POSES and (reason := self._pose_fault(file)):
                fault(column, f"unreadable file {shown(name)}; {reason}")
                sound = False
        if not lines and sound and values["reference"] is not None:
            self._reference(make_row(self.count, values, {}, self.folder), fault)
        if not lines and values["pose_map"] is not None:
            path = self.folder / str(values["pose_map"])
            if reason := self._map_fault(path, str(values["label_set"])):
                fault("pose_map", reason)
        self.found.extend((self.count, line) for line in lines)

    def _reference(self, row: Row, fault: Fault) -> None:
        """Check that mask and pose lie on the reference, by its header alone."""
        assert row.reference is not None  # whoever calls has looked
        photo, mask = row.reference.photo, row.reference.mask
        if mask is not None and (reason := self._mask_fault(mask, photo)):
            fault("reference_regions", reason)
        assert row.pose is not None  # rows with a reference have one
        if reason := self._shape_fault(row.pose, row.pose_size, photo):
            fault("reference_pose", reason)


def _files(values: Mapping[str, str | int | None]) -> Iterator[tuple[str, str]]:
    """Yield column and name of every file that a row names."""
    for column in ("source", *POSES, "target", "parsing", "reference", "reference_parsing",
                   "pose_map"):  # fmt: skip
        if values[column] is not None:
            yield column, str(values[column])
    if values["reference_regions"] is not None:
        mask = split_regions(str(values["reference_regions"]))[1]
        if mask is not None:
            yield "reference_regions", mask


def _open(path: Path) -> Table:
    """Open a manifest whose columns are right; `ManifestError` otherwise."""
    try:
        table = open_table(path)
    except TableError as error:
        raise ManifestError([f"{shown(str(path))}: {error}"]) from None
    names = set(table.schema.names)
    stand_ins = {"source": {"prompt", "pose_map"}, "pose": {"prompt", "pose_map"}}
    faults = [
        f"column {name}: missing; a manifest has the columns id, source and pose"
        for name in REQUIRED
        if name not in names
        and not (name == "pose" and "reference_pose" in names)
        and not (name in stand_ins and stand_ins[name] <= names)
    ]
    if len(names & {"prompt", "pose_map"}) == 1:
        (lacking,) = {"prompt", "pose_map"} - names
        faults = [f"column {lacking}: missing; words and the map that says where go together"]
    for field in table.schema:
        reason = column_fault(field)
        if reason:
            faults.append(f"column {shown(field.name)}: {reason}")
    if faults:
        raise ManifestError(faults)
    return table


def _duplicates(table: Table, hashes: array[int], count: int) -> Iterator[tuple[int, str]]:
    """Yield row and fault of every id that an earlier row has, among the first `count` rows."""
    values = np.sort(np.frombuffer(hashes, dtype=np.uint64)) if hashes else np.empty(0, np.uint64)
    repeated = set(values[1:][values[1:] == values[:-1]].tolist())
    if not repeated:
        return
    seen: set[str] = set()
    for number, cells in enumerate(itertools.islice(table.rows(["id"]), count), start=1):
        id_ = "" if cells["id"] is None else str(cells["id"])
        if not id_.strip() or _hash(id_) not in repeated:
            continue
        if id_ in seen:
            yield number, f"row {number}, column id: duplicate id {id_!r}"
        seen.add(id_)


def _hash(id_: str) -> int:
    """Return 64 bits of an id's hash."""
    return int.from_bytes(hashlib.blake2b(id_.encode(), digest_size=8).digest(), "little")


def _pose_fault(path: Path) -> str | None:
    """Say why a pose cannot be read; None where it can."""
    try:
        check_pose(path)
    except RowError as error:
        return error.message
    return None


def write_manifest(
    path: Path, rows: Iterable[Row], *, extra_schema: pa.Schema | None = None
) -> None:
    """Write rows as a manifest, Parquet or CSV by suffix, atomically.

    Paths become relative to the folder of `path` where that is possible, with forward slashes. The
    extra columns are those of the first row; `extra_schema` (see `read_extra_schema`) gives their
    Arrow types, else the values do. Raises `UsageError` where values do not fit one column.
    """
    path = Path(path)
    rows = iter(rows)
    head = list(itertools.islice(rows, PEEK))
    types: dict[str, pa.DataType | None] = dict.fromkeys(REQUIRED, pa.string())
    # Short manifests leave out the columns that nobody uses; for long ones that is not known yet.
    full = len(head) == PEEK
    cells = [row_cells(row, path.parent) for row in head]
    types.update(
        (n, t) for n, t in OPTIONAL.items() if full or any(c[n] is not None for c in cells)
    )
    names = extra_schema.names if extra_schema is not None else list(head[0].extra) if head else []
    types.update(
        (n, extra_schema.field(n).type if extra_schema is not None else None) for n in names
    )
    stream = itertools.chain(cells, (row_cells(row, path.parent) for row in rows))
    try:
        write_atomically(path, lambda file: write_table(file, path.suffix, stream, types))
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"cannot write {shown(str(path))}: {error}") from None
