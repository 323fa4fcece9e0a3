"""Garments on a posed body: trunk pieces with necklines, sleeves, trousers and hanging skirts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from catalogpose.records import LABEL_ID
from catalogpose.studio.body import SIDES, TORSO, Figure, Person
from catalogpose.studio.figure import (
    GROWN,
    SHOULDER,
    arm_radii,
    leg_orders,
    leg_radii,
    limb_profile,
    segment_order,
    trunk_profile,
)
from catalogpose.studio.garments import Garment
from catalogpose.studio.paint import ALONG, STEPS, Floats, Tube, plain_texture
from catalogpose.studio.patterns import Panel, weave

AROUND = np.abs(np.linspace(-np.pi, np.pi, STEPS + 1, dtype=np.float32))
"""Angle from the front of each entry of a table around the body."""
LEG = 0.474
"""From hip to ankle, in body heights."""
ARM = 0.304
"""From shoulder to wrist, in body heights."""
WAIST = 0.62
"""Where the waist is, as a share of the trunk."""


@dataclass(frozen=True, eq=False)
class Dressing:
    """What every garment's painter needs."""

    person: Person
    figure: Figure
    density: int
    """Texels a body height."""


def neckline(neck: str) -> Floats:
    """Return where a neckline runs around the body, as a share of the trunk."""
    a = AROUND
    if neck == "v":
        line = 0.030 + 0.30 * np.maximum(0, 1 - a / 0.62)
    elif neck == "scoop":
        line = 0.045 + 0.17 * np.sqrt(np.maximum(0, 1 - (a / 1.0) ** 2))
    elif neck == "collar":
        line = 0.005 + 0.13 * np.maximum(0, 1 - a / 0.34)
    elif neck == "strap":
        bare = np.interp(a, [0, 0.5, 1.2, 1.9, 2.6, 3.2], [0.20, 0.20, 0.36, 0.36, 0.24, 0.24])
        strap = (np.abs(a - 0.72) < 0.17) | (np.abs(a - 2.42) < 0.17)
        line = np.where(strap, 0.0, bare)
    elif neck == "bare":
        line = 0.265 - 0.02 * np.cos(2 * a)
    elif neck == "turtle":
        line = np.full_like(a, -0.02)
    else:
        line = 0.020 + 0.045 * np.exp(-((a / 0.8) ** 2))
    return line.astype(np.float32)


def trunk_around(person: Person, ease: float) -> float:
    """Return how much cloth goes around the trunk, in body heights."""
    return 2 * float(np.pi) * (0.078 * person.build + ease) * person.stature


def paint_upper(dressing: Dressing, garment: Garment, order: float) -> Iterator[Tube]:
    """Yield a top's trunk piece, collar and sleeves; `order` is the trunk piece's."""
    person, figure = dressing.person, dressing.figure
    size, ease = person.stature, garment.ease
    goes_on = garment.slot in ("dress", "jumpsuit", "coat")
    first = -0.02
    last = 0.98 if goes_on else 0.86 if garment.tucked else 0.98 + garment.length * 2.2
    last = 1.06 if garment.slot == "jumpsuit" else last
    buttons = garment.neck == "collar" or (garment.slot == "coat" and not garment.open)
    panel = Panel(kind="torso", around=trunk_around(person, ease),
                  length=(last - first) * TORSO * size, hem=not goes_on and not garment.tucked,
                  buttons=buttons)  # fmt: skip
    shape = trunk_profile(person, first, last, ease)
    if garment.tucked:
        shape = trunk_profile(person, first, last, 0.001)
        shape[:16] = trunk_profile(person, first, last, ease)[:16]
    elif not goes_on and garment.noun in ("T-shirt", "sweater", "shirt", "long-sleeved top"):
        shape = _loosened(shape)
    line = neckline("collar" if garment.slot == "coat" and garment.open else garment.neck)
    piece = Tube(start=figure.on_torso(first), end=figure.on_torso(last), profile=shape,
                 texture=weave(garment.cloth, panel, dressing.density),
                 label=LABEL_ID[garment.label], turn=figure.turn, order=order, round_start=False,
                 round_end=False, upper=(line - first) / np.float32(last - first), shadow=0.30,
                 lower=None if goes_on else np.ones(STEPS + 1, np.float32),
                 part=f"{garment.slot} piece")  # fmt: skip
    yield from _opened(piece, garment, _opening(garment))
    if garment.neck in ("turtle", "collar") or garment.slot == "coat":
        yield from _paint_collar(dressing, garment, order + 0.002)
    if garment.sleeve > 0.05:
        yield from _paint_sleeves(dressing, garment)


