"""A dressed person: every tube of body and clothes in one pose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from catalogpose.studio.accessories import (
    paint_bag,
    paint_belt,
    paint_hat,
    paint_scarf,
)
from catalogpose.studio.body import Figure, Person
from catalogpose.studio.clothing import (
    Dressing,
    paint_skirt,
    paint_trousers,
    paint_upper,
)
from catalogpose.studio.face import paint_head
from catalogpose.studio.figure import TRUNK, paint_arms, paint_legs, paint_trunk
from catalogpose.studio.garments import Garment, Outfit, garment_in
from catalogpose.studio.hair import paint_hair
from catalogpose.studio.paint import Tube, plain_texture
from catalogpose.studio.shoes import paint_shoes, paint_socks


def paint_person(person: Person, outfit: Outfit, figure: Figure, density: int) -> Iterator[Tube]:
    """Yield all tubes of a dressed person, unsorted; `density` is in texels a body height."""
    worn = {garment.slot: garment for garment in outfit}
    gloves, glasses = worn.get("gloves"), worn.get("sunglasses")
    shade = glasses.cloth.colours[0] if glasses else None
    if shade is not None and max(shade) > 150:
        shade = (40.0, 36.0, 40.0)
    yield from paint_trunk(person, figure)
    sleeve = max(garment.sleeve for garment in outfit)
    glove = plain_texture(gloves.cloth.colours[0]) if gloves else None
    yield from paint_arms(person, figure, glove, max(sleeve - 0.08, 0.0))
    below = garment_in(outfit, "bottom", "jumpsuit")
    yield from paint_legs(person, figure, min(below.length, 1.0) if below else 0.0)
    yield from paint_head(person, figure, shade, density)
    yield from paint_hair(person, figure, density, under_hat="hat" in worn)
    dressing = Dressing(person, figure, density)
    coat = worn.get("coat")
    for garment in outfit:
        # A coat hides the sleeves under it.
        is_under = coat is not None and garment is not coat
        yield from _paint_garment(dressing, replace(garment, sleeve=0.0) if is_under else garment)


def _paint_garment(dressing: Dressing, garment: Garment) -> Iterator[Tube]:
    """Yield the tubes of one garment."""
    slot = garment.slot
    if slot == "top":
        yield from paint_upper(dressing, garment, TRUNK + (0.1 if garment.tucked else 0.25))
    elif slot == "bottom":
        yield from paint_trousers(dressing, garment, TRUNK + 0.2)
    elif slot == "skirt":
        yield from paint_skirt(dressing, garment, TRUNK + 0.2)
    elif slot == "dress":
        yield from paint_skirt(dressing, garment, TRUNK + 0.22, first=0.72)
        yield from paint_upper(dressing, garment, TRUNK + 0.21)
    elif slot == "jumpsuit":
        yield from paint_trousers(dressing, garment, TRUNK + 0.22, below=0.2)
        yield from paint_upper(dressing, garment, TRUNK + 0.21)
    elif slot == "coat":
        yield from paint_skirt(dressing, garment, TRUNK + 0.5, first=0.80)
        yield from paint_upper(dressing, garment, TRUNK + 0.49)
    else:
        yield from _paint_accessory(dressing, garment)


def _paint_accessory(dressing: Dressing, garment: Garment) -> Iterator[Tube]:
    """Yield the tubes of an accessory; gloves and sunglasses are painted with hands and face."""
    painters = {
        "shoes": paint_shoes, "socks": paint_socks, "hat": paint_hat, "scarf": paint_scarf,
        "belt": paint_belt, "bag": paint_bag,
    }  # fmt: skip
    if garment.slot in painters:
        yield from painters[garment.slot](dressing, garment)
