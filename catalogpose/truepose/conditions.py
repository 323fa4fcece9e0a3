"""What SourceNet hands to TargetNet: layers of features, and the conditions made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, Self

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

    def taken(self, rows: Tensor) -> SourceLayer:
        """Return these rows of the batch, int64 (B',), one of them as often as it is named."""
        parts = {name: getattr(self, name)[rows] for name in ("hidden", "query", "key", "value")}
        return replace(self, **parts)


class Addition(Protocol):
    """What a block adds to its tokens beside C, such as what words say; behind Eq. 9."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return what is added to F (B, N, C)."""
        ...

    def dropped(self, keep: Tensor) -> Self:
        """Add nothing in the rows where bool `keep` (B,) is False."""
        ...

    def joined(self, others: Sequence[Self]) -> Self:
        """Return this one's rows, and behind them those of the others."""
        ...


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """What is added to TargetNet's features at each level on its way down, such as what a map
    says.
    """

    with_c: Sequence[Tensor]
    """(B, C_l, h_l, w_l) a level, finest first."""
    without_c: Sequence[Tensor]
    """The same for the rows of the unconditional half."""

    @classmethod
    def joined(cls, parts: Sequence[Residuals]) -> Residuals:
        """Join along the batch."""
        halves = ([part.with_c for part in parts], [part.without_c for part in parts])
        with_c, without_c = (
            [torch.cat(level) for level in zip(*half, strict=True)] for half in halves
        )
        return cls(with_c=with_c, without_c=without_c)

    def of(self, unconditional: int) -> list[Tensor]:
        """Return what a batch gets whose first rows are the unconditional half."""
        pairs = zip(self.without_c, self.with_c, strict=True)
        return [torch.cat([plain[:unconditional], full]) for plain, full in pairs]


@dataclass(frozen=True, kw_only=True)
class LayerConditions:
    """C = {F', F_clip} as one layer of TargetNet attends to it; the same at every step."""

    key: Tensor
    """K_h of Eq. 8, (B, h, N, d); with another fusion the keys that take their place."""
    value: Tensor
    """V_h of Eq. 8, (B, h, N, d); with another fusion the values that take their place."""
    key_valid: Tensor | None = None
    """bool (B, N): False keys are never attended. None: all are, and zeros stand for C = 0."""
    region_key: Tensor | None = None
    """K_clip of Eq. 9, (B, h, K, d); None without CAA, as are the next two."""
    region_value: Tensor | None = None
    """V_clip of Eq. 9, (B, h, K, d)."""
    region_valid: Tensor | None = None
    """bool (B, K): False where the source has fewer than K regions."""
    addition: Addition | None = None
    """What the block adds beside C; None: nothing."""

    def dropped(self, keep: Tensor) -> LayerConditions:
        """Set C to zero in the rows of bool `keep` (B,) that are False (Eq. 10)."""
        factor = keep.to(self.key.dtype)[:, None, None, None]

        def scaled(tensor: Tensor | None) -> Tensor | None:
            """Zero the rows to drop."""
            return None if tensor is None else tensor * factor

        valid = self.key_valid
        return LayerConditions(
            key=self.key * factor,
            value=self.value * factor,
            key_valid=None if valid is None else valid & keep[:, None],
            region_key=scaled(self.region_key),
            region_value=scaled(self.region_value),
            region_valid=self.region_valid,
            addition=None if self.addition is None else self.addition.dropped(keep),
        )

    def taken(self, rows: Tensor) -> LayerConditions:
        """Return these rows, int64 (B',), of conditions without an addition, one of them as often
        as it is named.
        """
        parts = {name: part for name, part in vars(self).items() if part is not None}
        return replace(self, **{name: part[rows] for name, part in parts.items()})

    @classmethod
    def joined(cls, layers: Sequence[LayerConditions]) -> LayerConditions:
        """Join conditions of the same layer along the batch."""
        found: dict[str, Any] = {}
        for name in (field.name for field in fields(cls)):
            parts = [getattr(layer, name) for layer in layers]
            if name == "addition" and parts[0] is not None:
                found[name] = parts[0].joined(parts[1:])
            else:
                found[name] = None if parts[0] is None else torch.cat(parts)
        return cls(**found)

    def expanded(self, times: int) -> LayerConditions:
        """Repeat the batch; a batch of one as a view, so that its poses share one memory."""
        if len(self.key) > 1 or self.addition is not None:
            return LayerConditions.joined([self] * times)
        found: dict[str, Any] = {}
        for name in (field.name for field in fields(self)):
            part = getattr(self, name)
            found[name] = None if part is None else part.expand(times, *part.shape[1:])
        return LayerConditions(**found)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """C for every layer, in the order in which TargetNet runs them."""

    layers: Sequence[LayerConditions]
    """One a transformer block."""
    unconditional: int = 0
    """How many leading rows of the target's batch run with C = 0, for which nothing is computed."""
    residuals: Residuals | None = None
    """What is added on the way down; None: nothing."""
    carried: Tensor | None = None
    """The source's photo as it lies on the posed person, (B, c + 1, h, w), from `carried_latents`,
    for the rows with C; None: no photo is carried."""
    seen: list[tuple[int, Tensor]] | None = None
    """Where training collects (index of the block, HPFA's queries (B, h, N, d)) of a pass, to
    supervise its attention; None: nobody looks."""

    @classmethod
    def stack(cls, conditions: Sequence[Conditions], *, unconditional: int = 0) -> Conditions:
        """Join conditions along the batch, so that pictures of several sources share a batch; all
        or none of them carry a photo.
        """
        if all(c is conditions[0] for c in conditions):
            layers = [layer.expanded(len(conditions)) for layer in conditions[0].layers]
        else:
            pairs = zip(*(c.layers for c in conditions), strict=True)
            layers = [LayerConditions.joined(same) for same in pairs]
        parts = [c.residuals for c in conditions if c.residuals is not None]
        residuals = Residuals.joined(parts) if parts else None
        photos = [c.carried for c in conditions if c.carried is not None]
        carried = torch.cat(photos) if photos else None
        return cls(layers=layers, unconditional=unconditional, residuals=residuals, carried=carried)

    def taken(self, rows: Tensor) -> Conditions:
        """Return these rows, int64 (B',), of conditions of sources alone."""
        return replace(self, layers=[layer.taken(rows) for layer in self.layers])

    def repeated(self, times: int) -> Conditions:
        """Repeat the batch, so that several noisy latents share what one source gave."""
        return Conditions.stack([self] * times, unconditional=self.unconditional)

    def dropped(self, keep: Tensor) -> Conditions:
        """Set C to zero in the rows where bool `keep` (B,) is False (Eq. 10)."""
        layers = [layer.dropped(keep) for layer in self.layers]
        carried = self.carried
        if carried is not None:
            carried = carried * keep.to(carried.dtype)[:, None, None, None]
        return replace(self, layers=layers, carried=carried)

    def watched(self, seen: list[tuple[int, Tensor]] | None) -> Conditions:
        """Have HPFA's queries collected in `seen` from now on; None: no longer."""
        return replace(self, seen=seen)
