"""Hats, scarves, belts and bags on a posed body."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from catalogpose.records import LABEL_ID
from catalogpose.studio.clothing import Dressing, trunk_around
from catalogpose.studio.face import head_profile, scaled
from catalogpose.studio.figure import (
    HEAD,
    OVER,
    TRUNK,
    UNDER,
    limb_profile,
    segment_order,
    trunk_profile,
)
from catalogpose.studio.garments import Garment
from catalogpose.studio.paint import STEPS, Floats, Texture, Tube, plain_texture
from catalogpose.studio.palette import Colour
from catalogpose.studio.patterns import Panel, weave

WHOLE = np.ones(STEPS + 1, np.float32)
EDGE = np.zeros(STEPS + 1, np.float32)


def _dark(colour: Colour, by: float) -> Colour:
    return colour[0] * by, colour[1] * by, colour[2] * by


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
        shape = np.array(
            [(0, 0.026, 0.031), (0.04, 0.036, 0.043), (0.12, 0.043, 0.051), (1, 0.055, 0.064)],
            np.float32,
        )
        shape[:, 1:] *= np.float32(size)
    yield Tube(start=figure.on_head(*scaled((0, high, -0.010), size)), label=label,
               texture=texture, end=figure.on_head(*scaled((0, low, -0.004), size)),
               profile=shape, turn=figure.head_turn, order=HEAD + 0.15, round_start=False,
               round_end=False, lower=WHOLE, shadow=0.4, part="hat")  # fmt: skip
    if style == "beanie":
        fold = weave(
            garment.cloth, Panel(kind="small", around=0.36, length=0.03, hem=True), dressing.density
        )
        yield Tube(start=figure.on_head(*scaled((0, low + 0.018, -0.005), size)), label=label,
                   texture=fold, end=figure.on_head(*scaled((0, low - 0.008, -0.003), size)),
                   turn=figure.head_turn, profile=_band(0.0575 * size, 0.0655 * size),
                   order=HEAD + 0.16, upper=EDGE, lower=WHOLE, round_start=False, round_end=False,
                   shadow=0.3, part="hat fold")  # fmt: skip
        return
    brim = {"cap": 0.0, "brimmed hat": 0.118, "bucket hat": 0.080}[style] * size
    if brim:
        drop = 0.004 if style == "brimmed hat" else 0.022
        yield Tube(start=figure.on_head(*scaled((0, low + 0.006, -0.004), size)), label=label,
                   texture=texture, end=figure.on_head(*scaled((0, low - drop, -0.004), size)),
                   turn=figure.head_turn,
                   profile=np.array([(0, 0.058 * size, 0.066 * size), (1, brim, brim)], np.float32),
                   order=HEAD + 0.14, upper=EDGE, lower=WHOLE, round_start=False, round_end=False,
                   shadow=0.4, part="brim")  # fmt: skip
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
    yield Tube(start=figure.on_head(*scaled((0, low + 0.006, -0.004), size)),
               label=LABEL_ID["hat"], end=figure.on_head(*scaled((0, low - 0.010, -0.004), size)),
               profile=shape, texture=plain_texture(_dark(garment.cloth.colours[0], 0.88)),
               turn=figure.head_turn, upper=np.where(angles < 1.1, 0, 2).astype(np.float32),
               lower=WHOLE, order=HEAD + 0.2, round_start=False, round_end=False,
               shadow=0.2, part="visor")  # fmt: skip


def paint_scarf(dressing: Dressing, garment: Garment) -> Iterator[Tube]:
    """Yield a scarf around the neck and its two ends on the chest."""
    person, figure = dressing.person, dressing.figure
    size, label = person.stature, LABEL_ID["scarf"]
    ring = weave(
        garment.cloth, Panel(kind="small", around=0.36, length=0.05, hem=False), dressing.density
    )
    shape = np.array(
        [(0, 0.046, 0.046), (0.25, 0.056, 0.058), (0.7, 0.060, 0.062), (1, 0.046, 0.050)],
        np.float32,
    )
    shape[:, 1:] *= np.float32(size)
    yield Tube(start=figure.on_torso(-0.10), end=figure.on_torso(0.10), profile=shape,
               texture=ring, label=label, turn=figure.turn, order=TRUNK + 0.7, round_start=False,
               round_end=False, upper=EDGE, lower=WHOLE, shadow=0.35, part="scarf")  # fmt: skip
    ends = weave(garment.cloth, Panel(kind="small", around=0.12, length=0.16), dressing.density)
    for side, down in ((1, 0.62), (-1, 0.48)):
        start = figure.on_torso(0.06, side * 0.022 * size, 0.058 * size)
        stop = figure.on_torso(down, side * 0.030 * size, (0.078 + 0.02) * size)
        seen = np.cos(figure.turn) > -0.15
        yield Tube(start=start, end=stop, texture=ends, label=label, turn=figure.turn,
                   round_end=False, profile=limb_profile(0.018 * size, 0.022 * size), lower=WHOLE,
                   order=TRUNK + 0.68 if seen else UNDER,
                   part="left scarf end" if side > 0 else "right scarf end")  # fmt: skip


def paint_bag(dressing: Dressing, garment: Garment) -> Iterator[Tube]:
    """Yield a bag: in the left hand, or at the left hip with its strap over the right shoulder."""
    person, figure = dressing.person, dressing.figure
    size, in_hand = person.stature, garment.style != "shoulder bag"
    if in_hand:
        grip = figure.points["left-palm"]
        tall, wide, deep, drop = (
            (0.15, 0.062, 0.022, 0.085)
            if garment.style == "tote bag"
            else (0.085, 0.066, 0.026, 0.05)
        )
        top = grip + np.array([0, -drop * size, 0], np.float32)
        order = segment_order(figure, "left-elbow", "left-hand") - 0.0005
    else:
        tall, wide, deep = 0.085, 0.024, 0.055
        top = figure.on_torso(0.93, 0.128 * person.build * size, 0.012 * size)
        order = (
            OVER - 0.5
            if float((figure.torso @ np.array([1, 0, 0.3], np.float32))[2]) > -0.15
            else UNDER + 0.2
        )
    panel = Panel(kind="small", around=0.36, length=tall)
    end = top + np.array([0, -tall * size, 0], np.float32)
    shape = np.array(
        [(0, wide * 0.9, deep), (0.12, wide, deep), (0.85, wide * 1.05, deep), (1, wide, deep)],
        np.float32,
    )
    shape[:, 1:] *= np.float32(size)
    label, trim = LABEL_ID["bag"], plain_texture(_dark(garment.cloth.colours[0], 0.72))
    if in_hand:
        for side, part in ((-1, "back handle"), (1, "front handle")):
            foot = top + figure.torso @ np.array([0, 0, side * wide * 0.55 * size], np.float32)
            yield Tube(start=grip, end=foot, texture=trim, label=label, order=order - 0.0001,
                       profile=limb_profile(0.0045, 0.0045), shadow=0.1, part=part,
                       facing=figure.turn)  # fmt: skip
        turn = figure.turn + np.pi / 2
    else:
        yield from _paint_strap(dressing, trim, top)
        turn = figure.turn
    yield Tube(start=top, end=end, profile=shape, label=label, turn=turn, round_start=False,
               texture=weave(garment.cloth, panel, dressing.density), order=order,
               round_end=False, upper=EDGE, lower=WHOLE, shadow=0.35, gloss=0.08,
               part="bag")  # fmt: skip


def _paint_strap(dressing: Dressing, trim: Texture, top: Floats) -> Iterator[Tube]:
    """Yield a strap from the right shoulder to the left hip, over the chest and over the back."""
    figure, size, build = dressing.figure, dressing.person.stature, dressing.person.build
    for front in (1, -1):
        seen = front * float(np.cos(figure.turn)) > -0.2
        stops = [figure.on_torso(0.09, -0.052 * size, 0.030 * front * size),
                 figure.on_torso(0.36, -0.012 * size, 0.080 * front * size * build),
                 figure.on_torso(0.66, 0.052 * size, 0.062 * front * size * build),
                 top]  # fmt: skip
        side = "front" if front > 0 else "back"
        for number, (start, end) in enumerate(pairwise(stops), 1):
            yield Tube(start=start, end=end, texture=trim, label=LABEL_ID["bag"],
                       profile=limb_profile(0.0055 * size, 0.0055 * size), shadow=0.15,
                       order=TRUNK + 0.75 if seen else UNDER,
                       part=f"{side} strap {number}", facing=figure.turn)  # fmt: skip


def paint_belt(dressing: Dressing, garment: Garment) -> Iterator[Tube]:
    """Yield a belt with its buckle."""
    person, figure = dressing.person, dressing.figure
    first, last = 0.66, 0.72
    panel = Panel(kind="small", around=trunk_around(person, 0.01), length=0.02, hem=False)
    yield Tube(start=figure.on_torso(first), end=figure.on_torso(last), turn=figure.turn,
               profile=trunk_profile(person, first, last, 0.0135), label=LABEL_ID["belt"],
               texture=weave(garment.cloth, panel, dressing.density), order=TRUNK + 0.32,
               round_start=False, round_end=False, upper=np.zeros(STEPS + 1, np.float32),
               lower=np.ones(STEPS + 1, np.float32), shadow=0.25, part="belt")  # fmt: skip
    if np.cos(figure.turn) > 0.25:
        at = figure.on_torso(0.69, 0, 0.068 * person.build * person.stature)
        yield Tube(start=at, end=figure.on_torso(0.691, 0, 0.068 * person.build * person.stature),
                   profile=limb_profile(0.009, 0.009),
                   texture=plain_texture((212.0, 184.0, 110.0)), label=LABEL_ID["belt"],
                   order=TRUNK + 0.33, shadow=0.1, gloss=0.3, part="buckle",
                   facing=figure.turn)  # fmt: skip
