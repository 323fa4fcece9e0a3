"""What training needs of pictures and of pairs of them, in arrays that need not fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catalogpose.catalog.files import write_atomically
from catalogpose.pixels import to_floats

UNWRITTEN = ("pairs", "photos", "parsed")
"""Fields of `Pairs` that are written last or never."""


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """B pairs of S sources as tensors, on the CPU until they are sent elsewhere."""

    sources: Tensor
    """Latents of the sources, float32 (S, c, h, w); S is B, in the pairs' order, unless pairs
    share them."""
    source_of: Tensor
    """int64 (B,): which of `sources` a pair has."""
    target: Tensor
    """Latents of the targets, float32 (B, c, h, w)."""
    labels: Tensor
    """Maps of the sources, int64 (B, H, W)."""
    target_labels: Tensor
    """Maps of the targets, int64 (B, H, W)."""
    known: Tensor
    """bool (B, L): which labels of the source have an embedding."""
    embeddings: Tensor
    """Of the sources, float32 (B, L, D)."""
    shown: Tensor
    """bool (B, L): the labels that the target's pose shows."""
    joints: Tensor
    """The target's pose, float32 (B, 18, 3)."""
    source_surface: Tensor | None
    """uint8 (B, h', w', 3), see `Pairs.surface`; None where nobody knows it."""
    target_surface: Tensor | None
    """uint8 (B, h', w', 3), see `Pairs.surface`; None where nobody knows it."""
    photos: Tensor | None = None
    """The sources, float32 (S, 3, H, W) in -1..1; None: no matcher asks for them."""
    carried: Tensor | None = None
    """What a matcher made of them, (B, c + 1, h, w), see `carried_latents`; None: nothing yet."""

    def __len__(self) -> int:
        """Return the number of pairs, B."""
        return len(self.target)

    def to(self, device: str | torch.device) -> PairBatch:
        """Return the batch on a device."""
        tensors = {name: value for name, value in vars(self).items() if value is not None}
        return replace(self, **{name: value.to(device) for name, value in tensors.items()})


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """N pictures, each seen once, and P ordered pairs of them.

    The arrays may be memory maps: only the rows of a batch are read.
    """

    latents: NDArray[np.floating]
    """(N, c, h, w): the VAE's mean times its scaling factor."""
    labels: NDArray[np.uint8]
    """(N, H, W) parsing maps on the canvas, ids of the common vocabulary."""
    joints: NDArray[np.float32]
    """(N, 18, 3) in canvas pixels."""
    shown: NDArray[np.bool_]
    """(N, L): the labels that a picture's pose shows."""
    known: NDArray[np.bool_]
    """(N, L): which labels have an embedding."""
    embeddings: NDArray[np.float16]
    """(N, L, D): one CLIP embedding a label, zero where there is none."""
    pairs: NDArray[np.int32]
    """(P, 2): rows of source and target."""
    surface: NDArray[np.uint8] | None = None
    """(N, h', w', 3): part, u and v of the surface that each cell's middle shows, from the studio;
    None: photos, whose surfaces nobody knows."""
    photos: NDArray[np.uint8] | None = None
    """(N, H, W, 3), never written: the pictures themselves, for nets with a matcher; None: others
    ask for latents alone."""
    parsed: NDArray[np.uint8] | None = None
    """(N, H, W), never written: a parser's maps, by which sources are looked at as in use, while
    `labels` say what targets truly show; None: `labels` do both."""

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)

    @property
    def source_labels(self) -> NDArray[np.uint8]:
        """The maps (N, H, W) by which sources are looked at."""
        return self.labels if self.parsed is None else self.parsed

    def sources_of(self, indices: Sequence[int]) -> tuple[NDArray[np.int32], NDArray[np.integer]]:
        """Return the pictures that pairs which share sources have as such, (S,), and which of them
        each has, (B,); in the pairs' order unless there are fewer of them.
        """
        source = self.pairs[np.asarray(indices), 0]
        distinct, source_of = np.unique(source, return_inverse=True)
        if len(distinct) < len(source):
            return distinct, source_of
        return np.asarray(source), np.arange(len(source))

    def take(self, indices: Sequence[int], *, share: bool = False) -> PairBatch:
        """Read the pairs with these numbers; with `share` each distinct source's latent once, where
        there are fewer of them than pairs.
        """
        source, target = self.pairs[np.asarray(indices)].T
        distinct, source_of = (
            self.sources_of(indices) if share else (source, np.arange(len(source)))
        )

        def load(array: NDArray[np.generic], rows: NDArray[np.int32]) -> Tensor:
            """Copy rows into a tensor."""
            return torch.from_numpy(np.ascontiguousarray(array[rows]))

        surface = self.surface
        return PairBatch(
            sources=load(self.latents, distinct).float(),
            source_of=torch.from_numpy(source_of.astype(np.int64)),
            target=load(self.latents, target).float(),
            labels=load(self.source_labels, source).long(),
            target_labels=load(self.labels, target).long(),
            known=load(self.known, source),
            embeddings=load(self.embeddings, source).float(),
            shown=load(self.shown, target),
            joints=load(self.joints, target),
            source_surface=None if surface is None else load(surface, source),
            target_surface=None if surface is None else load(surface, target),
            photos=(
                None if self.photos is None else torch.from_numpy(to_floats(self.photos[distinct]))
            ),
        )


def pairs_of_views(products: int, views: int) -> NDArray[np.int32]:
    """Return all ordered pairs of different views of one product; view v of p is row p * views + v.

    Returns:
        (products * views * (views - 1), 2).
    """
    first, second = np.nonzero(~np.eye(views, dtype=np.bool_))
    within = np.stack([first, second], axis=1)
    return (np.arange(products)[:, None, None] * views + within).reshape(-1, 2).astype(np.int32)


def write_pairs(folder: Path, pairs: Pairs) -> None:
    """Write one .npy file an array; `pairs.npy` comes last, so that its presence says: complete."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _names():
        array = getattr(pairs, name)
        if array is not None:
            save_array(folder / f"{name}.npy", array)


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write an array as .npy, whole or not at all."""
    write_atomically(path, lambda file: np.save(file, array, allow_pickle=False))


def open_pairs(folder: Path) -> Pairs:
    """Map what `write_pairs` wrote into memory, read only; a surface may be missing."""
    arrays = {
        name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in _names()
        if name != "surface" or (folder / "surface.npy").exists()
    }
    return Pairs(**arrays)


def _names() -> list[str]:
    """Return the names of all arrays, `pairs` last."""
    names = [field.name for field in fields(Pairs) if field.name not in UNWRITTEN]
    return [*names, "pairs"]
