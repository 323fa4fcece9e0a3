"""The columns of a manifest: which there are, what they hold and what is wrong with a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pyarrow as pa

from catalogpose.catalog.descriptions import split_labels, split_products, split_region_prompts
from catalogpose.catalog.labels import LABEL_SETS
from catalogpose.catalog.references import split_regions

REQUIRED = ("id", "source", "pose")
"""Columns that every manifest we write has; `reference_pose` can stand for `pose`, and where every
row has `prompt` and `pose_map` both may lack."""

OPTIONAL: Mapping[str, pa.DataType] = {
    "pose_width": pa.int64(),
    "pose_height": pa.int64(),
    "target": pa.string(),
    "product": pa.string(),
    "seed": pa.int64(),
    "parsing": pa.string(),
    "label_set": pa.string(),
    "reference": pa.string(),
    "reference_pose": pa.string(),
    "reference_regions": pa.string(),
    "reference_parsing": pa.string(),
    "reference_label_set": pa.string(),
    "prompt": pa.string(),
    "pose_map": pa.string(),
    "keep": pa.string(),
    "region_prompts": pa.string(),
    "exclude_products": pa.string(),
}
"""Columns that we understand beside the required ones, and their types in Parquet."""

DESCRIPTION = ("prompt", "pose_map", "keep", "region_prompts", "exclude_products")
"""Columns of text-driven rows; the first two make a row one."""

REFERENCE = tuple(name for name in OPTIONAL if name.startswith("reference"))
"""Columns of style transfer; other names that begin so are taken for misspelt ones."""

RESULT_COLUMNS = ("status", "output", "output_sha256", "source_sha256", "stage", "error_class",
                  "error_message", "attempts", "seconds", "device", "fingerprint")  # fmt: skip
"""Names that results.parquet adds to the manifest's; a manifest may not bring them itself."""

MAX_POSE_SIDE = 65_536
"""Longest pose canvas side, in pixels."""

MAX_SEED = 2**63 - 1
"""Largest seed; it fits a signed 64-bit column."""

TEXT_OR_WHOLE = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
                 pa.types.is_integer, pa.types.is_null)  # fmt: skip
"""Kinds of Parquet columns whose values become text without doubt."""

Fault = Callable[[str, str], None]
"""Notes a fault of one row: the column and what is wrong with it."""


def column_fault(field: pa.Field) -> str | None:
    """Say what is wrong with a manifest's column; None where nothing is."""
    if field.name.startswith("reference") and field.name not in REFERENCE:
        return f"unknown; known are {', '.join(REFERENCE)}"
    if field.name in RESULT_COLUMNS:
        return "the name belongs to results.parquet; rename it"
    if field.name not in (*REQUIRED, *OPTIONAL):
        return None
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if any(is_kind(kind) for is_kind in TEXT_OR_WHOLE):
        return None
    if field.name in ("pose_width", "pose_height", "seed") and pa.types.is_floating(kind):
        return None  # what pandas makes of whole numbers with gaps; each value is checked
    return f"holds {kind}; write text or whole numbers"


def read_cells(cells: Mapping[str, object], fault: Fault) -> dict[str, str | int | None]:
    """Return the understood columns of a row, None where absent or faulty."""
    values: dict[str, str | int | None] = {}
    for name in (*REQUIRED, "target", "product", "parsing", "label_set", *REFERENCE,
                 *DESCRIPTION):  # fmt: skip
        cell = cells.get(name)
        values[name] = str(cell) if cell is not None and str(cell).strip() else None
    described = _check_description(values, fault)
    for name in ("id",) if described else ("id", "source"):
        if values[name] is None:
            fault(name, "empty")
    _check_pose_and_reference(values, fault, described=described)
    values["pose_width"] = _whole(cells, "pose_width", 1, MAX_POSE_SIDE, fault)
    values["pose_height"] = _whole(cells, "pose_height", 1, MAX_POSE_SIDE, fault)
    values["seed"] = _whole(cells, "seed", 0, MAX_SEED, fault)
    sides = {"pose_width", "pose_height"}
    given = {side for side in sides if _is_given(cells.get(side))}
    if len(given) == 1:
        fault((sides - given).pop(), f"empty beside {given.pop()}; give both or neither")
    for prefix in ("", "reference_"):
        _check_label_set(values, prefix, fault)
    return values


