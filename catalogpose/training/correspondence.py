"""Where attention should look: which tokens of a source show what a token of the target shows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from catalogpose.studio.parts import PART_ID

RADIUS = 128 / np.pi
"""Of a circle 256 long, on which angles around a part are placed."""
FAR = 6.0
"""How many softnesses beyond the tolerance another part lies: too far for any weight."""
FACE = ("head", "nose", "left ear", "right ear")
"""Parts whose back is not like their front."""
NO_PART = 255
"""A number that no part has."""


def _mirror_parts() -> tuple[Tensor, Tensor, Tensor]:
    """Return, by number, the part whose back is like a part's front, the one that is like it on the
    other side of the body, and the one that is both; `NO_PART` where there is none.
    """
    back, other = torch.arange(256), torch.arange(256)
    for name, number in PART_ID.items():
        words = ["right" if w == "left" else "left" if w == "right" else w for w in name.split()]
        other[number] = PART_ID[" ".join(words)]
    both = other.clone()
    for name in FACE:
        back[PART_ID[name]] = both[PART_ID[name]] = NO_PART
    return back, other, both


LIKE_PARTS = _mirror_parts()


def sample_surface(surface: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return a surface (H, W, 3) as (height, width, 3): the pixel at the middle of each cell."""
    rows, cols = (
        ((np.arange(count) + 0.5) * full / count).astype(np.intp)
        for count, full in zip((height, width), surface.shape, strict=False)
    )
    sampled: NDArray[np.uint8] = surface[rows[:, None], cols]
    return sampled


class Matches(NamedTuple):
    """Which points of a source show what the points of a target show; n points of each target, m of
    each source, filled up with background to those of the fullest picture.
    """

    weights: Tensor
    """Float32 (B, n, m), over the source's points: rows sum to 1, also where nothing is known."""
    known: Tensor
    """bool (B, n): whether a target's point is real and the source shows it."""
    looks: Tensor
    """int64 (B, n): the token that a target's point lies in."""
    places: Tensor
    """int64 (B, m): the token that a source's point lies in."""
    real: Tensor
    """bool (B, m): whether a source's point is no background."""
    seen: Tensor
    """bool (B, n): whether a target's point is no background."""
    parts: Tensor
    """int64 (B, n): the numbers of the parts that a target's points lie on, 0 for background."""


@torch.no_grad()
def true_matches(
    source: Tensor,
    target: Tensor,
    size: tuple[int, int],
    *,
    source_size: tuple[int, int] | None = None,
    tolerance: float = 40.0,
    softness: float = 12.0,
    mirrored: bool = False,
) -> Matches:
    """Return which points of sources show what each point of the targets shows.

    A point of the target looks at the points of the source that show the same part, with weights
    exp(-d^2 / (2 softness^2)) that are normed to 1, where d is the distance of their surface
    values: along the part, and around it as the chord of a circle of length 256.

    Args:
        source: Integers (B, h, w, 3), surfaces as in `studio.Picture` at the middles of h x w
            cells; as fine as the tokens or, better, finer.
        target: Like `source`, of other views of the same products.
        size: Height and width of the pictures in tokens. A point belongs to the token it lies in.
        source_size: Those of the sources; None: they are the same.
        tolerance: A target point is known where d to the nearest source point is at most this, in
            units of 1/256 of the part; 40 is a sixth of its length or of the way around it.
        softness: Standard deviation of the weights in the same units, above 0.
        mirrored: Whether a point that the source does not show, within one softness, looks at its
            like on the body's other side where that is nearer: front for back, and only where that
            is not shown either, left for right, or both. A face's back is unlike its front.
    """
    points, looks, seen = _shown(target, size)
    others, places, real = _shown(source, source_size or size)
    # Half precision would mistake neighbours for each other.
    with torch.autocast(source.device.type, enabled=False):
        code = tolerance + FAR * softness
        keys = _embed(others, code) / softness
        logits = _negative_half_distance(_embed(points, code) / softness, keys)
        least = -0.5 * (tolerance / softness) ** 2
        near = logits.amax(-1) >= (-0.5 if mirrored else least)
        for like in _mirrored(points) if mirrored else ():
            again = _negative_half_distance(_embed(like, code) / softness, keys)
            better = ~near & (again.amax(-1) > logits.amax(-1))
            logits = torch.where(better[..., None], again, logits)
            near = logits.amax(-1) >= least
        parts = points[..., 0].long()
        return Matches(logits.softmax(-1), near & seen, looks, places, real, seen, parts)


