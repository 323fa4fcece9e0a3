"""How near a picture is to the true one, pixel by pixel: SSIM and PSNR."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from catalogpose.quality.pictures import check_pictures

SIGMA = 1.5
"""Width of SSIM's Gaussian window in pixels; skimage cuts it at 3.5 sigma: 11 x 11 pixels."""
DATA_RANGE = 255
"""Distance from black to white: what a picture can hold, not what this one happens to hold."""


def ssim(output: NDArray[np.uint8], target: NDArray[np.uint8]) -> float:
    """Return the structural similarity of two pictures uint8 (H, W, 3).

    1 if identical, about 0 if unrelated. Wang et al. 2004, a Gaussian window of sigma 1.5,
    population covariance, the mean over the colour channels. The field's code (`ssim_256` in CFLD,
    GFLA and their heirs) differs in one thing: it takes the data range from the output's own
    brightest and darkest values, which can make the score of a flat output NaN, and moves with the
    output's contrast. Ours is always 255, so the numbers are near the papers' and not the same.

    Raises ValueError where the pictures differ in size or type, or a side is under 11 pixels.
    """
    check_pictures(output, target)
    return float(
        structural_similarity(
            output,
            target,
            gaussian_weights=True,
            sigma=SIGMA,
            use_sample_covariance=False,
            channel_axis=-1,
            data_range=DATA_RANGE,
        )
    )


def psnr(output: NDArray[np.uint8], target: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio in decibels of two pictures uint8 (H, W, 3).

    The peak is 255. Identical pictures have no noise: infinity. Means leave such rows out and say
    how many; JSON has null for them. Raises ValueError where the pictures differ in size or type.
    """
    check_pictures(output, target)
    error = float(np.mean((output.astype(np.float64) - target.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(DATA_RANGE**2 / error)
