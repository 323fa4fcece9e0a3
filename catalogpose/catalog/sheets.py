"""Sheets: rows of pictures in one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from catalogpose.catalog.files import write_atomically
from catalogpose.errors import EnvironmentFault


def write_sheet(path: Path, rows: Sequence[NDArray[np.uint8]]) -> None:
    """Write rows of pictures (n, H, W, 3) under one another; short rows end in white.

    Raises:
        EnvironmentFault: If the disk refuses it.
    """
    longest = max(len(row) for row in rows)
    height, width = rows[0].shape[1:3]
    sheet = np.full((len(rows) * height, longest * width, 3), 255, dtype=np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet[y * height : (y + 1) * height, x * width : (x + 1) * width] = picture
    try:
        write_atomically(path, lambda file: Image.fromarray(sheet).save(file, format="PNG"))
    except OSError as error:
        raise EnvironmentFault(f"cannot write {path}: {error.strerror or error}") from None


def fit_on(size: tuple[int, int], picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture (H, W, 3) whole and centred on white of this height and width."""
    height, width = size
    fitted = ImageOps.pad(Image.fromarray(picture), (width, height), color="white")
    return np.array(fitted, dtype=np.uint8)
