"""How good the pictures get while a training on photos runs: the report's metrics, fixed pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from catalogpose.catalog.labels import to_common
from catalogpose.perception.parser import Parser
from catalogpose.quality.pairs import METRICS, score_pair
from catalogpose.training.prepare import PhotoPairs
from catalogpose.training.sheets import write_sheet
from catalogpose.truepose.pipeline import PoseConditions, TruePosePipeline

AT_ONCE = 4
"""Pairs painted together."""

SHOWN = 12
"""Most pairs of a preview sheet."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Fixed pairs, their seeds and what is needed to paint and score them."""

    pipe: TruePosePipeline
    """Holds the very nets that are trained, and the card whose steps and guidance count."""
    held_out: PhotoPairs
    """The pairs, their photos kept."""
    parser: Parser | None
    """Makes the maps of outputs and targets; None: neither colour error nor agreement."""
    folder: Path
    """Where the preview sheets go, one a check, named by the step."""
    precision: Callable[[], AbstractContextManager[object]]
    """Makes the context in which the nets compute."""

    def measure(self, step: int) -> dict[str, float]:
        """Paint every pair with its number as seed; return each metric's mean, NaN where none has
        it, and write a sheet: rows of sources, results and targets.
        """
        photos = self.held_out.photos
        assert photos is not None  # validation pairs keep theirs
        places = self.held_out.pairs.pairs
        outputs = np.concatenate(
            [
                self._paint(range(start, min(start + AT_ONCE, len(places))))
                for start in range(0, len(places), AT_ONCE)
            ]
        )
        targets = photos[places[:, 1]]
        scores = [
            score_pair(output, target, self._parse(output), self._parse(target))
            for output, target in zip(outputs, targets, strict=True)
        ]
        sheet = [photos[places[:SHOWN, 0]], outputs[:SHOWN], targets[:SHOWN]]
        write_sheet(self.folder / f"{step:08d}.png", sheet)
        return {metric.name: _mean([s.get(metric.name) for s in scores]) for metric in METRICS}

    @torch.no_grad()
    def _paint(self, numbers: Sequence[int]) -> NDArray[np.uint8]:
        """Paint pairs (n, H, W, 3)."""
        pairs = self.held_out.pairs
        targets = pairs.pairs[list(numbers), 1]
        with self.precision():
            conditions = [self._condition(number) for number in numbers]
            return self.pipe.generate(conditions, pairs.joints[targets], list(numbers))

    def _condition(self, number: int) -> PoseConditions:
        """Prepare one pair's source for its target's pose."""
        pairs = self.held_out.pairs
        assert self.held_out.photos is not None
        source, target = pairs.pairs[number]
        known = np.flatnonzero(pairs.known[source])
        embeddings = {int(label): pairs.embeddings[source, label] for label in known}
        features = self.pipe.encode_source(
            self.held_out.photos[source], pairs.labels[source], embeddings
        )
        return self.pipe.condition(
            features, frozenset(np.flatnonzero(pairs.shown[target]).tolist())
        )

    def _parse(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """Return a picture's map in common ids; None without a parser."""
        if self.parser is None:
            return None
        return to_common(self.parser.parse(picture), self.parser.label_set)


def _mean(values: Sequence[float | None]) -> float:
    """Return the mean of the finite values: identical pictures and missing maps are left out."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def describe(values: Mapping[str, float]) -> dict[str, float]:
    """Return a check's numbers, and its `step`, as a model card shows them: rounded, without what
    is missing.
    """
    rounded = {name: round(value, 4) for name, value in values.items() if math.isfinite(value)}
    return {name: int(value) if name == "step" else value for name, value in rounded.items()}
