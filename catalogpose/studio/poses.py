"""How people stand: kinds of arms and legs with their ranges, and no hand inside the body."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from catalogpose.studio.body import (
    SIDES,
    TORSO,
    Angles,
    ArmAngles,
    LegAngles,
    Person,
    pose_arm,
    shoulder_width,
)

Range = tuple[float, float]

ARMS: Mapping[str, tuple[float, Range, Range, Range, tuple[float, float, float]]] = {
    "hanging": (0.34, (5, 16), (-20, 30), (4, 30), (0.2, 0.0, 1.0)),
    "on the hip": (0.13, (34, 50), (-35, -5), (84, 104), (1.0, 0.0, 0.25)),
    "in the pocket": (0.10, (16, 27), (-40, -5), (34, 52), (0.55, 0.0, 0.6)),
    "forwards": (0.08, (18, 45), (55, 95), (40, 105), (0.3, 0.8, 0.6)),
    "across": (0.08, (12, 26), (35, 75), (82, 100), (1.0, 0.15, 0.55)),
    "to the head": (0.06, (95, 140), (10, 50), (95, 130), (1.0, 0.7, 0.0)),
    "sideways": (0.08, (35, 88), (-15, 30), (0, 60), (0.0, 1.0, 0.6)),
    "behind": (0.04, (20, 32), (-85, -55), (20, 50), (0.8, 0.0, 0.1)),
    "walking": (0.06, (12, 30), (60, 100), (15, 45), (0.1, 0.2, 1.0)),
    "raised": (0.03, (120, 160), (0, 40), (0, 50), (0.6, 0.6, 0.2)),
}
"""Share of the pictures; degrees of lift, swing and bend; where the forearm bends to."""

LEGS: Mapping[str, tuple[float, tuple[Range, Range, Range], tuple[Range, Range, Range]]] = {
    "straight": (0.36, ((-3, 4), (1, 6), (0, 6)), ((-3, 4), (1, 6), (0, 6))),
    "one knee": (0.26, ((-3, 2), (0, 4), (0, 4)), ((8, 20), (2, 10), (16, 36))),
    "wide": (0.10, ((-2, 4), (8, 14), (0, 5)), ((-2, 6), (8, 14), (0, 10))),
    "walking": (0.20, ((12, 27), (0, 3), (2, 14)), ((-18, -6), (0, 3), (6, 32))),
    "crossed": (0.05, ((-2, 2), (0, 2), (0, 3)), ((5, 11), (-7, -4), (4, 12))),
    "knee up": (0.03, ((-2, 2), (1, 4), (0, 3)), ((38, 62), (2, 10), (60, 95))),
}
"""Share of the pictures; degrees of flex, spread and knee of the one leg and of the other."""


def _within(rng: np.random.Generator, low_high: Range) -> float:
    """Return a uniform draw in radians from a range in degrees."""
    return float(np.deg2rad(rng.uniform(*low_high)))


def _choose(rng: np.random.Generator, shares: Mapping[str, float]) -> str:
    weights = np.array(list(shares.values()))
    return list(shares)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def _draw_arm(rng: np.random.Generator, kind: str) -> ArmAngles:
    _, lift, swing, bend, towards = ARMS[kind]
    jitter = rng.uniform(-0.12, 0.12, 3)
    return ArmAngles(
        lift=_within(rng, lift),
        swing=_within(rng, swing),
        bend=_within(rng, bend),
        towards=(towards[0] + jitter[0], towards[1] + jitter[1], towards[2] + jitter[2]),
    )


def is_clear(person: Person, side: float, arm: ArmAngles) -> bool:
    """Tell whether forearm and hand stay outside trunk and head; `side` is +1 for the left arm."""
    upper, fore = pose_arm(side, arm)
    start = np.array([side * shoulder_width(person), TORSO - 0.056, 0])
    elbow = start + upper * 0.162
    for reach in (0.07, 0.142, 0.215):
        x, y, z = elbow + fore * reach
        if -0.20 < y < TORSO - 0.01:
            # The trunk is narrower at the waist, where hands rest.
            wide = (0.086 if 0.06 < y < 0.18 else 0.100) * person.build
            if (x / (wide + 0.012)) ** 2 + (z / 0.088) ** 2 < 1:
                return False
        head = (x / 0.062) ** 2 + ((y - TORSO - 0.1) / 0.085) ** 2 + (z / 0.075) ** 2
        if head < 1:
            return False
    return True


def _draw_clear_arm(rng: np.random.Generator, person: Person, side: float, kind: str) -> ArmAngles:
    """Return an arm of a kind that keeps clear of the body, hanging where twelve draws do not."""
    for _ in range(12):
        arm = _draw_arm(rng, kind)
        if is_clear(person, side, arm):
            return arm
    return ArmAngles(lift=0.3, swing=0.1, bend=0.2, towards=(0.0, 0.0, 1.0))


def _draw_legs(rng: np.random.Generator) -> dict[str, LegAngles]:
    kind = _choose(rng, {name: row[0] for name, row in LEGS.items()})
    _, first, second = LEGS[kind]
    order = ("left", "right") if rng.random() < 0.5 else ("right", "left")
    return {
        name: LegAngles(
            flex=_within(rng, flex),
            spread=_within(rng, spread),
            knee=_within(rng, knee),
            toes=_within(rng, (3, 22)),
        )
        for name, (flex, spread, knee) in zip(order, (first, second), strict=True)
    }


def draw_angles(rng: np.random.Generator, person: Person) -> Angles:
    """Return a random pose within the limits of a real body."""
    shares = {name: row[0] for name, row in ARMS.items()}
    first = _choose(rng, shares)
    second = first if rng.random() < 0.3 and first != "raised" else _choose(rng, shares)
    kinds = {"left": first, "right": second}
    arms = {name: _draw_clear_arm(rng, person, side, kinds[name]) for name, side in SIDES}
    return Angles(
        lean=_within(rng, (-4, 7)),
        sway=_within(rng, (-5, 5)),
        tilt=_within(rng, (-4, 4)),
        head=(_within(rng, (-32, 32)), _within(rng, (-8, 12)), _within(rng, (-8, 8))),
        arms=arms,
        legs=_draw_legs(rng),
    )


def draw_yaw(rng: np.random.Generator) -> float:
    """Return the body's turn in degrees, -180..180: half near the front, half all around."""
    yaw = rng.normal(0, 32) if rng.random() < 0.5 else rng.uniform(-180, 180)
    return float((yaw + 180) % 360 - 180)
