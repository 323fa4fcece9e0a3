"""What the metrics ask of the arrays they are given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def check_pictures(output: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
    """Raise ValueError unless both are uint8 (H, W, 3) of one size."""
    for name, picture in (("output", output), ("target", target)):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"{name} must be uint8 (H, W, 3), not {picture.dtype} {picture.shape}")
    if output.shape != target.shape:
        raise ValueError(f"output {output.shape} and target {target.shape} differ in size")


def check_map(labels: NDArray[np.integer], shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `labels` is an integer map of this shape (H, W)."""
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 2 or labels.shape != shape:
        raise ValueError(
            f"a parsing map must be integers {shape}, not {labels.dtype} {labels.shape}"
        )
