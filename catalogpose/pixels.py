"""The one place where pictures of bytes become pictures of floats, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_floats(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn uint8 (..., H, W, 3) in 0..255 into float32 (..., 3, H, W) in -1..1."""
    return np.moveaxis(picture.astype(np.float32) / 127.5 - 1.0, -1, -3)


def to_bytes(floats: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Turn floats (..., 3, H, W) in -1..1 into uint8 (..., H, W, 3); values outside are clipped."""
    scaled = (np.moveaxis(np.asarray(floats, dtype=np.float32), -3, -1) + 1.0) * 127.5
    return np.asarray(np.clip(np.rint(scaled), 0, 255), dtype=np.uint8)
