"""Shoes, socks, hats, scarves and bags on a posed body."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from catalogpose.records import LABEL_ID
from catalogpose.studio.body import SIDES
from catalogpose.studio.clothing import Dressing
from catalogpose.studio.face import head_profile, scaled
from catalogpose.studio.figure import HEAD, OVER, TRUNK, UNDER, leg_orders, leg_radii, limb_profile
from catalogpose.studio.figure import segment_order
from catalogpose.studio.garments import Garment
from catalogpose.studio.paint import STEPS, Floats, Tube, plain_texture
from catalogpose.studio.palette import Colour
from catalogpose.studio.patterns import Panel, weave

WHOLE = np.ones(STEPS + 1, np.float32)
EDGE = np.zeros(STEPS + 1, np.float32)


def _dark(colour: Colour, by: float) -> Colour:
    return colour[0] * by, colour[1] * by, colour[2] * by


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
        yield Tube(start=top, end=low, profile=limb_profile(wide + 0.003, ankle + 0.003), label=label,
                   texture=texture, order=begin + 0.02, turn=figure.turn, round_start=False,
                   upper=EDGE, shadow=0.1)  # fmt: skip


def paint_shoes(dressing: Dressing, garment: Garment) -> Iterator[Tube]:
    """Yield both shoes: sole, upper, and a shaft where the style has one."""
    person, figure = dressing.person, dressing.figure
    size, ankle, colour = person.stature, leg_radii(person)[2], garment.cloth.colours[0]
    upper, style = plain_texture(colour), garment.style
    sole_colour = (238.0, 236.0, 230.0) if style == "sneaker" and min(colour) < 225 else _dark(colour, 0.55)
    sole = plain_texture(sole_colour)
    shaft = {"tall boot": 0.62, "ankle boot": 0.20}.get(style, 0.0)
    width = {"pump": 0.0145, "loafer": 0.0175}.get(style, 0.0195) * size * (1 if person.woman else 1.1)
    for name, begin in leg_orders(figure).items():
        label = LABEL_ID[f"{name}-shoe"]
        heel, toe, joint, knee = (figure.points[f"{name}-{j}"] for j in ("heel", "toe", "ankle", "knee"))
        down = np.array([0, -0.0065 * size, 0], np.float32)
        yield Tube(start=heel + down, end=toe + down, texture=sole, label=label, order=begin + 0.03,
                   profile=limb_profile(width * 1.02, width * 0.86, width * 0.16, 0.7), shadow=0.0)  # fmt: skip
        yield Tube(start=heel, end=toe, texture=upper, label=label, order=begin + 0.031, gloss=0.10,
                   profile=limb_profile(width, width * 0.80, width * 0.16, 0.7), shadow=0.0)  # fmt: skip
        if style in ("pump", "loafer"):
            continue
        middle = heel + (toe - heel) * np.float32(0.55)
        start = joint + (knee - joint) * np.float32(0.04)
        yield Tube(start=start, end=middle, texture=upper, label=label, order=begin + 0.032,
                   profile=limb_profile(ankle * 1.12, width * 0.95), round_start=False, shadow=0.0,
                   gloss=0.10)  # fmt: skip
        if shaft:
            top = joint + (knee - joint) * np.float32(shaft)
            wide = ankle * 1.25 + (leg_radii(person)[1] * 1.2 - ankle) * shaft
            # A tall boot goes over trousers, an ankle boot under them.
            yield Tube(start=top, end=joint, texture=upper, label=label, round_start=False, upper=EDGE,
                       profile=limb_profile(wide, ankle * 1.22), turn=figure.turn, gloss=0.10,
                       order=begin + (0.2 if shaft > 0.4 else 0.033), shadow=0.15)  # fmt: skip
        elif style == "sneaker":
            lace = heel + (toe - heel) * np.float32(0.62) + np.array([0, 0.012 * size, 0], np.float32)
            yield Tube(start=start + (middle - start) * np.float32(0.45), end=lace, texture=sole,
                       label=label, order=begin + 0.034, shadow=0.0,
                       profile=limb_profile(0.0055 * size, 0.0045 * size))  # fmt: skip


def paint_hat(dressing: Dressing, garment: Garment) -> Iterator[Tube]:
    """Yield a crown and, by style, a brim or a visor."""
    person, figure = dressing.person, dressing.figure
    size, style, label = person.stature, garment.style, LABEL_ID["hat"]
    low, high = (0.036, 0.092) if style == "beanie" else (0.034, 0.088)
    panel = Panel(kind="small", around=0.34, length=0.08, hem=False)
    texture = weave(garment.cloth, panel, dressing.density)
    if style in ("beanie", "cap"):
        shape = head_profile(person, 0.012).copy()
        shape = shape[shape[:, 0] <= 0.48]
        shape[:, 0] /= shape[-1, 0]
    else:
        shape = np.array([(0, 0.026, 0.031), (0.04, 0.036, 0.043), (0.12, 0.043, 0.051), (1, 0.055, 0.064)], np.float32)
        shape[:, 1:] *= np.float32(size)
    yield Tube(start=figure.on_head(*scaled((0, high, -0.010), size)), label=label, texture=texture,
               end=figure.on_head(*scaled((0, low, -0.004), size)), profile=shape,
               turn=figure.head_turn, order=HEAD + 0.15, round_start=False, round_end=False,
               lower=WHOLE, shadow=0.4)  # fmt: skip
    if style == "beanie":
        fold = weave(garment.cloth, Panel(kind="small", around=0.36, length=0.03, hem=True), dressing.density)
        yield Tube(start=figure.on_head(*scaled((0, low + 0.018, -0.005), size)), label=label, texture=fold,
                   end=figure.on_head(*scaled((0, low - 0.008, -0.003), size)), turn=figure.head_turn,
                   profile=_band(0.0575 * size, 0.0655 * size), order=HEAD + 0.16, upper=EDGE, lower=WHOLE,
                   round_start=False, round_end=False, shadow=0.3)  # fmt: skip
        return
    brim = {"cap": 0.0, "brimmed hat": 0.118, "bucket hat": 0.080}[style] * size
    if brim:
        drop = 0.004 if style == "brimmed hat" else 0.022
        yield Tube(start=figure.on_head(*scaled((0, low + 0.006, -0.004), size)), label=label, texture=texture,
                   end=figure.on_head(*scaled((0, low - drop, -0.004), size)), turn=figure.head_turn,
                   profile=np.array([(0, 0.058 * size, 0.066 * size), (1, brim, brim)], np.float32),
                   order=HEAD + 0.14, upper=EDGE, lower=WHOLE, round_start=False, round_end=False,
                   shadow=0.4)  # fmt: skip
    else:
        yield from _paint_visor(dressing, garment, low)


def _band(wide: float, deep: float) -> Floats:
    return np.array([(0, wide, deep), (1, wide, deep)], np.float32)


def _paint_visor(dressing: Dressing, garment: Garment, low: float) -> Iterator[Tube]:
    """Yield a cap's visor: the front of a brim."""
    figure, size = dressing.figure, dressing.person.stature
    angles = np.abs(np.linspace(-np.pi, np.pi, STEPS + 1, dtype=np.float32))
    shape = np.array([(0, 0.050, 0.058), (1, 0.053, 0.118)], np.float32)
    shape[:, 1:] *= np.float32(size)
    yield Tube(start=figure.on_head(*scaled((0, low + 0.006, -0.004), size)), label=LABEL_ID["hat"],
               end=figure.on_head(*scaled((0, low - 0.010, -0.004), size)), profile=shape,
               texture=plain_texture(_dark(garment.cloth.colours[0], 0.88)), turn=figure.head_turn,
               upper=np.where(angles < 1.1, 0, 2).astype(np.float32), lower=WHOLE, order=HEAD + 0.2,
               round_start=False, round_end=False, shadow=0.2)  # fmt: skip


