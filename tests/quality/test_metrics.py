import math

import numpy as np
import pytest

from catalogpose.quality.metrics import psnr, ssim


def noise(seed: int, size: tuple[int, int] = (48, 32)) -> np.ndarray:
    """Return a picture of random bytes."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def test_a_picture_is_like_itself() -> None:
    """SSIM of a picture with itself is 1 and its PSNR infinite."""
    picture = noise(0)
    assert ssim(picture, picture) == pytest.approx(1.0)
    assert psnr(picture, picture) == math.inf


def test_psnr_of_a_known_error() -> None:
    """A difference of 16 everywhere is 10 log10(255² / 16²) decibels."""
    dark = np.full((20, 30, 3), 100, dtype=np.uint8)
    assert psnr(dark, dark + 16) == pytest.approx(20 * math.log10(255 / 16))


def test_psnr_does_not_wrap_around() -> None:
    """Black against white is 0 dB in both directions: bytes are not subtracted as bytes."""
    black = np.zeros((12, 12, 3), dtype=np.uint8)
    white = np.full_like(black, 255)
    assert psnr(black, white) == psnr(white, black) == pytest.approx(0.0)


def test_ssim_of_flat_pictures_is_the_luminance_term() -> None:
    """Two flat greys have no structure: SSIM is (2ab + C1) / (a² + b² + C1), C1 = (0.01 · 255)²."""
    a, b, c1 = 60.0, 120.0, (0.01 * 255) ** 2
    flat = np.full((24, 24, 3), 60, dtype=np.uint8)
    assert ssim(flat, flat * 2) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-6)


def test_ssim_uses_the_gaussian_window() -> None:
    """On noise the value is that of Wang's definition, computed here with a window of our own."""
    output, target = noise(1), noise(2)
    offsets = np.arange(-5, 6)
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / np.outer(line, line).sum()

    def mean_at(values: np.ndarray) -> np.ndarray:
        patches = np.lib.stride_tricks.sliding_window_view(values, (11, 11), axis=(0, 1))
        return (patches * window).sum(axis=(-2, -1))

    x, y = output.astype(float), target.astype(float)
    mx, my = mean_at(x), mean_at(y)
    vx, vy, vxy = mean_at(x * x) - mx**2, mean_at(y * y) - my**2, mean_at(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    field = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim(output, target) == pytest.approx(field.mean(), abs=1e-6)


@pytest.mark.parametrize(
    ("output", "target"),
    [
        (noise(0), noise(0, (48, 33))),
        (noise(0).astype(np.float32), noise(0)),
        (noise(0)[..., 0], noise(0)[..., 0]),
        (noise(0)[..., :2], noise(0)[..., :2]),
    ],
    ids=["sizes differ", "floats", "grey", "two channels"],
)
def test_other_arrays_are_refused(output: np.ndarray, target: np.ndarray) -> None:
    """Anything but two uint8 RGB pictures of one size is a ValueError, not a number."""
    for metric in (ssim, psnr):
        with pytest.raises(ValueError, match=r"uint8|differ"):
            metric(output, target)


def test_ssim_needs_room_for_its_window() -> None:
    """A side under 11 pixels is a ValueError."""
    with pytest.raises(ValueError, match="win_size"):
        ssim(noise(0, (10, 40)), noise(1, (10, 40)))
