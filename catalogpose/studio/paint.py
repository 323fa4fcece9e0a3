"""The one brush of the studio: a tapered tube in space becomes pixels of photo and label map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catalogpose.studio.parts import PART_ID

Floats = NDArray[np.floating]
"""Numbers, float32 wherever pixels are many."""

LIGHT = np.array([-0.36, -0.42, 0.83], np.float32)
"""Unit direction to the one soft light: picture right, picture down, towards the viewer."""
STEPS = 256
"""Entries of the tables along a tube and across it."""
ACROSS = np.linspace(-1, 1, STEPS + 1, dtype=np.float32)
ALONG = np.linspace(0, 1, STEPS + 1, dtype=np.float32)
BOW = 1 - ACROSS**2
"""How far a ring around a tube bows: a parabola, as a true half ring's ends look like horns."""
ANGLE = np.arcsin(ACROSS)


@dataclass(frozen=True, eq=False)
class Texture:
    """A cloth unrolled: rows along a tube, columns once around it, the front in the middle."""

    colours: Floats
    """(rows * cols, 3), sRGB 0..255."""
    rows: int
    """Texels along."""
    cols: int
    """Texels around."""
    labels: NDArray[np.uint8] | None = None
    """(rows * cols) label ids; None where the whole tube has one label."""


