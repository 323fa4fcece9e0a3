"""What finished arms of an ablation say together: means, intervals, differences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from catalogpose.errors import UsageError
from catalogpose.quality.intervals import Interval, difference_interval, mean_interval


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Read every finished arm's result, by name."""
    return [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*-*.json"))
    ]


def summarize(
    results: Sequence[Mapping[str, Any]], metrics: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return mean and interval of every metric an arm; its seeds' values of a pair are one group.

    Raises:
        UsageError: If there are no results, or they are of different plans or data.
    """
    if len({result["common"] for result in results}) != 1:
        raise UsageError("results of one plan and data are needed: use a folder a plan")
    table: dict[str, dict[str, Any]] = {}
    for arm in dict.fromkeys(result["arm"] for result in results):
        runs = [result for result in results if result["arm"] == arm]
        groups = [str(pair) for _ in runs for pair in range(runs[0]["n"])]
        table[arm] = {"seeds": len(runs)}
        for metric in metrics:
            values = [value for run in runs for value in run["scores"][metric]]
            table[arm][metric] = mean_interval(np.array(values, dtype=np.float64), groups)
    return table


def compare(
    results: Sequence[Mapping[str, Any]], arm: str, other: str, metric: str
) -> Interval | None:
    """Return how much higher a metric is in one arm than in another, paired by seed and pair; None
    where they have no seed in common.
    """
    values = {
        name: {r["seed"]: r["scores"][metric] for r in results if r["arm"] == name}
        for name in (arm, other)
    }
    seeds = sorted(values[arm].keys() & values[other].keys())
    if not seeds:
        return None
    first, second = (
        np.array([v for seed in seeds for v in values[name][seed]], dtype=np.float64)
        for name in (arm, other)
    )
    groups = [str(pair) for seed in seeds for pair in range(len(values[arm][seed]))]
    return difference_interval(first, second, groups)
