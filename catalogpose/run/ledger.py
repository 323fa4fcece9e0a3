"""The ledger of a run, one synced line a row, and the tables that are made from it at the end."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import pyarrow as pa

from catalogpose.catalog.manifest import read_extra_schema, read_rows, write_manifest
from catalogpose.errors import UsageError
from catalogpose.records import Outcome, Row
from catalogpose.run.plan import row_seed

LEDGER = "ledger.jsonl"
"""File name of the ledger in a run folder."""

RESULTS = "results.parquet"
"""File name of the table of all rows."""

FAILURES = "failures.parquet"
"""File name of the manifest of failed rows; there is none where no row failed."""

OUTCOME_COLUMNS = {
    "status": pa.string(),
    "output": pa.string(),
    "output_sha256": pa.string(),
    "source_sha256": pa.string(),
    "stage": pa.string(),
    "error_class": pa.string(),
    "error_message": pa.string(),
    "attempts": pa.int64(),
    "seconds": pa.float64(),
    "device": pa.string(),
    "fingerprint": pa.string(),
}
"""What `results.parquet` adds to the manifest's columns, beside the facts of the pictures."""

_FIELDS = frozenset(field.name for field in dataclasses.fields(Outcome))


class Ledger:
    """The append-only list of outcomes in a run folder; the latest of an id counts.

    A record is on the disk when `record` returns. Closing is all that a context manager does.
    """

    def __init__(self, run_folder: Path) -> None:
        """Name the ledger; nothing is read or written yet."""
        self.path = run_folder / LEDGER
        self._file: BinaryIO | None = None

    def outcomes(self) -> dict[str, Outcome]:
        """Return the latest outcome of every id; a last line that a crash tore is left out.

        Raises UsageError naming the line where another one is no record.
        """
        latest: dict[str, Outcome] = {}
        if not self.path.exists():
            return latest
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    values = json.loads(line)
                    outcome = Outcome(**{k: v for k, v in values.items() if k in _FIELDS})
                except (ValueError, TypeError, AttributeError):
                    raise UsageError(
                        f"{self.path}, line {number}: not a record of this ledger; "
                        "delete the line, and its row is done again"
                    ) from None
                latest[outcome.id] = outcome
        return latest

    def record(self, outcome: Outcome) -> None:
        """Append an outcome and wait until the disk has it."""
        if self._file is None:
            self._file = _open_for_appending(self.path)
        line = json.dumps(dataclasses.asdict(outcome), ensure_ascii=False) + "\n"
        self._file.write(line.encode("utf-8", "backslashreplace"))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()


def _open_for_appending(path: Path) -> BinaryIO:
    """Open a ledger at its end, after cutting off a line that a crash tore."""
    file = path.open("ab+")
    end = file.seek(0, os.SEEK_END)
    whole = end
    while whole > 0:
        start = max(0, whole - 65_536)
        file.seek(start)
        newline = file.read(whole - start).rfind(b"\n")
        whole = start if newline < 0 else start + newline + 1
        if newline >= 0:
            break
    if whole < end:
        file.truncate(whole)
    return file


def write_results(
    run_folder: Path, manifest: Path, outcomes: Mapping[str, Outcome], seed: int
) -> None:
    """Join a manifest with its rows' outcomes, and make its failed rows a manifest of their own.

    `outcomes` holds by id what is true of the rows now; a row that is not in it is pending. `seed`
    is the run's. Paths in both files are relative to the run folder. The manifest is read as a
    stream. `failures.parquet` is removed where no row failed.
    """
    extra = read_extra_schema(manifest)
    facts = _fact_columns(outcomes.values(), extra.names)
    columns = [(name, kind) for name, (_, kind) in facts.items()]
    schema = pa.schema([*extra, *OUTCOME_COLUMNS.items(), *columns])

    def joined() -> Iterator[Row]:
        for row in read_rows(manifest):
            outcome = outcomes.get(row.id)
            used = row_seed(seed, row.id) if row.seed is None else row.seed
            cells = {**row.extra, **_outcome_cells(outcome), **_fact_cells(outcome, facts)}
            yield dataclasses.replace(row, seed=used, extra=cells)

    write_manifest(run_folder / RESULTS, joined(), extra_schema=schema)
    failed = {id_ for id_, outcome in outcomes.items() if outcome.status == "failed"}
    if failed:
        rows = (row for row in read_rows(manifest) if row.id in failed)
        write_manifest(run_folder / FAILURES, rows, extra_schema=extra)
    else:
        (run_folder / FAILURES).unlink(missing_ok=True)


def _outcome_cells(outcome: Outcome | None) -> dict[str, object]:
    """Return the cells of `OUTCOME_COLUMNS` for a row; None: the row is pending."""
    if outcome is None:
        return {**dict.fromkeys(OUTCOME_COLUMNS), "status": "pending", "attempts": 0}
    return {name: getattr(outcome, name) for name in OUTCOME_COLUMNS}


def _fact_columns(
    outcomes: Iterable[Outcome], taken: Iterable[str]
) -> dict[str, tuple[str, pa.DataType]]:
    """Return, by column name, the fact that each further column holds and its type.

    A fact whose name the manifest has `taken` becomes `picture_` and its name.
    """
    kinds: dict[str, set[type]] = {}
    for outcome in outcomes:
        for name, value in outcome.facts.items():
            kinds.setdefault(name, set()).add(type(value))
    taken = {*taken, *OUTCOME_COLUMNS, "id", "source", "pose", "seed"}
    return {
        f"picture_{name}" if name in taken else name: (name, _arrow_type(kinds[name]))
        for name in sorted(kinds)
    }


def _arrow_type(kinds: set[type]) -> pa.DataType:
    """Return the Arrow type for values of these Python types; text where they do not agree."""
    kinds = kinds - {type(None)}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds and kinds <= {int, float} else pa.string()


def _fact_cells(
    outcome: Outcome | None, columns: Mapping[str, tuple[str, pa.DataType]]
) -> dict[str, object]:
    """Return the cells of the fact columns for a row; lists and mappings become JSON."""
    facts: Mapping[str, Any] = {} if outcome is None else outcome.facts

    def cell(value: object, kind: pa.DataType) -> object:
        if value is None or isinstance(value, str) or not pa.types.is_string(kind):
            return value
        return json.dumps(value, ensure_ascii=False, sort_keys=True)

    return {column: cell(facts.get(name), kind) for column, (name, kind) in columns.items()}
