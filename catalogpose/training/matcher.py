"""Training the matcher on studio pictures, whose true correspondences are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from catalogpose.pixels import to_floats
from catalogpose.training.correspondence import true_matches
from catalogpose.training.loop import Schedule, fit
from catalogpose.training.objective import TOLERANCE
from catalogpose.training.pictures import Pictures
from catalogpose.truepose.attention import without_autocast
from catalogpose.truepose.matcher import Matcher
from catalogpose.truepose.pose_encoder import draw_pose

PARTNERS = 3
"""Other views in which each view of a batch is looked for."""


def matching_loss(
    keys: Tensor, queries: Tensor, source: Tensor, target: Tensor
) -> dict[str, Tensor]:
    """Return the cross-entropy of where a matcher looks to where the studio knows it should.

    Args:
        keys: Of B sources, (B, E, h, w).
        queries: Of B poses, (B, E, h, w).
        source: Surfaces of the sources, uint8 (B, h', w', 3), as fine as the tokens or finer.
        target: Surfaces of the poses' pictures, like `source`.

    Returns:
        `loss`, the mean over the points of the targets that the sources show; and `right`, how many
        of them look within the two likeliest true points the most.
    """
    size = (keys.shape[2], keys.shape[3])
    truth = true_matches(source, target, size, tolerance=TOLERANCE)

    def at(tokens: Tensor, places: Tensor) -> Tensor:
        """Return the embeddings (B, n, E) of the tokens that points lie in."""
        flat = tokens.flatten(2).transpose(1, 2)
        return flat.gather(1, places[..., None].expand(-1, -1, flat.shape[2]))

    # In half precision neighbouring tokens would be as likely as one another.
    with without_autocast(keys.device):
        logits = at(queries, truth.looks).float() @ at(keys, truth.places).float().transpose(1, 2)
        logits = logits * keys.shape[1] ** -0.5
    # Filled up places, which show background, are no places to look at.
    logits = logits.masked_fill(~truth.real[:, None], -1e4)
    entropy = -(truth.weights * logits.log_softmax(dim=-1)).sum(dim=-1)
    likeliest = truth.weights.topk(min(2, logits.shape[2]), dim=-1).indices
    right = (logits.argmax(dim=-1, keepdim=True) == likeliest).any(dim=-1)
    known = truth.known.float()
    # Of a front and a back there may be no point that both show.
    count = known.sum().clamp(min=1)
    return {"loss": (entropy * known).sum() / count, "right": (right * known).sum() / count}


def train_matcher(
    pictures: Pictures,
    matcher: Matcher,
    pose_style: str,
    schedule: Schedule,
    folder: Path,
    *,
    device: str,
    lanes: int = 1,
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
        **options: Of `fit`.
    """
    products, views, height, width = pictures.labels.shape
    schedule = schedule.over(products)
    share = schedule.share(lanes)
    matcher.to(device, memory_format=torch.channels_last)

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Look for each view of some products in others of the same product."""
        drawn = torch.randint(products, (share,), generator=generator).numpy()

        def load(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
            """Return the views of the drawn products, one after the other, on the device."""
            return torch.from_numpy(array[drawn].reshape(-1, *array.shape[2:])).to(device)

        shape = (-1, height, width, 3)
        photos = torch.from_numpy(to_floats(pictures.photos[drawn].reshape(shape))).to(device)
        keys = matcher.keys(photos, load(pictures.labels).long())
        queries = matcher.queries(draw_pose(load(pictures.joints), height, width, pose_style))
        steps = torch.randperm(views - 1, generator=generator)[:PARTNERS] + 1
        view = torch.arange(share * views)
        partner = view // views * views + (view + steps[:, None]) % views
        source, target = partner.flatten().to(device), view.repeat(len(steps)).to(device)
        surface = load(pictures.surface)
        return matching_loss(keys[source], queries[target], surface[source], surface[target])

    fit("matcher", matcher, loss_of, schedule, folder, device=device, **options)
    return matcher
