"""Studio pictures for training: photos drawn finely and fitted onto the canvas."""

from pathlib import Path

import numpy as np
import pytest

from catalogpose.studio import SPLITS, draw_view
from catalogpose.training.pictures import draw_finely, draw_large, draw_pictures

SIZE = (128, 88)


@pytest.mark.parametrize("product", [4001, 4017, 4023])
def test_fine_photos_show_areas(product: int) -> None:
    """A finely drawn photo is nearer to the means of one drawn four times as fine than points are;
    map, joints and surface are the canvas's own.
    """
    plain = draw_view(product, 1, height=128, width=88, surface=True)
    fine = draw_finely(product, 1, SIZE, 2, surface=True)
    large = draw_view(product, 1, height=512, width=352).photo.astype(float)
    means = large.reshape(128, 4, 88, 4, 3).mean(axis=(1, 3))
    off = [np.square(picture.photo - means).mean() for picture in (fine, plain)]
    assert off[0] < 0.5 * off[1]
    for name in ("labels", "joints", "surface"):
        np.testing.assert_array_equal(getattr(fine, name), getattr(plain, name))


def test_pictures_of_either_kind_are_kept_apart(tmp_path: Path) -> None:
    """A folder that has pictures of points draws finer ones beside them, and none again."""
    points, means = (
        draw_pictures(tmp_path, "train", 1, 2, SIZE, fine=fine, workers=1) for fine in (1, 2)
    )
    assert (points.photos != means.photos).any()
    np.testing.assert_array_equal(means.photos[0, 1], draw_finely(0, 1, SIZE, 2).photo)
    np.testing.assert_array_equal(points.surface, means.surface)
    drawn = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    again = draw_pictures(tmp_path, "train", 1, 2, SIZE, workers=1)
    np.testing.assert_array_equal(again.photos, points.photos)
    assert drawn == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert len(drawn) == 2


@pytest.mark.parametrize("fine", [1, 2])
def test_views_are_drawn_at_any_size_in_their_order(fine: int) -> None:
    """Photos and maps are those that the studio draws, as finely as asked for, a place a view."""
    views = [(4, 1), (0, 0), (4, 1)]
    photos, maps = draw_large("validation", views, (64, 48), fine=fine, workers=2)
    first = SPLITS["validation"].start
    for photo, labels, (product, view) in zip(photos, maps, views, strict=True):
        picture = draw_finely(first + product, view, (64, 48), fine)
        np.testing.assert_array_equal(photo, picture.photo)
        np.testing.assert_array_equal(labels, picture.labels)
