"""A table of remembered regions: one Parquet file, a row a region, what made it in its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from catalogpose.catalog.files import write_atomically
from catalogpose.errors import EnvironmentFault, UsageError, first_line
from catalogpose.records import LABELS

SCHEMA = 2
"""Version of the columns and of what is noted beside them; it stands in every file."""

REMEDY = "build it again with `catalogpose memory build`"
"""What to do about a file that cannot be used."""


@dataclass(frozen=True, kw_only=True)
class RegionTable:
    """N regions of a catalogue's pictures, sorted by label."""

    vectors: NDArray[np.float32]
    """(N, D) embeddings, unit length; float16 on disk."""
    labels: NDArray[np.uint8]
    """(N,) ids of the labels of phrases, ascending: both shoes are `shoe`."""
    areas: NDArray[np.float32]
    """(N,): share of the picture that the region covers, 0..1."""
    boxes: NDArray[np.int32]
    """(N, 4): left, top, right, bottom in pixels of the upright picture, the last two exclusive."""
    pictures: Sequence[str]
    """(N): hash of the picture's file."""
    products: Sequence[str]
    """(N): the product; the picture's hash where the manifest names none."""
    sources: Sequence[str]
    """(N): absolute path of the picture when the table was made."""

    def __len__(self) -> int:
        """Return N."""
        return len(self.labels)

    def taken(self, rows: NDArray[np.int64]) -> RegionTable:
        """Return these rows, in this order."""
        found: dict[str, Any] = {}
        for name in (field.name for field in fields(self)):
            column = getattr(self, name)
            is_array = isinstance(column, np.ndarray)
            found[name] = column[rows] if is_array else [column[row] for row in rows]
        return RegionTable(**found)


def write_region_table(path: Path, table: RegionTable, facts: Mapping[str, object]) -> None:
    """Write a table and, as JSON, what else belongs to it.

    Raises:
        EnvironmentFault: If the disk refuses it.
    """
    width = table.vectors.shape[1]
    flat = pa.array(table.vectors.astype(np.float16).ravel())
    columns = {
        "label": pa.array(table.labels),
        "label_name": pa.array([LABELS[label] for label in table.labels], pa.string()),
        "area": pa.array(table.areas),
        **{
            side: pa.array(table.boxes[:, place])
            for place, side in enumerate(("left", "top", "right", "bottom"))
        },
        "picture": pa.array(list(table.pictures), pa.string()),
        "product": pa.array(list(table.products), pa.string()),
        "source": pa.array(list(table.sources), pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(flat, width),
    }
    metadata = {"catalogpose": json.dumps({"schema": SCHEMA, "labels": LABELS, **facts})}
    made = pa.table(columns).replace_schema_metadata(metadata)
    try:
        write_atomically(path, lambda file: pq.write_table(made, file, compression="zstd"))
    except OSError as error:
        raise EnvironmentFault(f"cannot write {path}: {error.strerror or error}") from None


def read_region_facts(path: Path) -> dict[str, Any]:
    """Read what `write_region_table` noted beside a table, from the file's head alone.

    Raises:
        UsageError: If there is no such file, it is no table of regions, or one of another version.
    """
    if not path.is_file():
        raise UsageError(f"no memory at {path}: {REMEDY}")
    try:
        schema = pq.read_schema(path)
        facts: dict[str, Any] = json.loads((schema.metadata or {}).get(b"catalogpose", b"{}"))
        if "schema" not in facts:
            raise ValueError("it does not say what it is")
        if facts["schema"] != SCHEMA or tuple(facts["labels"]) != LABELS:
            raise UsageError(f"{path} was made by another version of catalogpose: {REMEDY}")
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is no memory ({first_line(error)}): {REMEDY}") from None
    return facts


def read_region_table(path: Path) -> tuple[RegionTable, dict[str, Any]]:
    """Read what `write_region_table` wrote.

    Raises:
        UsageError: If there is no such file, it is no table of regions, or one of another version.
    """
    facts = read_region_facts(path)
    try:
        found = pq.read_table(path, memory_map=False)
        columns = {name: found.column(name).combine_chunks() for name in found.column_names}
        vectors = columns["embedding"].flatten().to_numpy(zero_copy_only=False)
        sides = [columns[side].to_numpy() for side in ("left", "top", "right", "bottom")]
        table = RegionTable(
            vectors=vectors.reshape(len(found), -1).astype(np.float32),
            labels=columns["label"].to_numpy(),
            areas=columns["area"].to_numpy(),
            boxes=np.stack(sides, axis=1),
            pictures=columns["picture"].to_pylist(),
            products=columns["product"].to_pylist(),
            sources=columns["source"].to_pylist(),
        )
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is no memory ({first_line(error)}): {REMEDY}") from None
    return table, facts
