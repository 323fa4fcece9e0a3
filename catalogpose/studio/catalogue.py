"""Products by number: who wears what, how each view is posed and framed, and its picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from catalogpose.errors import UsageError
from catalogpose.studio.body import SIDES, Figure, Person, coco_joints, stand
from catalogpose.studio.captions import describe, describe_regions
from catalogpose.studio.dressing import paint_person
from catalogpose.studio.garments import Outfit, draw_outfit
from catalogpose.studio.hair import STYLES
from catalogpose.studio.paint import Canvas, Floats, paint_tube
from catalogpose.studio.palette import BACKGROUNDS, HAIRS, SKINS, Colour
from catalogpose.studio.poses import draw_angles, draw_yaw

SPLITS: Mapping[str, range] = MappingProxyType(
    {
        "train": range(1_000_000),
        "validation": range(1_000_000, 2_000_000),
        "test": range(2_000_000, 3_000_000),
    }
)
"""Product numbers of each split; no person, garment or pattern instance is in two of them."""


@dataclass(frozen=True, kw_only=True)
class Background:
    """A studio's wall and light, the same in every view of a product."""

    colour: Colour
    """sRGB 0..255 where it is brightest."""
    fall: float
    """Share of brightness lost from the middle to the floor."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """One person in one outfit before one background."""

    id: int
    """Number within `SPLITS`."""
    person: Person
    """Who wears it."""
    outfit: Outfit
    """What is worn."""
    background: Background
    """Where."""
    whole: bool
    """Whether its pictures show the whole body; otherwise head to thighs."""

    @property
    def name(self) -> str:
        """Text id such as `studio-0000123`."""
        return f"studio-{self.id:07d}"

    @property
    def person_id(self) -> str:
        """Text id of the person."""
        return self.person.id


@dataclass(frozen=True, eq=False)
class Scene:
    """One view of a product: a posed body and its place in the picture."""

    figure: Figure
    """The body in camera space."""
    yaw: float
    """The body's turn in degrees, -180..180: 0 faces the viewer, positive the picture's right."""
    scale: float
    """Picture heights a body height."""
    x: float
    """Of the body's origin from the picture's middle, in picture heights."""
    y: float
    """Of the floor under the body's origin from the picture's top, in picture heights."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A drawn view and its ground truth.

    Pixel i covers x in [i, i + 1), so the middle of the top left pixel is at (0.5, 0.5).
    """

    photo: NDArray[np.uint8]
    """(H, W, 3) sRGB."""
    labels: NDArray[np.uint8]
    """(H, W) ids in `records.LABELS`, at most 23; left and right are the person's own."""
    surface: NDArray[np.uint8] | None
    """(H, W, 3) which point of skin or cloth a pixel shows: number in `parts.PART_ID` (0 on the
    background), place along the part 0..255, and angle around it 0..255, where 0 and 255 are
    neighbours and 128 is the part's front. Equal values in two views of a product are the same
    point. None where it was not asked for."""
    joints: Floats
    """(18, 3) in the order of `records.JOINTS`: x, y in pixels and confidence 1; NaN, NaN, 0 where
    a joint is outside the picture or a point of the face is turned away. Joints that the body or
    the clothes hide stay."""
    caption: str
    """One sentence about the picture."""
    region_captions: Mapping[str, str]
    """A phrase for each label in the map."""
    product: str
    """Text id of the product."""
    person: str
    """Text id of the person."""
    yaw: float
    """The body's turn in degrees."""


