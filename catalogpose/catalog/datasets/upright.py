"""Checks on whole files of keypoints: axes swapped, another frame, an order that does not fit."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from catalogpose.errors import UsageError
from catalogpose.records import JOINTS

NECK = JOINTS.index("neck")
RIGHT_HIP = JOINTS.index("right-hip")
LEFT_HIP = JOINTS.index("left-hip")

LEVELS = ("shoulder", "hip", "knee", "ankle")
"""Joints of both sides, from the top of a standing person down."""

OUTSIDE_SHARE = 0.01
"""Share of joints outside the frame that is borne."""

MANY = 50
"""People from whose necks the middle of a frame can be told; a single one may stand anywhere."""

OFF_CENTRE = 20 / 176
"""How far from the middle half the necks may lie, in widths: half of what a frame with white
borders of 40 pixels moves them."""


def check_axes(joints: NDArray[np.float32], where: str, remedy: str) -> None:
    """Raise UsageError where most people do not stand upright: x and y are likely swapped.

    `joints` is (n, 18, 3), NaN where missing, y down. A person counts whose neck and a hip are
    known, and stands where the hip lies further below the neck than beside it.
    """
    right, left = joints[:, RIGHT_HIP, :2], joints[:, LEFT_HIP, :2]
    torso = np.where(np.isnan(right), left, right) - joints[:, NECK, :2]
    torso = torso[~np.isnan(torso).any(axis=1)]
    upright = int((torso[:, 1] > np.abs(torso[:, 0])).sum())
    if 2 * upright < len(torso):
        raise UsageError(
            f"{where}: x and y seem swapped, the body is upright in {upright:,} of {len(torso):,} "
            f"poses; {remedy}"
        )


def check_frame(
    joints: NDArray[np.float32], size: tuple[int, int], where: str, remedy: str
) -> None:
    """Raise UsageError where joints (n, 18, 3) are not counted on a frame of this width, height.

    Photos of a catalogue show people in the middle: in a frame that is wider by white borders, few
    joints lie outside, but all of them are off by as much.
    """
    xy = joints[..., :2][~np.isnan(joints[..., 0])]
    outside = int(((xy < 0) | (xy > size)).any(axis=1).sum())
    frame = f"the frame of {size[0]} x {size[1]} pixels"
    if outside > OUTSIDE_SHARE * len(xy):
        raise UsageError(
            f"{where}: {outside:,} of {len(xy):,} joints lie outside {frame}; {remedy}"
        )
    necks = joints[:, NECK, 0]
    necks = necks[~np.isnan(necks)]
    middle = float(np.median(necks)) if len(necks) >= MANY else size[0] / 2
    if abs(middle / size[0] - 0.5) > OFF_CENTRE:
        raise UsageError(
            f"{where}: the necks lie about x = {middle:.0f}, not in the middle of {frame}; {remedy}"
        )


def check_order(joints: NDArray[np.float32], front: NDArray[np.bool_], where: str) -> None:
    """Raise UsageError where an order of joints does not fit the people it was given for.

    `joints` is (n, 18, 3), NaN where missing; `front` (n,) says who is seen from the front. The
    medians of shoulders, hips, knees and ankles must go down the picture, and from the front the
    person's right must lie to the left.
    """
    heights = []
    for name in LEVELS:
        right, left = JOINTS.index(f"right-{name}"), JOINTS.index(f"left-{name}")
        y = joints[:, (right, left), 1]
        heights.append(float(np.median(y[~np.isnan(y)])) if not np.isnan(y).all() else None)
        x = joints[front][:, (right, left), 0]
        x = x[~np.isnan(x).any(axis=1)]
        if 2 * int((x[:, 0] < x[:, 1]).sum()) < len(x):
            raise UsageError(
                f"{where}: left and right {name} seem swapped; left and right are the person's own"
            )
    known = [(name, y) for name, y in zip(LEVELS, heights, strict=True) if y is not None]
    for (upper, above), (lower, below) in pairwise(known):
        if above >= below:
            raise UsageError(
                f"{where}: the order does not fit the keypoints, {upper}s lie below {lower}s; "
                "compare it with the owners' picture of the 21 points"
            )
