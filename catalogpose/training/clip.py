"""The small CLIP: rectangles of studio pictures against their phrases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from catalogpose.catalog.labels import find_regions
from catalogpose.perception.clip import Clip, make_clip, save_clip, wrap_clip
from catalogpose.records import LABELS
from catalogpose.training.loop import Progress, Schedule, fit
from catalogpose.training.pictures import Pictures
from catalogpose.training.start import take_weights


def phrase_of(label: str, caption: str | None) -> str:
    """Return the words for a region: its caption, else its label."""
    return caption or label.replace("-", " ")


def matching_loss(image: Tensor, text: Tensor, same: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy where several pairs may share a phrase.

    Args:
        image: (B, D), unit length.
        text: (B, D), unit length.
        same: (B, B), 1 where two rows have the same phrase; these share the target.
        scale: () factor of the cosines.
    """
    logits = scale * image @ text.T
    target = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train_clip(
    pictures: Pictures,
    config: Mapping[str, Any],
    schedule: Schedule,
    folder: Path,
    target: Path,
    *,
    begin: Path | None = None,
    device: str,
    progress: Progress | None = None,
) -> Any:
    """Train a CLIP and write it as an open_clip folder.

    Args:
        pictures: To learn from.
        config: The open_clip model configuration.
        schedule: Steps, batch and rates; a batch is that many regions of different pictures.
        folder: For the checkpoint and the losses.
        target: The folder written.
        begin: Folder of a CLIP to go on from; None: random weights.
        device: Where to train.
        progress: Told the steps done; None: nobody is told.
    """
    model, tokenizer = make_clip(config, target)
    if begin is not None:
        take_weights(model, begin)
    model.to(device)
    eyes = wrap_clip(model)

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Match a batch of rectangles to their phrases."""
        crops, phrases = _draw_regions(pictures, eyes, schedule.batch, generator)
        ids = np.unique(np.array(phrases), return_inverse=True)[1]
        same = torch.from_numpy(ids[:, None] == ids[None, :]).float().to(device)
        image = model.encode_image(crops.to(device), normalize=True)
        text = model.encode_text(tokenizer(phrases).to(device), normalize=True)
        loss = matching_loss(
            image.float(), text.float(), same, model.logit_scale.exp().clamp(max=100)
        )
        best = (image @ text.T).argmax(dim=1)
        return {"loss": loss, "top1": same.gather(1, best[:, None]).mean()}

    fit("clip", model, loss_of, schedule, folder, device=device, progress=progress)
    save_clip(model, target)
    return model


def _draw_regions(
    pictures: Pictures, eyes: Clip, count: int, generator: torch.Generator
) -> tuple[Tensor, list[str]]:
    """Pick one region of each of `count` pictures: crops (count, 3, h, w) and their phrases."""
    products, views = pictures.photos.shape[:2]
    crops: list[Tensor] = []
    phrases: list[str] = []
    while len(crops) < count:
        p, v, r = (
            int(torch.randint(n, (), generator=generator)) for n in (products, views, 1 << 20)
        )
        regions = find_regions(pictures.labels[p, v])
        if not regions:
            continue
        region = regions[r % len(regions)]
        picture = torch.from_numpy(pictures.photos[p, v]).permute(2, 0, 1)
        crops.append(eyes.crops(picture, [region.box])[0])
        name = LABELS[region.label]
        phrases.append(phrase_of(name, pictures.captions[p][v].get(name)))
    return torch.stack(crops), phrases
