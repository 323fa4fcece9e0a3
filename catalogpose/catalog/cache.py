"""The cache: what was computed from a photo's bytes, in immutable Parquet parts, safe to kill."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from catalogpose.catalog.cache_records import (
    ClipRecord,
    FailureRecord,
    Kind,
    ParseRecord,
    Record,
    make_table,
    make_unit,
    read_record,
)
from catalogpose.catalog.files import sha256_json, write_atomically
from catalogpose.errors import EnvironmentFault, RowError, UsageError, first_line
from catalogpose.records import LABELS

__all__ = [
    "Cache",
    "ClipRecord",
    "FailureRecord",
    "ParseRecord",
    "Record",
    "default_cache_folder",
]

SCHEMA = 1
"""Version of the parts' columns; it stands in every part and in `meta.json`."""

OPEN_PARTS = 4
"""Parts kept in memory: rows that follow each other in a manifest mostly lie in the same ones."""


def default_cache_folder() -> Path:
    """Return `$CATALOGPOSE_CACHE`, else `catalogpose` in the user's cache folder."""
    own = os.environ.get("CATALOGPOSE_CACHE")
    if own:
        return Path(own)
    # An empty or relative XDG_CACHE_HOME counts as unset; its specification says so.
    general = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (general if general.is_absolute() else Path.home() / ".cache") / "catalogpose"


class Cache:
    """Records by key, below `root/v1/{kind}/{16 hex digits of the fingerprint}/`.

    The settings decide what a record says, so other settings mean another folder. Any number of
    processes may write at once: each flush makes a part of its own, which never changes. A killed
    process loses what it had not flushed.
    """

    def __init__(
        self,
        root: Path,
        kind: Kind,
        settings: Mapping[str, object],
        *,
        flush_count: int = 64,
        flush_seconds: float = 30.0,
    ) -> None:
        """Open a cache; nothing is written before the first flush.

        `flush_count` records, or the first `put` after `flush_seconds`, make a part. Raises
        `UsageError` where what lies there cannot be read.
        """
        self.kind = kind
        self.settings = dict(settings)
        self.fingerprint = sha256_json(self.settings)
        self.folder = Path(root) / "v1" / kind / self.fingerprint[:16]
        self._flush_count, self._flush_seconds = flush_count, flush_seconds
        self._buffer: dict[str, Record] = {}
        self._flushed = time.monotonic()
        self._parts: set[str] = set()
        # Key to part, first row and number of rows.
        self._places: dict[str, tuple[str, int, int]] = {}
        self._open: OrderedDict[str, pa.Table] = OrderedDict()
        self._check_meta()
        self._index_new_parts()

    def keys(self) -> set[str]:
        """Return every key with a record, failures included, also those that others wrote since."""
        self._index_new_parts()
        return self._places.keys() | self._buffer.keys()

    def __contains__(self, key: str) -> bool:
        return key in self._buffer or key in self._places

    def get(self, key: str) -> Record | None:
        """Return the record last put under a key; None where there is none."""
        if key in self._buffer:
            return self._buffer[key]
        place = self._places.get(key)
        if place is None:
            return None
        part, first, count = place
        try:
            return read_record(self.kind, self._table(part).slice(first, count))
        except (pa.ArrowException, OSError, ValueError, KeyError, RowError) as error:
            raise self._unreadable(self.folder / part, error) from None

    def put(self, key: str, record: Record) -> None:
        """Keep a record under a key, in memory at first; flushes when enough or old enough.

        Embeddings are made unit length here, so that `get` gives the same numbers before and after
        a flush; `ValueError` where one is zero or not finite.
        """
        self._buffer[key] = make_unit(record) if isinstance(record, ClipRecord) else record
        waited = time.monotonic() - self._flushed
        if len(self._buffer) >= self._flush_count or waited >= self._flush_seconds:
            self.flush()

    def flush(self) -> None:
        """Write what is in memory as one part; `EnvironmentFault` where the disk refuses it."""
        self._flushed = time.monotonic()
        if not self._buffer:
            return
        table = make_table(self.kind, self._buffer)
        facts = {"schema": SCHEMA, "kind": self.kind, "fingerprint": self.fingerprint}
        metadata = {"catalogpose": json.dumps({**facts, "labels": LABELS})}
        table = table.replace_schema_metadata(metadata)
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        path = self.folder / f"part-{stamp}-{os.getpid()}-{uuid.uuid4().hex[:12]}.parquet"
        try:
            self._write_meta()
            write_atomically(path, lambda file: _write_part(table, file))
        except OSError as error:
            reason = f"cannot write to the cache {self.folder}: {error.strerror or error}"
            raise EnvironmentFault(f"{reason}; free some space or give --cache") from None
        self._buffer.clear()
        self._index_part(path.name)

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Also after an error: what is computed is computed.
        self.flush()

    def _check_meta(self) -> None:
        """Make sure that the folder is of these settings."""
        path = self.folder / "meta.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["fingerprint"]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._unreadable(path, error) from None
        if found != self.fingerprint:
            raise UsageError(f"{path} belongs to other settings; give another --cache")

    def _write_meta(self) -> None:
        """Write for people, and for `_check_meta`, what this folder holds; once."""
        path = self.folder / "meta.json"
        if path.exists():
            return
        meta = {
            "schema": SCHEMA,
            "kind": self.kind,
            "fingerprint": self.fingerprint,
            "settings": self.settings,
            "labels": LABELS,
        }
        content = json.dumps(meta, indent=2, ensure_ascii=False).encode() + b"\n"
        write_atomically(path, lambda file: file.write(content))

    def _index_new_parts(self) -> None:
        """Learn the keys of parts that appeared; temporary files have other names."""
        for path in sorted(self.folder.glob("part-*.parquet")):
            if path.name not in self._parts:
                self._index_part(path.name)

    def _index_part(self, name: str) -> None:
        """Learn the keys of one part; a record in a later part replaces one in an earlier."""
        path = self.folder / name
        try:
            with pq.ParquetFile(path) as file:
                keys = file.read(columns=["key"]).column("key").to_pylist()
        except (pa.ArrowException, OSError, KeyError) as error:
            raise self._unreadable(path, error) from None
        self._parts.add(name)
        first = 0
        for row in range(1, len(keys) + 1):
            if row < len(keys) and keys[row] == keys[first]:
                continue
            known = self._places.get(keys[first])
            if known is None or known[0] <= name:
                self._places[keys[first]] = (name, first, row - first)
            first = row

    def _table(self, part: str) -> pa.Table:
        """Return a part's rows, from memory if it was read lately."""
        if part not in self._open:
            with pq.ParquetFile(self.folder / part, page_checksum_verification=True) as file:
                self._open[part] = file.read()
            if len(self._open) > OPEN_PARTS:
                self._open.popitem(last=False)
        self._open.move_to_end(part)
        return self._open[part]

    def _unreadable(self, path: Path, error: Exception) -> UsageError:
        """Return the error of a damaged file, with the remedy."""
        reason = first_line(error)
        return UsageError(
            f"cannot read {path} in the cache: {reason}; delete that file, "
            "what it held is computed again"
        )


def _write_part(table: pa.Table, file: object) -> None:
    """Write a part: hashes, PNGs and embeddings gain nothing from dictionaries or statistics."""
    pq.write_table(
        table,
        file,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
