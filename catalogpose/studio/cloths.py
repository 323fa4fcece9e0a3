"""Which cloth a garment is cut from: patterns, colours that show on each other, and prints."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from catalogpose.studio.lettering import WORDS
from catalogpose.studio.palette import CLOTHS, DENIMS, Colour, contrast
from catalogpose.studio.patterns import Cloth
from catalogpose.studio.prints import SHAPES, Print

CHOICES: Mapping[str, Mapping[str, float]] = {
    "plain": {"plain": 1.0},
    "denim": {"plain": 1.0},
    "simple": {"plain": 0.6, "horizontal stripes": 0.25, "checks": 0.15},
    "calm": {"plain": 0.66, "vertical stripes": 0.08, "checks": 0.08, "tartan": 0.07,
             "flowers": 0.04,
             "dots": 0.04, "gradient": 0.03},
    "any": {"plain": 0.28, "horizontal stripes": 0.13, "vertical stripes": 0.09,
            "diagonal stripes": 0.06, "checks": 0.08, "tartan": 0.08, "dots": 0.09, "flowers": 0.09,
            "zigzag": 0.03, "diamonds": 0.03, "gradient": 0.04},
    "printed": {"plain": 0.55, "horizontal stripes": 0.15, "vertical stripes": 0.03,
                "diagonal stripes": 0.04, "checks": 0.02, "dots": 0.05, "flowers": 0.04,
                "zigzag": 0.02, "diamonds": 0.02, "gradient": 0.02, "blocks": 0.04, "halves": 0.02},
}  # fmt: skip
"""Shares of the patterns for each kind of cloth."""


def _draw_names(
    rng: np.random.Generator, names: tuple[str, ...], table: Mapping[str, Colour]
) -> tuple[str, str]:
    """Return a ground and a figure colour that show on each other."""
    ground = names[int(rng.integers(len(names)))]
    others = [n for n in table if contrast(table[ground], table[n]) > 0.3]
    common = [n for n in ("white", "black", "cream", "navy") if n in others]
    pool = common if common and rng.random() < 0.45 else others
    return ground, pool[int(rng.integers(len(pool)))]


def _tinted(rng: np.random.Generator, colour: Colour) -> Colour:
    """Return the colour moved so little that its name stays right."""
    shift = rng.uniform(-9, 9, 3)
    red, green, blue = np.clip(np.array(colour) + shift, 12, 248)
    return float(red), float(green), float(blue)


def _draw_print(rng: np.random.Generator, ground: str) -> Print:
    """Return a shape or a word in a colour that shows on the ground."""
    others = [n for n in CLOTHS if contrast(CLOTHS[ground], CLOTHS[n]) > 0.35]
    name = others[int(rng.integers(len(others)))]
    is_word = rng.random() < 0.42
    shapes = list(SHAPES)
    word = WORDS[int(rng.integers(len(WORDS)))] if is_word else ""
    return Print(
        shape="word" if is_word else shapes[int(rng.integers(len(shapes)))],
        word=word,
        name=name,
        colour=_tinted(rng, CLOTHS[name]),
        size=0.0105 * len(word) + 0.014 if is_word else float(rng.uniform(0.026, 0.042)),
        down=float(rng.uniform(0.100, 0.125)),
    )


def draw_cloth(
    rng: np.random.Generator, kind: str, slot: str, length: float, *, names: tuple[str, ...] = ()
) -> Cloth:
    """Return a random cloth of a kind in `CHOICES`; `length` is the garment's, in legs."""
    table = DENIMS if kind == "denim" else CLOTHS
    shares = CHOICES[kind]
    weights = np.array(list(shares.values()))
    pattern = list(shares)[int(rng.choice(len(weights), p=weights / weights.sum()))]
    ground, figure = _draw_names(rng, names or tuple(table), table)
    detail = "white" if contrast(CLOTHS["white"], table[ground]) > 0.35 else "yellow"
    if pattern == "flowers":
        detail = "yellow" if figure != "yellow" else "white"
    if detail == figure:
        detail = "black" if ground != "black" else "red"
    period = float(rng.uniform(0.032, 0.052))
    if pattern in ("gradient", "blocks"):
        period = 0.3 + 0.45 * length if pattern == "gradient" else float(rng.uniform(0.12, 0.2))
    has_print = (
        kind == "printed"
        and pattern == "plain"
        and slot in ("top", "dress")
        and rng.random() < 0.62
    )
    front = _draw_print(rng, ground) if has_print else None
    back = _draw_print(rng, ground) if has_print and rng.random() < 0.2 else None
    other = CLOTHS.get(detail, (240.0, 240.0, 240.0))
    colours = (_tinted(rng, table[ground]), _tinted(rng, table[figure]), _tinted(rng, other))
    used = {"plain": 1, "tartan": 3, "flowers": 3}.get(pattern, 2)
    folds = {"denim": 0.115, "plain": 0.05}.get(kind, 0.085)
    return Cloth(
        pattern=pattern, names=(ground, figure, detail)[:used], colours=colours, period=period,
        seed=int(rng.integers(2**31)), folds=folds, front=front, back=back,
    )  # fmt: skip
