"""Files on disk: their hashes, their atomic writing and the names of the pictures we write."""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

SLUG_LENGTH = 60
"""Longest readable part of an output's name, in characters."""


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes; `OSError` where it cannot be read."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """Return the hex SHA-256 of a value's canonical JSON: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def write_atomically(
    path: Path, write: Callable[[BinaryIO], object], *, synced: bool = True
) -> None:
    """Call `write` with an open binary file that becomes `path` only once it is whole and synced.

    Without `synced` a power cut can lose it; whoever writes thousands syncs once at their end.

    The temporary file lies in the same folder under a hidden name that ends in `.tmp`. When `write`
    raises, it is removed and whatever `path` held before stays. Raises what `write` raises, and
    `OSError`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as file:
            write(file)
            if synced:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if synced:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut; Windows opens no folders, so not there."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def output_name(id: str, suffix: str = ".png") -> str:  # noqa: A002  the manifest's own word
    """Return a safe file name for a row: a slug of the id, 12 hex digits of its hash, the suffix.

    The name is lower-case ASCII without separators or dots, so that no id can leave its folder,
    hide a file or collide with another one where the file system ignores case; the hash tells ids
    of one slug apart.
    """
    plain = unicodedata.normalize("NFKD", id).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9_]+", "-", plain).strip("-")[:SLUG_LENGTH].rstrip("-")
    digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{slug}-{digest}{suffix}" if slug else f"{digest}{suffix}"
