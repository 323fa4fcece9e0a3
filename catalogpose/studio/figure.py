"""The person under the clothes: trunk, limbs, hands and the order in which parts are painted."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from catalogpose.records import LABEL_ID
from catalogpose.studio.body import SIDES, Figure, Person
from catalogpose.studio.paint import ALONG, Floats, Texture, Tube, plain_texture
from catalogpose.studio.palette import SKINS

WOMAN = ((-0.06, 0.027, 0.028), (0.00, 0.031, 0.032), (0.04, 0.044, 0.038), (0.08, 0.068, 0.043),
         (0.11, 0.083, 0.046), (0.15, 0.090, 0.052), (0.22, 0.089, 0.060), (0.30, 0.085, 0.067),
         (0.38, 0.083, 0.070), (0.47, 0.077, 0.062), (0.60, 0.069, 0.053), (0.70, 0.074, 0.056),
         (0.84, 0.086, 0.064), (0.97, 0.094, 0.070),
         (1.10, 0.094, 0.064), (1.25, 0.088, 0.050))  # fmt: skip
MAN = ((-0.06, 0.033, 0.034), (0.00, 0.038, 0.037), (0.04, 0.055, 0.043), (0.08, 0.081, 0.049),
       (0.11, 0.096, 0.052), (0.15, 0.103, 0.058), (0.22, 0.103, 0.065), (0.30, 0.099, 0.068),
       (0.40, 0.094, 0.066), (0.50, 0.087, 0.062), (0.62, 0.080, 0.058), (0.74, 0.080, 0.058),
       (0.86, 0.085, 0.062), (0.97, 0.088, 0.066),
       (1.10, 0.087, 0.062), (1.25, 0.083, 0.049))  # fmt: skip
"""Share of the way from the neck to the hips, half width, half depth, in body heights."""

GROWN = np.interp(ALONG, [0, 0.02, 0.2, 1], [0, 0, 1, 1]).astype(np.float32)
"""Opacity of a piece that grows out of the one before it."""
SHOULDER = np.interp(ALONG, [0, 0.08, 0.5, 1], [0, 0, 1, 1]).astype(np.float32)
"""Opacity of an arm that grows out of the trunk."""

ELBOW = 0.533
"""Where the elbow is, as a share of the arm from shoulder to wrist."""
UNDER, LEGS, NECK, TRUNK, BEHIND_HEAD, HEAD, OVER = 0.0, 1.0, 1.9, 2.0, 2.8, 3.0, 4.0
"""Painting order: far arms, legs, neck, trunk, what is behind the head, head, near arms."""


def trunk_profile(person: Person, first: float, last: float, ease: float = 0.0) -> Floats:
    """Return a tube profile of the trunk between two shares, `ease` wider than the body."""
    table = np.array(WOMAN if person.woman else MAN)
    shares = np.linspace(first, last, 28)
    # The build widens waist and hips, less the neck.
    build = 1 + (person.build - 1) * np.clip(shares / 0.3, 0.2, 1)
    wide = np.interp(shares, table[:, 0], table[:, 1]) * build + ease
    deep = np.interp(shares, table[:, 0], table[:, 2]) * build + ease
    size = person.stature
    return np.stack([np.linspace(0, 1, 28), wide * size, deep * size], 1).astype(np.float32)


def limb_profile(first: float, last: float, bulge: float = 0.0, at: float = 0.35) -> Floats:
    """Return a round tube's profile from one radius to another, thicker by `bulge` around `at`."""
    shares = np.linspace(0, 1, 9 if bulge else 2)
    radius = first + (last - first) * shares
    if bulge:
        radius = radius + bulge * np.exp(-(((shares - at) / 0.28) ** 2))
    return np.stack([shares, radius, radius], 1).astype(np.float32)


@lru_cache(maxsize=64)
def skin_texture(skin: str) -> Texture:
    """Return the plain texture of a skin."""
    return plain_texture(SKINS[skin])


def arm_radii(person: Person) -> tuple[float, float, float]:
    """Return the radius at shoulder, elbow and wrist, in body heights."""
    base = (0.0265, 0.0205, 0.0140) if person.woman else (0.0320, 0.0250, 0.0170)
    shoulder, elbow, wrist = (r * (0.3 + 0.7 * person.build) * person.stature for r in base)
    return shoulder, elbow, wrist


