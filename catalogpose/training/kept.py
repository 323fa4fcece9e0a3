"""What rows that words partly fill still have of their sources: embeddings, C, and what is carried;
what is not kept is blanked before any net sees it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catalogpose.catalog.labels import find_regions
from catalogpose.humandiffusion.text_driven import blank, condition_kept
from catalogpose.perception.clip import Clip
from catalogpose.records import LABELS
from catalogpose.training.objective import carried_target
from catalogpose.training.pairs import Pairs
from catalogpose.training.wishes import Wishes
from catalogpose.truepose.conditions import Conditions
from catalogpose.truepose.matcher import embed_photo
from catalogpose.truepose.pipeline import TruePosePipeline
from catalogpose.truepose.regions import choose_regions


def embed_kept(
    pairs: Pairs,
    photos: NDArray[np.uint8],
    clip: Clip,
    rows: NDArray[np.integer],
    kept: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Return embeddings (S, L, D) of what is kept, bool (S, L), of the pictures `rows` (S,)."""
    found = np.zeros((*kept.shape, clip.width), dtype=np.float32)
    for place, (row, labels) in enumerate(zip(rows, kept, strict=True)):
        here = np.flatnonzero(labels & pairs.known[row])
        regions = [r for r in find_regions(pairs.labels[row]) if r.label in here]
        picture = blank(photos[row], pairs.labels[row], np.flatnonzero(labels))
        vectors = clip.embed(picture, [region.box for region in regions])
        found[place, [region.label for region in regions]] = vectors
    return found


@torch.no_grad()
def kept_conditions(
    wishes: Wishes, photos: NDArray[np.uint8], pipe: TruePosePipeline
) -> Conditions:
    """Return C of B rows: what is kept of the sources."""
    pairs, rows = wishes.pairs, wishes.pairs.source_of
    first = torch.from_numpy(np.unique(rows.cpu().numpy(), return_index=True)[1]).to(rows.device)
    labels = pairs.labels[first]
    kept = wishes.kept.gather(1, labels.flatten(1)).view_as(labels)
    layers = pipe.source_unet(pipe.encode_photos(_blank_all(photos, labels, wishes.kept)))
    known = pairs.known[first].gather(1, labels.flatten(1)).view_as(labels)
    count = pipe.unet.config.region_count
    chosen = choose_regions(layers, labels * known * kept, len(LABELS), count)
    there = wishes.has_source[rows]
    chosen = [torch.where(there[:, None], layer[rows], -1) for layer in chosen]
    said = (wishes.worded >= 0)[..., None]
    table = torch.where(said, wishes.features.vectors[:, :, 0], pairs.embeddings)
    found = condition_kept(
        pipe.unet,
        [layer.taken(rows) for layer in layers],
        pairs.labels,
        wishes.kept[rows],
        table,
        chosen,
        wishes.worded,
    )
    factor = there[:, None, None, None].to(found.layers[0].key.dtype)
    silent = [
        replace(
            layer,
            key=layer.key * factor,
            value=layer.value * factor,
            key_valid=None if layer.key_valid is None else layer.key_valid | ~there[:, None],
        )
        for layer in found.layers
    ]
    return Conditions(layers=silent)


def kept_carried(
    wishes: Wishes, photos: NDArray[np.uint8], pipe: TruePosePipeline, keep: Tensor, drawn: Tensor
) -> Tensor | None:
    """Return what the pipeline's matcher carries to pose pictures (B, C, H, W): of rows that have a
    source and keep C their blanked photo. None: there is no matcher, or no such row.
    """
    if pipe.matcher is None:
        return None
    rows = wishes.pairs.source_of.tolist()
    labels = dict(zip(rows, wishes.pairs.labels, strict=True))
    maps = torch.stack([labels[place] for place in range(len(photos))])
    blanked = _blank_all(photos, maps, wishes.kept)
    seen = [
        embed_photo(pipe.matcher, photo, own, np.isin(own, [0, *np.flatnonzero(kept)]))
        for photo, own, kept in zip(
            blanked, maps.cpu().numpy(), wishes.kept.cpu().numpy(), strict=True
        )
    ]
    there = (wishes.has_source[wishes.pairs.source_of] & keep).tolist()
    carried = [seen[place] if used else None for place, used in zip(rows, there, strict=True)]
    return pipe.see_carried(pipe.carry(carried, drawn))


def drawn_target(wishes: Wishes, carried: Tensor | None, weight: float) -> Tensor:
    """Return the latents to draw: the targets', towards what is carried where no words are."""
    pairs = wishes.pairs
    if carried is None or not weight:
        return pairs.target
    worded = wishes.worded.gather(1, pairs.target_labels.flatten(1)).view_as(pairs.target_labels)
    return carried_target(pairs.target, carried, pairs.target_labels * (worded < 0), weight)


def _blank_all(photos: NDArray[np.uint8], labels: Tensor, kept: Tensor) -> NDArray[np.uint8]:
    """Blank what is not kept, bool (S, L), of photos (S, H, W, 3) with their maps (S, H, W)."""
    return np.stack(
        [
            blank(photo, own.cpu().numpy(), np.flatnonzero(keep.cpu().numpy()))
            for photo, own, keep in zip(photos, labels, kept, strict=True)
        ]
    )
