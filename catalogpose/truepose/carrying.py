"""Where tokens of a pose come from, and pixels carried from there: tensors in, tensors out (ours).

Shapes: B batch, E width of an embedding, h and w the canvas in tokens, H and W in pixels.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from catalogpose.truepose.attention import without_autocast

ALIKE = 1.25
"""Most tokens by which neighbours may move apart and still be of one surface."""

APART = 3.0
"""Standard deviation, in tokens, of how differently neighbours may move and count in a fit."""

FITS = 2
"""How often places are fitted anew."""

STIFF = 0.5
"""How much a fit prefers that neighbours move alike to that they move apart, in tokens squared."""

EDGE = 4
"""Pixels of the canvas around a person that show what lies beside them on the person."""


def spread_person(photo: Tensor, labels: Tensor) -> Tensor:
    """Give the background around a person the colours beside it, as textures are padded: a place a
    little off an arm's edge then shows the arm, and not the wall behind it.

    Args:
        photo: (B, 3, sH, sW), s times as high and wide as its map.
        labels: Its parsing map on the canvas, int64 (B, H, W).
    """
    known = (labels[:, None] > 0).to(photo.dtype)
    scale = photo.shape[2] // known.shape[2]
    known = F.interpolate(known, size=(photo.shape[2], photo.shape[3]))
    # The map's outermost pixels are part person and part wall: of a finer photo some are all wall.
    inset = scale // 2
    known = -F.max_pool2d(-known, 2 * inset + 1, 1, inset)
    spread = photo * known
    for _ in range(EDGE * scale + inset):
        # Both means leave out what lies outside the picture in the same way.
        share, around = (F.avg_pool2d(x, 3, 1, 1) for x in (known, spread))
        beside = (known == 0) & (share > 0)
        spread = torch.where(beside, around / share.clamp(min=1e-6), spread)
        known = known.masked_fill(beside, 1.0)
    return torch.where(known > 0, spread, photo)


def similarity(keys: Tensor, queries: Tensor) -> Tensor:
    """Return the logits (B, N, M) of each token of a pose over those of a source, float32.

    Args:
        keys: (B, E, h, w), M tokens.
        queries: (B, E, k, l), N tokens.
    """
    with without_autocast(keys.device):
        key, query = (tokens.float().flatten(2) for tokens in (keys, queries))
        logits: Tensor = query.transpose(1, 2) @ key * key.shape[1] ** -0.5
    return logits


def find_places(
    logits: Tensor,
    tokens: Tensor,
    size: tuple[int, int],
    reach: int = 1,
    nowhere: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Find where each token comes from: the mean place within reach of the likeliest one.

    The mean over all places would lie between two arms; the likeliest token alone would break
    stripes at every token's edge.

    Args:
        logits: (h * w, M), of a pose's tokens over those of a source that are places to find; see
            `similarity`.
        tokens: int64 (M,), which those are, in rows of the picture.
        size: h and w.
        reach: How many tokens away weights count.
        nowhere: (h * w), the logits that no token is the place; None: one of them is.

    Returns:
        Places (h, w, 2): x and y in tokens, the first token's middle at 0; and the share of the
        weights within reach, 0..1, (h, w).
    """
    height, width = size
    best = tokens[logits.argmax(dim=1)]
    offsets = torch.arange(-reach, reach + 1, device=logits.device)
    rows = (best // width)[:, None, None] + offsets[:, None]
    columns = (best % width)[:, None, None] + offsets
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    number = tokens.new_full((height * width,), -1)
    number[tokens] = torch.arange(len(tokens), device=tokens.device)
    near = number[(rows * width + columns).where(inside, 0)].where(inside, -1)
    asked = logits.gather(1, near.clamp(min=0).flatten(1)).view(near.shape)
    asked = asked.masked_fill(near < 0, -torch.inf)
    every = logits.logsumexp(dim=1)
    if nowhere is not None:
        every = torch.logaddexp(every, nowhere)
    sure = (asked.logsumexp(dim=(1, 2)) - every).exp()
    weights = asked.flatten(1).softmax(dim=1).view(asked.shape)
    x, y = ((weights * at).sum(dim=(1, 2)) for at in (columns, rows))
    return torch.stack([x, y], dim=-1).view(height, width, 2), sure.view(height, width)


def smooth_places(places: Tensor, sure: Tensor, labels: Tensor, radius: int) -> Tensor:
    """Return places as their neighbours find them too: where one finds another stripe than the next
    both may be nearly right, and the cloth is torn all the same.

    Moving least squares (Schaefer, McPhail and Warren, SIGGRAPH 2006): how far a token has moved is
    fitted by an affine map of its neighbours, each weighted by how sure it is, how near it lies
    and, as in a bilateral filter (Tomasi and Manduchi, ICCV 1998), how alike it has moved; those
    that find another region of the source do not count.

    Args:
        places: (B, h, w, 2), from `find_places`.
        sure: (B, h, w), from `find_places`.
        labels: The sources' parsing maps, int64 (B, H, W).
        radius: How many tokens away neighbours count, 1 or more.
    """
    height, width = places.shape[1:3]
    rows, columns = (torch.arange(n, device=places.device) for n in (height, width))
    own = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    moved = (places - own).movedim(-1, 1)
    found = _labels_at(labels, places)
    away = torch.arange(-radius, radius + 1, device=places.device, dtype=moved.dtype)
    down, right = (part.flatten() for part in torch.meshgrid(away, away, indexing="ij"))
    terms = torch.stack([torch.ones_like(down), right, down], dim=1)
    near = torch.exp(-(down**2 + right**2) / (2 * (radius / 1.5) ** 2))[:, None, None]
    # What is sure of nothing is fitted too, by its likes.
    share = near * _around(sure[:, None].clamp(min=1e-3), radius)[:, 0]
    share = share * (_around(found[:, None], radius)[:, 0] == found[:, None])
    stiff = torch.diag(terms.new_tensor([0.0, STIFF, STIFF]))
    with without_autocast(places.device):
        for _ in range(FITS):
            others = _around(moved, radius)
            apart = (others - moved[:, :, None]).square().sum(dim=1)
            weight = share * torch.exp(-apart / (2 * APART**2))
            squares = torch.einsum("bkhw,ki,kj->bhwij", weight, terms, terms)
            squares = squares + stiff * weight.sum(dim=1)[..., None, None]
            sums = torch.einsum("bkhw,ki,bckhw->bhwic", weight, terms, others)
            moved = torch.linalg.solve(squares, sums)[..., 0, :].movedim(-1, 1)
    return moved.movedim(1, -1) + own


def _labels_at(labels: Tensor, places: Tensor) -> Tensor:
    """Return which labels of maps (B, H, W) lie at places (B, h, w, 2), as float32 (B, h, w)."""
    side = labels.shape[1] // places.shape[1]
    x, y = ((places + 0.5) * side).long().unbind(dim=-1)
    at = y.clamp(0, labels.shape[1] - 1) * labels.shape[2] + x.clamp(0, labels.shape[2] - 1)
    return labels.flatten(1).gather(1, at.flatten(1)).view(at.shape).float()


def _around(cells: Tensor, radius: int) -> Tensor:
    """Return the neighbours of each cell of (B, C, h, w), 0 beyond the edges: (B, C, n, h, w)."""
    batch, channels, height, width = cells.shape
    near = F.unfold(cells, 2 * radius + 1, padding=radius)
    return near.view(batch, channels, -1, height, width)


def carry_pixels(photo: Tensor, places: Tensor, sure: Tensor) -> Tensor:
    """Sample a photo (B, 3, sH, sW), s times as high and wide as the canvas, at places
    (B, h, w, 2), in tokens, and join how sure they are (B, h, w) behind its third channel: float32
    (B, 4, sH, sW). More channels come last.
    """
    size = photo.shape[2:]
    tokens = places.new_tensor([places.shape[2], places.shape[1]])
    # `grid_sample` counts from -1 to 1 between the picture's edges.
    grid = (refine_places(places, size[0] // places.shape[1]) + 0.5) / tokens * 2 - 1
    carried = F.grid_sample(photo.float(), grid, padding_mode="border", align_corners=False)
    weight = F.interpolate(sure[:, None], size=size, mode="bilinear", align_corners=False)
    return torch.cat([carried[:, :3], weight, carried[:, 3:]], dim=1)


def refine_places(places: Tensor, side: int) -> Tensor:
    """Find the places of pixels between those of tokens, `side` pixels each, linearly among the
    neighbours that have moved alike: between an arm and the trunk there is no place.

    Args:
        places: (B, h, w, 2): x and y in tokens, the first token's middle at 0.
        side: 1 or more.

    Returns:
        (B, h * side, w * side, 2).
    """
    height, width = places.shape[1:3]
    rows, columns = (torch.arange(n, device=places.device) for n in (height, width))
    own = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    moved = (places - own).movedim(-1, 1)
    padded = F.pad(moved, (1, 1, 1, 1), mode="replicate")
    inside = (torch.arange(side, device=places.device) + 0.5) / side - 0.5
    total = moved.new_zeros(len(moved), 2, height * side, width * side)
    count = total[:, :1].clone()
    for down, right in product((-1, 0, 1), repeat=2):
        near = padded[:, :, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
        alike = ((near - moved).abs().amax(dim=1, keepdim=True) <= ALIKE).to(moved.dtype)
        share = [(1 - (inside - offset).abs()).clamp(min=0) for offset in (down, right)]
        weight = (share[0][:, None] * share[1]).repeat(height, width) * _blocks(alike, side)
        total += weight * _blocks(near, side)
        count += weight
    y, x = ((cells[:, None] + inside).flatten() for cells in (rows, columns))
    return (total / count).movedim(1, -1) + torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def _blocks(tokens: Tensor, side: int) -> Tensor:
    """Repeat each token of (B, C, h, w) for all of its pixels."""
    return tokens.repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)