def _loosened(shape: Floats) -> Floats:
    """Return a trunk profile that hangs straight below the chest instead of following the waist."""
    loose = shape.copy()
    chest = float(shape[:14, 1].max())
    below = shape[:, 0] > 0.4
    loose[below, 1] = np.maximum(loose[below, 1], chest * 0.955)
    loose[below, 2] = np.maximum(loose[below, 2], float(shape[:14, 2].max()) * 0.95)
    return loose


def _opening(garment: Garment) -> Floats:
    """Return a coat's half open angle along its trunk piece: wide at the neck."""
    wide = np.interp(ALONG, [0, 0.1, 0.45, 1], [0.9, 0.75, garment.open, garment.open * 1.05])
    return wide.astype(np.float32)


def _paint_collar(dressing: Dressing, garment: Garment, order: float) -> Iterator[Tube]:
    """Yield the cloth around the neck."""
    person, figure = dressing.person, dressing.figure
    size = person.stature
    radius = (0.030 if person.woman else 0.036) * size + garment.ease * 0.55
    tall = {"turtle": 0.046, "collar": 0.022}.get(garment.neck, 0.020) * size
    base = figure.on_torso(0.045)
    up = figure.on_head(0, -0.03, -0.012) - base
    end = base + up * np.float32(tall / float(np.linalg.norm(up)))
    panel = Panel(kind="small", around=6.28 * radius, length=tall, hem=False)
    opening = np.full(STEPS + 1, 0.42 + garment.open * 0.5, np.float32)
    yield Tube(start=base, end=end, profile=limb_profile(radius * 1.22, radius), turn=figure.turn,
               texture=weave(garment.cloth, panel, dressing.density),
               label=LABEL_ID[garment.label], order=order, round_start=False, round_end=False,
               shadow=0.2, upper=np.zeros(STEPS + 1, np.float32),
               lower=np.ones(STEPS + 1, np.float32),
               opening=None if garment.neck == "turtle" else opening,
               part=f"{garment.slot} collar")  # fmt: skip


def _paint_sleeves(dressing: Dressing, garment: Garment) -> Iterator[Tube]:
    """Yield two pieces a sleeve, the lower one only if the sleeve passes the elbow."""
    person, figure, points = dressing.person, dressing.figure, dressing.figure.points
    shoulder, elbow, wrist = (r + garment.ease * 0.6 * person.stature for r in arm_radii(person))
    reach, middle = garment.sleeve, 0.162 / ARM
    # The texture begins above the joint, for the ball of the shoulder.
    cap = 0.12 * reach
    panel = Panel(kind="sleeve", around=6.28 * elbow, length=ARM * reach * 1.12 * person.stature)
    texture = weave(garment.cloth, panel, dressing.density)
    label, high = LABEL_ID[garment.label], 0.0006 if garment.slot == "coat" else 0.0003
    whole = np.ones(STEPS + 1, np.float32)
    for name, _ in SIDES:
        start, joint, end = (points[f"{name}-{j}"] for j in ("shoulder", "elbow", "wrist"))
        share = min(reach / middle, 1.0)
        stop = start + (joint - start) * np.float32(share)
        order = segment_order(figure, f"{name}-shoulder", f"{name}-elbow") + high
        round_ = arm_radii(person)[0] + garment.ease * 0.35 * person.stature
        wide = shoulder + (elbow - shoulder) * share + (0.004 if share < 1 else 0) * person.stature
        yield Tube(start=start, end=stop,
                   profile=limb_profile(round_, wide, (shoulder - round_) * 0.6), texture=texture,
                   label=label, order=order, turn=figure.turn,
                   rows=(cap / reach / 1.12, (cap + min(middle, reach)) / reach / 1.12),
                   round_end=share >= 1, lower=None if share >= 1 else whole, fade=SHOULDER,
                   melt=label, shadow=0.2, part=f"{garment.slot} {name} sleeve")  # fmt: skip
        if reach <= middle:
            continue
        share = min((reach - middle) / (1 - middle), 1.0)
        stop = joint + (end - joint) * np.float32(share)
        order = segment_order(figure, f"{name}-elbow", f"{name}-hand") + 0.001 + high
        yield Tube(start=joint, end=stop,
                   profile=limb_profile(elbow, elbow + (wrist - elbow) * share), texture=texture,
                   label=label, order=order, turn=figure.turn,
                   rows=((cap + middle) / reach / 1.12, 1), round_end=False, lower=whole,
                   shadow=0.2, fade=GROWN, melt=label,
                   part=f"{garment.slot} {name} sleeve")  # fmt: skip