def paint_scarf(dressing: Dressing, garment: Garment) -> Iterator[Tube]:
    """Yield a scarf around the neck and its two ends on the chest."""
    person, figure = dressing.person, dressing.figure
    size, label = person.stature, LABEL_ID["scarf"]
    ring = weave(garment.cloth, Panel(kind="small", around=0.36, length=0.05, hem=False), dressing.density)
    shape = np.array([(0, 0.046, 0.046), (0.25, 0.056, 0.058), (0.7, 0.060, 0.062), (1, 0.046, 0.050)], np.float32)
    shape[:, 1:] *= np.float32(size)
    yield Tube(start=figure.on_torso(-0.10), end=figure.on_torso(0.10), profile=shape, texture=ring,
               label=label, turn=figure.turn, order=TRUNK + 0.7, round_start=False, round_end=False,
               upper=EDGE, lower=WHOLE, shadow=0.35)  # fmt: skip
    ends = weave(garment.cloth, Panel(kind="small", around=0.12, length=0.16), dressing.density)
    for side, down in ((1, 0.62), (-1, 0.48)):
        start = figure.on_torso(0.06, side * 0.022 * size, 0.058 * size)
        stop = figure.on_torso(down, side * 0.030 * size, (0.078 + 0.02) * size)
        seen = np.cos(figure.turn) > -0.15
        yield Tube(start=start, end=stop, texture=ends, label=label, turn=figure.turn, round_end=False,
                   profile=limb_profile(0.018 * size, 0.022 * size), lower=WHOLE,
                   order=TRUNK + 0.68 if seen else UNDER)  # fmt: skip