def leg_radii(person: Person) -> tuple[float, float, float]:
    """Return the radius at hip, knee and ankle, in body heights."""
    base = (0.0480, 0.0300, 0.0175) if person.woman else (0.0470, 0.0315, 0.0195)
    hip, knee, ankle = (r * (0.2 + 0.8 * person.build) * person.stature for r in base)
    return hip, knee, ankle


def segment_order(figure: Figure, start: str, end: str) -> float:
    """Return when an arm's segment is painted: before the trunk, around the head or after all."""
    middle = (figure.points[start] + figure.points[end]) / 2
    height, depth = float(middle[1]), float(middle[2])
    base, hip, head = (figure.points[n] for n in ("neck-base", "hip", "head"))
    if height > base[1]:
        return (OVER if depth > float(head[2]) - 0.02 else BEHIND_HEAD) + depth * 0.3
    share = float(np.clip((base[1] - height) / max(float(base[1] - hip[1]), 1e-3), 0, 1))
    trunk = float(base[2] + (hip[2] - base[2]) * share)
    return (OVER if depth > trunk - 0.035 else UNDER) + depth * 0.3


def leg_orders(figure: Figure) -> dict[str, float]:
    """Return when each leg begins to be painted: the farther one first."""
    depth = {
        name: sum(float(figure.points[f"{name}-{j}"][2]) for j in ("hip", "knee", "ankle"))
        for name, _ in SIDES
    }
    first = min(depth, key=lambda name: depth[name])
    return {name: LEGS + (0.0 if name == first else 0.3) for name in depth}


def foot_facing(ankle: Floats, heel: Floats, toe: Floats) -> float:
    """Return `Tube.facing` of a foot from heel to toe: the instep is its front."""
    axis = (toe - heel) / np.linalg.norm(toe - heel)
    flat = max(float(np.hypot(axis[0], axis[1])), 1e-6)
    across = np.array([-axis[1], axis[0], 0], np.float32) / np.float32(flat)
    near = np.cross(axis, across)
    up = ankle - (heel + toe) / 2
    return float(np.arctan2(up @ across, up @ near))


def paint_trunk(person: Person, figure: Figure) -> Iterator[Tube]:
    """Yield neck and trunk."""
    skin, label = skin_texture(person.skin), LABEL_ID["torso-skin"]
    size = person.stature
    neck = (0.0275 if person.woman else 0.0335) * size
    yield Tube(start=figure.on_torso(0.06), end=figure.on_head(0, -0.03, -0.012), texture=skin,
               profile=limb_profile(neck * 1.05, neck * 0.97), label=label,
               order=NECK, part="neck", facing=figure.turn)  # fmt: skip
    grown = np.interp(ALONG, [0, 0.02, 0.12, 1], [0, 0, 1, 1]).astype(np.float32)
    yield Tube(start=figure.on_torso(-0.03), end=figure.on_torso(1.1), texture=skin, label=label,
               profile=trunk_profile(person, -0.03, 1.1), turn=figure.turn, order=TRUNK,
               fade=grown, melt=label, round_start=False, round_end=False,
               shadow=0.15, part="trunk")  # fmt: skip