def plain_texture(colour: tuple[float, float, float]) -> Texture:
    """Return the texture of one colour (sRGB 0..255)."""
    return Texture(np.array([colour], np.float32), 1, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Tube:
    """A part of a body or a panel of a garment: an elliptical tube around a straight axis."""

    start: Floats
    """(3,) x right, y up, z towards the viewer, in body heights."""
    end: Floats
    """(3,) like `start`."""
    profile: Floats
    """(K, 3) rows of position along 0..1, half width and half depth, in body heights."""
    texture: Texture
    """What is on the surface."""
    label: int
    """Id in `records.LABELS`."""
    order: float
    """Painted from the lowest to the highest."""
    part: str
    """Name in `parts.PART_ID`: whose surface it is, the same in every view of a product."""
    turn: float = 0.0
    """Radians by which the tube's front is turned from the viewer, towards the picture's right."""
    facing: float | None = None
    """Radians like `turn`, for the record of surfaces only: where the true front of a round tube of
    one colour is, whose turn makes no difference in the photo; None: as `turn`."""
    rows: tuple[float, float] = (0.0, 1.0)
    """The part of the texture between start and end, 0..1."""
    round_start: bool = True
    """Whether a half ball closes the start."""
    round_end: bool = True
    """Whether a half ball closes the end."""
    upper: Floats | None = None
    """(STEPS + 1) from angle -pi to pi: where along the cloth begins; None: at the start."""
    lower: Floats | None = None
    """(STEPS + 1) from angle -pi to pi: where along the cloth ends; None: at the end."""
    opening: Floats | None = None
    """(STEPS + 1) along: half angle left open at the front, radians; None: closed."""
    fade: Floats | None = None
    """(STEPS + 1) along: opacity in the photo over `melt`, where pieces grow together; None: 1."""
    melt: int = -1
    """The label over which `fade` works; elsewhere the tube is opaque."""
    shadow: float = 0.3
    """Strength 0..1 of the soft shadow on what was painted before."""
    gloss: float = 0.0
    """Strength 0..1 of a highlight."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """The photo and the label map under the brush."""

    photo: Floats
    """(H, W, 3) sRGB 0..255."""
    labels: NDArray[np.uint8]
    """(H, W) ids in `records.LABELS`."""
    scale: float
    """Pixels per body height."""
    x: float
    """Picture x of the space's origin, pixels."""
    y: float
    """Picture y of the space's origin, pixels."""
    surface: NDArray[np.uint8] | None = None
    """(H, W, 3) part, place along and angle around as in `catalogue.Picture`; None: not asked."""

    def place(self, point: Floats) -> tuple[float, float]:
        """Return x and y in pixels of a point of space."""
        return self.x + float(point[0]) * self.scale, self.y - float(point[1]) * self.scale


@dataclass(frozen=True, eq=False)
class _Frame:
    """A tube's axis and tables on one canvas."""

    box: tuple[slice, slice]
    along: Floats
    """(h, w) pixels from the start along the axis on the picture."""
    across: Floats
    """(h, w) signed pixels from the axis."""
    length: float
    """Pixels between the ends on the picture."""
    dip: float
    """How much the end is nearer to the viewer than the start, as a sine."""
    direction: tuple[float, float]
    radius: Floats
    """(STEPS + 1) half widths on the picture, pixels."""
    spin: float
    """Radians to take from an angle on the picture to have the tube's own angle."""
    ratio: float
    """Half depth over half width."""


def paint_tube(canvas: Canvas, tube: Tube) -> None:
    """Paint one tube over what is there."""
    frame = _make_frame(canvas, tube)
    if frame is None:
        return
    position = np.clip(frame.along * np.float32(STEPS / frame.length), 0, STEPS)
    steps = position.astype(np.intp)
    radius = frame.radius.take(steps)
    slot = frame.across / radius
    slot = np.clip(slot * np.float32(STEPS / 2) + np.float32(STEPS / 2), 0, STEPS).astype(np.intp)
    shift = np.float32(frame.dip / frame.length)
    straight = frame.along * np.float32(1 / frame.length)
    surface = straight + radius * BOW.take(slot) * shift
    inside = _inside(tube, frame, radius, steps)
    angles = ANGLE - np.float32(frame.spin)
    # Where an end is turned to the viewer its far rim shows, and the edge looks straight.
    edges = (surface, straight) if frame.dip > 0 else (straight, surface)
    inside, cover = _cut(tube, frame, inside, edges, slot, angles, radius)
    colour, labels = _surface(tube, frame, surface, slot, angles)
    opacity = cover
    if tube.fade is not None:
        under = canvas.labels[frame.box] == tube.melt
        share = tube.fade.take(np.clip(surface * STEPS, 0, STEPS).astype(np.intp))
        opacity = np.where(under, cover * share, cover)
    _blend(canvas, tube, frame.box, cover, opacity, inside, colour, labels)
    if canvas.surface is not None:
        # Where pieces melt, the one that is seen more than what is under it counts.
        _record(canvas.surface[frame.box], tube, frame, surface, slot, opacity >= 0.5)


def _make_frame(canvas: Canvas, tube: Tube) -> _Frame | None:
    """Return where a tube lies on the canvas, or None where it misses it."""
    ax, ay = canvas.place(tube.start)
    bx, by = canvas.place(tube.end)
    depth = float(tube.end[2] - tube.start[2]) * canvas.scale
    length = max(float(np.hypot(bx - ax, by - ay)), 0.5)
    ux, uy = ((bx - ax) / length, (by - ay) / length) if length > 0.5 else (0.0, 1.0)
    cos, sin = np.cos(tube.turn), np.sin(tube.turn)
    wide, deep = tube.profile[:, 1], tube.profile[:, 2]
    half = np.sqrt((wide * cos) ** 2 + (deep * sin) ** 2) * canvas.scale
    radius = np.maximum(np.interp(ALONG, tube.profile[:, 0], half), 0.05).astype(np.float32)
    reach = float(half.max())
    pad = 2.0 + 0.02 * canvas.scale
    over = reach * (1.0 if tube.round_start or tube.round_end else max(abs(uy) * 0.3, abs(ux)))
    height, width = canvas.labels.shape
    left, right = min(ax, bx) - reach - pad, max(ax, bx) + reach + pad
    top, bottom = min(ay, by) - over - pad, max(ay, by) + over + pad
    x0, x1 = max(int(left), 0), min(int(right) + 1, width)
    y0, y1 = max(int(top), 0), min(int(bottom) + 1, height)
    if x0 >= x1 or y0 >= y1:
        return None
    dx = np.arange(x0, x1, dtype=np.float32) + np.float32(0.5 - ax)
    dy = (np.arange(y0, y1, dtype=np.float32) + np.float32(0.5 - ay))[:, None]
    along = dx * np.float32(ux) + dy * np.float32(uy)
    across = dx * np.float32(uy) - dy * np.float32(ux)
    a, b = float(wide.max()), float(deep.max())
    spin = float(np.arctan2(b * sin, a * cos))
    dip = depth / float(np.hypot(length, depth))
    box = (slice(y0, y1), slice(x0, x1))
    return _Frame(box, along, across, length, dip, (ux, uy), radius, spin, b / a)


def _inside(tube: Tube, frame: _Frame, radius: Floats, steps: NDArray[np.intp]) -> Floats:
    """Return (h, w) pixels from the outline, positive inside, before the cloth's own cuts."""
    distance = np.abs(frame.across)
    zero = np.float32(0)
    before, after = -frame.along, frame.along - np.float32(frame.length)
    if tube.round_start or tube.round_end:
        ends = [
            e for e, is_round in ((before, tube.round_start), (after, tube.round_end)) if is_round
        ]
        past = np.maximum(ends[0] if len(ends) == 1 else np.maximum(ends[0], ends[1]), zero)
        distance = np.sqrt(distance * distance + past * past)
    inside: Floats = radius - distance
    if len(tube.profile) > 2:
        slope = np.gradient(frame.radius) * np.float32(STEPS / frame.length)
        inside = inside * (1 / np.sqrt(1 + slope**2)).astype(np.float32).take(steps)
    # A cloth's own edge cuts a flat end; the plain flat end of anything else is cut here.
    if not tube.round_start and tube.upper is None:
        inside = np.minimum(inside, -before)
    if not tube.round_end and tube.lower is None:
        inside = np.minimum(inside, -after)
    return inside


def _cut(
    tube: Tube,
    frame: _Frame,
    inside: Floats,
    edges: tuple[Floats, Floats],
    slot: NDArray[np.intp],
    angles: Floats,
    radius: Floats,
) -> tuple[Floats, Floats]:
    """Return distance and cover (h, w) less what neckline, hem and opening cut away."""
    turned = (angles + np.float32(np.pi)) % np.float32(2 * np.pi)
    index = (turned * np.float32(STEPS / (2 * np.pi))).astype(np.intp)
    length = np.float32(frame.length)
    cover = _soft(inside)
    if tube.upper is not None:
        inside, cover = _clip_by(
            inside, cover, (edges[0] - tube.upper.take(index).take(slot)) * length
        )
    if tube.lower is not None:
        inside, cover = _clip_by(
            inside, cover, (tube.lower.take(index).take(slot) - edges[1]) * length
        )
    if tube.opening is not None:
        steps = np.clip(edges[0] * STEPS, 0, STEPS).astype(np.intp)
        away = np.abs(turned - np.float32(np.pi)).astype(np.float32).take(slot)
        inside, cover = _clip_by(inside, cover, (away - tube.opening.take(steps)) * radius)
    return inside, cover


def _soft(inside: Floats) -> Floats:
    return np.asarray(np.clip(inside + np.float32(0.5), 0, 1))


def _clip_by(inside: Floats, cover: Floats, edge: Floats) -> tuple[Floats, Floats]:
    """Return distance and cover cut by one more edge: pixels from it, positive on the cloth."""
    return np.minimum(inside, edge), cover * _soft(edge)


def _surface(
    tube: Tube, frame: _Frame, surface: Floats, slot: NDArray[np.intp], angles: Floats
) -> tuple[Floats, NDArray[np.uint8] | None]:
    """Return the lit colours (h, w, 3), and the labels (h, w) where the texture has its own."""
    shade = _shade(tube, frame, angles)
    texture = tube.texture
    if texture.rows * texture.cols == 1:
        return (shade[:, None] * texture.colours[0]).take(slot, axis=0), None
    first, last = tube.rows
    row = surface * np.float32((last - first) * texture.rows) + np.float32(first * texture.rows)
    rows = np.clip(row, 0, texture.rows - 1).astype(np.intp)
    turned = (angles * np.float32(0.5 / np.pi) + np.float32(0.5)) % np.float32(1)
    cols = np.minimum((turned * texture.cols).astype(np.intp), texture.cols - 1)
    index = rows * texture.cols + cols.take(slot)
    colour = texture.colours.take(index, axis=0) * shade.take(slot)[..., None]
    return colour, None if texture.labels is None else texture.labels.take(index)


def _shade(tube: Tube, frame: _Frame, angles: Floats) -> Floats:
    """Return (STEPS + 1) brightness across the tube, from the light and the ellipse's normals."""
    cos, sin = np.cos(tube.turn), np.sin(tube.turn)
    side, front = np.sin(angles), np.cos(angles) / frame.ratio
    right, near = side * cos + front * sin, front * cos - side * sin
    size = np.sqrt(right**2 + near**2)
    right, near = right / size, near / size
    ux, uy = frame.direction
    rise = float(np.sqrt(max(1 - frame.dip**2, 0)))
    nx = right * uy - near * frame.dip * ux
    ny = -right * ux - near * frame.dip * uy
    nz = near * rise
    light = nx * LIGHT[0] + ny * LIGHT[1] + nz * LIGHT[2]
    shade = 0.60 + 0.40 * np.maximum(light, 0) + 0.07 * np.clip(nz, 0, 1)
    if tube.gloss:
        shade = shade + tube.gloss * np.maximum(light, 0) ** 12
    return np.asarray(shade, np.float32)


def _blend(
    canvas: Canvas,
    tube: Tube,
    box: tuple[slice, slice],
    cover: Floats,
    opacity: Floats,
    inside: Floats,
    colour: Floats,
    labels: NDArray[np.uint8] | None,
) -> None:
    """Lay the tube's shadow, colours and labels on the canvas."""
    photo, map_ = canvas.photo[box], canvas.labels[box]
    if tube.shadow:
        reach = np.float32(1 / (0.022 * canvas.scale))
        dark = np.clip(1 + inside * reach, 0, 1)
        dark = np.float32(1) - dark * dark * (map_ > 0) * np.float32(tube.shadow)
        photo *= dark[..., None]
    photo += (colour - photo) * opacity[..., None]
    mask = cover >= 0.5
    if labels is None:
        map_[mask] = tube.label
    else:
        map_[mask] = labels[mask]


def _record(
    record: NDArray[np.uint8],
    tube: Tube,
    frame: _Frame,
    surface: Floats,
    slot: NDArray[np.intp],
    mask: NDArray[np.bool_],
) -> None:
    """Write part, place along and angle around of a tube's pixels to the record (h, w, 3)."""
    first, last = tube.rows
    along = surface[mask] * np.float32(256 * (last - first)) + np.float32(256 * first)
    spin = frame.spin if tube.facing is None else tube.facing
    turns = (ANGLE - np.float32(spin)) * np.float32(128 / np.pi) + np.float32(128)
    around = np.floor(turns).astype(np.intp).astype(np.uint8)
    place = np.clip(along, 0, 255).astype(np.uint8)
    number = np.full_like(place, PART_ID[tube.part])
    record[mask] = np.stack([number, place, around.take(slot[mask])], -1)
