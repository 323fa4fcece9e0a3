"""Parsing maps: label sets, the common vocabulary, map files, regions and the keypoint table."""

from __future__ import annotations

import io
import json
import math
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from catalogpose.catalog.files import sha256_json, write_atomically
from catalogpose.errors import RowError, UsageError
from catalogpose.records import JOINTS, LABEL_ID, LABELS, Region

MAX_MAP_PIXELS = 64_000_000
"""Largest parsing map that is read, in pixels."""

REGION_FLOOR = 0.0005
"""Smallest region that counts, as a share of the person's pixels; smaller ones are crumbs."""


LABEL_SETS_FILE = Path(__file__).with_name("label_sets.json")
"""Every label set's labels and what each becomes, as data."""


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """The labels of one kind of parser and what each becomes in the common vocabulary."""

    name: str
    """The name that manifests use."""
    labels: tuple[str, ...]
    """The parser's own labels; an id is an index."""
    common: tuple[int, ...]
    """The id in `LABELS` that each own id becomes; as long as `labels`."""


def _load_label_sets() -> dict[str, LabelSet]:
    """Read the shipped `label_sets.json`."""
    data = json.loads(LABEL_SETS_FILE.read_text(encoding="utf-8"))
    return {
        name: LabelSet(
            name=name,
            labels=tuple(own for own, _ in pairs),
            common=tuple(LABEL_ID[common] for _, common in pairs),
        )
        for name, pairs in data["sets"].items()
    }


LABEL_SETS: Mapping[str, LabelSet] = _load_label_sets()
"""Every label set we know, by the name that manifests and model folders use."""


def to_common(labels: NDArray[np.uint8], label_set: str) -> NDArray[np.uint8]:
    """Turn ids (H, W) of a label set into ids (H, W) of the common vocabulary.

    Raises `UsageError` for an unknown set and `RowError` where an id is none of the set's.
    """
    known = LABEL_SETS.get(label_set)
    if known is None:
        raise UsageError(f"unknown label set {label_set!r}; known: {', '.join(LABEL_SETS)}")
    highest = int(labels.max(initial=0))
    if highest >= len(known.common):
        raise RowError(
            "parsing",
            "unknown-label",
            f"the parsing map holds id {highest}; "
            f"label set {label_set} ends at {len(known.common) - 1}",
        )
    return np.array(known.common, dtype=np.uint8)[labels]


def read_parsing_map(path: Path, label_set: str) -> NDArray[np.uint8]:
    """Read a PNG whose pixel values are ids of `label_set`; return common ids (H, W).

    The PNG is indexed (mode P, whatever its palette) or 8-bit grey (mode L); it is never converted,
    since a conversion would turn ids into colours. Raises `RowError` with stage `parsing`.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise RowError("parsing", "missing", f"missing parsing map {str(path)!r}") from None
    except OSError as error:
        reason = f"cannot read parsing map {str(path)!r}: {error.strerror}"
        raise RowError("parsing", "unreadable", reason) from None
    return to_common(_decode_ids(content, repr(str(path))), label_set)


def _decode_ids(content: bytes, name: str) -> NDArray[np.uint8]:
    """Return the pixel values (H, W) of an indexed or 8-bit grey PNG; `name` is for messages."""
    try:
        # Pillow's warnings, of its own looser pixel limit for one, would go to the terminal.
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(content), formats=["PNG"]) as image,
        ):
            if image.width * image.height > MAX_MAP_PIXELS:
                raise RowError("parsing", "too-large", f"parsing map {name} has over 64 megapixels")
            # Pillow stretches 1-, 2- and 4-bit grey to 0..255, which would turn ids into other ids.
            depth = content[24]
            if image.mode not in ("P", "L") or (image.mode == "L" and depth != 8):
                kind = f"{depth}-bit grey" if image.mode in ("1", "L") else f"mode {image.mode}"
                reason = f"parsing map {name} is {kind}; save the label ids as an indexed PNG"
                raise RowError("parsing", "not-indexed", reason)
            return np.array(image, dtype=np.uint8)
    except UnidentifiedImageError:
        raise RowError("parsing", "unreadable", f"parsing map {name} is not a PNG") from None
    except Image.DecompressionBombError:
        raise RowError("parsing", "too-large", f"parsing map {name} is too large") from None
    except (OSError, SyntaxError, ValueError, struct.error):
        raise RowError("parsing", "unreadable", f"parsing map {name} is damaged") from None


def encode_map(labels: NDArray[np.uint8]) -> bytes:
    """Return common ids (H, W) as the bytes of an indexed PNG with the Pascal VOC palette."""
    image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8))
    image.putpalette(_voc_palette())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def decode_map(content: bytes) -> NDArray[np.uint8]:
    """Return the ids (H, W) in the bytes that `encode_map` made."""
    return _decode_ids(content, "in the cache")


def write_parsing_map(path: Path, labels: NDArray[np.uint8]) -> None:
    """Write common ids (H, W) as an indexed PNG, atomically; its label set is `common`."""
    write_atomically(path, lambda file: file.write(encode_map(labels)))


def colour_map(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a map (H, W) as people see it: (H, W, 3), each id in its Pascal VOC colour."""
    colours = np.frombuffer(_voc_palette(), dtype=np.uint8).reshape(256, 3)
    return colours[labels]


