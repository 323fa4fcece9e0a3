"""Whether two parsing maps show the same parts in the same places."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from catalogpose.quality.pictures import check_map
from catalogpose.records import GROUP_OF, LABEL_ID, LABELS

GROUPS = np.array([LABEL_ID[GROUP_OF[name]] for name in LABELS], dtype=np.uint8)
"""The id of each label's group."""


def mean_iou(map_a: NDArray[np.integer], map_b: NDArray[np.integer]) -> float:
    """Return the mean intersection over union of two maps (H, W): 1 if equal, 0 if nowhere alike.

    Both hold ids of one label set. The mean goes over the labels that either map shows, so a part
    that only one of them shows counts as 0. The background (0) is left out: it is large and easy.
    Two maps of nothing but background agree: 1. Raises ValueError where the maps differ in size or
    hold no integers.
    """
    check_map(map_a, map_a.shape)
    check_map(map_b, map_a.shape)
    labels = np.union1d(map_a, map_b)
    shares = []
    for label in labels[labels != 0]:
        in_a, in_b = map_a == label, map_b == label
        shares.append(np.count_nonzero(in_a & in_b) / np.count_nonzero(in_a | in_b))
    return float(np.mean(shares)) if shares else 1.0


def map_agreement(found: NDArray[np.integer], asked: NDArray[np.integer]) -> float:
    """Return `mean_iou` of two maps (H, W) of `records.LABELS`, sides and kinds of skin put
    together: parsers differ in which of them they tell apart.
    """
    return mean_iou(GROUPS[found], GROUPS[asked])
