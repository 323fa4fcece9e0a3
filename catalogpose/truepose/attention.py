"""Human-parsing-guided attention as plain functions: tensors in, tensors out (TruePose, Eq. 6 to
9).

Shapes: B batch, h heads, N tokens of a layer, d channels of a head, C = h * d, T condition tokens.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

QUERY_CHUNK = 128
"""Queries whose logits exist at once in `reweighted_attention`; 128 measured fastest on CPUs."""

FEW_TOKENS = 256
"""Up to so many tokens `reweighted_attention` keeps its logits for the backward pass."""

MOST_LOGITS = 1 << 18
"""Most logits a head and row that training on a CPU keeps for its backward pass."""


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """Turn (B, N, h * d) into (B, h, N, d)."""
    batch, length, channels = tokens.shape
    return tokens.view(batch, length, heads, channels // heads).transpose(1, 2)


def merge_heads(tokens: Tensor) -> Tensor:
    """Turn (B, h, N, d) into (B, N, h * d)."""
    return tokens.transpose(1, 2).flatten(2)


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Compute in the tensors' own types, as devices without autocast, such as `meta`, do anyway."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def reweight(logits: Tensor, selected: Tensor, delta: float, sigma: float) -> Tensor:
    """Apply the factors M' of Eq. 6 to raw logits, in their closed form.

    A logit a becomes delta * a + max(a, 0) for a selected key and (1 + sigma) * a - max(a, 0) for
    another: the factors 1 + delta and sigma where a > 0, delta and 1 + sigma where a < 0.

    Args:
        logits: (..., N) over keys.
        selected: bool, broadcastable to `logits`.
        delta: Raises selected keys; 0.6 in the paper.
        sigma: Lowers the others; 0.3 in the paper.
    """
    inside = selected.to(logits.dtype)
    slope = inside * delta + (1 - inside) * (1 + sigma)
    return torch.addcmul(logits * slope, logits.relu(), 2 * inside - 1)


def _attend_chunk(
    query: Tensor, key: Tensor, value: Tensor, selected: Tensor, delta: float, sigma: float
) -> Tensor:
    """Compute Eq. 6-7 for a few queries; their logits are recomputed in the backward pass."""
    logits = query @ key.transpose(-1, -2)
    return reweight(logits, selected, delta, sigma).softmax(dim=-1) @ value


def reweighted_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    selected: Tensor,
    *,
    delta: float = 0.6,
    sigma: float = 0.3,
) -> Tensor:
    """Self-attention of the source whose logits the selected regions reweight (Eq. 6-7).

    H' = softmax(A' * M') V' with A' = Q' K'^T / sqrt(d). M indexes the key axis (ours; the paper
    leaves it open) and is broadcast over queries and heads. Logits are float32, or the input's
    type where that is wider, also under autocast.

    Args:
        query: Q', (B, h, N, d).
        key: K', (B, h, N, d).
        value: V', (B, h, N, d).
        selected: M, bool (B, N) over keys; True where the target pose shows the key's region.
        delta: 0 or more; 0.6 in the paper.
        sigma: 0 or more; 0.3 in the paper.

    Returns:
        H', (B, h, N, d) in the type of `value`.
    """
    wide = torch.promote_types(value.dtype, torch.float32)
    keys_seen = selected[:, None, None, :]
    learns = torch.is_grad_enabled() and (
        query.requires_grad or key.requires_grad or value.requires_grad
    )
    recompute = learns and query.shape[2] > FEW_TOKENS
    with without_autocast(query.device):
        scaled, wide_key, wide_value = (
            query.to(wide) * query.shape[-1] ** -0.5,
            key.to(wide),
            value.to(wide),
        )
        chunks = []
        for chunk in scaled.split(QUERY_CHUNK, dim=2):
            arguments = (chunk, wide_key, wide_value, keys_seen, delta, sigma)
            if recompute:
                chunks.append(checkpoint(_attend_chunk, *arguments, use_reentrant=False))
            else:
                chunks.append(_attend_chunk(*arguments))
        return torch.cat(chunks, dim=2).to(value.dtype)


def least_attended_regions(
    query: Tensor,
    key: Tensor,
    labels: Tensor,
    *,
    count: int = 2,
    regions: int | None = None,
) -> Tensor:
    """Choose the regions that the source's own attention overlooks (Eq. 9).

    A region's score is the mean of the raw logits A' over all heads, all queries and the region's
    keys. The mean is linear, so it equals (mean of Q') . (mean of K' over the region) / sqrt(d) and
    no N x N matrix is made.

    Args:
        query: Q', (B, h, N, d).
        key: K', (B, h, N, d).
        labels: int (B, N), the region of each key; 0 is background and is never chosen.
        count: How many to choose; 2 in the paper.
        regions: Number of region indices, background included. None: the largest in `labels` and
            one, which reads the tensor's values and so needs a real device.

    Returns:
        int64 (B, count): regions from the lowest score up, ties by index, -1 where fewer exist.
    """
    total = int(labels.max()) + 1 if regions is None else regions
    with without_autocast(query.device):
        # float64 keeps regions with equal means equal, so that ties really go by index.
        mean_query = query.double().mean(dim=2)
        member = F.one_hot(labels.long(), total).double()
        size = member.sum(dim=1)
        sums = torch.einsum("bhnd,bnr->bhrd", key.double(), member)
        mean_key = sums / size.clamp(min=1)[:, None, :, None]
        score = torch.einsum("bhd,bhrd->br", mean_query, mean_key)
        score = score / (query.shape[1] * query.shape[-1] ** 0.5)
    absent = size == 0
    absent[:, 0] = True
    score = score.masked_fill(absent, torch.inf)
    if total < count:
        score = F.pad(score, (0, count - total), value=torch.inf)
    values, chosen = score.sort(dim=1, stable=True)
    return chosen.masked_fill(values == torch.inf, -1)[:, :count]


def cross_attention(
    query: Tensor, key: Tensor, value: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Attend from the target to condition tokens (Eq. 8 and 9).

    Args:
        query: (B, h, N, d).
        key: (B, h, T, d).
        value: (B, h, T, d).
        valid: bool (B, T); False tokens are never attended, and where a row has none its output is
            zero. None: every token is valid.

    Returns:
        (B, h, N, d).
    """
    if valid is None:
        return _attend(query, key, value, None)
    some = valid.any(dim=1)
    # A softmax over nothing is NaN: such rows attend anything and are then zeroed.
    allowed = (valid | ~some[:, None])[:, None, None, :]
    attended = _attend(query, key, value, allowed)
    return attended * some[:, None, None, None].to(attended.dtype)


def _attend(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None) -> Tensor:
    """Compute plain attention; `allowed` is a mask over keys, None: all are attended."""
    trains = torch.is_grad_enabled() and query.requires_grad and query.device.type == "cpu"
    if not trains or query.shape[2] * key.shape[2] > MOST_LOGITS:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
    # On CPUs the fused kernel's backward pass takes several times as long as these two products.
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -torch.inf)
    attended: Tensor = logits.softmax(dim=-1).to(value.dtype) @ value
    return attended