def _voc_palette() -> bytes:
    """Return 256 RGB colours: an id's bits, lowest first, are the high bits of R, G, B in turn."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for level in range(8):
        for channel in range(3):
            bit = (ids >> (3 * level + channel)) & 1
            colours[:, channel] |= (bit << (7 - level)).astype(np.uint8)
    return colours.tobytes()


def find_regions(labels: NDArray[np.uint8], floor: float = REGION_FLOOR) -> tuple[Region, ...]:
    """Return the regions of a common map (H, W), sorted by label, background left out.

    A region counts from `floor` times the person's pixels, and from one pixel, upwards.
    """
    areas = np.bincount(labels.ravel(), minlength=len(LABELS))
    least = max(1, math.ceil(floor * int(areas[1:].sum())))
    present = [int(label) for label in np.flatnonzero(areas >= least) if label != 0]
    return tuple(
        Region(label=label, box=_wrap(labels == label), area=int(areas[label])) for label in present
    )


def _wrap(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom (exclusive) of a mask (H, W) with a true pixel in it."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def load_keypoint_table(path: Path | None = None) -> dict[int, list[dict[str, Any]]]:
    """Return, by common label id, the clauses of which any one shows that label.

    A clause `{"at_least": n, "of": [joints]}` holds when n of those COCO-18 joints are seen. `path`
    is a replacement for the shipped `keypoint_labels.json`; every label but the background must be
    in it, with an empty list for a label that never shows. Raises `UsageError` where the file is
    wrong.
    """
    path = path or Path(__file__).with_name("keypoint_labels.json")
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the keypoint table {str(path)!r}: {error}") from None
    if not isinstance(data, dict) or data.get("schema") != 1:
        raise UsageError(f"keypoint table {str(path)!r}: expected an object with schema 1")
    clauses = data.get("labels")
    if not isinstance(clauses, dict) or set(clauses) != set(LABELS[1:]):
        wrong = set(LABELS[1:]) ^ set(clauses if isinstance(clauses, dict) else ())
        named = ", ".join(sorted(map(str, wrong)))
        raise UsageError(f"keypoint table {str(path)!r}: missing or unknown labels: {named}")
    for name, alternatives in clauses.items():
        if not isinstance(alternatives, list) or not all(map(_is_clause, alternatives)):
            raise UsageError(f"keypoint table {str(path)!r}: label {name!r} has a wrong clause")
    return {LABEL_ID[name]: clauses[name] for name in LABELS[1:]}


def _is_clause(clause: object) -> bool:
    """Say whether this is a clause of the keypoint table that can hold at all."""
    if not isinstance(clause, dict) or set(clause) != {"at_least", "of"}:
        return False
    least, joints = clause["at_least"], clause["of"]
    return (
        isinstance(joints, list)
        and all(type(joint) is int and 0 <= joint < len(JOINTS) for joint in joints)
        and len(set(joints)) == len(joints)
        and type(least) is int
        and 1 <= least <= len(joints)
    )


def keypoint_table_hash(table: Mapping[int, list[dict[str, Any]]]) -> str:
    """Return the hash of a keypoint table by label names, for fingerprints."""
    return sha256_json({LABELS[label]: clauses for label, clauses in table.items()})
