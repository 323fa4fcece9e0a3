"""Heads: a face painted on an unrolled head, so that it turns along and is gone at the back."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from catalogpose.records import LABEL_ID
from catalogpose.studio.body import FACE, FACE_PLACES, Figure, Person
from catalogpose.studio.figure import HEAD, limb_profile, skin_texture
from catalogpose.studio.paint import Floats, Texture, Tube
from catalogpose.studio.palette import HAIRS, SKINS, Colour

HALF_WIDTH, HALF_DEPTH = 0.0465, 0.0545
CROWN, CHIN = (0.0, 0.071, -0.010), (0.0, -0.070, 0.010)
"""Ends of the head's axis from its middle: left, up, forwards, in body heights."""
SHAPE = np.array([
    (0, 0.0), (0.015, 0.28), (0.04, 0.46), (0.08, 0.63), (0.13, 0.77), (0.20, 0.89), (0.30, 0.98),
    (0.42, 1.0), (0.55, 0.985), (0.66, 0.93), (0.76, 0.83), (0.85, 0.70), (0.92, 0.55),
    (0.965, 0.38), (0.99, 0.2), (1, 0.0),
])  # fmt: skip
"""Share of the way from crown to chin and width there."""


Place = tuple[float, float]
"""An angle around the head, radians, and a share down from the crown."""


def head_profile(person: Person, ease: float = 0.0) -> Floats:
    """Return the tube profile of the head, `ease` wider."""
    shares = np.linspace(0, 1, 33)
    if not ease:
        # A bare head needs more stations where it rounds off, at both ends.
        half = shares[shares**1.5 < 0.5] ** 1.5
        shares = np.concatenate([half, 1 - half[::-1]])
    width = np.interp(shares, SHAPE[:, 0], SHAPE[:, 1])
    size = person.stature * (1.0 if person.woman else 1.03)
    wide = (HALF_WIDTH * width + ease * np.minimum(width * 1.6, 1)) * size
    deep = (HALF_DEPTH * width + ease * np.minimum(width * 1.6, 1)) * size
    return np.stack([shares, wide, deep], 1).astype(np.float32)


def _blot(angle: Floats, down: Floats, at: Place, size: Place) -> Floats:
    """Return the soft cover of an ellipse at an angle and share down the head."""
    distance = np.hypot((angle - np.float32(at[0])) / size[0], (down - np.float32(at[1])) / size[1])
    sharp = np.float32(min(size[0] * 30, size[1] * 60))
    return np.asarray(np.clip((1 - distance) * sharp + 0.5, 0, 1))


def _glow(angle: Floats, down: Floats, at: Place, size: Place) -> Floats:
    """Return the cover of a spot without an edge."""
    distance = ((angle - np.float32(at[0])) / size[0]) ** 2 + (
        (down - np.float32(at[1])) / size[1]
    ) ** 2
    return np.asarray(np.exp(-distance), np.float32)


def _darker(colour: Colour, by: float) -> Colour:
    return colour[0] * by, colour[1] * by, colour[2] * by


class _Makeup:
    """An unrolled head under the brush: angle -pi..pi around it, 0..1 down from the crown."""

    def __init__(self, rows: int, cols: int, skin: Colour) -> None:
        """Begin with bare skin (sRGB 0..255)."""
        around = ((np.arange(cols) + 0.5) / cols * 2 - 1) * np.pi
        self.angle = around.astype(np.float32)[None]
        self.down = ((np.arange(rows) + 0.5) / rows).astype(np.float32)[:, None]
        self.colours: Floats = np.broadcast_to(np.array(skin, np.float32), (rows, cols, 3))

    def lay(self, cover: Floats, colour: Colour, strength: float = 1.0) -> None:
        """Lay a colour where `cover` (rows, cols) says."""
        opacity = (cover * np.float32(strength))[..., None]
        self.colours = self.colours + (np.array(colour, np.float32) - self.colours) * opacity

    def blot(self, at: Place, size: Place, colour: Colour, strength: float = 1.0) -> None:
        """Lay an ellipse around an angle and share down."""
        self.lay(_blot(self.angle, self.down, at, size), colour, strength)

    def glow(self, at: Place, size: Place, colour: Colour, strength: float) -> None:
        """Lay a spot without an edge."""
        self.lay(_glow(self.angle, self.down, at, size), colour, strength)


