from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.filters import gaussian

from catalogpose.quality.pattern import measure_texture, pattern_error, texture_distance
from catalogpose.records import LABEL_ID
from catalogpose.studio import Picture, draw_view

Photo = NDArray[np.uint8]
RED, WHITE, WALL = (200, 40, 40), (240, 240, 235), (200, 200, 200)
UPPER = LABEL_ID["upper-clothes"]


def garment(
    kind: Literal["rows", "columns", "check", "plain"] = "rows",
    period: float = 8,
    shift: int = 0,
    shade: float = 1,
) -> Photo:
    """Return a picture (128, 96, 3): cloth of a period in pixels, as bright as `shade`, on grey."""
    y, x = np.mgrid[:128, :96] + shift
    rows, columns = y % period < period / 2, x % period < period / 2
    inked = {"rows": rows, "columns": columns, "check": rows ^ columns, "plain": rows & False}[kind]
    picture = np.full((128, 96, 3), WALL, dtype=np.uint8)
    cloth = np.where(inked[..., None], RED, WHITE) * shade
    picture[30:100, 25:70] = cloth[30:100, 25:70]
    return picture


LABELS = np.zeros((128, 96), dtype=np.uint8)
LABELS[30:100, 25:70] = UPPER


def error(output: Photo, target: Photo | None = None) -> float:
    """Return the pattern error of an output; the target is red and white rows."""
    found = pattern_error(output, garment() if target is None else target, LABELS, LABELS)
    assert found is not None
    return found


def blurred(picture: Photo, width: float) -> Photo:
    """Return a picture through a Gaussian."""
    soft = gaussian(picture, width, channel_axis=-1, preserve_range=True)
    return np.round(soft).astype(np.uint8)


def test_the_same_pattern_has_no_error() -> None:
    """Equal pictures are at 0, and so are two plain cloths of other colours."""
    assert error(garment()) == 0
    assert error(garment("plain"), garment("plain", shade=0.5)) < 0.01


def test_a_shift_costs_next_to_nothing() -> None:
    """Stripes that begin elsewhere are the same stripes."""
    for shift in (1, 3, 4):
        assert error(garment(shift=shift)) < 0.06


def test_a_plain_garment_has_lost_all() -> None:
    """Plain for striped, and striped for plain, are near 1."""
    assert error(garment("plain")) > 0.9
    assert error(garment(), garment("plain")) > 0.9


def test_width_costs_by_how_far_it_is_off() -> None:
    """An eighth wider is near, twice as wide is far, and between them the error grows."""
    found = [error(garment(period=period)) for period in (9, 10, 12, 16)]
    assert found == sorted(found)
    assert found[0] < 0.2
    assert found[-1] > 0.4
    assert error(garment(period=4)) > 0.4


@pytest.mark.parametrize("kind", ["columns", "check"])
def test_another_pattern_of_the_same_colours_is_far(kind: Literal["columns", "check"]) -> None:
    """Stripes that run the other way, and checks, are not these stripes."""
    assert error(garment(kind)) > 0.4


def test_blur_is_punished_by_its_width() -> None:
    """A wider blur always costs more, in both directions alike."""
    found = [error(blurred(garment(), width)) for width in (0.7, 1, 2, 4)]
    assert found == sorted(found)
    assert found[0] > 0.15
    assert found[2] > 0.6
    assert error(garment(), blurred(garment(), 2)) == pytest.approx(found[2], abs=1e-6)


def test_shade_and_noise_matter_little() -> None:
    """The colour error charges a darker garment; a little grain is no other pattern."""
    rng = np.random.default_rng(0)
    grain = np.clip(garment() + rng.normal(0, 5, (128, 96, 3)), 0, 255).astype(np.uint8)
    assert error(garment(shade=0.8)) < 0.2
    assert error(grain) < 0.06


def test_what_lies_around_does_not_count() -> None:
    """The wall's colour reaches no texture: the rim of a region is no edge."""
    region = LABELS > 0
    other = garment()
    other[~region] = (0, 0, 90)
    textures = measure_texture(garment(), region), measure_texture(other, region)
    assert texture_distance(*textures) == 0


def test_the_distance_is_symmetric_and_bounded() -> None:
    """Pure noise against black, the largest contrast there is, stays within 1."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 2, (64, 48, 1)).repeat(3, axis=2).astype(np.uint8) * 255
    region = np.ones((64, 48), dtype=bool)
    one, two = measure_texture(noise, region), measure_texture(np.zeros_like(noise), region)
    assert 0.9 < texture_distance(one, two) <= 1
    assert texture_distance(one, two) == texture_distance(two, one)


def test_a_wrong_map_costs_the_true_picture_nothing() -> None:
    """Where a parser takes some wall for cloth and some cloth for wall, the error stays 0."""
    wrong = np.roll(LABELS, 12, axis=0)
    assert pattern_error(garment(), garment(), wrong, LABELS) == 0


def test_a_missing_garment_is_charged_with_what_is_there() -> None:
    """Without agreement of the maps the target's region is looked at."""
    wall = np.full((128, 96, 3), WALL, dtype=np.uint8)
    nothing, expected = np.zeros_like(LABELS), pytest.approx(error(garment("plain")), abs=1e-5)
    assert pattern_error(wall, garment(), nothing, LABELS) == expected
    assert pattern_error(wall, garment(), None, LABELS) == expected


def test_garments_count_by_area() -> None:
    """A spoilt quarter of the cloth gives a quarter of the spoilt garment's error."""
    labels = LABELS.copy()
    labels[30:100, 25:36] = LABEL_ID["skirt"]
    output, target = garment(), garment()
    output[labels == LABEL_ID["skirt"]] = WHITE
    alone = texture_distance(
        *(measure_texture(picture, labels == LABEL_ID["skirt"]) for picture in (output, target))
    )
    assert alone > 0.8
    found = pattern_error(output, target, labels, labels)
    assert found == pytest.approx(alone * 11 / 45)


def test_no_garment_no_number() -> None:
    """Skin and a crumb of cloth have no pattern: None; wrong maps are a ValueError."""
    labels = np.full_like(LABELS, LABEL_ID["face"])
    labels[:5, :5] = UPPER
    assert pattern_error(garment(), garment(), labels, labels) is None
    with pytest.raises(ValueError, match="parsing map"):
        pattern_error(garment(), garment(), LABELS[:-1], LABELS)


def between(first: Picture, second: Picture, width: float = 0) -> float:
    """Return the distance of the upper garments of two drawings, the second blurred."""
    photo = blurred(second.photo, width) if width else second.photo
    return texture_distance(
        measure_texture(first.photo, first.labels == UPPER),
        measure_texture(photo, second.labels == UPPER),
    )


def test_drawn_garments_are_known_again() -> None:
    """In the studio another view of a garment is nearer than another garment, nearly always."""
    views = []
    for product in range(2_000_000, 2_000_024):
        pair = [draw_view(product, view, height=128, width=88) for view in (0, 1)]
        if all((picture.labels == UPPER).sum() > 200 for picture in pair):
            views.append(pair)
    assert len(views) >= 10
    same = np.array([between(one, two) for one, two in views])
    others = np.array([between(views[i - 1][0], views[i][1]) for i in range(len(views))])
    assert np.mean(same[:, None] < others) > 0.9
    soft = np.array([between(two, two, 1.5) for _, two in views])
    assert soft.mean() > 1.5 * same.mean()
