"""The scores of a run's rows, and the pictures that go with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

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


class Judge(Protocol):
    """Who looks at what text-driven rows made: a parser and a CLIP that did not condition it."""

    def parse(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the map of a picture, as `Parse`."""

    def score(
        self, picture: NDArray[np.uint8], phrases: Mapping[str, str]
    ) -> Mapping[str, float | None]:
        """Return how the regions of a picture fit the phrases that they are to show, by label name:
        `region_text`, `colour_accuracy`, `pattern_accuracy` and `binding_error`.
        """

    def compare(
        self, picture: NDArray[np.uint8], asked: Asked, source: NDArray[np.uint8] | None
    ) -> Mapping[str, float | None]:
        """Return how a picture's regions compare with what informed them, and with the source that
        they were kept from, on the picture's canvas: `copy_similarity` and `kept_identity`.
        """

    def check_cloth(self, asked: Asked, truth: NDArray[np.uint8] | None) -> float | None:
        """Return the share of what informed a row that fits its words; with `truth` the share of
        that picture's regions. None where nothing could be looked at.
        """


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
            if row.target is not None or row.asked is not None:
                line |= _score(row, None if parse is None else _once(parse), judge)
        except RowError as error:
            line["note"] = error.message
        lines.append(line)
        step()
    table = pd.DataFrame(lines, columns=["id", "product", "group", *names, "note"])
    numbers = dict.fromkeys(names, "float64")
    return table.astype(numbers | dict.fromkeys(("id", "product", "group", "note"), "string"))


def _once(parse: Parse) -> Parse:
    """Parse each picture of a row once, however many scores ask for its map."""
    seen: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []

    def look(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture's map."""
        for known, labels in seen:
            if known is picture:
                return labels
        seen.append((picture, parse(picture)))
        return seen[-1][1]

    return look


def _score(row: Finished, parse: Parse | None, judge: Judge | None) -> dict[str, float | None]:
    """Score a row's output against its true picture and its words, where it has them."""
    output = read_photo(row.output).picture
    target = None if row.target is None else fit_target(row.target, output)
    scores: dict[str, float | None] = {}
    if target is not None:
        scores |= score_pair(
            output, target, *((None, None) if parse is None else (parse(output), parse(target)))
        )
    if row.asked is not None:
        scores |= _score_asked(row, row.asked, output, target, parse, judge)
    return scores


def _score_asked(
    row: Finished,
    asked: Asked,
    output: NDArray[np.uint8],
    target: NDArray[np.uint8] | None,
    parse: Parse | None,
    judge: Judge | None,
) -> dict[str, float | None]:
    """Score a row with a prompt and, where it has one, its true picture too."""
    source = _read_source(row, asked, output) if judge is not None else None
    scores = _score_words(asked, output, source, parse, judge)
    if judge is not None:
        scores["retrieval_precision"] = judge.check_cloth(asked, None)
    if target is not None:
        real = _score_words(asked, target, source, parse, judge)
        if judge is not None:
            real["retrieval_precision"] = judge.check_cloth(asked, target)
        scores |= {f"real_{name}": value for name, value in real.items()}
    return scores


def _read_source(
    row: Finished, asked: Asked, output: NDArray[np.uint8]
) -> NDArray[np.uint8] | None:
    """Read the source that something was kept of; None where nothing was, or where it is gone:
    nothing but the identity of what was kept needs it.
    """
    if row.source is None or not asked.kept:
        return None
    try:
        return fit_target(row.source, output)
    except RowError:
        return None


def _score_words(
    asked: Asked,
    picture: NDArray[np.uint8],
    source: NDArray[np.uint8] | None,
    parse: Parse | None,
    judge: Judge | None,
) -> dict[str, float | None]:
    """Score a picture against what a row asks for in words."""
    scores: dict[str, float | None] = {}
    look = parse if judge is None else judge.parse
    if look is not None:
        scores["map_agreement"] = map_agreement(look(picture), fit_asked(asked, picture))
    if judge is not None:
        scores |= judge.score(picture, asked.phrases)
        scores |= judge.compare(picture, asked, source)
    return scores


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
