"""Cloths: what is woven or printed, as colours over the angle around and the way down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from catalogpose.studio.paint import Floats, Texture
from catalogpose.studio.palette import Colour
from catalogpose.studio.prints import Print, print_cover

PI = np.float32(np.pi)


@dataclass(frozen=True, kw_only=True)
class Cloth:
    """What a garment is made of; equal values are the same cloth."""

    pattern: str
    """Name in `PATTERNS`."""
    names: tuple[str, ...]
    """Names of the colours, the ground first, for captions."""
    colours: tuple[Colour, Colour, Colour]
    """Ground, figure and detail."""
    period: float
    """Body heights after which the pattern repeats; for `gradient` and `blocks` where it turns."""
    seed: int
    """Decides folds and small irregularities."""
    folds: float = 0.05
    """Depth of the folds, as a share of brightness."""
    front: Print | None = None
    """A print on the chest; None where there is none."""
    back: Print | None = None
    """A print between the shoulders; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The piece of cloth that goes around one part of the body."""

    kind: str
    """`torso`, `skirt`, `sleeve`, `leg` or `small`: decides where the folds are."""
    around: float
    """Its width unrolled, in body heights."""
    length: float
    """Its length, in body heights."""
    above: float = 0.0
    """How far below the garment's top it begins, in body heights."""
    hem: bool = True
    """Whether a seam runs along its end."""
    buttons: bool = False
    """Whether it is buttoned down the front."""


@dataclass(frozen=True, eq=False)
class _Grid:
    """Where a panel's texels are."""

    angle: Floats
    """(1, cols) around, -pi..pi."""
    down: Floats
    """(rows, 1) from the garment's top, in body heights."""
    around: float
    texel: float
    """Size of a texel, in body heights."""

    def turns(self, period: float, *, even: bool = False) -> tuple[Floats, float]:
        """Return the phase around in whole repeats, and the repeat's true width."""
        count = max(round(self.around / period), 2)
        count += count % 2 if even else 0
        return self.angle * np.float32(count / (2 * np.pi)), self.around / count


def _band(phase: Floats, duty: float, soft: float) -> Floats:
    """Return a stripe's cover: 1 in the middle `duty` of each unit, its edges `soft` wide."""
    distance = np.abs(phase - np.floor(phase) - np.float32(0.5))
    sharp = (duty / 2 - distance) / np.float32(max(soft, 1e-4))
    return np.asarray(np.clip(sharp + np.float32(0.5), 0, 1))


Covers = tuple[Floats | float, Floats | float]
"""Cover of the figure colour, then of the detail over it; each broadcasts to (rows, cols)."""


def _plain(grid: _Grid, cloth: Cloth) -> Covers:
    return 0.0, 0.0


def _horizontal(grid: _Grid, cloth: Cloth) -> Covers:
    return _band(grid.down / np.float32(cloth.period), 0.46, grid.texel / cloth.period), 0.0


def _vertical(grid: _Grid, cloth: Cloth) -> Covers:
    phase, width = grid.turns(cloth.period)
    return _band(phase, 0.44, grid.texel / width), 0.0


def _diagonal(grid: _Grid, cloth: Cloth) -> Covers:
    phase, width = grid.turns(cloth.period * 1.2)
    return _band(phase + grid.down / np.float32(width), 0.46, 1.4 * grid.texel / width), 0.0


def _check(grid: _Grid, cloth: Cloth) -> Covers:
    phase, width = grid.turns(cloth.period)
    soft = grid.texel / width
    both = _band(phase, 0.5, soft) + _band(grid.down / np.float32(width), 0.5, soft)
    return both * np.float32(0.5), 0.0


def _tartan(grid: _Grid, cloth: Cloth) -> Covers:
    phase, width = grid.turns(cloth.period * 1.5)
    down, soft = grid.down / np.float32(width), grid.texel / width
    broad = (_band(phase, 0.42, soft) + _band(down, 0.42, soft)) * np.float32(0.5)
    half = np.float32(0.5)
    thin = np.maximum(_band(phase + half, 0.12, soft), _band(down + half, 0.12, soft))
    return broad, thin * np.float32(0.85)


