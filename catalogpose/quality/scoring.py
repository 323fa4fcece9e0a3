"""The scores of a run's rows, and the pictures that go with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from catalogpose.catalog.canvas import fit_map, fit_photo
from catalogpose.catalog.labels import read_parsing_map
from catalogpose.catalog.photos import read_photo
from catalogpose.errors import RowError
from catalogpose.quality.agreement import map_agreement
from catalogpose.quality.pairs import METRICS, score_pair
from catalogpose.quality.run_folder import Asked, Finished
from catalogpose.records import Letterbox

Parse = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Turns a picture uint8 (H, W, 3) into its map (H, W) in the common vocabulary."""


def score_rows(
    rows: Iterable[Finished], parse: Parse | None, step: Callable[[], None]
) -> pd.DataFrame:
    """Return a line a row: `id`, `product`, `group`, a column a metric, and `note`.

    A metric is empty where the row has no target, or no map for the last one, or could not be
    scored; `note` says why it could not. Without `parse` there is neither colour nor pattern error
    nor agreement. `step` is called after each row.
    """
    lines = []
    for row in rows:
        line: dict[str, object] = {"id": row.id, "product": row.product, "group": row.group}
        line |= dict.fromkeys((metric.name for metric in METRICS), None) | {"note": None}
        try:
            if row.target is not None:
                line |= _score(row.output, row.target, parse)
            if row.asked is not None and parse is not None:
                output = read_photo(row.output).picture
                line["map_agreement"] = map_agreement(parse(output), fit_asked(row.asked, output))
        except RowError as error:
            line["note"] = error.message
        lines.append(line)
        step()
    columns = ["id", "product", "group", *(metric.name for metric in METRICS), "note"]
    table = pd.DataFrame(lines, columns=columns)
    numbers = {metric.name: "float64" for metric in METRICS}
    return table.astype(numbers | dict.fromkeys(("id", "product", "group", "note"), "string"))


def _score(output_path: Path, target_path: Path, parse: Parse | None) -> dict[str, float | None]:
    """Score one output against its target on the output's canvas; RowError if one is unreadable."""
    output = read_photo(output_path).picture
    target = fit_target(target_path, output)
    if parse is None:
        return score_pair(output, target, None, None)
    return score_pair(output, target, parse(output), parse(target))


def fit_asked(asked: Asked, output: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Read the map that a row asks for and letterbox it to the output's size: (h, w), common ids.

    Raises `RowError` where it is gone or no map any more.
    """
    labels = read_parsing_map(asked.pose_map, asked.label_set)
    height, width = output.shape[:2]
    return fit_map(labels, Letterbox.fit(labels.shape[1], labels.shape[0], width, height))


def fit_target(path: Path, output: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Read a true picture and letterbox it to the output's size (h, w, 3), as its source was."""
    picture = read_photo(path).picture
    height, width = output.shape[:2]
    letterbox = Letterbox.fit(picture.shape[1], picture.shape[0], width, height)
    return fit_photo(picture, letterbox)
