"""Shoes and socks on a posed body."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from catalogpose.records import LABEL_ID
from catalogpose.studio.clothing import Dressing
from catalogpose.studio.figure import foot_facing, leg_orders, leg_radii, limb_profile
from catalogpose.studio.garments import Garment
from catalogpose.studio.paint import STEPS, Floats, Texture, Tube, plain_texture
from catalogpose.studio.patterns import Panel, weave

EDGE = np.zeros(STEPS + 1, np.float32)
"""A straight upper edge at a tube's start."""


def paint_socks(dressing: Dressing, garment: Garment) -> Iterator[Tube]:
    """Yield socks to the middle of the shin."""
    person, figure = dressing.person, dressing.figure
    _, knee, ankle = leg_radii(person)
    panel = Panel(kind="small", around=6.28 * ankle, length=0.09, hem=False)
    texture, label = weave(garment.cloth, panel, dressing.density), LABEL_ID["socks"]
    for name, begin in leg_orders(figure).items():
        low, high = (figure.points[f"{name}-{j}"] for j in ("ankle", "knee"))
        top = low + (high - low) * np.float32(0.36)
        wide = ankle + (knee * 1.08 - ankle) * 0.36
        yield Tube(start=top, end=low, profile=limb_profile(wide + 0.003, ankle + 0.003),
                   label=label, texture=texture, order=begin + 0.02, turn=figure.turn,
                   round_start=False, upper=EDGE, shadow=0.1, part=f"{name} sock")  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Shoe:
    """What one shoe is made from."""

    side: str
    """`left` or `right`."""
    style: str
    label: int
    order: float
    upper: Texture
    sole: Texture
    width: float
    """Half the foot's width, in body heights."""
    ankle: float
    knee: float
    """Radii of the leg, in body heights."""
    turn: float
    size: float
    """The person's stature."""


def paint_shoes(dressing: Dressing, garment: Garment) -> Iterator[Tube]:
    """Yield both shoes: sole, upper, and a shaft where the style has one."""
    person, figure = dressing.person, dressing.figure
    (_, knee, ankle), colour, style = leg_radii(person), garment.cloth.colours[0], garment.style
    # White soles under coloured sneakers only, or a white sneaker would have no sole to see.
    is_light = style == "sneaker" and min(colour) < 225
    dark = (colour[0] * 0.55, colour[1] * 0.55, colour[2] * 0.55)
    sole = (238.0, 236.0, 230.0) if is_light else dark
    base = {"pump": 0.0145, "loafer": 0.0175}.get(style, 0.0195)
    width = base * person.stature * (1 if person.woman else 1.1)
    for name, begin in leg_orders(figure).items():
        shoe = _Shoe(name, style, LABEL_ID[f"{name}-shoe"], begin, plain_texture(colour),
                     plain_texture(sole), width, ankle, knee, figure.turn,
                     person.stature)  # fmt: skip
        joints = (figure.points[f"{name}-{joint}"] for joint in ("heel", "toe", "ankle", "knee"))
        yield from _paint_shoe(shoe, *joints)


def _paint_shoe(
    shoe: _Shoe, heel: Floats, toe: Floats, ankle: Floats, knee: Floats
) -> Iterator[Tube]:
    """Yield one shoe."""
    facing = foot_facing(ankle, heel, toe)
    down, width = np.array([0, -0.0065 * shoe.size, 0], np.float32), shoe.width
    yield Tube(start=heel + down, end=toe + down, texture=shoe.sole, label=shoe.label,
               order=shoe.order + 0.03, shadow=0.0,
               profile=limb_profile(width * 1.02, width * 0.86, width * 0.16, 0.7),
               part=f"{shoe.side} sole", facing=facing)  # fmt: skip
    yield Tube(start=heel, end=toe, texture=shoe.upper, label=shoe.label,
               order=shoe.order + 0.031, gloss=0.10, shadow=0.0,
               profile=limb_profile(width, width * 0.80, width * 0.16, 0.7),
               part=f"{shoe.side} shoe", facing=facing)  # fmt: skip
    if shoe.style in ("pump", "loafer"):
        return
    middle = heel + (toe - heel) * np.float32(0.55)
    start = ankle + (knee - ankle) * np.float32(0.04)
    yield Tube(start=start, end=middle, texture=shoe.upper, label=shoe.label,
               order=shoe.order + 0.032, round_start=False, shadow=0.0, gloss=0.10,
               profile=limb_profile(shoe.ankle * 1.12, width * 0.95),
               part=f"{shoe.side} tongue", facing=shoe.turn)  # fmt: skip
    if shoe.style == "sneaker":
        above = np.array([0, 0.012 * shoe.size, 0], np.float32)
        lace = heel + (toe - heel) * np.float32(0.62) + above
        yield Tube(start=start + (middle - start) * np.float32(0.45), end=lace, texture=shoe.sole,
                   label=shoe.label, order=shoe.order + 0.034, shadow=0.0,
                   profile=limb_profile(0.0055 * shoe.size, 0.0045 * shoe.size),
                   part=f"{shoe.side} laces", facing=shoe.turn)  # fmt: skip
    else:
        yield _make_shaft(shoe, ankle, knee)


def _make_shaft(shoe: _Shoe, ankle: Floats, knee: Floats) -> Tube:
    """Return a boot's shaft; a tall boot goes over trousers, an ankle boot under them."""
    share, late = (0.62, 0.2) if shoe.style == "tall boot" else (0.20, 0.033)
    wide = shoe.ankle * 1.25 + (shoe.knee * 1.2 - shoe.ankle) * share
    return Tube(start=ankle + (knee - ankle) * np.float32(share), end=ankle, texture=shoe.upper,
                label=shoe.label, round_start=False, upper=EDGE, turn=shoe.turn, gloss=0.10,
                profile=limb_profile(wide, shoe.ankle * 1.22), order=shoe.order + late,
                shadow=0.15, part=f"{shoe.side} shaft")  # fmt: skip
