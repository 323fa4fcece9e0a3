"""Pose files: OpenPose's JSON in its variants and our own, all turned into COCO-18 here."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from catalogpose.catalog.files import write_atomically
from catalogpose.errors import RowError
from catalogpose.records import JOINTS, Pose

MAX_BYTES = 4_000_000
"""Largest pose file that is read; a crowd with faces and hands stays far below."""

MAX_SIDE = 65_536
"""Longest canvas side that is believed, in pixels."""

BODY_25_TO_COCO_18 = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
"""BODY_25's index of each COCO-18 joint: it has a middle hip at 8, and feet after 18."""

NORMALISED = (-0.5, 1.5)
"""Coordinates all in this range are shares of the canvas: no body in pixels fits into two."""


@dataclass(frozen=True, kw_only=True)
class _PoseFile:
    """What a pose file says, before a canvas is chosen."""

    joints: NDArray[np.float64]
    """(18, 3) x, y, confidence; NaN, NaN, 0 where missing."""
    size: tuple[int, int] | None
    """The canvas in the file; None where it names none."""
    pixels: bool
    """Whether the format promises pixels; else small coordinates are shares of the canvas."""


def read_pose(
    path: Path, *, size: tuple[int, int] | None = None, fallback: tuple[int, int] | None = None
) -> Pose:
    """Read a pose file; joints outside the canvas count as missing.

    The canvas (width, height) is `size`, the manifest's, else what the file says, else `fallback`,
    the upright source's. Raises `RowError` of stage `pose`: `missing`, `unreadable`, `no-canvas`
    where all three are None, and `empty` where no joint lies on the canvas.
    """
    read = _read(Path(path))
    canvas = size or read.size or fallback
    if canvas is None:
        reason = "the pose names no canvas; give pose_width and pose_height"
        raise RowError("pose", "no-canvas", reason)
    joints = read.joints.copy()
    xy = joints[:, :2]
    low, high = NORMALISED
    seen = joints[:, 2] > 0
    if not read.pixels and seen.any() and xy[seen].min() >= low and xy[seen].max() <= high:
        xy *= canvas
    outside = ~((xy >= 0) & (xy <= canvas)).all(axis=1)
    joints[outside | ~seen] = (np.nan, np.nan, 0)
    if not (joints[:, 2] > 0).any():
        reason = f"the pose has no joint on its {canvas[0]}x{canvas[1]} canvas"
        raise RowError("pose", "empty", reason)
    return Pose(joints=joints.astype(np.float32), width=canvas[0], height=canvas[1])


def check_pose(path: Path) -> None:
    """Raise the `RowError` with which `read_pose` would refuse this file as missing or unreadable.

    Needs no canvas, so a manifest can be checked before any photo is opened; whether joints lie on
    the canvas is left to `read_pose`.
    """
    _read(Path(path))


def write_pose(path: Path, pose: Pose, *, synced: bool = True) -> None:
    """Write a pose as our own JSON, atomically; missing joints become null.

    `synced` is that of `write_atomically`.
    """
    joints = [
        [round(float(number), 3) for number in joint] if joint[2] > 0 else None
        for joint in pose.joints
    ]
    value = {
        "format": "catalogpose-pose",
        "version": 1,
        "width": pose.width,
        "height": pose.height,
        "joints": joints,
    }
    content = json.dumps(value, allow_nan=False).encode() + b"\n"
    write_atomically(path, lambda file: file.write(content), synced=synced)


def _read(path: Path) -> _PoseFile:
    """Read any of the formats; RowError `missing` or `unreadable`."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise RowError("pose", "missing", f"missing pose {str(path)!r}") from None
    except OSError as error:
        _refuse(f"the pose cannot be read: {error.strerror}")
    if len(content) > MAX_BYTES:
        _refuse(f"the pose file is larger than {MAX_BYTES // 1_000_000} MB")
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        _refuse("the pose is not JSON")
    try:
        return _understand(data)
    except (ValueError, OverflowError) as error:
        _refuse(f"the pose is not as it should be: {error}")


def _refuse(reason: str) -> NoReturn:
    """Raise the error of an unreadable pose."""
    raise RowError("pose", "unreadable", reason)


def _understand(data: object) -> _PoseFile:
    """Tell the formats apart; `ValueError` says what is wrong."""
    if isinstance(data, list):  # sd-webui's extension writes a list of pictures; ours has one
        if not data:
            raise ValueError("the list is empty")
        data = data[0]
    if not isinstance(data, dict):
        raise ValueError("expected an object")
    if "format" in data:
        return _own_format(data)
    people = data.get("people")
    if not isinstance(people, list) or not people:
        raise ValueError("no people in it")
    size = None
    if data.get("canvas_width") is not None or data.get("canvas_height") is not None:
        size = _canvas(data.get("canvas_width"), data.get("canvas_height"))
    # A passer-by is seen less surely and less fully than the one that the picture is about.
    joints = max((_person(person) for person in people), key=lambda person: person[:, 2].sum())
    return _PoseFile(joints=joints, size=size, pixels=False)


def _own_format(data: dict[str, object]) -> _PoseFile:
    """Read `{"format": "catalogpose-pose", "version": 1, ...}`."""
    if data["format"] != "catalogpose-pose" or data.get("version") != 1:
        raise ValueError("expected the format catalogpose-pose, version 1")
    joints = data.get("joints")
    if not isinstance(joints, list) or len(joints) != len(JOINTS):
        raise ValueError(f"expected {len(JOINTS)} joints")
    numbers: list[object] = []
    for joint in joints:
        if joint is not None and not (isinstance(joint, list) and len(joint) == 3):
            raise ValueError("a joint is [x, y, confidence] or null")
        numbers.extend(joint or (None, None, None))
    size = _canvas(data.get("width"), data.get("height"))
    return _PoseFile(joints=_triples(numbers), size=size, pixels=True)


def _person(person: object) -> NDArray[np.float64]:
    """Return one of OpenPose's people as COCO-18 (18, 3)."""
    numbers = person.get("pose_keypoints_2d") if isinstance(person, dict) else None
    if not isinstance(numbers, list):
        raise ValueError("a person has no pose_keypoints_2d")
    if len(numbers) == 54:
        return _triples(numbers)
    if len(numbers) == 75:
        return _triples(numbers)[list(BODY_25_TO_COCO_18)]
    raise ValueError(
        f"pose_keypoints_2d has {len(numbers)} numbers; COCO-18 has 54, BODY_25 has 75"
    )


def _triples(numbers: Sequence[object]) -> NDArray[np.float64]:
    """Return x, y, confidence (n, 3); a joint with null, NaN or no confidence is NaN, NaN, 0."""
    triples = np.array([_number(number) for number in numbers]).reshape(-1, 3)
    if np.isinf(triples).any():
        raise ValueError("a number is infinite")
    missing = np.isnan(triples).any(axis=1) | ~(triples[:, 2] > 0)
    triples[missing] = (math.nan, math.nan, 0)
    triples[:, 2] = np.minimum(triples[:, 2], 1)
    return triples


def _number(value: object) -> float:
    """Return a JSON number as a float, null as NaN."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a coordinate is not a number")
    return float(value)


def _canvas(width: object, height: object) -> tuple[int, int]:
    """Return the canvas that a file names."""
    sides = []
    for side in (width, height):
        number = _number(side)
        if not 1 <= number <= MAX_SIDE or number != int(number):
            raise ValueError("the canvas sides are not positive whole numbers")
        sides.append(int(number))
    return sides[0], sides[1]