def _cells(grid: _Grid, period: float) -> tuple[Floats, Floats, float]:
    """Return x and y from the middle of each staggered cell, in cells, and a cell's width."""
    phase, width = grid.turns(period)
    down = grid.down / np.float32(width * 0.87)
    row = np.floor(down)
    x = phase + np.float32(0.5) * (row % 2)
    x = x - np.floor(x) - np.float32(0.5)
    return x, (down - row - np.float32(0.5)) * np.float32(0.87), width


def _dots(grid: _Grid, cloth: Cloth) -> Covers:
    x, y, width = _cells(grid, cloth.period)
    return np.clip((0.29 - np.hypot(x, y)) * np.float32(width / grid.texel) + 0.5, 0, 1), 0.0


def _flowers(grid: _Grid, cloth: Cloth) -> Covers:
    x, y, width = _cells(grid, cloth.period * 1.45)
    distance, sharp = np.hypot(x, y), np.float32(width / grid.texel)
    petals = 0.31 + 0.09 * np.cos(5 * np.arctan2(y, x) + np.float32(cloth.seed % 7))
    flower = np.clip((petals - distance) * sharp + 0.5, 0, 1)
    return flower, np.clip((0.12 - distance) * sharp + 0.5, 0, 1)


def _zigzag(grid: _Grid, cloth: Cloth) -> Covers:
    phase, width = grid.turns(cloth.period * 1.6)
    peak = np.abs(phase - np.floor(phase) - np.float32(0.5)) * np.float32(width)
    down = (grid.down + peak) / np.float32(cloth.period)
    return _band(down, 0.46, 1.4 * grid.texel / cloth.period), 0.0


def _diamonds(grid: _Grid, cloth: Cloth) -> Covers:
    phase, width = grid.turns(cloth.period * 1.6)
    x = np.abs(phase - np.floor(phase) - np.float32(0.5))
    down = grid.down / np.float32(width * 1.4)
    y = np.abs(down - np.floor(down) - np.float32(0.5))
    return np.clip((0.5 - x - y) * np.float32(width / grid.texel) * 0.8 + 0.5, 0, 1), 0.0


def _gradient(grid: _Grid, cloth: Cloth) -> Covers:
    return np.clip((grid.down / np.float32(cloth.period) - 0.45) / 1.1, 0, 1), 0.0


def _blocks(grid: _Grid, cloth: Cloth) -> Covers:
    return np.clip((grid.down - np.float32(cloth.period)) / np.float32(grid.texel) + 0.5, 0, 1), 0.0


def _halves(grid: _Grid, cloth: Cloth) -> Covers:
    edge = grid.angle * np.float32(grid.around / 2 / np.pi / grid.texel)
    back = (PI - np.abs(grid.angle)) * np.float32(grid.around / 2 / np.pi / grid.texel)
    return np.clip(np.where(edge > 0, np.minimum(edge, back), 0) + 0.5 * (edge > -0.5), 0, 1), 0.0


PATTERNS: Mapping[str, tuple[Callable[[_Grid, Cloth], Covers], str]] = {
    "plain": (_plain, ""),
    "horizontal stripes": (_horizontal, "horizontal stripes"),
    "vertical stripes": (_vertical, "vertical stripes"),
    "diagonal stripes": (_diagonal, "diagonal stripes"),
    "checks": (_check, "checks"),
    "tartan": (_tartan, "tartan checks"),
    "dots": (_dots, "dots"),
    "flowers": (_flowers, "flowers"),
    "zigzag": (_zigzag, "zigzag stripes"),
    "diamonds": (_diamonds, "diamonds"),
    "gradient": (_gradient, "fading"),
    "blocks": (_blocks, "colour block"),
    "halves": (_halves, "two halves"),
}
"""How each pattern is woven, and its word in captions."""


