"""What the pipeline prepares once: of a source, of it and a pose's labels, of a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from catalogpose.catalog.sheets import fit_on
from catalogpose.pixels import to_floats
from catalogpose.records import LABELS
from catalogpose.truepose.conditions import Conditions, SourceLayer
from catalogpose.truepose.matcher import SourcePhoto
from catalogpose.truepose.sampling import latent_mask


@dataclass(frozen=True, kw_only=True)
class SourceFeatures:
    """All that SourceNet and the parsing map say of one source; every pose and step shares it."""

    layers: Sequence[SourceLayer]
    """F' with its projections (Eq. 3), batch 1."""
    chosen: Sequence[Tensor]
    """The overlooked regions of each layer (Eq. 9), int64 (1, K)."""
    labels: Tensor
    """The parsing map on the canvas, int64 (1, H, W)."""
    embeddings: Tensor
    """F_clip (Eq. 4), (1, L, D); zero where a label has none."""
    photo: SourcePhoto | None = None
    """What the matcher carries over; None: the model has no matcher."""


@dataclass(frozen=True, kw_only=True)
class PoseConditions:
    """A source seen with the label set of a target pose; all poses that show it share this."""

    conditions: Conditions
    """C for every layer (Eq. 6 to 9), batch 1."""
    fallback: bool
    """Whether the pose shows none of the source's regions, so that the whole person was used."""
    photo: SourcePhoto | None = None
    """The source's photo, to be carried to each pose; None: nothing is carried."""
    within: Tensor | None = None
    """float32 (1, 1, H, W), 0 where words fill the picture, so that no photo may be laid over it
    nor anything be retouched; None: everywhere it may."""


@dataclass(frozen=True, kw_only=True)
class KeptReference:
    """A photo that stays as it is but where the source's cloth shall appear (section 5.4)."""

    latent: Tensor
    """Its latent, float32 (1, c, h, w)."""
    mask: Tensor
    """m, float32 (1, 1, h, w): 1 where the source's cloth shall appear, 0 where the photo stays."""
    painted: Tensor
    """The same in pixels of the canvas, (1, 1, H, W)."""
    photo: Tensor | None = None
    """The photo, float32 (1, 3, sH, sW) in -1..1, of which stays what is not painted; None: as the
    VAE gives it back."""


def make_reference(
    latent: Tensor, painted: NDArray[np.floating], photo: NDArray[np.uint8] | None
) -> KeptReference:
    """Put a reference together, on its latent's device; see `TruePosePipeline.keep_reference`."""
    pixels = torch.from_numpy(np.array(painted, dtype=np.float32))[None].to(latent.device)
    shown = None if photo is None else torch.from_numpy(to_floats(photo[None])).to(latent.device)
    size = (latent.shape[-2], latent.shape[-1])
    return KeptReference(
        latent=latent.float(),
        mask=latent_mask(pixels, size),
        painted=pixels[None],
        photo=shown,
    )


def lay_references(references: Sequence[KeptReference | None], pictures: Tensor) -> Tensor:
    """Return pictures (B, 3, sH, sW) with their references' photos as they are wherever nothing was
    to be painted; a VAE would blur them, and what is enlarged is soft.

    Raises:
        ValueError: If a photo has another size than the pictures.
    """
    if not any(references):
        return pictures
    rows = []
    for reference, picture in zip(references, pictures[:, None], strict=True):
        row = picture
        if reference is not None and reference.photo is not None:
            size = (picture.shape[2], picture.shape[3])
            if reference.photo.shape[2:] != size:
                raise ValueError(f"a reference's photo must be {size}, as the pictures are")
            share = F.interpolate(reference.painted, size=size, mode="bilinear")
            row = torch.lerp(reference.photo, picture, share)
        rows.append(row)
    return torch.cat(rows)


def fit_finer(
    photo: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    finer: NDArray[np.uint8] | None,
    canvas: tuple[int, int],
    scale: int,
) -> NDArray[np.uint8]:
    """Return the photo that is carried, `scale` times the canvas: the finer one, or where that is
    None the canvas's, enlarged; see `TruePosePipeline.encode_source`, also for what is raised.
    """
    size = (canvas[0] * scale, canvas[1] * scale)
    if photo.shape != (*canvas, 3) or labels.shape != canvas:
        raise ValueError(f"photo and labels must be {canvas} and lie on the model's canvas")
    if finer is None:
        return fit_on(size, photo)
    if finer.shape != (*size, 3):
        raise ValueError(f"finer must be {size}, {scale} times the model's canvas")
    return finer


def embedding_table(
    embeddings: Mapping[int, NDArray[np.floating]], width: int
) -> tuple[Tensor, Tensor]:
    """Return embeddings (`width`,) by label id as a table (1, L, `width`), float32, zero where a
    label has none, and which labels have one, bool (L,).
    """
    table = torch.zeros(1, len(LABELS), width)
    for label, embedding in embeddings.items():
        table[0, label] = torch.from_numpy(np.array(embedding, dtype=np.float32))
    return table, torch.tensor([index in embeddings for index in range(len(LABELS))])


class StackedReferences(NamedTuple):
    """What denoising keeps of a batch's references."""

    latent: Tensor
    """Float32 (B, c, h, w)."""
    mask: Tensor
    """m, (B, 1, h, w)."""


def stack_references(
    references: Sequence[KeptReference | None], like: Tensor
) -> StackedReferences | None:
    """Join a batch's references; None if there is none. `like` is a latent of the batch.

    A picture without one gets a mask of ones, which leaves it as it is to the bit.
    """
    if not any(references):
        return None
    latents = [torch.zeros_like(like[:1]) if row is None else row.latent for row in references]
    masks = [torch.ones_like(like[:1, :1]) if row is None else row.mask for row in references]
    return StackedReferences(latent=torch.cat(latents), mask=torch.cat(masks))


def where_laid(
    conditions: Sequence[PoseConditions], kept: StackedReferences | None, like: Tensor
) -> Tensor:
    """Return where photos may be laid over a batch's pictures, and these be retouched: 0 to 1,
    (B, 1, H, W), where no words fill them, and where the source's cloth shall appear on references.

    Args:
        conditions: One a picture.
        kept: From `stack_references`; None: there are no references.
        like: The pictures, (B, 3, H, W).
    """
    every = torch.ones_like(like[:, :1])
    rows = [one if c.within is None else c.within for c, one in zip(conditions, every, strict=True)]
    within = torch.cat([row.view(1, *every.shape[1:]) for row in rows])
    return within if kept is None else within * F.interpolate(kept.mask, size=like.shape[2:])
