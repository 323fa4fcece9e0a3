"""The alignment of words and picture inside the diffusion, in the manner of HumanDiffusion's MCA: a
trained part beside a frozen TruePose.

Image level: the map, each region filled with its feature, enters through an adapter at every level.
Feature level: in each transformer block a pixel of a region attends to that region's tokens. All
that it adds starts at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from diffusers import ModelMixin as ModelMixin
from diffusers import T2IAdapter
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn

from catalogpose.humandiffusion.routing import allowed_tokens, routed_attention
from catalogpose.records import LABELS
from catalogpose.truepose.attention import merge_heads, split_heads
from catalogpose.truepose.conditions import Residuals
from catalogpose.truepose.regions import level_sizes
from catalogpose.truepose.siamese import TargetNet


@dataclass(frozen=True, kw_only=True)
class RegionFeatures:
    """What the regions of B maps look like, by label."""

    vectors: Tensor
    """(B, L, 1 + k, D): a region's feature F, and the k remembered ones that it was made of."""
    valid: Tensor
    """bool (B, L, 1 + k); where the first is False, the learned null stands for the region."""

    def dropped(self, keep: Tensor) -> RegionFeatures:
        """Leave nothing but nulls in the rows where bool `keep` (B,) is False."""
        return replace(self, valid=self.valid & keep[:, None, None])


class RoutedAttention(nn.Module):
    """Cross-attention of a block to the tokens of each pixel's own region."""

    def __init__(self, channels: int, heads: int, width: int) -> None:
        """Build projections of `channels` split into `heads` over tokens (.., width)."""
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(width, channels, bias=False)
        self.to_v = nn.Linear(width, channels, bias=False)
        self.to_out = nn.Linear(channels, channels, bias=False)
        nn.init.zeros_(self.to_out.weight)

    def query(self, hidden: Tensor) -> Tensor:
        """Return the queries (B, h, N, d) of tokens (B, N, C)."""
        return split_heads(self.to_q(self.norm(hidden)), self.heads)


@dataclass(frozen=True, kw_only=True)
class AlignedBlock:
    """What one block adds of the regions' tokens; an `Addition` of TargetNet."""

    attention: RoutedAttention
    """The block's own."""
    key: Tensor
    """(B, h, L * n, d)."""
    value: Tensor
    """(B, h, L * n, d)."""
    allowed: Tensor
    """bool (B, N, L * n), from `routing.allowed_tokens`."""
    strength: Tensor
    """(B, 1, 1): 0 in rows that get nothing, else 1."""
    seen: list[tuple[Tensor, Tensor]] | None = None
    """Where training collects queries (B, h, N, d) and the tokens as they leave (B, N, C); None:
    nobody looks."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return what is added to F (B, N, C)."""
        query = self.attention.query(hidden)
        found = merge_heads(routed_attention(query, self.key, self.value, self.allowed))
        added: Tensor = self.attention.to_out(found) * self.strength
        if self.seen is not None:
            self.seen.append((query, hidden + added))
        return added

    def dropped(self, keep: Tensor) -> AlignedBlock:
        """Add nothing in the rows where bool `keep` (B,) is False."""
        return replace(self, strength=self.strength * keep[:, None, None])

    def joined(self, others: Sequence[AlignedBlock]) -> AlignedBlock:
        """Return this one's rows, and behind them those of the others."""
        rows = (self, *others)
        return replace(
            self,
            key=torch.cat([one.key for one in rows]),
            value=torch.cat([one.value for one in rows]),
            allowed=torch.cat([one.allowed for one in rows]),
            strength=torch.cat([one.strength for one in rows]),
        )


class RegionRefiner(nn.Module):
    """From a region's feature and what it was made of to n tokens; a null where there is none."""

    def __init__(self, clip_width: int, width: int, per_region: int, labels: int) -> None:
        """Build it for `labels` labels, embeddings of `clip_width` and tokens of `width`."""
        super().__init__()
        self.null = nn.Parameter(torch.randn(labels, clip_width) * clip_width**-0.5)
        self.to_q = nn.Linear(clip_width, width, bias=False)
        self.to_k = nn.Linear(clip_width, width, bias=False)
        self.to_v = nn.Linear(clip_width, width)
        self.to_tokens = nn.Linear(width, per_region * width)
        self.norm = nn.LayerNorm(width)
        self.label = nn.Parameter(torch.randn(labels, 1, width))

    def fill(self, features: RegionFeatures) -> Tensor:
        """Return every region's feature, the null where it has none: (B, L, D)."""
        first = features.vectors[:, :, 0].to(self.null.dtype)
        return torch.where(features.valid[:, :, :1], first, self.null)

    def forward(self, features: RegionFeatures) -> Tensor:
        """Return the regions' tokens (B, L * n, width)."""
        first = self.fill(features)
        rest = features.vectors[:, :, 1:].to(first.dtype)
        every = torch.cat([first[:, :, None], rest], dim=2)
        valid = features.valid.clone()
        valid[:, :, 0] = True
        query, key = self.to_q(first)[:, :, None], self.to_k(every)
        logits = (query * query.shape[-1] ** -0.5 * key).sum(dim=-1)
        weights = logits.masked_fill(~valid, -torch.inf).softmax(dim=2)
        mixed = (weights[..., None] * self.to_v(every)).sum(dim=2)
        width = self.label.shape[-1]
        tokens = self.to_tokens(nn.functional.silu(mixed)).unflatten(2, (-1, width))
        placed: Tensor = self.norm(tokens) + self.label
        return placed.flatten(1, 2)


