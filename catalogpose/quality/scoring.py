"""The scores of a run's rows, and the pictures that go with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from catalogpose.catalog.canvas import fit_map, fit_photo
from catalogpose.catalog.labels import read_parsing_map
from catalogpose.catalog.photos import read_photo
from catalogpose.errors import RowError
from catalogpose.quality.agreement import map_agreement
from catalogpose.quality.pairs import METRICS, WORDED, score_pair
from catalogpose.quality.run_folder import Asked, Finished
from catalogpose.records import Letterbox

Parse = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Turns a picture uint8 (H, W, 3) into its map (H, W) in the common vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Who looks at what text-driven rows made."""

    parse: Parse
    """A parser that did not condition the pictures."""
    score: Callable[[NDArray[np.uint8], Mapping[str, str]], Mapping[str, float | None]]
    """Takes a picture and the phrases of its regions; returns the metrics of `WORDED` but the
    first."""


def score_rows(
    rows: Iterable[Finished],
    parse: Parse | None,
    step: Callable[[], None],
    judge: Judge | None = None,
) -> pd.DataFrame:
    """Return a line a row: `id`, `product`, `group`, a column a metric, those of the true pictures
    where they are measured too, and `note`.

    A metric is empty where the row has no target, or no prompt for those of `WORDED`, or could not
    be scored; `note` says why it could not. Without `parse` there is neither colour nor pattern
    error nor agreement, without `judge` nothing of words. `step` is called after each row.
    """
    names = [*(metric.name for metric in METRICS), *(f"real_{name}" for name in WORDED)]
    lines = []
    for row in rows:
        line: dict[str, object] = {"id": row.id, "product": row.product, "group": row.group}
        line |= dict.fromkeys(names, None) | {"note": None}
        try:
            if row.target is not None:
                line |= _score(row.output, row.target, parse)
            if row.asked is not None:
                output = read_photo(row.output).picture
                line |= _score_words(row.asked, output, parse, judge)
                if row.target is not None:
                    real = _score_words(row.asked, fit_target(row.target, output), parse, judge)
                    line |= {f"real_{name}": value for name, value in real.items()}
        except RowError as error:
            line["note"] = error.message
        lines.append(line)
        step()
    table = pd.DataFrame(lines, columns=["id", "product", "group", *names, "note"])
    numbers = dict.fromkeys(names, "float64")
    return table.astype(numbers | dict.fromkeys(("id", "product", "group", "note"), "string"))


def _score_words(
    asked: Asked, picture: NDArray[np.uint8], parse: Parse | None, judge: Judge | None
) -> dict[str, float | None]:
    """Score a picture against what a row asks for in words."""
    scores: dict[str, float | None] = {}
    look = parse if judge is None else judge.parse
    if look is not None:
        scores["map_agreement"] = map_agreement(look(picture), fit_asked(asked, picture))
    if judge is not None:
        scores |= judge.score(picture, asked.phrases)
    return scores


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
