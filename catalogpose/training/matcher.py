"""Training the matcher on studio pictures, whose true correspondences are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from catalogpose.pixels import to_floats
from catalogpose.studio.parts import HEAD, PART_ID
from catalogpose.training.correspondence import Matches, true_matches
from catalogpose.training.loop import Schedule, fit
from catalogpose.training.objective import TOLERANCE
from catalogpose.training.pictures import SURFACE_CELL, Pictures
from catalogpose.truepose.attention import without_autocast
from catalogpose.truepose.matcher import Keys, Matcher
from catalogpose.truepose.pose_encoder import draw_pose

NEAR = 24.0
"""Tolerance of `true_matches` for a matcher that can say that a place is not shown: farther on,
stripes would be drawn out from the edge of what the source shows."""

PARTNERS = 2
"""Other views in which each view of a batch is looked for."""

SPACING = 4
"""Pixels between the points of a pose that a step asks about, at least: finer tokens take turns."""

HEADS = [PART_ID[name] for name in HEAD]
"""Numbers of the parts of a head."""


def matching_loss(
    keys: Tensor,
    queries: Tensor,
    source: Tensor,
    target: Tensor,
    nowhere: Tensor | None = None,
    head_weight: float = 1.0,
) -> dict[str, Tensor]:
    """Return the cross-entropy of where a matcher looks to where the studio knows it should.

    Args:
        keys: Of B sources, (B, E, h, w).
        queries: Of B poses, (B, E, k, l), of all tokens or of evenly spaced ones.
        source: Surfaces of the sources, uint8 (B, h', w', 3), as fine as the tokens or finer.
        target: Surfaces of the poses' pictures at those queries, or finer, like `source`.
        nowhere: Logits (B, k, l) of what the sources do not show. They are then learnt of the
            background and of what has no like on the source's side; and a place is known only near
            the true one, or near its mirror image. None: the matcher has none, and what the sources
            do not show is not learnt.
        head_weight: How much a point of a head counts, hair and hat included; others count 1.

    Returns:
        `loss`, a weighted mean over the targets' points that count, with `nowhere` over all points
        of the person, the background's sum added; and `right`, how many of those that the sources
        show look within the two likeliest true points the most.
    """
    size = (queries.shape[2], queries.shape[3])
    truth = true_matches(
        source,
        target,
        size,
        source_size=(keys.shape[2], keys.shape[3]),
        tolerance=TOLERANCE if nowhere is None else NEAR,
        mirrored=nowhere is not None,
    )
    looks = truth.looks[..., None].expand(-1, -1, truth.places.shape[1])
    logits = _logits(keys, queries, truth)
    every, known = logits.logsumexp(dim=-1), truth.known.float()
    if nowhere is not None:
        every = torch.logaddexp(every, nowhere.flatten(1))
    asked = logits.gather(1, looks)
    entropy = every.gather(1, truth.looks) - (truth.weights * asked).sum(dim=-1)
    likeliest = truth.weights.topk(min(2, logits.shape[2]), dim=-1).indices
    right = (asked.argmax(dim=-1, keepdim=True) == likeliest).any(dim=-1)
    # Of a front and a back there may be no point that both show.
    found = {"right": (right * known).sum() / known.sum().clamp(min=1)}
    heads = torch.isin(truth.parts, torch.tensor(HEADS, device=keys.device)).float()
    known, seen = (points * (1 + (head_weight - 1) * heads) for points in (known, truth.seen))
    if nowhere is None:
        found["loss"] = (entropy * known).sum() / known.sum().clamp(min=1)
    else:
        away = every - nowhere.flatten(1)
        hidden = (away.gather(1, truth.looks) * (seen - known)).sum()
        free = (away * _background_share(target, size)).sum()
        found["loss"] = ((entropy * known).sum() + hidden + free) / seen.sum().clamp(min=1)
    return found


def _logits(keys: Tensor, queries: Tensor, truth: Matches) -> Tensor:
    """Return the logits of all queries over the sources' points: (B, k * l, m)."""
    # In half precision neighbouring tokens would be as likely as one another.
    with without_autocast(keys.device):
        flat = keys.float().flatten(2).transpose(1, 2)
        places = truth.places[..., None].expand(-1, -1, flat.shape[2])
        logits: Tensor = queries.float().flatten(2).transpose(1, 2) @ flat.gather(1, places).mT
        logits = logits * keys.shape[1] ** -0.5
    # Filled up places, which show background, are no places to look at.
    return logits.masked_fill(~truth.real[:, None], -1e4)


