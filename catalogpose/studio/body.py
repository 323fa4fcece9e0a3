"""The people of the studio: proportions, joint angles and where the joints come to lie in space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalogpose.records import JOINTS
from catalogpose.studio.paint import Floats

SIDES = (("left", 1.0), ("right", -1.0))
"""A side's name and the sign of its x in the body's own frame, where the person's left is +x."""
CAMERA_PITCH = 0.07
"""The camera looks down by this angle, radians: hems and necklines curve as in a photo."""
TORSO = 0.315
"""From the base of the neck to between the hips, in body heights."""
FACE = {"nose": (0.0, 0.1), "left-eye": (0.42, 0.15), "right-eye": (-0.42, 0.15),
        "left-ear": (1.571, -0.33), "right-ear": (-1.571, -0.33)}  # fmt: skip
"""Angle around the head of each point of the face; the least cosine to the viewer that shows it."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """Who wears the clothes; nobody who exists."""

    id: str
    """Unique text id; no two splits share one."""
    woman: bool
    """Proportions and wardrobe; captions say woman or man."""
    stature: float
    """Height relative to the average, about 0.94..1.04."""
    build: float
    """Widths relative to the average, about 0.9..1.12."""
    skin: str
    """Name in `palette.SKINS`."""
    hair: str
    """Name in `palette.HAIRS`."""
    hair_style: str
    """Name in `hair.STYLES`."""
    fringe: bool
    """Whether hair hangs over the forehead."""
    beard: bool
    """Whether the lower face is bearded."""
    seed: int
    """Decides small things: lips, strands."""


@dataclass(frozen=True, kw_only=True)
class ArmAngles:
    """One arm, in radians."""

    lift: float
    """Of the upper arm from hanging, 0..2.6."""
    swing: float
    """Direction of the lift: 0 outwards, pi/2 forwards, negative backwards."""
    bend: float
    """Of the elbow, 0 straight to 2.4."""
    towards: tuple[float, float, float]
    """Where the forearm bends to: inwards, upwards, forwards."""


@dataclass(frozen=True, kw_only=True)
class LegAngles:
    """One leg, in radians."""

    flex: float
    """Of the thigh forwards from hanging, -0.4..1.1."""
    spread: float
    """Of the thigh outwards, -0.12..0.3."""
    knee: float
    """Bend of the knee, 0..1.7."""
    toes: float
    """Turn of the foot outwards, 0..0.5."""


@dataclass(frozen=True, kw_only=True)
class Angles:
    """A whole pose, in radians."""

    lean: float
    """Of the trunk forwards."""
    sway: float
    """Of the trunk to the person's right."""
    tilt: float
    """Of the pelvis: the left hip is higher."""
    head: tuple[float, float, float]
    """Turn to the left, nod, tilt to the right."""
    arms: Mapping[str, ArmAngles]
    """By side."""
    legs: Mapping[str, LegAngles]
    """By side."""


@dataclass(frozen=True, eq=False)
class Figure:
    """A posed body in camera space: x right, y up, z towards the viewer, in body heights."""

    points: Mapping[str, Floats]
    """Named joints and landmarks, (3,) each."""
    turn: float
    """Yaw of the trunk, radians; positive turns the front to the picture's right."""
    head_turn: float
    """Yaw of the head."""
    pelvis: Floats
    """(3, 3) from the pelvis's frame to the camera's."""
    torso: Floats
    """(3, 3) from the trunk's frame to the camera's."""
    head: Floats
    """(3, 3) from the head's frame to the camera's."""

    def on_torso(self, t: float, x: float = 0.0, z: float = 0.0) -> Floats:
        """Return the point a share `t` down the trunk, `x` to the left and `z` forwards."""
        top, hip = self.points["neck-base"], self.points["hip"]
        return top + (hip - top) * np.float32(t) + self.torso @ np.array([x, 0, z], np.float32)

    def on_head(self, x: float, y: float, z: float) -> Floats:
        """Return the point at left, up and forwards from the middle of the head."""
        return self.points["head"] + self.head @ np.array([x, y, z], np.float32)


def turn_x(angle: float) -> Floats:
    """Return the rotation about x that tips up towards the front."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]], np.float32)


def turn_y(angle: float) -> Floats:
    """Return the rotation about the vertical that turns the front to +x."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], np.float32)


def turn_z(angle: float) -> Floats:
    """Return the rotation about z that tips up towards -x."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)


def _unit(vector: NDArray[np.floating]) -> Floats:
    return (vector / max(float(np.linalg.norm(vector)), 1e-6)).astype(np.float32)


def shoulder_width(person: Person) -> float:
    """Return half the distance between the shoulder joints, in body heights."""
    return (0.085 if person.woman else 0.098) * (0.6 + 0.4 * person.build)


def pose_arm(side: float, arm: ArmAngles) -> tuple[Floats, Floats]:
    """Return the unit directions of the upper arm and the forearm in the trunk's frame."""
    out, forward = np.cos(arm.swing), np.sin(arm.swing)
    lift = np.sin(arm.lift)
    upper = np.array([side * lift * out, -np.cos(arm.lift), lift * forward])
    inward, up, ahead = arm.towards
    aim = np.array([-side * inward, up, ahead])
    aim = _unit(aim - (aim @ upper) * upper)
    return _unit(upper), _unit(np.cos(arm.bend) * upper + np.sin(arm.bend) * aim)


