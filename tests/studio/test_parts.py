import numpy as np
import pytest

from catalogpose.studio.body import SIDES, coco_joints, stand
from catalogpose.studio.catalogue import make_product
from catalogpose.studio.paint import Canvas, Tube, paint_tube, plain_texture
from catalogpose.studio.patterns import PATTERNS, Cloth, Panel, weave
from catalogpose.studio.poses import draw_angles, draw_yaw, is_clear
from catalogpose.studio.prints import SHAPES, Print, print_cover

PERSON = make_product(0).person


def canvas(height: int = 60, width: int = 60) -> Canvas:
    """Return an empty canvas of one body height a hundred pixels."""
    photo = np.full((height, width, 3), 255, np.float32)
    return Canvas(photo, np.zeros((height, width), np.uint8), 100.0, 30.0, 30.0)


def tube(
    start: tuple[float, float, float], end: tuple[float, float, float], **more: object
) -> Tube:
    """Return a round red tube of radius 0.05, label 6."""
    shape = np.array([(0, 0.05, 0.05), (1, 0.05, 0.05)], np.float32)
    made = {
        "start": np.array(start, np.float32), "end": np.array(end, np.float32), "profile": shape,
        "texture": plain_texture((200.0, 0.0, 0.0)), "label": 6, "order": 0.0,
        "part": "trunk",
    }  # fmt: skip
    return Tube(**(made | more))


def test_a_tubes_label_is_its_outline() -> None:
    """A flat upright tube of 10 by 20 pixels covers exactly as many."""
    board = canvas()
    paint_tube(board, tube((0, 0.1, 0), (0, -0.1, 0), round_start=False, round_end=False))
    assert (board.labels == 6).sum() == 200
    assert (board.labels[20:40, 25:35] == 6).all()


def test_photo_and_map_have_one_outline() -> None:
    """Pixels far from the wall's colour are those of the label."""
    board = canvas()
    paint_tube(board, tube((-0.12, 0.1, 0), (0.1, -0.15, 0.1), shadow=0.0))
    red = board.photo[..., 1] < 127.5
    assert (red == (board.labels == 6)).mean() > 0.99


def test_a_tube_outside_leaves_the_canvas_alone() -> None:
    """What misses the picture changes nothing and fails nowhere."""
    board = canvas()
    paint_tube(board, tube((3, 3, 0), (3, 4, 0)))
    assert (board.labels == 0).all()
    assert (board.photo == 255).all()


def test_a_tube_towards_the_viewer_is_a_disc() -> None:
    """An arm straight at the camera is as wide as it is high."""
    board = canvas()
    paint_tube(board, tube((0, 0, 0), (0, 0, 0.3)))
    rows, cols = np.nonzero(board.labels == 6)
    assert np.ptp(rows) == np.ptp(cols) == 9


def test_an_opening_follows_the_turn() -> None:
    """An open front shows in the middle from the front and nowhere from behind."""
    gap = np.full(257, 0.6, np.float32)
    for turn, label in ((0.0, 0), (np.pi, 6)):
        board = canvas()
        paint_tube(board, tube((0, 0.2, 0), (0, -0.2, 0), opening=gap, turn=turn))
        assert board.labels[30, 30] == label


def test_shadows_fall_on_people_only() -> None:
    """A tube darkens what was painted before and leaves the wall as it is."""
    board = canvas()
    board.labels[:, 30:] = 1
    paint_tube(board, tube((0, 0.1, 0), (0, -0.1, 0), shadow=0.5))
    assert (board.photo[:, :20] == 255).all()
    assert board.photo[30, 36, 0] < 255


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_a_pattern_shows_its_colours(pattern: str) -> None:
    """Every pattern but plain shows both colours, and none has a step at the back."""
    cloth = Cloth(pattern=pattern, names=("white", "black"), period=0.04, seed=3, folds=0.0,
                  colours=((250.0,) * 3, (10.0,) * 3, (250.0, 0.0, 0.0)))  # fmt: skip
    texture = weave(cloth, Panel(kind="torso", around=0.5, length=0.35, hem=False), 256)
    light = texture.colours.reshape(texture.rows, texture.cols, 3)[..., 1]
    assert light.max() > 200
    assert (light.min() < 130) == (pattern != "plain")
    if pattern not in ("halves", "dots", "flowers"):
        step = np.abs(light[:, 0] - light[:, -1]).mean()
        inner = np.abs(np.diff(light, axis=1)).mean(axis=0).max()
        assert step <= inner + 30


def test_weaving_is_repeatable() -> None:
    """The same cloth at the same density has the same texels."""
    cloth = make_product(12).outfit[0].cloth
    panel = Panel(kind="sleeve", around=0.2, length=0.3)
    first = weave(cloth, panel, 128).colours
    weave.cache_clear()
    assert (weave(cloth, panel, 128).colours == first).all()


@pytest.mark.parametrize("shape", list(SHAPES))
def test_a_shape_fits_its_size(shape: str) -> None:
    """A print fills a good part of its square and nothing outside."""
    mark = Print(shape=shape, word="", name="red", colour=(255.0, 0.0, 0.0), size=0.05, down=0.1)
    across = np.linspace(-0.1, 0.1, 200, dtype=np.float32)[None]
    down = np.linspace(0, 0.2, 200, dtype=np.float32)[:, None]
    cover = print_cover(mark, across, down, 0.001)
    assert 0.15 < cover[50:150, 50:150].mean() < 0.95
    assert cover[:45].max() == cover[155:].max() == cover[:, :40].max() == 0


def test_a_word_can_be_read() -> None:
    """The letter L has ink down its left and along its foot, and none in its upper right."""
    mark = Print(shape="word", word="L", name="red", colour=(255.0, 0.0, 0.0), size=0.05, down=0.1)
    across = np.linspace(-0.05, 0.05, 100, dtype=np.float32)[None]
    down = np.linspace(0.03, 0.17, 140, dtype=np.float32)[:, None]
    cover = print_cover(mark, across, down, 0.001)
    assert cover[20:120, 8:12].min() > 0.8
    assert cover[128:132, 20:90].min() > 0.8
    assert cover[10:100, 40:90].max() < 0.1


def test_hands_stay_out_of_the_body() -> None:
    """Every drawn arm keeps clear of trunk and head."""
    rng = np.random.default_rng(1)
    for _ in range(200):
        angles = draw_angles(rng, PERSON)
        for name, side in SIDES:
            arm = angles.arms[name]
            assert is_clear(PERSON, side, arm) or arm.lift == 0.3


def test_feet_stand_on_the_floor() -> None:
    """The lower ankle is at an ankle's height, and limbs keep their lengths in any pose."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        figure = stand(PERSON, draw_angles(rng, PERSON), float(np.deg2rad(draw_yaw(rng))))
        points = figure.points
        for name, _ in SIDES:
            thigh = np.linalg.norm(points[f"{name}-hip"] - points[f"{name}-knee"])
            assert thigh == pytest.approx(0.242 * PERSON.stature, rel=1e-3)
        joints = coco_joints(figure)
        assert np.isfinite(joints[1:14]).all()


def test_yaws_prefer_the_front_and_reach_all_around() -> None:
    """More than a third of the views are near the front and some are from behind."""
    rng = np.random.default_rng(3)
    yaws = np.abs([draw_yaw(rng) for _ in range(2000)])
    assert (yaws < 35).mean() > 0.35
    assert 0.08 < (yaws > 135).mean() < 0.25
