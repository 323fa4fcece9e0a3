"""What SourceNet hands to TargetNet: layers of features, and the conditions made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SourceLayer:
    """What SourceNet gives at one layer (Eq. 3), enough for Eq. 6 to 9."""

    hidden: Tensor
    """F', (B, N, C): what the layer's self-attention projects."""
    query: Tensor
    """Q', (B, h, N, d)."""
    key: Tensor
    """K', (B, h, N, d)."""
    value: Tensor
    """V', (B, h, N, d)."""
    size: tuple[int, int]
    """Height and width of the layer in tokens; N is their product."""


@dataclass(frozen=True, kw_only=True)
class LayerConditions:
    """C = {F', F_clip} as one layer of TargetNet attends to it; the same at every step."""

    key: Tensor
    """K_h of Eq. 8, (B, h, N, d)."""
    value: Tensor
    """V_h of Eq. 8, (B, h, N, d)."""
    region_key: Tensor
    """K_clip of Eq. 9, (B, h, K, d)."""
    region_value: Tensor
    """V_clip of Eq. 9, (B, h, K, d)."""
    region_valid: Tensor
    """bool (B, K): False where the source has fewer than K regions."""

    def dropped(self, keep: Tensor) -> LayerConditions:
        """Set C to zero in the rows of bool `keep` (B,) that are False (Eq. 10); all four must
        vanish for C = 0.
        """
        factor = keep.to(self.key.dtype)[:, None, None, None]
        names = ("key", "value", "region_key", "region_value")
        scaled = {name: getattr(self, name) * factor for name in names}
        return LayerConditions(**scaled, region_valid=self.region_valid)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """C for every layer, in the order in which TargetNet runs them."""

    layers: Sequence[LayerConditions]
    """One a transformer block."""
    unconditional: int = 0
    """How many leading rows of the target's batch run with C = 0, for which nothing is computed."""

    @classmethod
    def stack(cls, conditions: Sequence[Conditions], *, unconditional: int = 0) -> Conditions:
        """Join conditions along the batch, so that pictures of several sources share a batch."""
        names = [field.name for field in fields(LayerConditions)]
        count = len(conditions)
        if all(c is conditions[0] for c in conditions):
            # Poses of one source share its keys and values without a copy.
            layers = [
                LayerConditions(**{name: _expand(getattr(layer, name), count) for name in names})
                for layer in conditions[0].layers
            ]
            return cls(layers=layers, unconditional=unconditional)
        layers = [
            LayerConditions(
                **{name: torch.cat([getattr(layer, name) for layer in same]) for name in names}
            )
            for same in zip(*(c.layers for c in conditions), strict=True)
        ]
        return cls(layers=layers, unconditional=unconditional)

    def repeated(self, times: int) -> Conditions:
        """Repeat the batch, so that several noisy latents share what one source gave."""
        return Conditions.stack([self] * times, unconditional=self.unconditional)

    def dropped(self, keep: Tensor) -> Conditions:
        """Set C to zero in the rows where bool `keep` (B,) is False (Eq. 10)."""
        layers = [layer.dropped(keep) for layer in self.layers]
        return Conditions(layers=layers, unconditional=self.unconditional)


def _expand(tensor: Tensor, times: int) -> Tensor:
    """Repeat (1, ...) along the batch as a view; a larger batch is copied."""
    if len(tensor) == 1:
        return tensor.expand(times, *tensor.shape[1:])
    return torch.cat([tensor] * times)
