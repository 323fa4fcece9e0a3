"""The table under a manifest: a stream of rows out of Parquet or CSV, and rows into one again."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from catalogpose.errors import first_line

BATCH = 4096
"""Rows that are in memory at a time."""


class TableError(Exception):
    """The file is no table that we can read; the message is one line."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """An open manifest file, not yet read."""

    path: Path
    """The file."""
    schema: pa.Schema
    """Its columns; in CSV all are strings."""

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, object]]:
        """Yield each row as a mapping of column to value; None reads every column.

        Text stays text: `00123` and `NA` in CSV are strings, and only an empty cell is None there.
        Raises `TableError` in the middle where the file turns out to be damaged.
        """
        wanted = list(self.schema.names if columns is None else columns)
        if self.path.suffix.lower() == ".csv":
            yield from _csv_rows(self.path, wanted)
        else:
            yield from _parquet_rows(self.path, wanted)


def open_table(path: Path) -> Table:
    """Read a table's columns; `TableError` where the file cannot be one."""
    path = Path(path)
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise TableError("not a manifest; give a file that ends in .parquet or .csv")
    if not path.is_file():
        raise TableError("no such file")
    if path.suffix.lower() == ".csv":
        with _csv_text(path) as text:
            names = _csv_header(text)
        if not names:
            raise TableError("the file is empty")
        schema = pa.schema([(name, pa.string()) for name in names])
    else:
        try:
            schema = pq.read_schema(path).remove_metadata()
        except (pa.ArrowException, OSError) as error:
            raise TableError(f"cannot be read as Parquet: {first_line(error)}") from None
    repeated = {name for name in schema.names if schema.names.count(name) > 1}
    if repeated:
        raise TableError(f"column {min(repeated)!r} is there twice; rename or remove one")
    if any(not name.strip() for name in schema.names):
        raise TableError("a column has no name; name it or remove it (in pandas: index=False)")
    return Table(path=path, schema=schema)


def _parquet_rows(path: Path, columns: list[str]) -> Iterator[dict[str, object]]:
    """Yield the rows of a Parquet file."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH, columns=columns):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TableError(f"cannot be read as Parquet: {first_line(error)}") from None


def _csv_text(path: Path) -> io.TextIOWrapper:
    """Open a CSV file as the csv module wants it; a byte order mark is skipped."""
    try:
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise TableError(f"cannot be read: {first_line(error)}") from None


def _csv_header(text: Iterable[str]) -> list[str]:
    """Return the first record; `TableError` where there is none."""
    return next(_csv_records(text), [])


def _csv_records(text: Iterable[str]) -> Iterator[list[str]]:
    """Yield the records that are not blank lines."""
    reader = csv.reader(text, strict=True)
    try:
        yield from (record for record in reader if record)
    except UnicodeDecodeError:
        raise TableError("is not UTF-8 text; save it as CSV UTF-8") from None
    except csv.Error as error:
        raise TableError(f"line {reader.line_num} is not CSV: {first_line(error)}") from None
    except OSError as error:
        raise TableError(f"cannot be read: {first_line(error)}") from None


def _csv_rows(path: Path, columns: list[str]) -> Iterator[dict[str, object]]:
    """Yield the rows of a CSV file, every value a string or None."""
    with _csv_text(path) as text:
        records = _csv_records(text)
        header = next(records, [])
        places = [(name, header.index(name)) for name in columns]
        for number, record in enumerate(records, start=1):
            if len(record) != len(header):
                raise TableError(
                    f"row {number} has {len(record)} cells, the header has {len(header)}; "
                    "quote cells that hold commas"
                )
            yield {name: record[place] or None for name, place in places}


def write_table(
    file: BinaryIO,
    suffix: str,
    rows: Iterable[Mapping[str, object]],
    types: Mapping[str, pa.DataType | None],
) -> None:
    """Write rows, mappings with the keys of `types`, as Parquet or CSV by `suffix`.

    A type of None is inferred from the first rows; text if they hold nothing. Raises `ValueError`
    for another suffix or a value that does not fit its column.
    """
    if suffix.lower() == ".csv":
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(types)
        writer.writerows([row[name] for name in types] for row in rows)
        text.flush()
        text.detach()
    elif suffix.lower() == ".parquet":
        _write_parquet(file, iter(rows), types)
    else:
        raise ValueError(f"a manifest ends in .parquet or .csv, not in {suffix!r}")


def _write_parquet(
    file: BinaryIO, rows: Iterator[Mapping[str, object]], types: Mapping[str, pa.DataType | None]
) -> None:
    """Write rows in batches; the first one settles the types that are None."""
    first = list(itertools.islice(rows, BATCH))
    schema = pa.schema([(n, t or _infer([row[n] for row in first])) for n, t in types.items()])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        batch = first
        while batch:
            arrays = [pa.array([row[field.name] for row in batch], field.type) for field in schema]
            writer.write_batch(pa.record_batch(arrays, schema=schema))
            batch = list(itertools.islice(rows, BATCH))


def _infer(values: list[object]) -> pa.DataType:
    """Return the Arrow type of these values; text where all are None."""
    inferred = pa.array(values).type
    return pa.string() if pa.types.is_null(inferred) else inferred
