"""A studio product in other patterns: the same person, pose and cut, a cloth of the same palette.

`benchmarks/lineup.py` asks with these whether a pattern is recognised. Colour still tells
something: patterns differ in how much of a colour they show, and most leave out a third one.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalogpose.studio import Picture, Product, draw, make_product, make_scene
from catalogpose.studio.cloths import WORDS
from catalogpose.studio.garments import Garment
from catalogpose.studio.patterns import Cloth
from catalogpose.studio.prints import SHAPES

WOVEN = (
    "horizontal stripes", "vertical stripes", "diagonal stripes", "checks", "tartan", "dots",
    "flowers", "zigzag", "diamonds",
)  # fmt: skip
"""Patterns that differ in shape and not only in where a colour is."""

SLOTS = ("coat", "dress", "jumpsuit", "top", "skirt", "bottom")
"""Garments large enough to be asked about."""

SHOWN = 0.0015
"""Least share of a picture in which a pattern must show: of 256 x 176 pixels 68."""

DIFFERENT = 40
"""Least difference of two colours that counts, summed over R, G and B."""


def read_view(photo: Path) -> tuple[Product, int]:
    """Return the product and the view that a studio catalogue's photo shows, by its name.

    Raises:
        SystemExit: If the name is not one of `catalogpose studio`.
    """
    found = re.fullmatch(r"studio-(\d{7})-view(\d+)", photo.stem)
    if found is None:
        raise SystemExit(f"{photo} is no photo of `catalogpose studio`, so its cloth is not known")
    return make_product(int(found[1])), int(found[2])


def kind_of(cloth: Cloth) -> str:
    """Return `pattern`, `print`, `word`, or nothing for a cloth without any of these."""
    if cloth.pattern in WOVEN:
        return "pattern"
    if cloth.pattern == "plain" and cloth.front is not None:
        return "word" if cloth.front.word else "print"
    return ""


def wear(product: Product, garment: Garment, cloth: Cloth) -> Product:
    """Return the product with one of its garments made of another cloth."""
    outfit = tuple(
        dataclasses.replace(worn, cloth=cloth) if worn is garment else worn
        for worn in product.outfit
    )
    return dataclasses.replace(product, outfit=outfit)


def view_of(product: Product, view: int, size: tuple[int, int]) -> Picture:
    """Draw a view of a product, whatever it wears, at a size (height, width)."""
    return draw(product, make_scene(product.id, view), height=size[0], width=size[1])


def most_shown(product: Product, views: tuple[int, int], size: tuple[int, int]) -> Garment | None:
    """Return the garment whose print shows most in that of two views which shows less of it, else
    the one whose pattern does; None where neither shows in both.
    """
    best, most = None, (False, SHOWN)
    for garment in product.outfit:
        if garment.slot not in SLOTS or not kind_of(garment.cloth):
            continue
        plain = dataclasses.replace(garment.cloth, pattern="plain", front=None)
        bare = wear(product, garment, plain)
        share = min(
            _share_changed(view_of(product, view, size).photo, view_of(bare, view, size).photo)
            for view in views
        )
        found = (kind_of(garment.cloth) != "pattern", share)
        if share >= SHOWN and found >= most:
            best, most = garment, found
    return best


def _share_changed(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the share of pixels in which two pictures (H, W, 3) differ."""
    apart = np.abs(one.astype(np.int32) - other.astype(np.int32)).sum(axis=-1)
    return float((apart >= DIFFERENT).mean())


def reweave(cloth: Cloth, count: int, rng: np.random.Generator) -> list[Cloth]:
    """Return `count` cloths of the same palette: with other patterns, or with other prints of the
    same kind, each once. No pattern brings in a colour that the cloth does not show; of one of
    three colours, tartan or flowers, most show two.
    """
    kind = kind_of(cloth)
    if kind == "pattern":
        others = [name for name in WOVEN if name != cloth.pattern]
        if len(cloth.names) < len(cloth.colours):
            names = (*cloth.names, cloth.names[1])
            cloth = dataclasses.replace(
                cloth, names=names, colours=(*cloth.colours[:2], cloth.colours[1])
            )
        return [
            dataclasses.replace(cloth, pattern=str(name))
            for name in rng.permutation(others)[:count]
        ]
    mark = cloth.front
    assert mark is not None  # it has a print, or nobody asks
    if kind == "word":
        words = [word for word in WORDS if word != mark.word]
        prints = [
            dataclasses.replace(mark, word=str(word), size=mark.size * len(word) / len(mark.word))
            for word in rng.permutation(words)[:count]
        ]
    else:
        shapes = [shape for shape in SHAPES if shape != mark.shape]
        prints = [
            dataclasses.replace(mark, shape=str(shape)) for shape in rng.permutation(shapes)[:count]
        ]
    return [dataclasses.replace(cloth, front=other) for other in prints]
