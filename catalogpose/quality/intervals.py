"""How sure a mean is, and a difference of two means: bootstrap intervals that repeat exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""How sure the interval around a mean is."""
RESAMPLES = 1000
"""Bootstrap draws behind an interval."""
SEED = 0
"""Seed of those draws, so that the same scores give the same interval."""
INTERVAL = (
    f"{CONFIDENCE:.0%} percentile bootstrap of the mean, {RESAMPLES} draws, seed {SEED}; "
    "whole products are drawn, since rows of one product resemble each other"
)
"""The interval in words, for the page and `summary.json`."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and how sure it is."""

    n: int
    """Values that it is of; those without a finite value are left out."""
    groups: int
    """Independent groups among them."""
    mean: float | None
    """The mean; None where n is 0."""
    low: float | None
    """Lower end of the interval of `CONFIDENCE`; None under two groups."""
    high: float | None
    """Upper end of it; None under two groups."""


def mean_interval(values: NDArray[np.float64], groups: Sequence[str] | None = None) -> Interval:
    """Return the mean of the finite values (n,) and its percentile bootstrap interval.

    `groups` (n) names what values that resemble each other have in common, such as their product,
    or the pair that several seeds were measured on: whole groups are drawn with replacement. None:
    each value is a group of its own. Raises ValueError where the lengths differ.
    """
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"{len(values)} values and {len(groups)} groups")
    finite = np.isfinite(values)
    kept = values[finite]
    names = np.arange(len(values)) if groups is None else np.asarray(groups, dtype=str)
    codes = np.unique(names[finite], return_inverse=True)[1]
    number = int(codes.max()) + 1 if kept.size else 0
    low, high = _draw_means(kept, codes) if number > 1 else (None, None)
    mean = float(kept.mean()) if kept.size else None
    return Interval(n=int(kept.size), groups=number, mean=mean, low=low, high=high)


def difference_interval(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    groups: Sequence[str] | None = None,
) -> Interval:
    """Return the mean of `first` less that of `second` (n,) each, paired, and its interval.

    Value i of both is of the same row, so what makes a row easy or hard cancels; where either is
    not finite the row is left out of both. An interval on one side of 0 is a difference that these
    rows show. `groups` as in `mean_interval`. Raises ValueError where the lengths differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"values of {first.shape} and {second.shape} are not paired")
    both = np.isfinite(first) & np.isfinite(second)
    differences = np.full(first.shape, np.nan)
    differences[both] = first[both] - second[both]
    return mean_interval(differences, groups)


def _draw_means(values: NDArray[np.float64], codes: NDArray[np.intp]) -> tuple[float, float]:
    """Return the bootstrap interval of the mean, drawing whole groups; `codes` are 0, 1, 2 ..."""
    sums, counts = np.bincount(codes, weights=values), np.bincount(codes)
    rng = np.random.default_rng(SEED)
    means = np.empty(RESAMPLES)
    for draw in range(RESAMPLES):
        chosen = rng.integers(len(sums), size=len(sums))
        means[draw] = sums[chosen].sum() / counts[chosen].sum()
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
