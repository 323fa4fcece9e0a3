import numpy as np
import pytest

from catalogpose.quality.colour import garment_colour_error
from catalogpose.records import LABEL_ID

RED, BLUE, GREY = (200, 30, 40), (30, 40, 200), (128, 128, 128)


def scene(colour: tuple[int, int, int], shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture (60, 60) with a garment of one colour on grey, and its map."""
    picture = np.full((60, 60, 3), GREY, dtype=np.uint8)
    labels = np.zeros((60, 60), dtype=np.uint8)
    place = slice(10 + shift, 40 + shift), slice(15, 45)
    picture[place] = colour
    labels[place] = LABEL_ID["upper-clothes"]
    return picture, labels


def test_equal_colours_have_no_error() -> None:
    """The same garment in the same place has error 0."""
    picture, labels = scene(RED)
    assert garment_colour_error(picture, picture, labels, labels) == pytest.approx(0, abs=1e-9)


def test_known_difference() -> None:
    """Black against white is the ΔE00 of 100."""
    black, labels = scene((0, 0, 0))
    white, _ = scene((255, 255, 255))
    assert garment_colour_error(black, white, labels, labels) == pytest.approx(100, abs=0.01)


def test_a_moved_garment_costs_nothing() -> None:
    """With the output's own map only colour counts, not place."""
    (output, output_labels), (target, target_labels) = scene(RED, shift=18), scene(RED)
    assert garment_colour_error(output, target, output_labels, target_labels) == pytest.approx(0)
    without_map = garment_colour_error(output, target, None, target_labels)
    assert without_map is not None
    assert without_map > 10


def test_a_wrong_product_is_worse_than_a_fade() -> None:
    """A blue garment for a red one costs far more than a slightly paler red."""
    (right, labels), (paler, _), (wrong, _) = scene(RED), scene((205, 45, 55)), scene(BLUE)
    faded = garment_colour_error(paler, right, labels, labels)
    swapped = garment_colour_error(wrong, right, labels, labels)
    assert faded is not None
    assert swapped is not None
    assert 0 < faded < swapped / 5


def test_a_missing_garment_is_charged_with_what_is_there() -> None:
    """Where the output's map lacks the garment, the target's region is looked at instead."""
    target, labels = scene(RED)
    empty = np.full_like(target, 128)
    expected = garment_colour_error(empty, target, None, labels)
    assert garment_colour_error(empty, target, np.zeros_like(labels), labels) == expected


def test_garments_count_the_same() -> None:
    """One garment right and one wrong give half the wrong one's error, whatever their sizes."""
    target, labels = scene(RED)
    labels[10:40, 15:20] = LABEL_ID["skirt"]
    output = target.copy()
    output[labels == LABEL_ID["skirt"]] = BLUE
    alone = garment_colour_error(scene(BLUE)[0], target, None, scene(RED)[1])
    assert alone is not None
    assert garment_colour_error(output, target, labels, labels) == pytest.approx(alone / 2)


def test_no_garment_no_number() -> None:
    """A target with skin, background and a crumb of cloth only has no colour error: None."""
    picture, labels = scene(RED)
    labels[labels > 0] = LABEL_ID["left-arm"]
    labels[0, 0] = LABEL_ID["hat"]
    assert garment_colour_error(picture, picture, labels, labels) is None


def test_maps_must_fit() -> None:
    """A map of another size or of floats is a ValueError."""
    picture, labels = scene(RED)
    with pytest.raises(ValueError, match="parsing map"):
        garment_colour_error(picture, picture, None, labels[:-1])
    with pytest.raises(ValueError, match="parsing map"):
        garment_colour_error(picture, picture, labels.astype(float), labels)
