"""The small parser: a SegFormer on studio pictures, whose true maps are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from catalogpose.errors import UsageError
from catalogpose.perception.parser import Parser, make_parser, save_parser
from catalogpose.pixels import to_floats
from catalogpose.records import LABELS
from catalogpose.training.loop import Progress, Schedule, fit
from catalogpose.training.pictures import Pictures


def train_parser(
    pictures: Pictures,
    options: Mapping[str, Any],
    schedule: Schedule,
    folder: Path,
    target: Path,
    *,
    begin: Path | None = None,
    device: str,
    progress: Progress | None = None,
) -> Parser:
    """Train a parser and write it as a transformers folder in float16.

    Args:
        pictures: To learn from.
        options: Of `SegformerConfig`; a parser to go on from has its own.
        schedule: Steps, batch and rates.
        folder: For the checkpoint and the losses.
        target: The folder written.
        begin: Folder of a parser to go on from; None: random weights.
        device: Where to train.
        progress: Told the steps done; None: nobody is told.
    """
    height, width = pictures.labels.shape[2:]
    if begin is None:
        parser = make_parser((height, width), dict(enumerate(LABELS)), "common", **options)
    else:
        parser = Parser.load(begin)
        if parser.label_set != "common":
            raise UsageError(
                f"{begin} has label set {parser.label_set}, the studio's maps are of common: leave "
                "out --refine parser"
            )
    model = parser.model.float().to(device)
    photos = pictures.photos.reshape(-1, height, width, 3)
    maps = pictures.labels.reshape(-1, height, width)

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Classify the pixels of a batch whose contrast and brightness vary a little."""
        indices = torch.randint(len(photos), (schedule.batch,), generator=generator).numpy()
        batch = torch.from_numpy(to_floats(photos[indices]))
        gain = 0.85 + 0.3 * torch.rand(len(batch), 3, 1, 1, generator=generator)
        shift = 0.2 * torch.rand(len(batch), 1, 1, 1, generator=generator) - 0.1
        logits = model(pixel_values=(batch * gain + shift).clamp(-1, 1).to(device)).logits
        truth = torch.from_numpy(maps[indices].astype(np.int64)).to(device)
        logits = F.interpolate(
            logits.float(), size=truth.shape[1:], mode="bilinear", align_corners=False
        )
        right = (logits.argmax(dim=1) == truth)[truth > 0].float().mean()
        return {"loss": F.cross_entropy(logits, truth), "person_accuracy": right}

    fit("parser", model, loss_of, schedule, folder, device=device, progress=progress)
    save_parser(Parser(model=model.half(), processor=parser.processor, label_set="common"), target)
    return Parser.load(target, device)
