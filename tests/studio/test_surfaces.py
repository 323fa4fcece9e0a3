import dataclasses
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from catalogpose.studio import Picture, draw_view, make_product, make_scene
from catalogpose.studio.dressing import paint_person
from catalogpose.studio.figure import foot_facing
from catalogpose.studio.paint import Canvas, Texture, Tube, paint_tube, plain_texture
from catalogpose.studio.parts import PART_ID

ROWS, COLS = 8, 16
"""Of the texture that names its own texels."""


def canvas() -> Canvas:
    """Return an empty canvas that records surfaces, a body height of a hundred pixels."""
    photo, labels = np.full((60, 60, 3), 255, np.float32), np.zeros((60, 60), np.uint8)
    return Canvas(photo, labels, 100.0, 30.0, 30.0, np.zeros((60, 60, 3), np.uint8))


def painted(board: Canvas, **fields: object) -> NDArray[np.uint8]:
    """Paint a tube of radius 0.1, upright unless said otherwise; return the board's surfaces."""
    shape = np.array([(0, 0.1, 0.1), (1, 0.1, 0.1)], np.float32)
    made = {
        "start": np.array((0, 0.2, 0), np.float32), "end": np.array((0, -0.2, 0), np.float32),
        "profile": shape, "texture": plain_texture((200.0, 0.0, 0.0)), "label": 6, "order": 0.0,
        "part": "trunk",
    }  # fmt: skip
    paint_tube(board, Tube(**(made | fields)))  # type: ignore[arg-type]
    assert board.surface is not None
    return board.surface


