"""Studio pictures as arrays, drawn once and kept in parts, for every net to learn from."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalogpose.catalog.canvas import fit_photo
from catalogpose.catalog.files import write_atomically
from catalogpose.records import Letterbox
from catalogpose.studio import SPLITS, Picture, draw_view
from catalogpose.training.correspondence import sample_surface
from catalogpose.training.loop import Progress

PART = 50
"""Products in one part file."""

VIEWS_A_TASK = 8
"""Views that a process draws before it hands them over."""

SURFACE_CELL = 2
"""Pixels of a cell's side, for each of which one point of the surface is kept."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """P products seen V times each."""

    photos: NDArray[np.uint8]
    """(P, V, H, W, 3)."""
    labels: NDArray[np.uint8]
    """(P, V, H, W), ids in `records.LABELS`."""
    joints: NDArray[np.float32]
    """(P, V, 18, 3), x, y in pixels and confidence."""
    surface: NDArray[np.uint8]
    """(P, V, ceil(H / 2), ceil(W / 2), 3): which point of skin or cloth the cells' middles show."""
    captions: Sequence[Sequence[dict[str, str]]]
    """A phrase a region for each view, by label name."""

    @property
    def coarse_surface(self) -> NDArray[np.uint8]:
        """(P * V, ceil(H / 4), ceil(W / 4), 3): every second cell of `surface`, enough for the
        tokens of attention.
        """
        thinned = self.surface[:, :, ::2, ::2]
        return thinned.reshape(-1, *thinned.shape[2:])


def draw_finely(
    product: int, view: int, size: tuple[int, int], fine: int, *, surface: bool = False
) -> Picture:
    """Draw a view whose photo is fitted onto the canvas, as `generate` fits users' photos, from one
    that is `fine` times as high and wide: its pixels are then of areas and not of points. All else
    is the canvas's own. 1 gives the plain view.
    """
    height, width = size
    picture = draw_view(product, view, height=height, width=width, surface=surface)
    if fine == 1:
        return picture
    photo = draw_view(product, view, height=height * fine, width=width * fine).photo
    letterbox = Letterbox.fit(width * fine, height * fine, width, height)
    return dataclasses.replace(picture, photo=fit_photo(photo, letterbox))


def draw_large(
    split: str,
    views: Sequence[tuple[int, int]],
    size: tuple[int, int],
    *,
    fine: int = 1,
    workers: int = 2,
    progress: Progress | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw views of a split's products at some size: photos (n, H, W, 3) and maps (n, H, W).

    Args:
        split: `train`, `validation` or `test`.
        views: n products, counted from the split's first, and their views.
        size: H and W.
        fine: See `draw_finely`.
        workers: Processes that draw.
        progress: Told how many views are done; None: nobody is told.
    """
    photos = np.empty((len(views), *size, 3), np.uint8)
    maps = np.empty((len(views), *size), np.uint8)
    first, context = SPLITS[split].start, multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        tasks = [(first + product, view, size, fine) for product, view in views]
        drawn = pool.map(_draw_task, tasks, chunksize=VIEWS_A_TASK)
        for place, (photo, labels) in enumerate(drawn):
            photos[place], maps[place] = photo, labels
            if progress is not None and (place + 1) % PART == 0:
                progress("drawing finer pictures", place + 1, len(views))
    return photos, maps


def _draw_task(
    task: tuple[int, int, tuple[int, int], int],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return photo and map of what `draw_finely` draws."""
    picture = draw_finely(*task)
    return picture.photo, picture.labels


def _draw_part(
    first: int, count: int, views: int, size: tuple[int, int], fine: int, path: Path
) -> None:
    """Draw `count` products from id `first` on and write them as one part."""
    pictures = [
        [draw_finely(product, view, size, fine, surface=True) for view in range(views)]
        for product in range(first, first + count)
    ]
    cells = (-(-size[0] // SURFACE_CELL), -(-size[1] // SURFACE_CELL))
    captions = [[dict(p.region_captions) for p in row] for row in pictures]
    write_atomically(
        path,
        lambda file: np.savez(
            file,
            photos=np.stack([[p.photo for p in row] for row in pictures]),
            labels=np.stack([[p.labels for p in row] for row in pictures]),
            joints=np.stack([[p.joints for p in row] for row in pictures]).astype(np.float32),
            surface=np.stack([[_sampled(p.surface, cells) for p in row] for row in pictures]),
            captions=np.frombuffer(json.dumps(captions).encode(), dtype=np.uint8),
        ),
    )


def _sampled(surface: NDArray[np.uint8] | None, cells: tuple[int, int]) -> NDArray[np.uint8]:
    """Keep one point a cell of a surface that was asked for."""
    assert surface is not None
    return sample_surface(surface, *cells)


def draw_pictures(
    folder: Path,
    split: str,
    products: int,
    views: int,
    size: tuple[int, int],
    *,
    fine: int = 1,
    workers: int = 2,
    progress: Progress | None = None,
) -> Pictures:
    """Draw (or read again) the first products of a split.

    Args:
        folder: Where the parts lie; parts already there are not drawn again.
        split: `train`, `validation` or `test`.
        products: How many.
        views: Pictures of each.
        size: Height and width in pixels.
        fine: See `draw_finely`.
        workers: Processes that draw.
        progress: Told how many parts are done; None: nobody is told.
    """
    name = f"{split}-{size[0]}x{size[1]}-{views}-surface{SURFACE_CELL}"
    folder = folder / (name if fine == 1 else f"{name}-fine{fine}")
    folder.mkdir(parents=True, exist_ok=True)
    start = SPLITS[split].start
    parts = [
        (
            start + offset,
            min(PART, products - offset),
            folder / f"{offset:06d}-{min(PART, products - offset)}.npz",
        )
        for offset in range(0, products, PART)
    ]
    missing = [part for part in parts if not part[2].exists()]
    if missing:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            tasks = [
                pool.submit(_draw_part, first, count, views, size, fine, path)
                for first, count, path in missing
            ]
            for done, task in enumerate(as_completed(tasks), start=1):
                task.result()
                if progress is not None:
                    progress(f"drawing {split}", done, len(tasks))
    return _read_parts([path for _, _, path in parts])


def _read_parts(paths: Sequence[Path]) -> Pictures:
    """Join the parts in order."""
    columns: dict[str, list[NDArray[np.generic]]] = {
        name: [] for name in ("photos", "labels", "joints", "surface")
    }
    captions: list[list[dict[str, str]]] = []
    for path in paths:
        with np.load(path, allow_pickle=False) as part:
            for name, column in columns.items():
                column.append(part[name])
            captions.extend(json.loads(part["captions"].tobytes()))
    joined = {name: np.concatenate(column) for name, column in columns.items()}
    return Pictures(**joined, captions=captions)
