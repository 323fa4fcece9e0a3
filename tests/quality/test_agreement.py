import numpy as np
import pytest

from catalogpose.quality.agreement import map_agreement, mean_iou
from catalogpose.records import LABEL_ID


def test_equal_maps_agree() -> None:
    """A map agrees with itself."""
    labels = np.array([[0, 1, 2], [3, 3, 0]], dtype=np.uint8)
    assert mean_iou(labels, labels) == 1.0


def test_known_overlap() -> None:
    """Label 1 meets on 1 of 3 pixels and label 2 on 1 of 2: the mean is 5/12."""
    first = np.array([[1, 1, 0, 2]], dtype=np.uint8)
    second = np.array([[2, 1, 1, 2]], dtype=np.uint8)
    assert mean_iou(first, second) == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_a_part_in_one_map_only_counts_as_zero() -> None:
    """A garment that only one map shows pulls the mean down, in either direction."""
    plain = np.array([[1, 1, 0, 0]], dtype=np.uint8)
    extra = np.array([[1, 1, 0, 5]], dtype=np.uint8)
    assert mean_iou(plain, extra) == mean_iou(extra, plain) == pytest.approx(0.5)


def test_background_does_not_count() -> None:
    """However large the shared background is, it does not raise the agreement."""
    first, second = np.zeros((50, 50), dtype=np.uint8), np.zeros((50, 50), dtype=np.uint8)
    first[0, 0], second[9, 9] = 1, 1
    assert mean_iou(first, second) == 0.0
    assert mean_iou(first * 0, second * 0) == 1.0


def test_other_arrays_are_refused() -> None:
    """Maps of two sizes, of floats or of one axis are a ValueError."""
    labels = np.zeros((4, 5), dtype=np.uint8)
    for bad in (labels[:3], labels.astype(float), labels[0]):
        with pytest.raises(ValueError, match="parsing map"):
            mean_iou(labels, bad)
    with pytest.raises(ValueError, match="parsing map"):
        mean_iou(labels[0], labels[0])


def test_sides_of_shoes_and_kinds_of_skin_count_as_one() -> None:
    """What one parser calls a left arm and another skin agrees; a skirt and trousers do not."""
    names = (("left-shoe", "left-arm", "skirt"), ("shoe", "skin", "pants"))
    found, asked = (np.array([[LABEL_ID[name] for name in row]], dtype=np.uint8) for row in names)
    assert map_agreement(found, asked) == pytest.approx((1 + 1 + 0 + 0) / 4)
    assert mean_iou(found, asked) == 0