def _generator(*words: int) -> np.random.Generator:
    """Return the generator of these numbers, the same on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def split_of(product_id: int) -> str:
    """Return the name of the split that a product number belongs to."""
    for name, numbers in SPLITS.items():
        if product_id in numbers:
            return name
    last = SPLITS["test"].stop - 1
    raise UsageError(f"product {product_id} does not exist: choose a number from 0 to {last}")


@lru_cache(maxsize=4096)
def make_product(product_id: int) -> Product:
    """Return the product with this number; the number alone decides everything about it."""
    split = split_of(product_id)
    rng = _generator(1, product_id)
    woman = bool(rng.random() < 0.62)
    person = _draw_person(rng, f"person-{split}-{product_id:07d}", woman)
    outfit = draw_outfit(_generator(2, product_id), woman)
    colour = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    background = Background(colour=colour, fall=float(rng.uniform(0.04, 0.12)))
    whole = bool(rng.random() < 0.72)
    return Product(id=product_id, person=person, outfit=outfit, background=background, whole=whole)


def _draw_person(rng: np.random.Generator, name: str, woman: bool) -> Person:
    styles: tuple[str, ...] = STYLES[2:] if woman and rng.random() < 0.88 else STYLES[:2]
    if not woman:
        styles = ("short", "cropped", "short", "cropped", "short", "bob", "bun")
    return Person(
        id=name,
        woman=woman,
        stature=float(rng.uniform(0.94, 1.0) if woman else rng.uniform(0.97, 1.04)),
        build=float(rng.uniform(0.90, 1.14)),
        skin=list(SKINS)[int(rng.integers(len(SKINS)))],
        hair=list(HAIRS)[int(rng.choice(8, p=[0.2, 0.2, 0.2, 0.08, 0.05, 0.14, 0.07, 0.06]))],
        hair_style=styles[int(rng.integers(len(styles)))],
        fringe=bool(woman and rng.random() < 0.3),
        beard=bool(not woman and rng.random() < 0.35),
        seed=int(rng.integers(2**31)),
    )


def make_scene(product_id: int, view: int) -> Scene:
    """Return a view of a product: pose, turn and framing; views are 0, 1, 2 and so on for ever."""
    product = make_product(product_id)
    rng = _generator(3, product_id, view)
    yaw = draw_yaw(rng)
    figure = stand(product.person, draw_angles(rng, product.person), float(np.deg2rad(yaw)))
    scale, x, y = _frame(rng, figure, whole=product.whole)
    return Scene(figure, yaw, scale, x, y)


def _frame(rng: np.random.Generator, figure: Figure, *, whole: bool) -> tuple[float, float, float]:
    """Return scale and place that show the whole body, or head to thighs, with small shifts."""
    points = figure.points
    margin, shift = rng.uniform(0.84, 0.90), rng.uniform(-0.018, 0.018, 2)
    top = max(float(points["head"][1]) + 0.085, *(float(points[f"{n}-hand"][1]) for n, _ in SIDES))
    if whole:
        bottom = min(float(points[f"{n}-{j}"][1]) for n, _ in SIDES for j in ("heel", "toe")) - 0.02
        xs = [float(point[0]) for point in points.values()]
        scale = min(margin / (top - bottom), 0.62 / (max(xs) - min(xs) + 0.06))
        middle = (max(xs) + min(xs)) / 2
        y = 0.5 + scale * (top + bottom) / 2 + shift[1]
        return float(scale), float(-middle * scale + shift[0]), float(y)
    head, hip = float(points["head"][1]) + 0.085, float(points["hip"][1])
    low = hip - rng.uniform(0.03, 0.15)
    scale = 0.94 / (head - low)
    middle = float(points["hip"][0] + points["neck-base"][0]) / 2
    return (
        float(scale),
        float(-middle * scale + shift[0]),
        float(0.06 + shift[1] * 0.8 + scale * head),
    )


def draw(
    product: Product, scene: Scene, *, height: int, width: int, surface: bool = False
) -> Picture:
    """Return the picture of a product in a scene; another size gives the same picture, scaled.

    `surface` asks for the surface of each pixel too, which takes a little longer.
    """
    scale = scene.scale * height
    x, y = width / 2 + scene.x * height, scene.y * height
    photo = _paint_wall(product.background, height, width)
    labels = np.zeros((height, width), np.uint8)
    record = np.zeros((height, width, 3), np.uint8) if surface else None
    canvas = Canvas(photo, labels, scale, x, y, record)
    _paint_floor_shadow(canvas, scene.figure)
    density = int(2 ** np.ceil(np.log2(max(scale, 32.0))))
    tubes = paint_person(product.person, product.outfit, scene.figure, density)
    for tube in sorted(tubes, key=lambda tube: tube.order):
        paint_tube(canvas, tube)
    pixels = np.clip(photo + np.float32(0.5), 0, 255).astype(np.uint8)
    front = np.cos(np.deg2rad(scene.yaw)) > -0.2
    return Picture(
        photo=pixels,
        labels=labels,
        surface=record,
        joints=_project(canvas, coco_joints(scene.figure)),
        caption=describe(product.person, product.outfit, scene.yaw),
        region_captions=describe_regions(product.person, product.outfit, labels, front=bool(front)),
        product=product.name,
        person=product.person_id,
        yaw=scene.yaw,
    )


def draw_view(
    product_id: int, view: int, *, height: int, width: int, surface: bool = False
) -> Picture:
    """Return one view of a product by number, with the surface of each pixel where asked."""
    product, scene = make_product(product_id), make_scene(product_id, view)
    return draw(product, scene, height=height, width=width, surface=surface)


def _project(canvas: Canvas, joints: Floats) -> Floats:
    """Return (18, 3) joints in pixels with confidence; missing outside the picture."""
    height, width = canvas.labels.shape
    x = canvas.x + joints[:, 0] * canvas.scale
    y = canvas.y - joints[:, 1] * canvas.scale
    seen = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    placed = np.stack([x, y, np.ones_like(x)], 1).astype(np.float32)
    placed[~seen] = (np.nan, np.nan, 0)
    return placed


def _paint_wall(background: Background, height: int, width: int) -> Floats:
    """Return (H, W, 3) of the studio without anybody."""
    y = ((np.arange(height, dtype=np.float32) + 0.5) / height)[:, None]
    x = ((np.arange(width, dtype=np.float32) + 0.5 - width / 2) / height)[None]
    light = 1 - np.float32(background.fall) * ((y - 0.38) ** 2 * 1.4 + x**2 * 0.9)
    floor = 1 - np.float32(0.035) * np.clip((y - 0.86) / 0.05, 0, 1)
    return ((light * floor)[..., None] * np.array(background.colour, np.float32)).astype(np.float32)


def _paint_floor_shadow(canvas: Canvas, figure: Figure) -> None:
    """Darken the floor softly under each foot."""
    height, width = canvas.labels.shape
    y = np.arange(height, dtype=np.float32)[:, None] + np.float32(0.5)
    x = np.arange(width, dtype=np.float32)[None] + np.float32(0.5)
    for name, _ in SIDES:
        heel, toe = figure.points[f"{name}-heel"], figure.points[f"{name}-toe"]
        cx, _ = canvas.place((heel + toe) / 2)
        lowest = min(float(figure.points[f"{n}-heel"][1]) for n, _ in SIDES)
        cy = canvas.y - (min(float(toe[1]), lowest) - 0.016) * canvas.scale
        if cy - 0.06 * canvas.scale > height:
            continue
        ex = np.exp(-(((x - np.float32(cx)) / np.float32(0.085 * canvas.scale)) ** 2))
        ey = np.exp(-(((y - np.float32(cy)) / np.float32(0.016 * canvas.scale)) ** 2))
        canvas.photo[...] *= (1 - np.float32(0.26) * ex * ey)[..., None]