@pytest.mark.parametrize("turn", [0.0, 1.0, 3.0, -2.0])
@pytest.mark.parametrize("rows", [(0.0, 1.0), (0.25, 0.75)])
def test_a_surface_names_the_texel(turn: float, rows: tuple[float, float]) -> None:
    """The texel at a pixel's place and angle is the one the pixel shows, on an oval tube too."""
    labels = np.arange(ROWS * COLS, dtype=np.uint8) + 1
    texture = Texture(np.zeros((ROWS * COLS, 3), np.float32), ROWS, COLS, labels)
    shape = np.array([(0, 0.1, 0.06), (1, 0.12, 0.08)], np.float32)
    board = canvas()
    part, along, around = np.moveaxis(
        painted(board, texture=texture, turn=turn, rows=rows, profile=shape,
                end=np.array((0.1, -0.2, 0.2), np.float32)), -1, 0)  # fmt: skip
    shown = board.labels > 0
    assert shown.sum() > 500
    assert (part[shown] == PART_ID["trunk"]).all()
    read = (along.astype(int) * ROWS // 256) * COLS + around.astype(int) * COLS // 256 + 1
    # A texel's edge may fall to either side by rounding.
    assert (read == board.labels)[shown].mean() > 0.995


def test_the_true_front_of_a_round_tube() -> None:
    """A tube that faces right has its front on its right edge, and the paint does not care."""
    plain, faced = canvas(), canvas()
    painted(plain)
    around = painted(faced, facing=np.pi / 2)[30, :, 2]
    assert (plain.photo == faced.photo).all()
    assert abs(int(around[39]) - 128) < 16
    assert abs(int(around[30]) - 64) < 8


@pytest.mark.parametrize("right", [1, -1])
def test_the_instep_is_the_front_of_a_foot(right: int) -> None:
    """Seen from either side a foot's front is its upper edge, and its sides differ."""
    heel, toe = (np.array((x * right, 0, 0), np.float32) for x in (-0.1, 0.1))
    ankle = np.array((-0.1 * right, 0.1, 0), np.float32)
    around = painted(canvas(), start=heel, end=toe, facing=foot_facing(ankle, heel, toe))[:, 30, 2]
    assert abs(int(around[20]) - 128) < 16
    assert abs(int(around[30]) - (64 if right > 0 else 192)) < 8


def test_a_piece_that_fades_leaves_what_is_seen() -> None:
    """Where a piece is nearly clear the one under it counts; where it is opaque it counts."""
    board = canvas()
    painted(board)
    fade = np.linspace(0, 1, 257, dtype=np.float32)
    part = painted(board, part="neck", fade=fade, melt=6)[:, 30, 0]
    assert part[15] == PART_ID["trunk"]
    assert part[45] == PART_ID["neck"]


def pairs() -> list[tuple[Picture, Picture]]:
    """Return two views of some products, with surfaces."""
    return [
        (draw_view(p, 0, height=128, width=88, surface=True),
         draw_view(p, 1, height=128, width=88, surface=True)) for p in range(6000, 6012)
    ]  # fmt: skip


def surface_of(picture: Picture) -> NDArray[np.uint8]:
    """Return a picture's surface, which must be there."""
    assert picture.surface is not None
    return picture.surface


def test_surfaces_come_when_asked_for() -> None:
    """Without asking there are none, and asking changes neither photo nor map."""
    plain, asked = (draw_view(7, 2, height=128, width=88, surface=s) for s in (False, True))
    assert plain.surface is None
    assert surface_of(asked).shape == (128, 88, 3)
    assert surface_of(asked).dtype == np.uint8
    assert (plain.photo == asked.photo).all()
    assert (plain.labels == asked.labels).all()


def test_every_pixel_of_a_person_has_a_surface() -> None:
    """A pixel has a part where it has a label, and none on the background."""
    for pair in pairs():
        for picture in pair:
            assert ((surface_of(picture)[..., 0] > 0) == (picture.labels > 0)).all()


def test_equal_surfaces_have_equal_colours() -> None:
    """A point of cloth or skin has in both views about one colour, but for the light on it."""
    rng = np.random.default_rng(0)
    same, other = [], []
    for pair in pairs():
        (a, b), (photo, twin) = (
            [surface_of(p).reshape(-1, 3) for p in pair],
            [p.photo.reshape(-1, 3).astype(float) for p in pair],
        )
        place = {tuple(value): i for i, value in enumerate((a // (1, 4, 4)).tolist())}
        for i, value in enumerate((b // (1, 4, 4)).tolist()):
            twin_at = place.get(tuple(value)) if value[0] else None
            if twin_at is not None:
                pool = np.flatnonzero(a[:, 0] == value[0])
                same.append(np.abs(photo[twin_at] - twin[i]).mean())
                other.append(np.abs(photo[rng.choice(pool)] - twin[i]).mean())
    assert len(same) > 2000
    assert np.mean(same) < 0.7 * np.mean(other)


def test_parts_are_numbered_once() -> None:
    """Numbers fit a byte, none is that of the background, and no two parts share one."""
    assert sorted(PART_ID.values()) == list(range(1, len(PART_ID) + 1))
    assert len(PART_ID) <= 255


def test_a_part_is_one_piece() -> None:
    """No two tubes of a person are one part, unless they share one texture between them."""
    seen = set()
    for number in range(80):
        product = make_product(number)
        figure = make_scene(number, number % 3).figure
        spans = defaultdict(list)
        for tube in paint_person(product.person, product.outfit, figure, 64):
            seen.add(tube.part)
            spans[tube.part].append(tube.rows)
        for part, rows in spans.items():
            rows.sort()
            assert all(a[1] == pytest.approx(b[0]) for a, b in pairwise(rows)), part
    assert len(seen) > 0.9 * len(PART_ID)
    assert seen <= set(PART_ID)


def test_left_and_right_are_mirrored_parts() -> None:
    """Every part of a left side has a twin on the right."""
    for name in PART_ID:
        if "left" in name:
            assert name.replace("left", "right") in PART_ID


def test_an_unknown_part_is_refused() -> None:
    """A tube with a name that is not in the table fails where surfaces are asked for."""
    with pytest.raises(KeyError):
        painted(canvas(), part="third arm")


def test_a_tube_says_its_part() -> None:
    """No tube can be made without a part."""
    fields = {field.name: field for field in dataclasses.fields(Tube)}
    assert fields["part"].default is dataclasses.MISSING
