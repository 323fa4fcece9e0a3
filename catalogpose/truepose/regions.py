"""Which regions of the source a target pose shows, and parsing maps at a layer's size: tensors in,
tensors out.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from catalogpose.truepose.attention import least_attended_regions
from catalogpose.truepose.conditions import SourceLayer

Label = TypeVar("Label", bound=Hashable)


def selected_labels(
    joints: Any, table: Mapping[Label, Sequence[Mapping[str, Any]]]
) -> frozenset[Label]:
    """Return A_tau, the labels that a target pose shows (TruePose, section 4.2; the table is ours).

    Args:
        joints: (18, 3) array or tensor, x, y and confidence in the order of `records.JOINTS`. A
            joint is
            seen where its confidence is above 0 and its coordinates are finite.
        table: For each label its clauses, each `{"at_least": n, "of": [joint indices]}`. A label is
            shown where at least one clause holds; keys may be ids or names.

    Returns:
        The keys of `table` that are shown.

    Raises:
        ValueError: If `joints` is not (18, 3).
    """
    values = np.asarray(joints, dtype=np.float64)
    if values.shape != (18, 3):
        raise ValueError(f"joints must be (18, 3), not {values.shape}")
    seen = np.isfinite(values).all(axis=1) & (values[:, 2] > 0)
    return frozenset(
        label
        for label, clauses in table.items()
        if any(sum(bool(seen[j]) for j in c["of"]) >= c["at_least"] for c in clauses)
    )


def level_sizes(size: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """Return height and width of a UNet's levels in tokens, from the latent's down."""
    sizes = [size]
    while len(sizes) < levels:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def label_mask(label_map: Tensor, labels: frozenset[int]) -> Tensor:
    """Return bool (B, H, W): where an int label map (B, H, W) shows one of `labels`."""
    wanted = torch.tensor(sorted(labels), dtype=label_map.dtype, device=label_map.device)
    return torch.isin(label_map, wanted)


def selection_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring M to a layer's size: a cell is selected where at least half of its area is.

    Args:
        mask: bool (B, H, W).
        size: Height and width of the layer, in tokens.

    Returns:
        bool (B, height * width), row by row.
    """
    covered = F.interpolate(mask[:, None].float(), size=size, mode="area")
    return (covered >= 0.5).flatten(1)


def label_grid(label_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a label map (B, H, W) to a layer's size, nearest pixel: int64 (B, height * width)."""
    nearest = F.interpolate(label_map[:, None].float(), size=size, mode="nearest-exact")
    return nearest.flatten(1).long()


def choose_regions(
    layers: Sequence[SourceLayer], regions: Tensor, total: int, count: int = 2
) -> list[Tensor]:
    """Choose each layer's overlooked regions (Eq. 9); they depend on the source alone.

    Args:
        layers: What SourceNet gave.
        regions: int (B, H, W), the source's map; 0 where a region has no embedding.
        total: Number of labels, background included.
        count: K, how many each layer attends to; TargetNet's `region_count`.

    Returns:
        int64 (B, K) a layer; -1 where the source has fewer regions.
    """
    return [
        least_attended_regions(
            layer.query,
            layer.key,
            label_grid(regions, layer.size),
            count=count,
            regions=total,
        )
        for layer in layers
    ]