def _paint_features(makeup: _Makeup, person: Person) -> None:
    """Paint cheeks, eyes, brows, nostrils, beard and lips."""
    skin, hair = SKINS[person.skin], HAIRS[person.hair]
    rng = np.random.Generator(np.random.PCG64([person.seed, 5]))
    iris = (70.0, 50.0, 36.0) if rng.random() < 0.6 else (70.0, 104.0, 120.0)
    for side in (-1, 1):
        makeup.glow((side * 0.58, 0.67), (0.30, 0.09), (206, 88, 78), 0.20)
        makeup.glow((side * 0.42, 0.475), (0.27, 0.055), _darker(skin, 0.62), 0.55)
        makeup.blot((side * 0.42, 0.50), (0.21, 0.036), (246, 244, 240))
        makeup.blot((side * 0.42, 0.50), (0.105, 0.040), _darker(iris, 0.7))
        makeup.blot((side * 0.43, 0.465), (0.25, 0.017), (36, 26, 24), 0.85)
        makeup.blot((side * 0.45, 0.40), (0.30, 0.022), _darker(hair, 0.7), 0.8)
        makeup.blot((side * 0.10, 0.685), (0.07, 0.016), _darker(skin, 0.55), 0.8)
    if person.beard:
        spot = _glow(makeup.angle, makeup.down, (0, 0.93), (1.5, 0.22))
        makeup.lay(np.clip(spot * 1.6 - 0.25, 0, 1), _darker(hair, 0.9), 0.75)
    lips = (176.0, 62.0, 70.0) if person.woman else _darker((190.0, 110.0, 100.0), 0.9)
    tone = min(sum(skin) / 560, 1.1)
    makeup.blot((0, 0.795), (0.30, 0.034), _darker(lips, tone), 0.9)
    makeup.blot((0, 0.793), (0.29, 0.008), _darker(lips, 0.5), 0.8)


def _paint_glasses(makeup: _Makeup, colour: Colour) -> NDArray[np.bool_]:
    """Paint sunglasses; return where they are (rows, cols)."""
    angle, down = makeup.angle, makeup.down
    left, right = (_blot(angle, down, (side * 0.43, 0.51), (0.37, 0.095)) for side in (-1, 1))
    bar = (np.abs(down - 0.455) < 0.028) & (np.abs(angle) < 1.5)
    cover = np.maximum(np.maximum(left, right), bar.astype(np.float32))
    makeup.lay(cover, colour)
    return np.asarray(cover >= 0.5)


@lru_cache(maxsize=96)
def face_texture(person: Person, glasses: Colour | None, density: int) -> Texture:
    """Return the unrolled head of a person, with sunglasses where a colour is given."""
    cols, rows = max(int(0.33 * density), 24), max(int(0.15 * density), 10)
    makeup = _Makeup(rows, cols, SKINS[person.skin])
    labels = np.full((rows, cols), LABEL_ID["face"], np.uint8)
    # Behind the ears a head without hair is neck.
    labels[:, np.abs(makeup.angle[0]) > 1.8] = LABEL_ID["torso-skin"]
    _paint_features(makeup, person)
    if glasses is not None:
        labels[_paint_glasses(makeup, glasses)] = LABEL_ID["sunglasses"]
    flat = np.ascontiguousarray(makeup.colours, np.float32).reshape(-1, 3)
    return Texture(flat, rows, cols, labels.reshape(-1))


def paint_head(
    person: Person, figure: Figure, glasses: Colour | None, density: int
) -> Iterator[Tube]:
    """Yield head, nose and ears."""
    skin, label, size = skin_texture(person.skin), LABEL_ID["face"], person.stature
    texture = face_texture(person, glasses, density)
    yield Tube(start=figure.on_head(*scaled(CROWN, size)),
               end=figure.on_head(*scaled(CHIN, size)), profile=head_profile(person),
               texture=texture, label=label, turn=figure.head_turn, order=HEAD, round_start=False,
               round_end=False, shadow=0.26, part="head")  # fmt: skip
    if np.cos(figure.head_turn) > FACE["nose"][1]:
        yield Tube(start=figure.on_head(0, 0.008 * size, 0.048 * size),
                   end=figure.on_head(*scaled(FACE_PLACES["nose"], size)), texture=skin,
                   label=label, profile=limb_profile(0.0035 * size, 0.0072 * size),
                   order=HEAD + 0.01, shadow=0.14, gloss=0.12, part="nose",
                   facing=figure.head_turn)  # fmt: skip
    for name in ("left-ear", "right-ear"):
        angle, least = FACE[name]
        if np.cos(figure.head_turn + angle) >= least:
            x, y, z = scaled(FACE_PLACES[name], size)
            part = label if np.cos(figure.head_turn) > -0.3 else LABEL_ID["torso-skin"]
            behind = np.cos(figure.head_turn + angle) < 0.25
            yield Tube(start=figure.on_head(x, y + 0.011 * size, z),
                       end=figure.on_head(x * 0.97, y - 0.010 * size, z), texture=skin,
                       label=part, order=HEAD + (-0.01 if behind else 0.02), shadow=0.1,
                       profile=limb_profile(0.0088 * size, 0.0055 * size),
                       part=name.replace("-", " "), facing=figure.head_turn)  # fmt: skip


def scaled(place: tuple[float, float, float], size: float) -> tuple[float, float, float]:
    """Return a place on the head of a person of this stature."""
    return place[0] * size, place[1] * size, place[2] * size
