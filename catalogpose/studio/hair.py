"""Hair: a cap with an open face and, by style, what hangs, is bound or is cut short."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np

from catalogpose.records import LABEL_ID
from catalogpose.studio.body import Figure, Person
from catalogpose.studio.face import CHIN, CROWN, head_profile, scaled
from catalogpose.studio.figure import HEAD, UNDER, limb_profile
from catalogpose.studio.paint import ALONG, STEPS, Floats, Texture, Tube
from catalogpose.studio.palette import HAIRS

STYLES = ("short", "cropped", "bob", "long", "very long", "ponytail", "bun")
"""Every style; captions use the words."""
HAIR = LABEL_ID["hair"]
TURNS = np.abs(np.linspace(-np.pi, np.pi, STEPS + 1, dtype=np.float32))
"""Angle from the front of each entry of a table around the head."""


@lru_cache(maxsize=96)
def hair_texture(hair: str, seed: int, density: int) -> Texture:
    """Return strands: brightness that changes around the head and hardly downwards."""
    rows, cols = 24, int(np.clip(density // 3, 24, 128))
    angle = ((np.arange(cols) + 0.5) / cols * 2 * np.pi)[None]
    down = ((np.arange(rows) + 0.5) / rows)[:, None]
    rng = np.random.Generator(np.random.PCG64([seed, 9]))
    light = np.ones((rows, cols))
    for count in (5, 9, 14, 22):
        if count * 3 < cols:
            phase, slant = rng.uniform(0, 6.28), rng.uniform(-2, 2)
            light += 0.055 * np.sin(angle * count + slant * down + phase)
    light += 0.16 * np.exp(-(((down - 0.26) / 0.09) ** 2)) - 0.10 * down
    colours = np.array(HAIRS[hair])[None, None] * light[..., None]
    return Texture(colours.astype(np.float32).reshape(-1, 3), rows, cols)


def _hairline(person: Person, narrow: float) -> Floats:
    """Return the half angle of the open face along the cap."""
    down = ALONG
    start = 0.36 if person.fringe else 0.20
    knots = [0, start - 0.02, start + 0.03, start + 0.14, 0.62, 0.9, 2.0]
    angles = [-1, -1, 0.75, 1.02, 1.12, narrow, narrow]
    return np.asarray(np.interp(down, knots, angles), np.float32)


def _nape(person: Person) -> Floats:
    """Return where short hair ends around the head, as a share of the cap."""
    cropped = person.hair_style == "cropped"
    side, back = (0.42, 0.78) if cropped else (0.55, 0.88)
    angles = [0, 1.15, 1.35, 1.9, 2.3, 3.2]
    ends = np.array([1, 0.68, side, side + 0.06, back, back])
    return np.asarray(np.interp(TURNS, angles, ends), np.float32)


def paint_hair(person: Person, figure: Figure, density: int, *, under_hat: bool) -> Iterator[Tube]:
    """Yield the hair of a person; under a hat it lies flat."""
    size, style = person.stature, person.hair_style
    texture = hair_texture(person.hair, person.seed, density)
    ease = 0.004 if under_hat or style == "cropped" else (0.0075 if style != "bob" else 0.010)
    hangs = style in ("bob", "long", "very long")
    crown = (CROWN[0], CROWN[1] + (0.002 if under_hat else 0.008), CROWN[2] - 0.003)
    cap = Tube(start=figure.on_head(*scaled(crown, size)),
               end=figure.on_head(*scaled(CHIN, size)), profile=_cap_profile(person, ease, hangs),
               texture=texture, label=HAIR, turn=figure.head_turn, order=HEAD + 0.05,
               round_start=False, round_end=False,
               opening=_hairline(person, 0.95 if hangs else 1.3),
               lower=None if hangs else _nape(person), shadow=0.22, gloss=0.10,
               part="hair cap")  # fmt: skip
    yield cap
    # The far side of the cap, which stands out a little behind forehead and temples.
    end = np.full(STEPS + 1, 0.95 if hangs else 0.52, np.float32)
    yield replace(cap, order=HEAD - 0.03, opening=None, lower=end, shadow=0.0, part="hair far side")
    if hangs:
        yield from _paint_fall(person, figure, texture)
    elif style == "ponytail":
        yield from _paint_tail(person, figure, texture)
    elif style == "bun":
        yield Tube(start=figure.on_head(0, 0.052 * size, -0.058 * size),
                   end=figure.on_head(0, 0.060 * size, -0.062 * size), texture=texture,
                   label=HAIR, profile=limb_profile(0.026 * size, 0.024 * size),
                   turn=figure.head_turn,
                   order=HEAD + 0.06 - 0.2 * float(np.cos(figure.head_turn) > 0.3),
                   shadow=0.2, part="hair bun")  # fmt: skip


def _cap_profile(person: Person, ease: float, hangs: bool) -> Floats:
    """Return the cap's profile: the head's and, where hair hangs, as wide below as at the ears."""
    profile = head_profile(person, ease).copy()
    if hangs:
        below = profile[:, 0] > 0.42
        profile[below, 1:] = np.maximum(profile[below, 1:], profile[~below, 1:].max(axis=0) * 0.97)
    return profile


def _paint_fall(person: Person, figure: Figure, texture: Texture) -> Iterator[Tube]:
    """Yield the hair that falls down the back and, by person, in front of the shoulders."""
    size, style = person.stature, person.hair_style
    away = float(figure.head[2, 2]) > -0.15
    length = {"bob": 0.088, "long": 0.20, "very long": 0.30}[style]
    top = figure.on_head(0, 0.03 * size, -0.016 * size)
    # Long hair hangs from the head but rests on the back.
    back = figure.torso @ np.array([0, 0, -0.050 if style != "bob" else -0.016], np.float32)
    bottom = figure.on_head(0, 0, 0) + (back + np.array([0, -length, 0], np.float32)) * np.float32(
        size
    )
    wide = np.array(
        [(0, 0.042, 0.038), (0.3, 0.054, 0.040), (0.7, 0.056, 0.030), (1, 0.046, 0.022)], np.float32
    )
    wide[:, 1:] *= size
    yield Tube(start=top, end=bottom, profile=wide, texture=texture, label=HAIR,
               turn=figure.head_turn, order=(UNDER + 0.5 if away else HEAD + 0.3),
               round_end=False, shadow=0.25, rows=(0.3, 1.0), part="hair fall")  # fmt: skip
    if style == "bob" or person.seed % 2:
        return
    for side in (-1, 1):
        start = figure.on_head(side * 0.043 * size, 0.0, 0.012 * size)
        end = figure.on_torso(0.22 if style == "long" else 0.42, side * 0.056 * size, 0.064 * size)
        seen = figure.torso @ np.array([side * 0.5, 0, 1], np.float32)
        yield Tube(start=start, end=end, texture=texture, label=HAIR, turn=figure.head_turn,
                   profile=limb_profile(0.015 * size, 0.013 * size, 0.007 * size, 0.6),
                   order=HEAD - 0.05 if seen[2] > -0.2 else UNDER, rows=(0.4, 1.0),
                   part="left hair strand" if side > 0 else "right hair strand")  # fmt: skip


def _paint_tail(person: Person, figure: Figure, texture: Texture) -> Iterator[Tube]:
    """Yield a ponytail in two pieces."""
    size = person.stature
    root = figure.on_head(0, 0.034 * size, -0.060 * size)
    out = figure.on_head(0, 0.010 * size, -0.086 * size)
    tip = (
        out
        + (np.array([0, -0.13, 0], np.float32) + figure.torso @ np.array([0, 0, 0.012], np.float32))
        * size
    )
    away = float(figure.head[2, 2]) > 0
    order = UNDER + 0.5 if away else HEAD + 0.3
    pieces = (
        ("hair tail root", root, out, 0.014, 0.018),
        ("hair tail", out, tip, 0.018, 0.009),
    )
    for part, start, end, first, last in pieces:
        yield Tube(start=start, end=end.astype(np.float32), texture=texture, label=HAIR,
                   order=order,
                   profile=limb_profile(first * size, last * size, 0.004 * size, 0.4),
                   turn=figure.head_turn, rows=(0.3, 1.0), part=part)  # fmt: skip
