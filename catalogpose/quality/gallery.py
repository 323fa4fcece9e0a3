"""The rows that the page shows, with their pictures."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from catalogpose.catalog.canvas import fit_joints
from catalogpose.catalog.labels import colour_map, read_parsing_map
from catalogpose.catalog.photos import read_photo
from catalogpose.catalog.poses import read_pose
from catalogpose.errors import RowError
from catalogpose.quality.page import Example, Failure, Thumbnail, make_thumbnail
from catalogpose.quality.pairs import METRICS
from catalogpose.quality.run_folder import Finished, text_or_none
from catalogpose.quality.scoring import fit_target
from catalogpose.quality.skeleton import Skeleton, make_skeleton


def make_examples(rows: Iterable[tuple[Finished, Mapping[Hashable, Any]]]) -> Iterator[Example]:
    """Yield what the page shows of each row and its line of scores; what cannot be read is None."""
    for row, scores in rows:
        source, size = _photo(row.source) if row.source else (None, None)
        reference, reference_size = _photo(row.reference) if row.reference else (None, None)
        if row.reference:
            size = reference_size
        result, target, output_size = _output_and_target(row)
        asked, map_size = _asked(row)
        size = map_size or size
        yield Example(
            id=row.id,
            product=row.product,
            source=source,
            reference=reference,
            styled=row.reference is not None,
            prompt=row.asked.prompt if row.asked else None,
            asked=asked,
            pose=_pose(row, size, output_size or size),
            result=result,
            target=target,
            values={metric.name: _number(scores[metric.name]) for metric in METRICS},
            note=text_or_none(scores["note"]),
        )


def make_failures(failed: pd.DataFrame) -> Iterator[Failure]:
    """Yield what the page shows of these failed lines of `results.parquet`."""
    for cells in failed.itertuples(index=False):
        yield Failure(
            id=str(cells.id),
            stage=text_or_none(cells.stage) or "",
            error_class=text_or_none(cells.error_class) or "",
            message=text_or_none(cells.error_message) or "",
        )


def _number(value: object) -> float | None:
    """Return a score; None where the table has none."""
    return float(value) if isinstance(value, float) and pd.notna(value) else None


def _photo(path: Path) -> tuple[Thumbnail | None, tuple[int, int] | None]:
    """Return a photo, small, and its upright width and height in pixels."""
    try:
        picture = read_photo(path).picture
    except RowError:
        return None, None
    return make_thumbnail(picture), (picture.shape[1], picture.shape[0])


def _asked(row: Finished) -> tuple[Thumbnail | None, tuple[int, int] | None]:
    """Return the map that a row asks for, in colours, and its width and height in pixels."""
    if row.asked is None:
        return None, None
    try:
        labels = read_parsing_map(row.asked.pose_map, row.asked.label_set)
    except RowError:
        return None, None
    return make_thumbnail(colour_map(labels)), (labels.shape[1], labels.shape[0])


def _output_and_target(
    row: Finished,
) -> tuple[Thumbnail | None, Thumbnail | None, tuple[int, int] | None]:
    """Return the output and, as it was compared, the target; and the output's width and height."""
    try:
        output = read_photo(row.output).picture
    except RowError:
        return None, None, None
    result, size = make_thumbnail(output), (output.shape[1], output.shape[0])
    if row.target is None:
        return result, None, size
    try:
        return result, make_thumbnail(fit_target(row.target, output)), size
    except RowError:
        return result, None, size


def _pose(
    row: Finished, fallback: tuple[int, int] | None, size: tuple[int, int] | None
) -> Skeleton | None:
    """Return the pose as drawn on the output's canvas of this width and height."""
    if size is None or row.pose is None:
        return None
    try:
        pose = read_pose(row.pose, size=row.pose_size, fallback=fallback)
    except RowError:
        return None
    return make_skeleton(fit_joints(pose, *size), *size)