def paint_bag(dressing: Dressing, garment: Garment) -> Iterator[Tube]:
    """Yield a bag: in the left hand, or at the left hip with its strap over the right shoulder."""
    person, figure = dressing.person, dressing.figure
    size, in_hand = person.stature, garment.style != "shoulder bag"
    if in_hand:
        grip = figure.points["left-palm"]
        tall, wide, deep, drop = (0.15, 0.062, 0.022, 0.085) if garment.style == "tote bag" else (0.085, 0.066, 0.026, 0.05)
        top = grip + np.array([0, -drop * size, 0], np.float32)
        order = segment_order(figure, "left-elbow", "left-hand") - 0.0005
    else:
        tall, wide, deep = 0.085, 0.024, 0.055
        top = figure.on_torso(0.93, 0.128 * person.build * size, 0.012 * size)
        order = OVER - 0.5 if float((figure.torso @ np.array([1, 0, 0.3], np.float32))[2]) > -0.15 else UNDER + 0.2
    panel = Panel(kind="small", around=0.36, length=tall)
    end = top + np.array([0, -tall * size, 0], np.float32)
    shape = np.array([(0, wide * 0.9, deep), (0.12, wide, deep), (0.85, wide * 1.05, deep), (1, wide, deep)], np.float32)
    shape[:, 1:] *= np.float32(size)
    label, trim = LABEL_ID["bag"], plain_texture(_dark(garment.cloth.colours[0], 0.72))
    if in_hand:
        for side in (-1, 1):
            foot = top + figure.torso @ np.array([0, 0, side * wide * 0.55 * size], np.float32)
            yield Tube(start=grip, end=foot, texture=trim, label=label, order=order - 0.0001,
                       profile=limb_profile(0.0045, 0.0045), shadow=0.1)  # fmt: skip
        turn = figure.turn + np.pi / 2
    else:
        yield from _paint_strap(dressing, trim, top)
        turn = figure.turn
    yield Tube(start=top, end=end, profile=shape, label=label, turn=turn, round_start=False,
               texture=weave(garment.cloth, panel, dressing.density), order=order, round_end=False,
               upper=EDGE, lower=WHOLE, shadow=0.35, gloss=0.08)  # fmt: skip


def _paint_strap(dressing: Dressing, trim: object, top: Floats) -> Iterator[Tube]:
    """Yield a strap from the right shoulder to the left hip, over the chest and over the back."""
    figure, size, build = dressing.figure, dressing.person.stature, dressing.person.build
    for front in (1, -1):
        seen = front * float(np.cos(figure.turn)) > -0.2
        stops = [figure.on_torso(0.09, -0.052 * size, 0.030 * front * size),
                 figure.on_torso(0.36, -0.012 * size, 0.080 * front * size * build),
                 figure.on_torso(0.66, 0.052 * size, 0.062 * front * size * build), top]  # fmt: skip
        for start, end in zip(stops, stops[1:], strict=False):
            yield Tube(start=start, end=end, texture=trim, label=LABEL_ID["bag"],  # type: ignore[arg-type]
                       profile=limb_profile(0.0055 * size, 0.0055 * size), shadow=0.15,
                       order=TRUNK + 0.75 if seen else UNDER)  # fmt: skip
