"""What the cache keeps, and how each record becomes rows of Parquet and comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from catalogpose.catalog.labels import decode_map, encode_map
from catalogpose.records import LABELS, Region

Kind = Literal["parse", "clip"]
"""What a cache holds: parsing maps, or the embeddings of regions."""


@dataclass(frozen=True, kw_only=True)
class ParseRecord:
    """A photo's parsing map."""

    labels: NDArray[np.uint8]
    """(H, W) ids of the common vocabulary, the upright photo's size."""
    label_set: str
    """The label set that the parser spoke before it was translated."""
    parser: str
    """Name of the parser."""


@dataclass(frozen=True, kw_only=True)
class ClipRecord:
    """A photo's regions and what CLIP sees in them."""

    regions: tuple[Region, ...]
    """The regions; empty where the map shows none."""
    embeddings: Mapping[int, NDArray[np.float16]]
    """By label id, one for each region: (D,), unit length."""


@dataclass(frozen=True, kw_only=True)
class FailureRecord:
    """Why a photo's map or embeddings cannot be made; kept so that it is not tried for ever."""

    stage: str
    """As in `RowError`."""
    error_class: str
    """As in `RowError`."""
    message: str
    """As in `RowError`."""


Record = ParseRecord | ClipRecord | FailureRecord
"""Anything that a cache keeps under a key."""

COMMON_COLUMNS = (
    ("key", pa.string()),
    ("status", pa.string()),
    ("stage", pa.string()),
    ("error_class", pa.string()),
    ("error_message", pa.string()),
)
PARSE_COLUMNS = (
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("label_set", pa.string()),
    ("parser", pa.string()),
    ("present", pa.list_(pa.uint8())),
    ("map", pa.binary()),
)
CLIP_COLUMNS = (
    ("label", pa.uint8()),
    ("label_name", pa.string()),
    ("left", pa.int32()),
    ("top", pa.int32()),
    ("right", pa.int32()),
    ("bottom", pa.int32()),
    ("area", pa.int64()),
)


def make_table(kind: Kind, records: Mapping[str, Record]) -> pa.Table:
    """Return records as one table: a map is one row, a photo's embeddings are one row a region.

    A failure, and an image without regions, is one row whose other columns are null.
    """
    rows = [row for key, record in records.items() for row in _make_rows(key, record)]
    if kind == "parse":
        schema = pa.schema([*COMMON_COLUMNS, *PARSE_COLUMNS])
        return pa.Table.from_pylist(rows, schema=schema)
    vectors = [row.pop("embedding", None) for row in rows]
    table = pa.Table.from_pylist(rows, schema=pa.schema([*COMMON_COLUMNS, *CLIP_COLUMNS]))
    return table.append_column("embedding", _vectors(vectors))


def _make_rows(key: str, record: Record) -> list[dict[str, Any]]:
    """Return the rows of one record, at least one."""
    if isinstance(record, FailureRecord):
        return [
            {
                "key": key,
                "status": "failed",
                "stage": record.stage,
                "error_class": record.error_class,
                "error_message": record.message,
            }
        ]
    done = {"key": key, "status": "done"}
    if isinstance(record, ParseRecord):
        height, width = record.labels.shape
        present = np.flatnonzero(np.bincount(record.labels.ravel())).tolist()
        return [
            {
                **done,
                "width": width,
                "height": height,
                "label_set": record.label_set,
                "parser": record.parser,
                "present": present,
                "map": encode_map(record.labels),
            }
        ]
    return [
        {**done, **_region_cells(region), "embedding": record.embeddings[region.label]}
        for region in record.regions
    ] or [done]


def _region_cells(region: Region) -> dict[str, Any]:
    """Return a region's columns."""
    left, top, right, bottom = region.box
    return {
        "label": region.label,
        "label_name": LABELS[region.label],
        "left": left,
        "top": top,
        "right": right,
        "bottom": bottom,
        "area": region.area,
    }


def make_unit(record: ClipRecord) -> ClipRecord:
    """Return a record with embeddings float16 of unit length; `ValueError` where one is zero."""
    embeddings = {}
    for label, vector in record.embeddings.items():
        long = np.asarray(vector, dtype=np.float32)
        length = float(np.linalg.norm(long))
        if not 0 < length < np.inf:
            raise ValueError(f"the embedding of {LABELS[label]} has no direction")
        embeddings[label] = (long / length).astype(np.float16)
    return ClipRecord(regions=record.regions, embeddings=embeddings)


def _vectors(vectors: Sequence[NDArray[np.float16] | None]) -> pa.FixedSizeListArray:
    """Return embeddings as one column of fixed-size lists; None becomes null."""
    width = next((len(vector) for vector in vectors if vector is not None), 1)
    values = np.zeros((len(vectors), width), dtype=np.float16)
    for row, vector in enumerate(vectors):
        if vector is not None:
            values[row] = vector
    missing = pa.array([vector is None for vector in vectors], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width, mask=missing)


def read_record(kind: Kind, rows: pa.Table) -> Record:
    """Return the record whose rows these are; `ValueError`, `KeyError` or `RowError` if damaged."""
    cells = rows.slice(0, 1).drop_columns(["embedding"] if kind == "clip" else []).to_pylist()[0]
    if cells["status"] == "failed":
        return FailureRecord(
            stage=cells["stage"], error_class=cells["error_class"], message=cells["error_message"]
        )
    if kind == "parse":
        return ParseRecord(
            labels=decode_map(cells["map"]), label_set=cells["label_set"], parser=cells["parser"]
        )
    if cells["label"] is None:
        return ClipRecord(regions=(), embeddings={})
    regions = tuple(
        Region(
            label=row["label"],
            box=(row["left"], row["top"], row["right"], row["bottom"]),
            area=row["area"],
        )
        for row in rows.drop_columns(["embedding"]).to_pylist()
    )
    column = rows.column("embedding").combine_chunks()
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(regions), -1)
    pairs = zip(regions, vectors, strict=True)
    return ClipRecord(
        regions=regions, embeddings={region.label: vector.copy() for region, vector in pairs}
    )
