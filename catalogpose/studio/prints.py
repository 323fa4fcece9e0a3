"""What is printed on a chest or a back: simple shapes and words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from catalogpose.studio.lettering import write_cells
from catalogpose.studio.paint import Floats
from catalogpose.studio.palette import Colour


@dataclass(frozen=True, kw_only=True)
class Print:
    """One printed shape or word."""

    shape: str
    """Name in `SHAPES`, or `word`."""
    word: str
    """The letters; empty unless `shape` is `word`."""
    name: str
    """The colour's name."""
    colour: Colour
    """sRGB 0..255."""
    size: float
    """Half height of a shape, half width of a word, in body heights."""
    down: float
    """Middle, below the garment's top, in body heights."""


def _circle(x: Floats, y: Floats) -> Floats:
    return 1 - np.hypot(x, y)


def _ring(x: Floats, y: Floats) -> Floats:
    return 0.3 - np.abs(np.hypot(x, y) - 0.7)


def _square(x: Floats, y: Floats) -> Floats:
    return 0.85 - np.maximum(np.abs(x), np.abs(y))


def _diamond(x: Floats, y: Floats) -> Floats:
    return (1 - np.abs(x) - np.abs(y)) * 0.7


def _triangle(x: Floats, y: Floats) -> Floats:
    return np.asarray(np.minimum(0.75 - y, (y + 1 - np.abs(x) * 1.75) * 0.5))


def _cross(x: Floats, y: Floats) -> Floats:
    tall = np.minimum(0.33 - np.abs(x), 1 - np.abs(y))
    wide = np.minimum(0.33 - np.abs(y), 1 - np.abs(x))
    return np.asarray(np.maximum(tall, wide))


def _star(x: Floats, y: Floats) -> Floats:
    angle = np.arctan2(x, -y)
    spike = np.abs((angle / (2 * np.pi) * 5 + 0.5) % 1 - 0.5) * 2
    return (1.05 - 0.62 * spike) - np.hypot(x, y)


def _heart(x: Floats, y: Floats) -> Floats:
    lobes = 0.55 - np.hypot(np.abs(x) - 0.45, y + 0.35)
    point = np.minimum(y + 0.35, (0.92 - np.abs(x) * 1.0 - y * 0.86) * 0.75)
    return np.asarray(np.maximum(lobes, np.minimum(point, 0.98 - np.abs(x))))


def _moon(x: Floats, y: Floats) -> Floats:
    return np.asarray(np.minimum(1 - np.hypot(x, y), np.hypot(x - 0.45, y + 0.15) - 0.75))


def _bolt(x: Floats, y: Floats) -> Floats:
    upper = 0.34 - np.abs(x - 0.12 + y * 0.45)
    lower = 0.34 - np.abs(x + 0.12 + y * 0.45)
    return np.asarray(np.minimum(np.where(y < 0, upper, lower), 1 - np.abs(y)))


SHAPES: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "circle": _circle, "ring": _ring, "square": _square, "diamond": _diamond, "triangle": _triangle,
    "cross": _cross, "star": _star, "heart": _heart, "moon": _moon, "lightning bolt": _bolt,
}  # fmt: skip
"""Signed distance inside each shape of half height one; x to the picture's right, y down."""


def print_cover(mark: Print, across: Floats, down: Floats, texel: float) -> Floats:
    """Return the ink's cover at `across` (1, cols) and `down` (rows, 1), in body heights."""
    y = (down - np.float32(mark.down)).astype(np.float32)
    if mark.shape != "word":
        size = np.float32(mark.size)
        inside = SHAPES[mark.shape](across / size, y / size)
        cover = np.clip(inside * size / np.float32(texel) + 0.5, 0, 1)
        return np.asarray(cover, np.float32)
    cells = np.pad(write_cells(mark.word), 2)
    cell = 2 * mark.size / (cells.shape[1] - 4)
    smooth = _softened(cells.astype(np.float32), texel / cell)
    col = np.clip(across / cell * 4 + smooth.shape[1] / 2, 0, smooth.shape[1] - 1).astype(np.intp)
    row = np.clip(y / cell * 4 + smooth.shape[0] / 2, 0, smooth.shape[0] - 1).astype(np.intp)
    return np.asarray(smooth[row, col])


def _softened(cells: Floats, width: float) -> Floats:
    """Return cells four times as fine, blurred over `width` cells for coarse textures."""
    fine = np.repeat(np.repeat(cells, 4, axis=0), 4, axis=1)
    reach = max(round(width * 2), 1)
    for axis in (0, 1):
        moved = [np.roll(fine, step, axis) for step in range(-reach, reach + 1)]
        fine = np.mean(moved, axis=0, dtype=np.float32)
    return fine
