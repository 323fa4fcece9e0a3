"""How good the pictures get while a training on photos runs: the report's metrics, fixed pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalogpose.catalog.labels import to_common
from catalogpose.catalog.sheets import write_sheet
from catalogpose.perception.parser import Parser
from catalogpose.quality.pairs import PAIR_METRICS
from catalogpose.training.held_out import HeldOut, hold_out_pairs, paint, score
from catalogpose.training.prepare import PhotoPairs
from catalogpose.truepose.pipeline import TruePosePipeline

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
        outputs = paint(self.pipe, self._pairs, batch=AT_ONCE, precision=self.precision)
        scores = score(outputs, self._pairs, None if self.parser is None else self._parse)
        sheet = (self._pairs.sources, outputs, self._pairs.targets)
        write_sheet(self.folder / f"{step:08d}.png", [row[:SHOWN] for row in sheet])
        return {metric.name: _mean([s.get(metric.name) for s in scores]) for metric in PAIR_METRICS}

    @cached_property
    def _pairs(self) -> HeldOut:
        """The pairs; their targets' maps are made as the outputs' are, from the canvas."""
        photos = self.held_out.photos
        assert photos is not None  # validation pairs keep theirs
        found = hold_out_pairs(self.held_out.pairs, photos, self.held_out.pairs.pairs)
        maps = None if self.parser is None else np.stack([self._parse(p) for p in found.targets])
        return replace(found, target_labels=maps)

    def _parse(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a picture's map in common ids."""
        assert self.parser is not None  # else nobody asks
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