def paint_arms(
    person: Person, figure: Figure, glove: Texture | None, bare_from: float
) -> Iterator[Tube]:
    """Yield arms and hands; `glove` covers the hands, sleeves the arm's first share `bare_from`."""
    shoulder, elbow, wrist = arm_radii(person)
    skin, points = skin_texture(person.skin), figure.points
    for name, _ in SIDES:
        joints = [points[f"{name}-{j}"] for j in ("shoulder", "elbow", "wrist", "hand")]
        label = LABEL_ID[f"{name}-arm"]
        upper = segment_order(figure, f"{name}-shoulder", f"{name}-elbow")
        fore = segment_order(figure, f"{name}-elbow", f"{name}-hand")
        share = bare_from / ELBOW
        if share < 1:
            first = shoulder * 0.94 if not share else shoulder + (elbow - shoulder) * share
            yield Tube(start=joints[0] + (joints[1] - joints[0]) * np.float32(share),
                       end=joints[1], texture=skin, label=label, order=upper, turn=figure.turn,
                       shadow=0.12, part=f"{name} upper arm",
                       profile=limb_profile(first, elbow, 0 if share else shoulder * 0.10),
                       fade=GROWN, melt=LABEL_ID["torso-skin"])  # fmt: skip
        share = max(bare_from - ELBOW, 0) / (1 - ELBOW)
        first = elbow + (wrist - elbow) * share
        yield Tube(start=joints[1] + (joints[2] - joints[1]) * np.float32(share), end=joints[2],
                   texture=skin, label=label, order=fore + 0.001, turn=figure.turn, shadow=0.22,
                   part=f"{name} forearm",
                   profile=limb_profile(first, wrist, elbow * 0.1 * (1 - share), 0.25),
                   fade=GROWN, melt=label)  # fmt: skip
        hand_label = LABEL_ID["gloves"] if glove is not None else label
        yield from _paint_hand(figure, name, wrist, glove or skin, hand_label, fore + 0.002)


def _paint_hand(
    figure: Figure, name: str, wrist: float, texture: Texture, label: int, order: float
) -> Iterator[Tube]:
    """Yield palm, fingers and thumb."""
    points = figure.points
    start, palm = points[f"{name}-wrist"], points[f"{name}-palm"]
    if label == LABEL_ID["gloves"]:
        cuff = start + (start - palm) * np.float32(0.7)
        yield Tube(start=cuff, end=palm, texture=texture, label=label, order=order,
                   profile=limb_profile(wrist * 1.25, wrist * 1.15), part=f"{name} cuff",
                   facing=figure.turn,
                   round_start=False)  # fmt: skip
    yield Tube(start=start, end=palm, texture=texture, label=label, order=order,
               profile=limb_profile(wrist * 0.9, wrist * 1.08), shadow=0.2, fade=GROWN,
               melt=label, part=f"{name} palm", facing=figure.turn)  # fmt: skip
    yield Tube(start=start, end=points[f"{name}-thumb"], texture=texture, label=label,
               order=order + 0.0001, profile=limb_profile(wrist * 0.6, wrist * 0.38),
               shadow=0.1, part=f"{name} thumb", facing=figure.turn)  # fmt: skip
    yield Tube(start=palm, end=points[f"{name}-hand"], texture=texture, label=label,
               order=order + 0.0002, profile=limb_profile(wrist * 1.0, wrist * 0.55), shadow=0.1,
               fade=GROWN, melt=label, part=f"{name} fingers", facing=figure.turn)  # fmt: skip


def paint_legs(person: Person, figure: Figure, bare_from: float) -> Iterator[Tube]:
    """Yield legs and bare feet; trousers cover the leg down to the share `bare_from`."""
    hip, knee, ankle = leg_radii(person)
    skin, points, orders = skin_texture(person.skin), figure.points, leg_orders(figure)
    for name, _ in SIDES:
        label, order = LABEL_ID[f"{name}-leg"], orders[name]
        joints = [points[f"{name}-{j}"] for j in ("hip", "knee", "ankle", "heel", "toe")]
        if bare_from < 0.5:
            yield Tube(start=joints[0], end=joints[1], texture=skin, label=label, order=order,
                       profile=limb_profile(hip, knee), turn=figure.turn,
                       part=f"{name} thigh")  # fmt: skip
        if bare_from < 1.0:
            yield Tube(start=joints[1], end=joints[2], texture=skin, label=label,
                       order=order + 0.001, turn=figure.turn, shadow=0.0, fade=GROWN, melt=label,
                       profile=limb_profile(knee * 0.97, ankle, knee * 0.16, 0.3),
                       part=f"{name} shin")  # fmt: skip
        yield Tube(start=joints[3], end=joints[4], texture=skin, label=label, order=order + 0.002,
                   profile=limb_profile(ankle * 0.95, ankle * 0.7), shadow=0.1,
                   part=f"{name} foot", facing=foot_facing(*joints[2:]))  # fmt: skip
