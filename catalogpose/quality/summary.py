"""Many values into a few honest numbers: mean, interval, quantiles, and which rows are worst."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from catalogpose.quality.intervals import mean_interval
from catalogpose.quality.pairs import METRICS


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How one metric is distributed over the rows; a number is None where there is none to give."""

    n: int
    """Rows with a finite value; all numbers below are over these."""
    infinite: int
    """Rows with an infinite value: a PSNR of identical pictures."""
    groups: int
    """Independent groups among the n rows."""
    mean: float | None
    """The mean."""
    low: float | None
    """Lower end of the mean's interval; None under two groups."""
    high: float | None
    """Upper end of the mean's interval; None under two groups."""
    median: float | None
    """The median."""
    quantiles: Mapping[str, float]
    """Values at `p00`, `p05`, `p25`, `p75`, `p95` and `p100`; empty where n is 0."""


def spread(values: NDArray[np.float64], groups: Sequence[str] | None = None) -> Spread:
    """Summarise one metric; `values` (n,) has NaN where a row has no value.

    `groups` names each value's group, such as its product: the interval draws whole groups with
    replacement. None: each value is a group of its own.
    """
    kept = values[np.isfinite(values)]
    found = mean_interval(values, groups)
    return Spread(
        n=found.n,
        infinite=int(np.isinf(values).sum()),
        groups=found.groups,
        mean=found.mean,
        low=found.low,
        high=found.high,
        median=float(np.median(kept)) if kept.size else None,
        quantiles={
            f"p{share:02}": float(np.percentile(kept, share))
            for share in (0, 5, 25, 75, 95, 100)
            if kept.size
        },
    )


def histogram(values: NDArray[np.float64], bins: int = 24) -> tuple[float, ...]:
    """Return the heights of a histogram's bins, 0 to 1, from the least to the largest value.

    The fullest bin is 1; infinities and NaN are left out. Empty where no value is finite.
    """
    kept = values[np.isfinite(values)]
    if not kept.size:
        return ()
    low, high = float(kept.min()), float(kept.max())
    if high - low < 1e-9:  # narrower than floats can divide into bins
        low, high = low - 0.5, high + 0.5
    counts = np.histogram(kept, bins=bins, range=(low, high))[0]
    return tuple(float(count) for count in counts / counts.max())


def worst_first(scores: pd.DataFrame) -> pd.Index:
    """Return the index of `scores` (a column for each name in `METRICS`), the worst row first.

    A row's badness is its mean rank over the metrics it has, so no metric's unit counts more than
    another's. Rows without any value come last; ties keep their order.
    """
    ranks = [
        scores[metric.name].astype(float).rank(pct=True, ascending=metric.better == "lower")
        for metric in METRICS
    ]
    badness = pd.concat(ranks, axis=1).mean(axis=1)
    return badness.sort_values(ascending=False, kind="stable", na_position="last").index
