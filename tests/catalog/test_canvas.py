import numpy as np
import pytest
from PIL import Image

from catalogpose.catalog.canvas import fit_joints, fit_map, fit_photo
from catalogpose.records import Letterbox, Pose

SIZES = [(352, 512), (333, 777), (1101, 750), (50, 100), (7, 5), (88, 128), (1, 300)]
"""Widths and heights of sources, larger and smaller than the canvas."""


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_photo_and_map_agree(width: int, height: int) -> None:
    """Where the map has the source, the photo has it, and white is elsewhere."""
    letterbox = Letterbox.fit(width, height, 88, 128)
    photo = fit_photo(np.zeros((height, width, 3), np.uint8), letterbox)
    labels = fit_map(np.ones((height, width), np.uint8), letterbox)
    assert photo.shape == (128, 88, 3)
    assert labels.shape == (128, 88)
    assert photo.dtype == labels.dtype == np.uint8
    assert np.array_equal(photo[..., 0] < 128, labels == 1)


def test_a_source_of_the_canvas_size_is_untouched() -> None:
    """No resampling happens where none is needed."""
    picture = np.random.default_rng(0).integers(0, 256, (128, 88, 3), np.uint8)
    letterbox = Letterbox.fit(88, 128, 88, 128)
    assert np.array_equal(fit_photo(picture, letterbox), picture)
    assert np.array_equal(fit_map(picture[..., 0], letterbox), picture[..., 0])


def test_a_source_of_the_canvas_shape_is_resized_plainly() -> None:
    """Twice the size in both directions is what Pillow makes of it, without a border."""
    picture = np.random.default_rng(0).integers(0, 256, (256, 176, 3), np.uint8)
    expected = Image.fromarray(picture).resize((88, 128), Image.Resampling.BICUBIC)
    fitted = fit_photo(picture, Letterbox.fit(176, 256, 88, 128))
    assert np.array_equal(fitted, np.asarray(expected))


def test_shrinking_is_antialiased() -> None:
    """A fine chequerboard becomes grey, not a moiré."""
    board = (np.indices((512, 352)).sum(axis=0) % 2 * 255).astype(np.uint8)
    fitted = fit_photo(board[..., None].repeat(3, axis=2), Letterbox.fit(352, 512, 88, 128))
    assert np.abs(fitted.astype(int) - 127).max() <= 2


def test_a_map_invents_no_labels() -> None:
    """Only ids of the source, and background, are on the canvas."""
    labels = np.random.default_rng(0).choice([3, 9, 200], (333, 217)).astype(np.uint8)
    assert set(np.unique(fit_map(labels, Letterbox.fit(217, 333, 352, 512)))) == {0, 3, 9, 200}


def test_photo_map_and_joints_meet() -> None:
    """A spot in the photo, its label and a joint on it land on the same place."""
    picture = np.full((300, 200, 3), 255, np.uint8)
    labels = np.zeros((300, 200), np.uint8)
    picture[100:140, 50:90] = 0
    labels[100:140, 50:90] = 5
    joints = np.full((18, 3), np.nan, np.float32)
    joints[0] = (70, 120, 1)
    letterbox = Letterbox.fit(200, 300, 88, 128)
    spots = [fit_photo(picture, letterbox)[..., 0] < 128, fit_map(labels, letterbox) == 5]
    centres = [np.argwhere(spot).mean(axis=0)[::-1] + 0.5 for spot in spots]
    joint = fit_joints(Pose(joints=joints, width=200, height=300), 88, 128)[0, :2]
    assert np.allclose(centres, joint, atol=0.6)


def test_joints_go_from_their_canvas_to_ours() -> None:
    """Corners land at the letterbox's corners; missing stays missing, confidence stays."""
    joints = np.zeros((18, 3), np.float32)
    joints[0], joints[1] = (0, 0, 0.25), (100, 100, 1)
    joints[2] = (np.nan, np.nan, 0)
    fitted = fit_joints(Pose(joints=joints, width=100, height=100), 88, 128)
    assert fitted.dtype == np.float32
    assert fitted[0].tolist() == [0, 20, 0.25]
    assert fitted[1].tolist() == [88, 108, 1]
    assert np.isnan(fitted[2, :2]).all()
    assert joints[1].tolist() == [100, 100, 1]


def test_a_finer_canvas_shows_all_in_the_same_place() -> None:
    """Three times the canvas is one of three times its size: borders and points where they were."""
    letterbox = Letterbox.fit(70, 41, 88, 128)
    finer = letterbox.times(3)
    assert finer == Letterbox.fit(70, 41, 264, 384)
    points = np.array([[0, 0], [35, 20.5], [70, 41]], dtype=np.float32)
    np.testing.assert_allclose(finer.points(points), 3 * letterbox.points(points), atol=1e-4)
