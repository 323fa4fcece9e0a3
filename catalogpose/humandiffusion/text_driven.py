"""TruePose with an alignment beside it: from a map, words and what is kept of a source to what its
pipeline paints from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from catalogpose.errors import UsageError, first_line
from catalogpose.humandiffusion.alignment import Alignment, RegionFeatures
from catalogpose.humandiffusion.memory import NEIGHBOURS
from catalogpose.humandiffusion.routing import region_masks
from catalogpose.records import LABELS
from catalogpose.truepose.blocks import FUSIONS
from catalogpose.truepose.conditions import Conditions, SourceLayer
from catalogpose.truepose.model import ALIGNMENT
from catalogpose.truepose.pipeline import TruePosePipeline
from catalogpose.truepose.prepared import PoseConditions, SourceFeatures
from catalogpose.truepose.regions import selection_mask
from catalogpose.truepose.siamese import TargetNet

BLANK = 128
"""Grey that takes the place of what is not kept of a source: its cloth cannot come through."""


@dataclass(frozen=True, kw_only=True)
class Filling:
    """What one region of a map is filled with."""

    vector: NDArray[np.floating]
    """F, (D,), unit length."""
    remembered: NDArray[np.floating]
    """(k', D), what it was made of, k' at most `NEIGHBOURS`; empty where nothing was."""
    by_words: bool = True
    """Whether words fill it; if not, it is the source's own."""


def blank(
    photo: NDArray[np.uint8], labels: NDArray[np.uint8], kept: Collection[int]
) -> NDArray[np.uint8]:
    """Return a photo (H, W, 3) with all of the person gone that is not kept, by its map (H, W)."""
    replaced = (labels > 0) & ~np.isin(labels, list(kept))
    return np.where(replaced[..., None], np.uint8(BLANK), photo)


class TextDriven:
    """Prepares text-driven rows; `TruePosePipeline.generate` then paints them like any other."""

    def __init__(self, pipe: TruePosePipeline, alignment: Alignment) -> None:
        """Put an alignment beside a pipeline; `alignment` moves to where that is.

        Raises:
            UsageError: If it was made for another net, or that has no HPFA.
        """
        check_fusion(pipe.unet.config.fusion)
        shapes = [list(shape) for shape in pipe.unet.block_shapes()]
        if [list(block) for block in alignment.config.blocks] != shapes:
            raise UsageError("the alignment was trained over another net than this model's")
        self._pipe = pipe
        # Not diffusers' own `to`, which warns of types though nothing here must stay float32.
        nn.Module.to(alignment, pipe.device, pipe.unet.dtype)
        self._alignment = alignment.eval()

    def encode_source(
        self,
        photo: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        embeddings: Mapping[int, NDArray[np.floating]],
        kept: frozenset[int],
        finer: NDArray[np.uint8] | None = None,
    ) -> SourceFeatures:
        """Look at what is kept of a source; the rest of the person is blanked before SourceNet sees
        it. Arguments as for `TruePosePipeline.encode_source`, and the label ids to keep; the
        embeddings are those of a photo that was blanked too, since regions are cut out as
        rectangles, and so is the finer one.
        """
        left = {label: vector for label, vector in embeddings.items() if label in kept}
        seen = np.where(np.isin(labels, list(kept)), labels, np.uint8(0))
        blanked = blank(photo, labels, kept)
        # What is blanked is carried too, as grey: else what is kept would lie all over the person.
        features = self._pipe.encode_source(blanked, seen, left, labels, finer)
        whole = torch.from_numpy(labels.astype(np.int64))[None]
        return replace(features, labels=whole.to(features.labels.device))

    @torch.no_grad()
    def condition(
        self,
        pose_map: NDArray[np.uint8],
        fillings: Mapping[int, Filling],
        kept: frozenset[int],
        source: SourceFeatures | None,
    ) -> PoseConditions:
        """Prepare a row.

        Args:
            pose_map: (H, W), common label ids, on the model's canvas.
            fillings: By label id of the map, for regions made of words or kept; the others get the
                learned null.
            kept: Label ids of the source's regions that may be seen.
            source: From `encode_source` with the same `kept`; None: nobody is kept.
        """
        pipe = self._pipe
        features = self._features(fillings)
        masks = region_masks(
            torch.from_numpy(pose_map.astype(np.int64))[None].to(pipe.device), len(LABELS)
        )
        size = (pose_map.shape[0] // self._factor, pose_map.shape[1] // self._factor)
        worded = [label for label, filling in fillings.items() if filling.by_words]
        conditions = self._look(source, kept, features, self._chosen(worded), size)
        blocks = self._alignment.align(features, masks, size)
        layers = [
            replace(layer, addition=block)
            for layer, block in zip(conditions.layers, blocks, strict=True)
        ]
        residuals = self._alignment.residuals(features, masks)
        free = torch.from_numpy(~np.isin(pose_map, worded)).float()[None, None]
        return PoseConditions(
            conditions=replace(conditions, layers=layers, residuals=residuals),
            fallback=False,
            photo=None if source is None else source.photo,
            within=free.to(pipe.device),
        )

    @property
    def _factor(self) -> int:
        """Pixels of a latent's side."""
        return int(self._alignment.config.factor)

    def _features(self, fillings: Mapping[int, Filling]) -> RegionFeatures:
        """Put fillings into tensors, as many remembered ones a region in every row."""
        width = self._alignment.config.clip_width
        vectors = torch.zeros(1, len(LABELS), 1 + NEIGHBOURS, width)
        valid = torch.zeros(vectors.shape[:3], dtype=torch.bool)
        for label, filling in fillings.items():
            rows = np.concatenate([filling.vector[None], filling.remembered])
            vectors[0, label, : len(rows)] = torch.from_numpy(rows.astype(np.float32))
            valid[0, label, : len(rows)] = True
        device = self._pipe.device
        return RegionFeatures(
            vectors=vectors.to(device, self._pipe.unet.dtype), valid=valid.to(device)
        )

    def _chosen(self, worded: list[int]) -> Tensor:
        """Return the labels that always enter CAA, (1, L), -1 behind the last."""
        chosen = torch.full((1, len(LABELS)), -1, dtype=torch.int64)
        chosen[0, : len(worded)] = torch.tensor(worded, dtype=torch.int64)
        return chosen.to(self._pipe.device)

    def _look(
        self,
        source: SourceFeatures | None,
        kept: frozenset[int],
        features: RegionFeatures,
        worded: Tensor,
        size: tuple[int, int],
    ) -> Conditions:
        """Return C: what is kept of the source, and the regions that words fill (Eq. 6 to 9)."""
        unet = self._pipe.unet
        table = features.vectors[:, :, 0]
        if source is None:
            nobody = worded.new_full((1, unet.config.region_count), -1)
            alone: Conditions = unet.condition_alone(
                table, torch.cat([nobody, worded], dim=1), size
            )
            return alone
        keeps = torch.zeros(1, len(LABELS), dtype=torch.bool, device=worded.device)
        keeps[0, list(kept)] = True
        # A region that words fill takes its place in the table; kept ones are the source's.
        said = torch.zeros_like(table[..., :1], dtype=torch.bool)
        said[0, worded[worded >= 0]] = True
        table = torch.where(said, table, source.embeddings)
        return condition_kept(
            unet, source.layers, source.labels, keeps, table, source.chosen, worded
        )


def check_fusion(fusion: str) -> None:
    """Raise UsageError unless a net of this fusion can leave a part of its source out."""
    if not FUSIONS[fusion].source.startswith("hpfa") or not FUSIONS[fusion].caa:
        raise UsageError(f"text-driven rows need a model with HPFA and CAA, not fusion {fusion}")


def condition_kept(
    unet: TargetNet,
    layers: Sequence[SourceLayer],
    labels: Tensor,
    kept: Tensor,
    table: Tensor,
    chosen: Sequence[Tensor],
    worded: Tensor,
) -> Conditions:
    """Return C of rows that keep a part of their source: keys of the rest are never attended.

    Args:
        unet: The net that is conditioned.
        layers: What SourceNet gave of the blanked sources.
        labels: int64 (B, H, W), the sources' whole maps.
        kept: bool (B, L), the labels that are kept.
        table: (B, L, D), each label's embedding, of the source or of words.
        chosen: int64 (B, K) a layer, the kept regions that CAA attends to (Eq. 9).
        worded: int64 (B, R), the labels of words, which always enter; -1 for none.
    """
    there = kept.gather(1, labels.flatten(1)).view_as(labels) & (labels > 0)
    replaced = (labels > 0) & ~there
    every = [torch.cat([layer, worded], dim=1) for layer in chosen]
    found = unet.condition(layers, there, table, every)
    seen = [
        replace(layer, key_valid=~selection_mask(replaced, source.size))
        for layer, source in zip(found.layers, layers, strict=True)
    ]
    return Conditions(layers=seen)


def load_alignment(folder: Path) -> Alignment:
    """Load a model folder's alignment, safetensors only; `UsageError` where that fails."""
    try:
        found: Alignment = Alignment.from_pretrained(
            str(folder), subfolder=ALIGNMENT, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"the alignment of {folder} cannot be loaded: {first_line(error)}"
        ) from None
    return found
