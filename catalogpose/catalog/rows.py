"""A row and its cells: how the one becomes the other."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from catalogpose.catalog.columns import DESCRIPTION, OPTIONAL, REFERENCE, REQUIRED
from catalogpose.catalog.descriptions import split_labels, split_products, split_region_prompts
from catalogpose.catalog.references import split_regions
from catalogpose.records import Description, Reference, Row


def make_row(
    number: int, values: Mapping[str, str | int | None], cells: Mapping[str, object], folder: Path
) -> Row:
    """Build a row out of values without fault."""

    def file(name: str) -> Path | None:
        return None if values[name] is None else folder / str(values[name])

    def text(name: str) -> str | None:
        return None if values[name] is None else str(values[name])

    width, height, seed = values["pose_width"], values["pose_height"], values["seed"]
    return Row(
        number=number,
        id=str(values["id"]),
        source=file("source"),
        pose=file("pose") or file("reference_pose"),
        pose_size=None if width is None or height is None else (int(width), int(height)),
        target=file("target"),
        product=text("product"),
        seed=None if seed is None else int(seed),
        parsing=file("parsing"),
        label_set=text("label_set") if values["parsing"] is not None else None,
        reference=_make_reference(values, folder),
        description=_make_description(values, folder),
        extra={name: cell for name, cell in cells.items() if name not in (*REQUIRED, *OPTIONAL)},
    )


def _make_reference(values: Mapping[str, str | int | None], folder: Path) -> Reference | None:
    """Build the reference of a row without fault; None where it has none."""
    if values["reference"] is None:
        return None
    regions, mask = split_regions(str(values["reference_regions"]))
    ready = values["reference_parsing"]
    return Reference(
        photo=folder / str(values["reference"]),
        regions=regions,
        mask=None if mask is None else folder / mask,
        parsing=None if ready is None else folder / str(ready),
        label_set=None if ready is None else str(values["reference_label_set"]),
    )


def _make_description(values: Mapping[str, str | int | None], folder: Path) -> Description | None:
    """Build what a row without fault asks for in words; None where it does not."""
    if values["prompt"] is None:
        return None
    cells = {name: str(values[name] or "") for name in DESCRIPTION}
    return Description(
        prompt=cells["prompt"],
        pose_map=folder / cells["pose_map"],
        label_set=str(values["label_set"]),
        keep=split_labels(cells["keep"]) if cells["keep"] else None,
        region_prompts=split_region_prompts(cells["region_prompts"] or "{}"),
        exclude_products=split_products(cells["exclude_products"]),
    )


def row_cells(row: Row, folder: Path) -> dict[str, object]:
    """Return a row's cells for a manifest in `folder`."""
    width, height = row.pose_size or (None, None)
    return {
        **row.extra,
        "id": row.id,
        "source": _relative(row.source, folder),
        "pose": _relative(row.pose, folder) if row.reference is None else None,
        "pose_width": width,
        "pose_height": height,
        "target": _relative(row.target, folder),
        "product": row.product,
        "seed": row.seed,
        "parsing": _relative(row.parsing, folder),
        "label_set": row.description.label_set if row.description else row.label_set,
        **_reference_cells(row, folder),
        **_description_cells(row, folder),
    }


def _reference_cells(row: Row, folder: Path) -> dict[str, object]:
    """Return the cells of a row's reference, None where it has none."""
    reference = row.reference
    if reference is None:
        return dict.fromkeys(REFERENCE)
    return {
        "reference": _relative(reference.photo, folder),
        "reference_pose": _relative(row.pose, folder),
        "reference_regions": ",".join(reference.regions) or _relative(reference.mask, folder),
        "reference_parsing": _relative(reference.parsing, folder),
        "reference_label_set": reference.label_set,
    }


def _description_cells(row: Row, folder: Path) -> dict[str, object]:
    """Return the cells of what a row asks for in words, None where it does not."""
    asked = row.description
    if asked is None:
        return dict.fromkeys(DESCRIPTION)
    phrases = json.dumps(dict(asked.region_prompts), ensure_ascii=False)
    products = json.dumps(list(asked.exclude_products), ensure_ascii=False)
    return {
        "prompt": asked.prompt,
        "pose_map": _relative(asked.pose_map, folder),
        "keep": ",".join(asked.keep) if asked.keep else None,
        "region_prompts": phrases if asked.region_prompts else None,
        "exclude_products": products if asked.exclude_products else None,
    }


def _relative(path: Path | None, folder: Path) -> str | None:
    """Return a path as seen from a folder; absolute where no way leads there (another drive)."""
    if path is None:
        return None
    try:
        return Path(
            os.path.relpath(_real(path.parent.absolute()) / path.name, _real(folder.absolute()))
        ).as_posix()
    except ValueError:
        return path.absolute().as_posix()


@lru_cache(4096)
def _real(folder: Path) -> Path:
    """Return a folder without links: `..` leads out of the real one."""
    return folder.resolve()
