"""Training the alignment of words and picture over a frozen TruePose: its nets, its losses, and the
call of the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from catalogpose.errors import UsageError
from catalogpose.humandiffusion.alignment import AlignedBlock, Alignment
from catalogpose.humandiffusion.routing import (
    contrast,
    level_weights,
    mass_loss,
    pool_regions,
    region_masks,
    region_mass,
    region_shares,
)
from catalogpose.perception.clip import Clip
from catalogpose.records import LABELS
from catalogpose.training.kept import drawn_target, embed_kept, kept_carried, kept_conditions
from catalogpose.training.loop import Schedule, fit
from catalogpose.training.objective import Objective, draw_timesteps, prediction_target
from catalogpose.training.pairs import Pairs
from catalogpose.training.schedule import place_of, visited
from catalogpose.training.wishes import Mix, Wishes, draw_wishes
from catalogpose.training.wording import Wording
from catalogpose.truepose.conditions import Conditions, Residuals
from catalogpose.truepose.pipeline import TruePosePipeline
from catalogpose.truepose.pose_encoder import draw_pose
from catalogpose.truepose.regions import level_sizes

Seen = Sequence[list[tuple[Tensor, Tensor]]]
"""What `AlignedBlock.seen` collected, a list a block."""


@dataclass(frozen=True, kw_only=True)
class AlignmentObjective:
    """What is minimised beside the denoising loss (Eq. 2)."""

    attention_weight: float = 1.0
    """0 or more: of attention against the map, after CosmicMan's HOLA loss."""
    contrast_weight: float = 0.1
    """0 or more: of the contrast between regions' features and their phrases."""
    dropout: float = 0.1
    """How often a row has nothing but its map, 0..1, for guidance."""
    carried_weight: float = 0.0
    """0..1: as in `Objective`, of what no words replace; without a matcher nothing is carried, and
    it counts for nothing."""
    routed: bool = True
    """Whether the feature level is there; an ablation leaves it out."""
    drawn: bool = True
    """Whether the image level is there; an ablation leaves it out."""

    def __post_init__(self) -> None:
        """Raise UsageError where a value is out of range."""
        if not (self.attention_weight >= 0 and self.contrast_weight >= 0):
            raise UsageError("objective: attention_weight and contrast_weight must be 0 or more")
        for name in ("dropout", "carried_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"objective: {name} must be 0 to 1")


class AlignmentNets(nn.Module):
    """What is trained: the alignment, and heads that only training needs."""

    def __init__(self, alignment: Alignment) -> None:
        """Add a head a level, from its channels to the embeddings' width."""
        super().__init__()
        self.alignment = alignment
        width = alignment.config.clip_width
        self.heads = nn.ModuleList(
            nn.Linear(channels, width) for channels in alignment.config.level_channels
        )


def train_alignment(
    pairs: Pairs,
    wording: Wording,
    photos: NDArray[np.uint8],
    clip: Clip,
    pipe: TruePosePipeline,
    nets: AlignmentNets,
    mix: Mix,
    objective: AlignmentObjective,
    schedule: Schedule,
    folder: Path,
    *,
    device: str,
    lanes: int = 1,
    **options: Any,
) -> AlignmentNets:
    """Train an alignment over a pipeline that stays as it is; see `fit` for what is written.

    Args:
        pairs: To learn from.
        wording: Of their pictures.
        photos: (N, H, W, 3), the pictures: what is not kept of a source is blanked anew.
        clip: The model's, for what is kept.
        pipe: Frozen.
        nets: Trained in place.
        mix: What rows ask for.
        objective: What is minimised.
        schedule: Steps or epochs, batch and rates.
        folder: For checkpoint and losses.
        device: Where to train.
        lanes: Micro-batches of a step, over all processes.
        **options: Of `fit`.
    """
    pipe.to(device)
    for net in pipe.components.values():
        if isinstance(net, nn.Module):
            net.requires_grad_(False).eval()
    nets.to(device)
    schedule = schedule.over(len(pairs))
    share = schedule.share(lanes)

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Take the pairs of this step and lane, which resuming does not change."""
        step, lane = place_of(generator)
        first = step * schedule.batch + lane * share
        places = visited(first, share, len(pairs), schedule.seed, schedule.together)
        look = partial(embed_kept, pairs, photos, clip)
        wishes = draw_wishes(pairs, wording, places.tolist(), mix, generator, look)
        sources, _ = pairs.sources_of(places.tolist())
        return alignment_loss(wishes, photos[sources], pipe, nets, objective, generator, device)

    fit("alignment", nets, loss_of, schedule, folder, device=device, **options)
    return nets


def alignment_loss(
    wishes: Wishes,
    photos: NDArray[np.uint8],
    pipe: TruePosePipeline,
    nets: AlignmentNets,
    objective: AlignmentObjective,
    generator: torch.Generator,
    device: str | torch.device,
) -> dict[str, Tensor]:
    """Denoise targets of which words and maps tell what the source does not.

    Args:
        wishes: What B rows of S sources ask for.
        photos: (S, H, W, 3), the sources.
        pipe: The frozen nets.
        nets: What is trained.
        objective: What counts how much.
        generator: A CPU generator; all that is random comes from it.
        device: Where the nets are.

    Returns:
        `loss`, what is minimised; and unweighted `denoising`, `attention` and `contrast`.
    """
    wishes = wishes.to(device)
    target = wishes.pairs.target
    noise = torch.randn(target.shape, generator=generator).to(device)
    total = pipe.scheduler.config.num_train_timesteps
    timestep = draw_timesteps(Objective(timesteps="high"), len(target), total, generator).to(device)
    keep = (torch.rand(len(target), generator=generator) >= objective.dropout).to(device)
    height, width = wishes.pairs.labels.shape[1:]
    drawn = draw_pose(wishes.pairs.joints, height, width, pipe.card.pose_style)
    carried = kept_carried(wishes, photos, pipe, keep, drawn)
    clean = drawn_target(wishes, carried, objective.carried_weight)
    noisy = pipe.scheduler.add_noise(clean, noise, timestep)
    masks = region_masks(wishes.pairs.target_labels, len(LABELS))
    seen: Seen = [[] for _ in nets.alignment.attentions]
    conditions = kept_conditions(wishes, photos, pipe)
    conditions = _align(conditions, wishes, masks, nets.alignment, objective, keep, seen)
    conditions = replace(conditions, carried=carried)
    predicted = pipe.unet(noisy, timestep, pipe.pose_encoder(drawn), conditions)
    wanted = prediction_target(pipe.scheduler, clean, noise, timestep)
    losses = {"denoising": (predicted.float() - wanted).square().mean()}
    loss = losses["denoising"]
    if objective.routed:
        share = timestep.float() / total
        blocks: Any = [layer.addition for layer in conditions.layers]
        extra = _aligned_losses(wishes, masks, nets, blocks, share, keep)
        losses |= extra
        loss = (
            loss
            + objective.attention_weight * extra["attention"]
            + objective.contrast_weight * extra["contrast"]
        )
    return {"loss": loss, **losses}


def _align(
    conditions: Conditions,
    wishes: Wishes,
    masks: Tensor,
    alignment: Alignment,
    objective: AlignmentObjective,
    keep: Tensor,
    seen: Seen,
) -> Conditions:
    """Add both levels of the alignment to C; rows that are not kept get their map alone."""
    features = wishes.features.dropped(keep)
    height, width = wishes.pairs.target.shape[2:]
    layers = list(conditions.layers)
    if objective.routed:
        blocks = alignment.align(features, masks, (height, width), seen)
        layers = [replace(layer, addition=b) for layer, b in zip(layers, blocks, strict=True)]
    residuals = None
    if objective.drawn:
        drawn = alignment.draw(features, masks)
        residuals = Residuals(with_c=drawn, without_c=drawn)
    return Conditions(layers=[layer.dropped(keep) for layer in layers], residuals=residuals)


def _aligned_losses(
    wishes: Wishes,
    masks: Tensor,
    nets: AlignmentNets,
    blocks: Sequence[AlignedBlock],
    noise: Tensor,
    keep: Tensor,
) -> dict[str, Tensor]:
    """Return `attention` and `contrast`, means over blocks, coarse levels counting while all is
    noise and fine ones as it clears.
    """
    alignment = nets.alignment
    height, width = wishes.pairs.target.shape[2:]
    sizes = level_sizes((height, width), len(alignment.config.level_channels))
    weights = level_weights(len(sizes), noise) * keep[:, None]
    shares = [region_shares(masks, size) for size in sizes]
    asked = (wishes.phrase >= 0) & wishes.features.valid[:, :, 0] & keep[:, None]
    attention, contrasted = [], []
    for (level, _, _), block in zip(alignment.config.blocks, blocks, strict=True):
        assert block.seen is not None  # the pass collected them
        query, hidden = block.seen[0]
        mass = region_mass(query, block.key, block.allowed, alignment.config.per_region)
        attention.append((mass_loss(mass, shares[level]) * weights[:, level]).mean())
        row, label = (asked & (shares[level].sum(dim=1) > 0)).nonzero(as_tuple=True)
        pooled = nets.heads[level](pool_regions(hidden, shares[level])[row, label])
        if len(row):
            found = contrast(pooled, wishes.texts[row, label], wishes.phrase[row, label])
            contrasted.append((found * weights[row, level]).mean())
    nothing = noise.new_zeros(())
    return {
        "attention": torch.stack(attention).mean(),
        "contrast": torch.stack(contrasted).mean() if contrasted else nothing,
    }
