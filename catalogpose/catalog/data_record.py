"""What `catalogpose import` notes of a data set beside its manifests, read back for model cards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from catalogpose.errors import UsageError

RECORD_NAME = "dataset.json"
"""The record's file name in the folder of the manifests."""


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """Name and terms of a data set."""

    name: str
    """What the data set is called."""
    licence: str
    """What its licence is called, its terms in a sentence, and the page of its owners."""


def read_data_record(manifest: Path) -> DataRecord | None:
    """Return the record of the data set that a manifest is a split of.

    None where no record lies beside it, or the one there does not name it as a split.

    Raises:
        UsageError: If the record cannot be read.
    """
    path = manifest.parent / RECORD_NAME
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if manifest.suffix != ".parquet" or manifest.stem not in values["rows"]:
            return None
        licence = values["licence"]
        told = f"{licence['name']}: {licence['terms']} ({licence['home']})"
        return DataRecord(name=str(values["name"]), licence=told)
    except (ValueError, KeyError, TypeError, OSError):
        raise UsageError(
            f"{path} is no record of `catalogpose import`: repeat the import, or move it away"
        ) from None