class Alignment(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers is untyped
    """Both levels of the alignment, over the blocks of one TargetNet."""

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is untyped
    def __init__(
        self,
        blocks: Sequence[Sequence[int]],
        level_channels: Sequence[int],
        clip_width: int = 768,
        width: int = 768,
        per_region: int = 4,
        style_channels: int = 16,
        adapter_depth: int = 2,
        factor: int = 8,
        labels: Sequence[str] = LABELS,
    ) -> None:
        """Build it with random weights whose last ones are zero.

        Args:
            blocks: `BlockShape` of each transformer block: level, channels, heads.
            level_channels: C_l of each level, finest first.
            clip_width: D.
            width: Of the regions' tokens.
            per_region: n, tokens a region.
            style_channels: Channels that a region's feature has on the canvas.
            adapter_depth: Residual blocks of the adapter a level.
            factor: Pixels of a latent's side.
            labels: The vocabulary of maps; they must be those of this version.

        Raises:
            ValueError: If the vocabulary is another one.
        """
        super().__init__()
        if tuple(labels) != LABELS:
            raise ValueError("the alignment was made for another version's labels")
        count = len(labels)
        self.refiner = RegionRefiner(clip_width, width, per_region, count)
        self.style = nn.Linear(clip_width, style_channels)
        self.adapter = T2IAdapter(
            in_channels=count + style_channels,
            channels=list(level_channels),
            num_res_blocks=adapter_depth,
            downscale_factor=factor,
            adapter_type="full_adapter",
        )
        self.gates = nn.ModuleList(_silent_conv(size) for size in level_channels)
        self.attentions = nn.ModuleList(
            RoutedAttention(channels, heads, width) for _, channels, heads in blocks
        )

    @classmethod
    def over(cls, unet: TargetNet, factor: int, **options: Any) -> Self:
        """Build one that fits a TargetNet; `factor` is the VAE's, options as for the class."""
        made: Self = cls(
            blocks=[list(shape) for shape in unet.block_shapes()],
            level_channels=list(unet.config.block_out_channels),
            clip_width=unet.config.clip_width,
            factor=factor,
            **options,
        )
        return made

    def align(
        self,
        features: RegionFeatures,
        masks: Tensor,
        size: tuple[int, int],
        seen: Sequence[list[tuple[Tensor, Tensor]]] | None = None,
    ) -> list[AlignedBlock]:
        """Prepare the feature level (once, for every step).

        Args:
            features: Of B rows.
            masks: (B, L, H, W), from `routing.region_masks`.
            size: Height and width of the latent.
            seen: A list a block where training collects; None: nobody looks.
        """
        tokens = self.refiner(features)
        sizes = level_sizes(size, len(self.config.level_channels))
        per_region = self.config.per_region
        allowed = [allowed_tokens(masks, level, per_region) for level in sizes]
        found = []
        for index, (level, _, heads) in enumerate(self.config.blocks):
            block: Any = self.attentions[index]
            found.append(
                AlignedBlock(
                    attention=block,
                    key=split_heads(block.to_k(tokens), heads),
                    value=split_heads(block.to_v(tokens), heads),
                    allowed=allowed[level],
                    strength=tokens.new_ones(len(tokens), 1, 1),
                    seen=None if seen is None else seen[index],
                )
            )
        return found

    def draw(self, features: RegionFeatures, masks: Tensor) -> list[Tensor]:
        """Return the image level's residuals, (B, C_l, h_l, w_l) a level.

        Args:
            features: Of B rows.
            masks: (B, L, H, W), whose sides are multiples of `factor`.
        """
        masks = masks.to(self.style.weight.dtype)
        style = torch.einsum("bls,blhw->bshw", self.style(self.refiner.fill(features)), masks)
        levels = self.adapter(torch.cat([masks, style], dim=1))
        return [gate(level) for gate, level in zip(self.gates, levels, strict=True)]

    def residuals(self, features: RegionFeatures, masks: Tensor) -> Residuals:
        """Return what both halves of guidance get: the map alike, features in one of them."""
        nothing = features.dropped(torch.zeros(len(masks), dtype=torch.bool, device=masks.device))
        return Residuals(with_c=self.draw(features, masks), without_c=self.draw(nothing, masks))


def _silent_conv(channels: int) -> nn.Conv2d:
    """Return a 1 x 1 convolution that gives zeros until trained."""
    conv = nn.Conv2d(channels, channels, 1)
    for parameter in conv.parameters():
        nn.init.zeros_(parameter)
    return conv