def paint_trousers(
    dressing: Dressing, garment: Garment, order: float, *, below: float = 0.0
) -> Iterator[Tube]:
    """Yield the two legs and the seat; a jumpsuit's cloth has begun `below` body heights above."""
    person, figure, points = dressing.person, dressing.figure, dressing.figure.points
    size, ease = person.stature, garment.ease * person.stature
    hip, knee, ankle = (r + ease for r in leg_radii(person))
    knee, hem = (
        knee + garment.flare * 0.35 * size,
        ankle + (garment.flare + garment.ease * 0.7) * size,
    )
    panel = Panel(
        kind="leg", around=6.28 * hip, length=LEG * garment.length * size, above=below + 0.09 * size
    )
    texture = weave(garment.cloth, panel, dressing.density)
    label, middle, whole = LABEL_ID[garment.label], 0.242 / LEG, np.ones(STEPS + 1, np.float32)
    for name, begin in leg_orders(figure).items():
        start, joint, end = (points[f"{name}-{j}"] for j in ("hip", "knee", "ankle"))
        share = min(garment.length / middle, 1.0)
        stop = start + (joint - start) * np.float32(share)
        wide = hip + (knee - hip) * share + (garment.flare * size if share < 1 else 0.0)
        yield Tube(start=start, end=stop, profile=limb_profile(hip, wide), texture=texture,
                   label=label, order=begin + 0.1, turn=figure.turn,
                   rows=(0, min(middle / garment.length, 1.0)), round_end=share >= 1,
                   lower=None if share >= 1 else whole,
                   part=f"{garment.slot} {name} leg")  # fmt: skip
        if garment.length <= middle:
            continue
        share = (garment.length - middle) / (1 - middle)
        stop = joint + (end - joint) * np.float32(share)
        foot = knee + (hem - knee) * share
        yield Tube(start=joint, end=stop,
                   profile=limb_profile(knee, foot, leg_radii(person)[1] * 0.08), texture=texture,
                   label=label, order=begin + 0.101, turn=figure.turn, shadow=0.0,
                   rows=(middle / garment.length, 1), round_end=False, lower=whole, fade=GROWN,
                   melt=label, part=f"{garment.slot} {name} leg")  # fmt: skip
    yield from _paint_seat(dressing, garment, order, below)


def _paint_seat(dressing: Dressing, garment: Garment, order: float, below: float) -> Iterator[Tube]:
    """Yield trousers from the waist to where the legs part, melting into them."""
    person, figure = dressing.person, dressing.figure
    first, last = 0.68, 1.14
    panel = Panel(kind="small", around=trunk_around(person, garment.ease), hem=False, above=below,
                  length=(last - first) * TORSO * person.stature)  # fmt: skip
    fade = np.interp(ALONG, [0, 0.45, 0.84, 1], [1, 1, 0, 0]).astype(np.float32)
    yield Tube(start=figure.on_torso(first), end=figure.on_torso(last), turn=figure.turn,
               profile=trunk_profile(person, first, last, garment.ease * 0.9), fade=fade,
               texture=weave(garment.cloth, panel, dressing.density),
               label=LABEL_ID[garment.label], order=order, round_start=False, round_end=False,
               shadow=0.0, melt=LABEL_ID[garment.label], part=f"{garment.slot} seat")  # fmt: skip