@torch.no_grad()
def true_attention(
    source: Tensor,
    target: Tensor,
    size: tuple[int, int],
    *,
    tolerance: float = 40.0,
    softness: float = 12.0,
    share: float = 0.5,
) -> tuple[Tensor, Tensor]:
    """Return which source tokens show the skin or cloth of each target token.

    A target token has the mean of its known points' weights in `true_matches`, whose arguments
    these are, summed within each source token.

    Args:
        source: Surfaces of the sources.
        target: Surfaces of the targets.
        size: Height and width of both pictures in tokens.
        tolerance: How far a known point may be.
        softness: How soft the weights are.
        share: A target token is known where at least this share of its points is, 0..1.

    Returns:
        Float32 (B, N, N), N tokens in rows of the picture: for each target token (dimension 1) the
        distribution over source tokens, rows summing to 1 where known and to 0 elsewhere; and bool
        (B, N): False where the target token shows background, or what the source does not show.
    """
    tokens = size[0] * size[1]
    found = true_matches(source, target, size, tolerance=tolerance, softness=softness)
    with torch.autocast(source.device.type, enabled=False):
        into = _spread(found.known.float(), found.looks, tokens)
        out = _spread(torch.ones_like(found.places, dtype=torch.float32), found.places, tokens)
        truth = (into @ found.weights) @ out.transpose(1, 2)
    count = into.sum(-1)
    per_token = torch.bincount(_token_of(target, size), minlength=tokens)
    known = (count > 0) & (count >= share * per_token)
    # Rows are normed by their own sums, which rounding leaves a little off the count.
    truth = truth * (known / truth.sum(-1).clamp(min=1e-6))[..., None]
    return truth, known


def _token_of(surface: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the token (h * w) that each sample point lies in."""
    rows, cols = (
        ((torch.arange(count, device=surface.device) + 0.5) * cells / count).long()
        for count, cells in zip(surface.shape[1:3], size, strict=True)
    )
    return (rows[:, None] * size[1] + cols).flatten()


def _shown(surface: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the points (B, n, 3) that are no background, their tokens (B, n) and which are real.

    n is that of the fullest picture; the others are filled up with background.
    """
    flat = surface.flatten(1, 2)
    real = flat[..., 0] > 0
    most = max(int(real.sum(1).max()), 1)
    order = real.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    points = flat.gather(1, order[..., None].expand(-1, -1, 3))
    return points, _token_of(surface, size)[order], real.gather(1, order)


def _embed(points: Tensor, code: float) -> Tensor:
    """Return places (B, n, 11) whose distance is d; other parts are at least `code` away."""
    part, along, around = points.long().unbind(-1)
    bits = part[..., None] >> torch.arange(8, device=points.device) & 1
    turn = around.float() / RADIUS
    place = torch.stack([along - 128.0, RADIUS * turn.cos(), RADIUS * turn.sin()], -1)
    return torch.cat([place, bits * code - code / 2], -1)


def _mirrored(points: Tensor) -> list[Tensor]:
    """Return the likes of points (B, n, 3), those on the same part first: left and right legs that
    each stood for the other would be taken for one between them.
    """
    part, along, around = points.long().unbind(-1)
    # The front is at 128, the back at 0.
    angles = (128 - around, -around, 128 + around)
    likes = zip(LIKE_PARTS, angles, strict=True)
    return [torch.stack([to.to(part.device)[part], along, a % 256], -1) for to, a in likes]


def _negative_half_distance(queries: Tensor, keys: Tensor) -> Tensor:
    """Return -|q - k|^2 / 2 (B, n, m) as one matrix product."""
    ones = (torch.ones_like(queries[..., :1]), torch.ones_like(keys[..., :1]))
    norms = tuple(x.square().sum(-1, keepdim=True) / -2 for x in (queries, keys))
    left = torch.cat([queries, norms[0], ones[0]], -1)
    right = torch.cat([keys, ones[1], norms[1]], -1)
    return left @ right.transpose(1, 2)


def _spread(weights: Tensor, places: Tensor, tokens: int) -> Tensor:
    """Return (B, tokens, n) with each point's weight (B, n) in the row of its token."""
    rows = weights.new_zeros(len(weights), tokens, weights.shape[1])
    return rows.scatter_(1, places[:, None], weights[:, None])
