"""Which region's words each pixel may attend to, and what that shall come to: tensors in, tensors
out (in the manner of HumanDiffusion's alignment; rectified attention after FreestyleNet).

Shapes: B batch, L labels, background first, N tokens of a layer, n tokens a region, d channels of a
head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def region_masks(labels: Tensor, count: int) -> Tensor:
    """Return float (B, L, H, W), 1 where an int map (B, H, W) shows a label; L is `count`."""
    return F.one_hot(labels.long(), count).permute(0, 3, 1, 2).float()


def allowed_tokens(masks: Tensor, size: tuple[int, int], per_region: int) -> Tensor:
    """Return which region tokens each token of a layer may attend to.

    Any coverage allows: a thin belt survives at 16 x 11, where the nearest pixel would lose it. The
    background's tokens are open to all, so that no softmax is over nothing.

    Args:
        masks: (B, L, H, W), 0 or 1.
        size: Height and width of the layer in tokens, N in all.
        per_region: n.

    Returns:
        bool (B, N, L * n).
    """
    touched = F.adaptive_max_pool2d(masks, size).flatten(2).transpose(1, 2) > 0
    touched[..., 0] = True
    return touched.repeat_interleave(per_region, dim=2)


def region_shares(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the share of each layer token's area that each region covers: (B, N, L), sum 1."""
    return F.adaptive_avg_pool2d(masks, size).flatten(2).transpose(1, 2)


def routed_attention(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """Attend to the tokens that are allowed.

    Args:
        query: (B, h, N, d).
        key: (B, h, L * n, d).
        value: (B, h, L * n, d).
        allowed: bool (B, N, L * n), True somewhere in every row of it.

    Returns:
        (B, h, N, d).
    """
    return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed[:, None])


def region_mass(query: Tensor, key: Tensor, allowed: Tensor, per_region: int) -> Tensor:
    """Return how much of `routed_attention` goes to each region, a mean over heads: (B, N, L)."""
    logits = (query.float() * query.shape[-1] ** -0.5) @ key.float().transpose(-1, -2)
    weights = logits.masked_fill(~allowed[:, None], -torch.inf).softmax(dim=-1).mean(dim=1)
    mass: Tensor = weights.unflatten(2, (-1, per_region)).sum(dim=3)
    return mass


def mass_loss(mass: Tensor, shares: Tensor) -> Tensor:
    """Return how far attention is from the map, after CosmicMan's HOLA loss: the squared error of
    (B, N, L) to the shares, summed over regions, a mean a row (B,).
    """
    return (mass - shares).square().sum(dim=2).mean(dim=1)


def pool_regions(hidden: Tensor, shares: Tensor) -> Tensor:
    """Return the mean token of each region, weighted by its shares: (B, L, C); 0 where absent.

    Args:
        hidden: F, (B, N, C).
        shares: (B, N, L).
    """
    weights = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return weights.transpose(1, 2) @ hidden


def contrast(features: Tensor, phrases: Tensor, groups: Tensor, temperature: float = 0.1) -> Tensor:
    """Return InfoNCE between regions and what words say of them, both ways, a value a region.

    Negatives are all others: the other regions of the same picture, which makes it a test of
    binding, and those of the batch. Regions with the same phrase share the target.

    Args:
        features: (R, D), of R regions.
        phrases: (R, D), of their phrases.
        groups: int (R,), equal where two phrases are.
        temperature: Above 0.

    Returns:
        (R,).
    """
    cosines = F.normalize(features, dim=1) @ F.normalize(phrases, dim=1).T / temperature
    same = (groups[:, None] == groups[None, :]).to(cosines.dtype)
    target = same / same.sum(dim=1, keepdim=True)
    there = -(target * cosines.log_softmax(dim=1)).sum(dim=1)
    back = -(target * cosines.T.log_softmax(dim=1)).sum(dim=1)
    return (there + back) / 2


def level_weights(levels: int, noise: Tensor) -> Tensor:
    """Return how much each level's alignment counts: coarse while all is noise, fine as it clears.

    A level's weight is the hat function around its own place between 0 (the finest) and 1; rows sum
    to 1 (ours, after HcP's scale-aware and step-wise constraints).

    Args:
        levels: Number of levels, 1 or more; 0 is the finest.
        noise: (B,), 0 (clean) to 1 (nothing but noise).

    Returns:
        (B, levels).
    """
    places = torch.arange(levels, device=noise.device, dtype=noise.dtype)
    if levels == 1:
        return torch.ones_like(noise)[:, None]
    return (1 - (noise[:, None] * (levels - 1) - places).abs()).clamp(min=0)
