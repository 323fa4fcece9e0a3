"""From files' own sizes to the model's canvas: photo, map and joints through one letterbox."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from catalogpose.records import Letterbox, Pose

WHITE = 255
"""What fills the canvas around a photo: the ground of most catalogue pictures."""


def fit_photo(picture: NDArray[np.uint8], letterbox: Letterbox) -> NDArray[np.uint8]:
    """Show a picture (H, W, 3) whole on the canvas: uint8 (h, w, 3), white around it.

    Bicubic with antialiasing. The picture keeps its place to a fraction of a pixel, so it agrees
    with `fit_map` and with joints sent through the same letterbox.
    """
    height, width = picture.shape[:2]
    if (height, width) == (letterbox.height, letterbox.width) and letterbox.scale == 1:
        return picture.copy()
    # The canvas as a rectangle in source pixels; what of it lies beyond the source is padded.
    box = _canvas_in_source(letterbox)
    left, top = max(0, math.ceil(-box[0])), max(0, math.ceil(-box[1]))
    right, bottom = max(0, math.ceil(box[2] - width)), max(0, math.ceil(box[3] - height))
    padded = np.pad(picture, ((top, bottom), (left, right), (0, 0)), constant_values=WHITE)
    limit = (padded.shape[1], padded.shape[0])
    x0, x1 = (min(max(x + left, 0.0), limit[0]) for x in box[::2])
    y0, y1 = (min(max(y + top, 0.0), limit[1]) for y in box[1::2])
    fitted = Image.fromarray(padded).resize(
        (letterbox.width, letterbox.height), Image.Resampling.BICUBIC, box=(x0, y0, x1, y1)
    )
    return np.array(fitted, dtype=np.uint8)


def _canvas_in_source(letterbox: Letterbox) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of the canvas in source pixels, free of rounding dust."""
    edges = (
        -letterbox.left / letterbox.scale,
        -letterbox.top / letterbox.scale,
        (letterbox.width - letterbox.left) / letterbox.scale,
        (letterbox.height - letterbox.top) / letterbox.scale,
    )
    left, top, right, bottom = (round(edge, 6) for edge in edges)
    return left, top, right, bottom


def fit_map(labels: NDArray[np.uint8], letterbox: Letterbox) -> NDArray[np.uint8]:
    """Show a map (H, W) on the canvas: uint8 (h, w), the nearest pixel's id, background around."""
    height, width = labels.shape
    columns = np.floor((np.arange(letterbox.width) + 0.5 - letterbox.left) / letterbox.scale)
    rows = np.floor((np.arange(letterbox.height) + 0.5 - letterbox.top) / letterbox.scale)
    inside_x, inside_y = (columns >= 0) & (columns < width), (rows >= 0) & (rows < height)
    fitted = np.zeros((letterbox.height, letterbox.width), dtype=np.uint8)
    source = labels[np.ix_(rows[inside_y].astype(int), columns[inside_x].astype(int))]
    fitted[np.ix_(inside_y, inside_x)] = source
    return fitted


def fit_joints(pose: Pose, width: int, height: int) -> NDArray[np.float32]:
    """Show a pose's own canvas whole on one of `width` x `height` pixels.

    Returns float32 (18, 3): x and y in pixels of that canvas and confidence 0..1; NaN, NaN, 0 where
    missing.
    """
    letterbox = Letterbox.fit(pose.width, pose.height, width, height)
    joints = pose.joints.astype(np.float32, copy=True)
    joints[:, :2] = letterbox.points(pose.joints[:, :2])
    return joints