def _fold_light(grid: _Grid, cloth: Cloth, panel: Panel) -> Floats:
    """Return brightness (rows, cols) of the folds: slow waves where this kind of panel has them."""
    rng = np.random.Generator(np.random.PCG64([cloth.seed, 77]))
    v = (grid.down - np.float32(panel.above)) / np.float32(panel.length)
    total = np.zeros((grid.down.size, grid.angle.size), np.float32)
    hanging = panel.kind == "skirt"
    for number in range(4):
        around = float(rng.integers(7, 15)) if hanging else float(rng.integers(1, 4))
        slant = rng.uniform(-1.5, 1.5) if hanging else rng.choice([-1, 1]) * rng.uniform(7, 16)
        phase = rng.uniform(0, 2 * np.pi)
        wave = np.sin(grid.angle * np.float32(around) + v * np.float32(slant) + np.float32(phase))
        total += wave * np.float32(1 / (1 + 0.3 * number))
    place = {
        "skirt": 0.25 + v * 1.1,
        "torso": 0.35 + 1.1 * np.exp(-(((v - 0.75) / 0.3) ** 2)),
        "sleeve": 0.35 + 1.3 * np.exp(-(((v - 0.52) / 0.16) ** 2)) + 0.8 * (v > 0.8),
        "leg": 0.3 + 1.2 * np.exp(-(((v - 0.52) / 0.12) ** 2)) + 1.2 * np.clip(v - 0.8, 0, 1) * 5,
    }.get(panel.kind, np.float32(0.3))
    return 1 + np.float32(cloth.folds * 0.55) * total * np.asarray(place, np.float32)


def _seams(grid: _Grid, panel: Panel) -> Floats:
    """Return brightness (rows, cols) of the hem's seam and the buttons."""
    light = np.ones((grid.down.size, grid.angle.size), np.float32)
    soft = np.float32(grid.texel)
    if panel.hem:
        away = np.abs(grid.down - np.float32(panel.above + panel.length - 0.012))
        light *= 1 - np.float32(0.16) * np.clip(1.5 - away / max(soft, np.float32(0.002)), 0, 1)
    if panel.buttons:
        across = grid.angle * np.float32(grid.around / 2 / np.pi)
        edge = np.abs(across - np.float32(0.011))
        light *= 1 - np.float32(0.14) * np.clip(1.3 - edge / max(soft, np.float32(0.002)), 0, 1)
        place = (grid.down - np.float32(0.02)) / np.float32(0.045)
        y = (place - np.floor(place) - np.float32(0.5)) * np.float32(0.045)
        inside = np.float32(0.0052) - np.hypot(across, y)
        light *= 1 - np.float32(0.45) * np.clip(inside / soft + 0.5, 0, 1)
    return light


@lru_cache(maxsize=192)
def weave(cloth: Cloth, panel: Panel, density: int) -> Texture:
    """Return a panel's texture at about `density` texels a body height."""
    cols = int(np.clip(round(panel.around * density), 8, 640))
    rows = int(np.clip(round(panel.length * density), 4, 640))
    angle = ((np.arange(cols, dtype=np.float32) + 0.5) / cols * 2 - 1)[None] * PI
    down = (np.arange(rows, dtype=np.float32) + 0.5)[:, None] / rows * panel.length + panel.above
    texel = max(panel.around / cols, panel.length / rows)
    grid = _Grid(angle.astype(np.float32), down.astype(np.float32), panel.around, texel)
    ground, figure, detail = (np.array(c, np.float32) for c in cloth.colours)
    first, second = PATTERNS[cloth.pattern][0](grid, cloth)
    colours: Floats = np.broadcast_to(ground, (rows, cols, 3))
    for cover, ink in ((first, figure), (second, detail)):
        if not isinstance(cover, float):
            cover = np.asarray(cover, np.float32)[..., None]
            colours = colours + (ink - colours) * cover
    if panel.kind == "torso":
        for mark, middle in ((cloth.front, 0.0), (cloth.back, np.pi)):
            if mark is not None:
                across = _wrapped(grid.angle - np.float32(middle)) * grid.around / (2 * np.pi)
                cover = print_cover(mark, across.astype(np.float32), grid.down, texel)[..., None]
                colours = colours + (np.array(mark.colour, np.float32) - colours) * cover
    colours = colours * (_fold_light(grid, cloth, panel) * _seams(grid, panel))[..., None]
    return Texture(np.ascontiguousarray(colours, np.float32).reshape(-1, 3), rows, cols)


def _wrapped(angle: Floats) -> Floats:
    return (angle + PI) % (2 * PI) - PI
