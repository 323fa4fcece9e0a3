"""The arrays of a prepared manifest on disk: mapped into memory, whole or not there, and surely
written before they count as done.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogpose.errors import EnvironmentFault
from catalogpose.records import LABELS

WAITING, DONE, FAILED = 0, 1, 2
"""What `state.npy` says of a picture."""


def open_arrays(
    folder: Path,
    count: int,
    canvas: tuple[int, int],
    latent: tuple[int, int, int],
    clip_width: int,
    photos: bool,
) -> dict[str, np.memmap[Any, Any]]:
    """Map the arrays of some pictures into memory, as an interrupted call left them or empty.

    Args:
        folder: Where they lie.
        count: N, how many pictures there are.
        canvas: Height and width in pixels.
        latent: Channels, height and width of a latent.
        clip_width: D, the width of an embedding.
        photos: Whether the photos on the canvas are kept too.

    Returns:
        `latents` (N, c, h, w) float16; `labels` (N, H, W) uint8; `joints` (N, 18, 3) float32;
        `shown` and `known` (N, L) bool; `embeddings` (N, L, D) float16; `state` (N,) uint8; and
        `photos` (N, H, W, 3) uint8 where they are kept.

    Raises:
        EnvironmentFault: If the disk has no room for them.
    """
    shapes: dict[str, tuple[Any, tuple[int, ...]]] = {
        "latents": (np.float16, latent),
        "labels": (np.uint8, canvas),
        "joints": (np.float32, (18, 3)),
        "shown": (np.bool_, (len(LABELS),)),
        "known": (np.bool_, (len(LABELS),)),
        "embeddings": (np.float16, (len(LABELS), clip_width)),
        "state": (np.uint8, ()),
    }
    if photos:
        shapes["photos"] = (np.uint8, (*canvas, 3))
    _need_space(folder, sum(count * _size(kind, shape) for kind, shape in shapes.values()))
    return {
        name: _open(folder / f"{name}.npy", kind, (count, *shape))
        for name, (kind, shape) in shapes.items()
    }


def save_arrays(arrays: Mapping[str, np.memmap[Any, Any]], state: NDArray[np.uint8]) -> None:
    """Make sure that the arrays are on disk, and only then that `state` says so there."""
    for name, array in arrays.items():
        if name != "state":
            array.flush()
    arrays["state"][:] = state
    arrays["state"].flush()


def _open(path: Path, kind: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Map one array into memory; a new one gets its name only once it has its full length."""
    if not path.exists():
        partial = path.with_name(f"{path.name}.partial")
        np.lib.format.open_memmap(partial, mode="w+", dtype=kind, shape=shape)
        partial.replace(path)
    return np.lib.format.open_memmap(path, mode="r+")


def _size(kind: Any, shape: tuple[int, ...]) -> int:
    """Return the bytes of one picture's part of an array."""
    return int(np.dtype(kind).itemsize * np.prod(shape, dtype=np.int64))


def _need_space(folder: Path, size: int) -> None:
    """Raise EnvironmentFault unless the disk has room: writing to a map on a full disk would kill
    the process without a word.
    """
    there = sum(path.stat().st_blocks * 512 for path in folder.glob("*.npy"))
    free = shutil.disk_usage(folder).free
    if size - there > free:
        raise EnvironmentFault(
            f"{folder} needs {(size - there) / 1e9:.1f} GB more, the disk has {free / 1e9:.1f} GB: "
            "make room, or name another --out"
        )