def _arm_points(person: Person, angles: Angles, torso: Floats, base: Floats) -> dict[str, Floats]:
    """Return shoulders, elbows, wrists and hands."""
    points: dict[str, Floats] = {}
    for name, side in SIDES:
        upper, fore = pose_arm(side, angles.arms[name])
        # A lifted arm takes its shoulder along, upwards and inwards.
        rise = max(float(-np.cos(angles.arms[name].lift)) + 0.4, 0) * 0.030
        joint = np.array([side * (shoulder_width(person) - rise * 0.5), rise - 0.056, 0])
        shoulder = base + torso @ joint.astype(np.float32)
        elbow = shoulder + torso @ upper * np.float32(0.162)
        wrist = elbow + torso @ fore * np.float32(0.142)
        points |= {f"{name}-shoulder": shoulder, f"{name}-elbow": elbow, f"{name}-wrist": wrist}
        points[f"{name}-hand"] = wrist + torso @ fore * np.float32(0.088)
        points[f"{name}-palm"] = wrist + torso @ fore * np.float32(0.045)
        inward = np.array([-side * 0.35, 0, 0.75], np.float32)
        points[f"{name}-thumb"] = wrist + torso @ _unit(fore * 1.1 + inward) * np.float32(0.052)
    return points


def _leg_points(person: Person, angles: Angles, pelvis: Floats) -> dict[str, Floats]:
    """Return hips, knees, ankles, heels and toes."""
    points: dict[str, Floats] = {}
    floor = min(_ankle_height(angles.legs[name], side) for name, side in SIDES)
    for name, side in SIDES:
        leg = angles.legs[name]
        hip = pelvis @ np.array([side * 0.05 * (0.5 + 0.5 * person.build), 0, 0], np.float32)
        thigh, shin = _leg_directions(leg, side)
        knee = hip + thigh * np.float32(0.242)
        ankle = knee + shin * np.float32(0.232)
        drop = float(np.clip((_ankle_height(leg, side) - floor) * 9, 0, 1)) * 0.8
        ahead = np.array([0, -np.sin(drop), np.cos(drop)], np.float32)
        foot = turn_y(side * leg.toes) @ ahead
        down = np.array([0, -0.030, 0], np.float32)
        points |= {f"{name}-hip": hip, f"{name}-knee": knee, f"{name}-ankle": ankle}
        points[f"{name}-heel"] = ankle + down - foot * np.float32(0.022)
        points[f"{name}-toe"] = ankle + down + foot * np.float32(0.096)
    return points


def _leg_directions(leg: LegAngles, side: float) -> tuple[Floats, Floats]:
    """Return the unit directions of thigh and shin in the body's frame."""
    flex, shin = leg.flex, leg.flex - leg.knee
    out = side * np.sin(leg.spread)
    thigh = np.array([out, -np.cos(flex) * np.cos(leg.spread), np.sin(flex)])
    lower = np.array([out * 0.9, -np.cos(shin) * np.cos(leg.spread), np.sin(shin)])
    return _unit(thigh), _unit(lower)


def _ankle_height(leg: LegAngles, side: float) -> float:
    thigh, shin = _leg_directions(leg, side)
    return float(thigh[1] * 0.242 + shin[1] * 0.232)


def stand(person: Person, angles: Angles, yaw: float) -> Figure:
    """Return the person in this pose, turned by `yaw` radians, as the camera sees it."""
    camera = turn_x(CAMERA_PITCH) @ turn_y(yaw)
    pelvis = turn_z(angles.tilt)
    torso = turn_z(angles.sway) @ turn_x(angles.lean)
    turn, nod, tilt = angles.head
    head = torso @ turn_y(turn) @ turn_x(nod) @ turn_z(tilt)
    base = torso @ np.array([0, TORSO, 0], np.float32)
    points: dict[str, Floats] = {"hip": np.zeros(3, np.float32), "neck-base": base}
    points |= _arm_points(person, angles, torso, base)
    points |= _leg_points(person, angles, pelvis)
    points["throat"] = base + torso @ np.array([0, 0.012, -0.006], np.float32)
    points["head"] = points["throat"] + head @ np.array([0, 0.082, 0.011], np.float32)
    floor = min(float(points[f"{n}-ankle"][1]) for n, _ in SIDES) - 0.045
    lift = np.array([0, -floor, 0], np.float32)
    size = np.float32(person.stature)
    seen = {name: camera @ ((point + lift) * size) for name, point in points.items()}
    return Figure(
        points=seen, turn=yaw, head_turn=yaw + turn,
        pelvis=camera @ pelvis, torso=camera @ torso, head=camera @ head,
    )  # fmt: skip


def face_points(figure: Figure) -> dict[str, Floats]:
    """Return the seen ones of nose, eyes and ears in camera space."""
    found: dict[str, Floats] = {}
    for name, (angle, least) in FACE.items():
        facing = figure.head @ np.array([np.sin(angle), 0, np.cos(angle)], np.float32)
        if facing[2] >= least:
            found[name] = figure.on_head(*FACE_PLACES[name])
    return found


FACE_PLACES: Mapping[str, tuple[float, float, float]] = {
    "nose": (0.0, -0.020, 0.0585),
    "left-eye": (0.0183, 0.001, 0.0485),
    "right-eye": (-0.0183, 0.001, 0.0485),
    "left-ear": (0.0450, -0.006, -0.004),
    "right-ear": (-0.0450, -0.006, -0.004),
}
"""Left, up and forwards from the middle of the head, in body heights."""


def coco_joints(figure: Figure) -> Floats:
    """Return (18, 3) points in the order of `records.JOINTS`; NaN for a face turned away."""
    joints = np.full((len(JOINTS), 3), np.nan, np.float32)
    seen = face_points(figure)
    for index, name in enumerate(JOINTS):
        if name == "neck":
            sides = figure.points["left-shoulder"] + figure.points["right-shoulder"]
            joints[index] = sides / 2
        elif name in seen:
            joints[index] = seen[name]
        elif name in figure.points:
            joints[index] = figure.points[name]
    return joints