def _check_label_set(values: Mapping[str, str | int | None], prefix: str, fault: Fault) -> None:
    """Check that a ready map has a label set that we know."""
    column = f"{prefix}label_set"
    label_set = values[column]
    if label_set is not None and label_set not in LABEL_SETS:
        fault(column, f"unknown label set {label_set!r}; known: {', '.join(LABEL_SETS)}")
    maps = [f"{prefix}parsing"] if prefix else ["parsing", "pose_map"]
    given = next((name for name in maps if values[name] is not None), None)
    if given is not None and label_set is None:
        fault(column, f"empty beside {given}; name the map's label set")


def _check_description(values: dict[str, str | int | None], fault: Fault) -> bool:
    """Check the cells of a text-driven row that need no file; say whether the row is one.

    A cell at fault becomes None.
    """
    described = values["prompt"] is not None or values["pose_map"] is not None
    if not described:
        for name in DESCRIPTION[2:]:
            if values[name] is not None:
                fault(name, "given without prompt; give both or neither")
        return False
    if values["prompt"] is None:
        fault("prompt", "empty beside pose_map; say in words what the map's regions shall be")
    if values["pose_map"] is None:
        fault("pose_map", "empty beside prompt; name the map that says what shall be where")
    if values["reference"] is not None:
        fault("reference", "given beside prompt; give one of them")
    if values["keep"] is not None and values["source"] is None:
        fault("keep", "given without source, which it is kept from; give both or neither")
    _check_lists(values, fault)
    return True


def _check_lists(values: dict[str, str | int | None], fault: Fault) -> None:
    """Check the cells of a text-driven row that hold several things."""
    for name, split in (("keep", split_labels), ("region_prompts", split_region_prompts),
                        ("exclude_products", split_products)):  # fmt: skip
        if values[name] is None:
            continue
        try:
            split(str(values[name]))
        except ValueError as error:
            fault(name, str(error))
            values[name] = None


def _check_pose_and_reference(
    values: dict[str, str | int | None], fault: Fault, *, described: bool
) -> None:
    """Check that a row has a pose, unless it is `described`, or a reference with its pose and
    regions.
    """
    if values["reference"] is None:
        if values["pose"] is None and not described:
            fault("pose", "empty")
        for name in REFERENCE:
            if values[name] is not None:
                fault(name, "given without reference; give both or neither")
        return
    if values["pose"] is not None:
        fault("pose", "given beside reference; leave it empty, the pose is reference_pose's")
    for name in ("reference_pose", "reference_regions"):
        if values[name] is None:
            fault(name, "empty beside reference")
    if values["reference_regions"] is not None:
        try:
            split_regions(str(values["reference_regions"]))
        except ValueError as error:
            fault("reference_regions", str(error))
            values["reference_regions"] = None


def _is_given(cell: object) -> bool:
    """Say whether a number's cell holds anything: pandas writes a gap as NaN."""
    return cell is not None and cell == cell and bool(str(cell).strip())  # NaN differs from itself


def _whole(cells: Mapping[str, object], name: str, low: int, high: int, fault: Fault) -> int | None:
    """Return a cell's whole number from low to high, None where the cell is empty or at fault."""
    cell = cells.get(name)
    if not _is_given(cell):
        return None
    text = str(cell).strip()
    # `512.0` is what pandas writes for a whole number in a column with gaps.
    digits = re.fullmatch(r"([0-9]{1,20})(\.0*)?", text)
    if digits is None or not low <= int(digits[1]) <= high:
        fault(name, f"{shown(text)} is not a whole number from {low} to {high}")
        return None
    return int(digits[1])


def noting(number: int, lines: list[str]) -> Fault:
    """Return a function that appends a row's faults to `lines` in their one format."""
    return lambda column, reason: lines.append(f"row {number}, column {column}: {reason}")


def shown(text: str) -> str:
    """Return text as it is if printable, else quoted and escaped: a fault stays on one line."""
    return text if text.isprintable() else repr(text)
