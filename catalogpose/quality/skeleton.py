"""A pose as lines and dots, to be drawn as SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalogpose.records import JOINTS

LIMBS = (
    ("neck", "right-shoulder"),
    ("right-shoulder", "right-elbow"),
    ("right-elbow", "right-wrist"),
    ("neck", "left-shoulder"),
    ("left-shoulder", "left-elbow"),
    ("left-elbow", "left-wrist"),
    ("neck", "right-hip"),
    ("right-hip", "right-knee"),
    ("right-knee", "right-ankle"),
    ("neck", "left-hip"),
    ("left-hip", "left-knee"),
    ("left-knee", "left-ankle"),
    ("neck", "nose"),
    ("nose", "right-eye"),
    ("right-eye", "right-ear"),
    ("nose", "left-eye"),
    ("left-eye", "left-ear"),
)
"""Pairs of joints that a line connects, OpenPose's seventeen."""


@dataclass(frozen=True, kw_only=True)
class Limb:
    """One line between two joints."""

    ends: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels of the canvas."""
    hue: int
    """Its colour's hue, 0 to 359 degrees."""


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """What to draw for one pose."""

    width: int
    """Canvas width in pixels."""
    height: int
    """Canvas height in pixels."""
    limbs: tuple[Limb, ...]
    """Lines whose two ends are known."""
    dots: tuple[tuple[float, float], ...]
    """x, y of every known joint, in pixels of the canvas."""


def make_skeleton(joints: NDArray[np.float32], width: int, height: int) -> Skeleton:
    """Turn joints (18, 3) in pixels of a canvas, NaN where missing, into lines and dots."""
    at = {
        name: (round(float(x), 1), round(float(y), 1))
        for name, (x, y, _) in zip(JOINTS, joints, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    }
    limbs = tuple(
        Limb(ends=(*at[first], *at[second]), hue=round(number * 360 / len(LIMBS)))
        for number, (first, second) in enumerate(LIMBS)
        if first in at and second in at
    )
    return Skeleton(width=width, height=height, limbs=limbs, dots=tuple(at.values()))
