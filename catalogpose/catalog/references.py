"""Reference photos for style transfer: where on them the source's cloth shall appear."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from catalogpose.catalog.labels import MAX_MAP_PIXELS
from catalogpose.catalog.photos import read_size
from catalogpose.catalog.poses import read_pose
from catalogpose.errors import RowError
from catalogpose.records import LABEL_ID, LABELS

MASK_SUFFIX = ".png"
"""How the path of a mask file ends, whatever its case; other words are names of labels."""

MASK_MODES = ("1", "L", "P", "RGB")
"""Pillow's modes of PNGs that can be a mask: black and white, grey, indexed and colour."""

SHAPE_TOLERANCE = 0.02
"""Share by which a pose's canvas may be wider or narrower than its reference: files round sides."""


def split_regions(text: str) -> tuple[tuple[str, ...], str | None]:
    """Tell label names from the path of a mask: return the names, or none and the path.

    Names are separated by commas; a name that is there twice counts once. Raises `ValueError` with
    the reason where a word is neither.
    """
    names = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    unknown = [name for name in names if not LABEL_ID.get(name)]
    if not unknown:
        return names, None
    if text.strip().lower().endswith(MASK_SUFFIX):
        return (), text
    raise ValueError(
        f"unknown label {unknown[0]!r}; give labels ({', '.join(LABELS[1:])}) "
        f"or the path of a mask that ends in {MASK_SUFFIX}"
    )


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Read a mask (H, W): 255 where the source's cloth shall appear, 0 where the reference stays.

    Grey between them mixes both. Raises `RowError` of stage `reference`: `missing`, `unreadable`,
    `too-large`, or `not-a-mask` for a PNG with transparency or more than 8 bits.
    """
    name = repr(str(path))
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=["PNG"]) as image:
            _check_mode(image, name)
            return np.array(image.convert("L"), dtype=np.uint8)
    except FileNotFoundError:
        raise _error("missing", f"missing mask {name}") from None
    except UnidentifiedImageError:
        raise _error("unreadable", f"mask {name} is not a PNG") from None
    except Image.DecompressionBombError:
        raise _error("too-large", f"mask {name} is too large") from None
    except (OSError, SyntaxError, ValueError):
        raise _error("unreadable", f"mask {name} cannot be read") from None


def mask_fault(mask: Path, reference: Path) -> str | None:
    """Say from both headers why a mask cannot be used on a reference; None where it seems to fit.

    A reference that cannot be read is its own row's failure, later.
    """
    name = repr(mask.name)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(mask, formats=["PNG"]) as image:
            _check_mode(image, name)
            size = image.size
    except RowError as error:
        return error.message
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return f"mask {name} is not a PNG that can be read"
    wanted = read_size(reference)
    if wanted is None or size == wanted:
        return None
    return size_reason(size, wanted)


def size_reason(size: tuple[int, int], wanted: tuple[int, int]) -> str:
    """Say that a mask of this width and height does not lie on the upright reference of that."""
    return f"the mask has {size[0]}x{size[1]} pixels, the upright reference {wanted[0]}x{wanted[1]}"


def shape_fault(pose: Path, size: tuple[int, int] | None, reference: Path) -> str | None:
    """Say why a pose does not lie on its reference; None where it does, or where this shows later.

    `size` is the canvas that the manifest names, None: what the file says, else the reference's.
    """
    photo = read_size(reference)
    if photo is None:
        return None
    try:
        canvas = read_pose(pose, size=size, fallback=photo)
    except RowError:
        return None
    across, along = canvas.width * photo[1], canvas.height * photo[0]
    if abs(across - along) <= SHAPE_TOLERANCE * max(across, along):
        return None
    return (
        f"its canvas of {canvas.width}x{canvas.height} has another shape than the upright "
        f"reference of {photo[0]}x{photo[1]}; give the joints on the reference itself"
    )


def _check_mode(image: Image.Image, name: str) -> None:
    """Raise `RowError` unless an open PNG, not yet decoded, is a mask."""
    if image.width * image.height > MAX_MAP_PIXELS:
        raise _error("too-large", f"mask {name} has over 64 megapixels")
    if image.mode not in MASK_MODES or image.has_transparency_data:
        reason = f"mask {name} has transparency or 16 bits; save it as 8-bit black and white"
        raise _error("not-a-mask", reason)


def _error(error_class: str, message: str) -> RowError:
    """Return the error of a mask that cannot be used."""
    return RowError("reference", error_class, message)