def _background_share(surface: Tensor, size: tuple[int, int]) -> Tensor:
    """Return how much of each token of a surface (B, h', w', 3) is background, 0..1: (B, h * w)."""
    return F.adaptive_avg_pool2d((surface[..., 0] == 0).float()[:, None], size).flatten(1)


def step_points(
    matcher: Matcher, surface: Tensor, queries: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the points that a step looks at, evenly spaced from random ones on: of surfaces
    (B, h', w', 3) those of the sources and those of the poses, and the poses' queries
    (B, E, h, w) there.
    """
    stride = matcher.config.stride
    # Where the background counts, a token must not count as often as points lie in it.
    near = stride if matcher.nowhere_key is not None else min(stride, SPACING)
    far = max(near, SPACING)
    first = torch.randint(far // SURFACE_CELL, (2,), generator=generator).tolist()

    def every(step: int, array: Tensor) -> Tensor:
        """Return every so many of the rows and columns of (B, h, w, ...)."""
        return array[:, first[0] % step :: step, first[1] % step :: step]

    shown, asked = every(near // SURFACE_CELL, surface), every(far // SURFACE_CELL, surface)
    return shown, asked, every(max(far // stride, 1), queries.movedim(1, -1)).movedim(-1, 1)


def _draw_partners(products: int, views: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return which of the views of some products, one product after the other, are looked for in
    which others of the same product: those of sources and of targets, int64.
    """
    steps = torch.randperm(views - 1, generator=generator)[:PARTNERS] + 1
    view = torch.arange(products * views)
    partner = view // views * views + (view + steps[:, None]) % views
    return partner.flatten(), view.repeat(len(steps))


def _ask(matcher: Matcher, pose: Tensor, keys: Keys, source: Tensor, target: Tensor) -> Tensor:
    """Return the queries of the poses `target` to the sources `source`, both (pairs,)."""
    if matcher.config.attends:
        return matcher.queries(pose[target], keys.taken(source))
    # A pose asks the same of every source.
    return matcher.queries(pose, keys)[target]


def train_matcher(
    pictures: Pictures,
    matcher: Matcher,
    pose_style: str,
    schedule: Schedule,
    folder: Path,
    *,
    device: str,
    lanes: int = 1,
    parsed: NDArray[np.uint8] | None = None,
    head_weight: float = 1.0,
    **options: Any,
) -> Matcher:
    """Train both towers; see `fit` for what is written.

    Args:
        pictures: P products seen V times; V above 1.
        matcher: Trained in place.
        pose_style: How poses are drawn.
        schedule: Steps and rates; a batch counts products, of which all views are seen.
        folder: For the checkpoint and the losses.
        device: Where to train.
        lanes: Micro-batches of a step, over all processes.
        parsed: The pictures' maps as a parser makes them, (P, V, H, W): a matcher meets those in
            use, and learns from them in half of the micro-batches. None: from true maps alone.
        head_weight: As of `matching_loss`.
        **options: Of `fit`.
    """
    products, views, height, width = pictures.labels.shape
    schedule = schedule.over(products)
    share = schedule.share(lanes)
    matcher.to(device, memory_format=torch.channels_last)

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Look for each view of some products in others of the same product."""
        drawn = torch.randint(products, (share,), generator=generator).numpy()

        maps = pictures.labels
        if parsed is not None and bool(torch.rand((), generator=generator) < 0.5):
            maps = parsed

        def load(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
            """Return the views of the drawn products, one after the other, on the device."""
            return torch.from_numpy(array[drawn].reshape(-1, *array.shape[2:])).to(device)

        shape = (-1, height, width, 3)
        photos = torch.from_numpy(to_floats(pictures.photos[drawn].reshape(shape))).to(device)
        keys = matcher.keys(photos, load(maps).long())
        pose = draw_pose(load(pictures.joints), height, width, pose_style)
        source, target = (part.to(device) for part in _draw_partners(share, views, generator))
        queries = _ask(matcher, pose, keys, source, target)
        shown, asked, queries = step_points(matcher, load(pictures.surface), queries, generator)
        nowhere = None if matcher.nowhere_key is None else matcher.nowhere_logits(queries)
        sources = keys.tokens[source]
        surfaces = shown[source], asked[target]
        return matching_loss(sources, queries, *surfaces, nowhere, head_weight)

    fit("matcher", matcher, loss_of, schedule, folder, device=device, **options)
    return matcher