def paint_skirt(
    dressing: Dressing, garment: Garment, order: float, *, first: float = WAIST
) -> Iterator[Tube]:
    """Yield the hanging part of a skirt, dress or coat from the share `first` of the trunk down."""
    person, figure = dressing.person, dressing.figure
    size = person.stature
    length = max(garment.length, 0.03)
    start, end, shape = _skirt_shape(dressing, garment, first, length)
    tall = ((1 - first) * TORSO + length * LEG) * size
    above = (first + 0.02) * TORSO * size if garment.slot in ("dress", "coat") else 0.0
    around = trunk_around(person, garment.ease) * (1.0 if above else 1.25)
    panel = Panel(kind="skirt", around=around, length=tall, above=above)
    texture, label = weave(garment.cloth, panel, dressing.density), LABEL_ID[garment.label]
    wave = 1 - 0.012 * (1 + np.cos(AROUND * 7)) * min(garment.flare * 16, 1.3)
    common = Tube(start=start, end=end, profile=shape, texture=texture, label=label,
                  turn=figure.turn, order=order, round_start=False, round_end=False, shadow=0.35,
                  lower=wave.astype(np.float32), part=f"{garment.slot} skirt")  # fmt: skip
    gap = np.interp(ALONG, [0, 1], [garment.open, garment.open + 0.25]).astype(np.float32)
    yield from _opened(common, garment, gap)


def _opened(piece: Tube, garment: Garment, gap: Floats) -> Iterator[Tube]:
    """Yield a piece of a garment and, where its front is open, the lining behind the body."""
    if not garment.open:
        yield piece
        return
    red, green, blue = (c * 0.55 for c in garment.cloth.colours[0])
    yield replace(piece, order=0.9, texture=plain_texture((red, green, blue)), shadow=0.0,
                  part=f"{piece.part} lining")  # fmt: skip
    yield replace(piece, opening=gap)


def _skirt_shape(
    dressing: Dressing, garment: Garment, first: float, length: float
) -> tuple[Floats, Floats, Floats]:
    """Return a skirt's ends and profile: wide enough for both legs wherever they are."""
    person, figure = dressing.person, dressing.figure
    size = person.stature
    start, hip = figure.on_torso(first), figure.on_torso(1.0)
    share = length * LEG / (LEG + 0.045)
    left, right = _leg_at(figure, "left", share), _leg_at(figure, "right", share)
    end = (left + right) / 2
    floor = float(hip[1]) - length * LEG * size * 0.985
    end = np.array([end[0], min(float(end[1]), floor + 0.03 * size), end[2]], np.float32)
    upper = trunk_profile(person, first, 1.0, garment.ease)
    inside = float(np.linalg.norm(hip - start)) / max(float(np.linalg.norm(end - start)), 1e-3)
    rows = [(float(p) * inside, float(a), float(b)) for p, a, b in upper[::4]]
    wide, deep = rows[-1][1], rows[-1][2]
    thick = leg_radii(person)[0] + garment.ease * size
    for at in (0.5, 1.0):
        pair = [_leg_at(figure, name, share * at) for name, _ in SIDES]
        body = np.abs(figure.pelvis.T @ ((pair[0] - pair[1]) / 2))
        leg = thick * (1 - 0.35 * at * length)
        a = max(wide * (1 - 0.10 * at * length) + garment.flare * at * size, float(body[0]) + leg)
        b = max(deep * (1 - 0.06 * at * length) + garment.flare * at * size, float(body[2]) + leg)
        needed = abs(float(pair[0][0] - pair[1][0])) / 2 + leg
        grow = max(1.0, needed / float(np.hypot(a * np.cos(figure.turn), b * np.sin(figure.turn))))
        rows.append((inside + (1 - inside) * at, a * grow, b * grow))
    return start, end, np.array(rows, np.float32)


def _leg_at(figure: Figure, name: str, share: float) -> Floats:
    """Return the point a share of the way from hip to ankle along a leg."""
    hip, knee, ankle = (figure.points[f"{name}-{j}"] for j in ("hip", "knee", "ankle"))
    if share < 0.51:
        return hip + (knee - hip) * np.float32(share / 0.51)
    return knee + (ankle - knee) * np.float32((share - 0.51) / 0.49)
