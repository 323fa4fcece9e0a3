"""What a training looks like on the way: held-out studio pairs, painted as the weights are now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from catalogpose.training.pairs import Pairs
from catalogpose.training.pictures import Pictures
from catalogpose.training.sheets import write_sheet
from catalogpose.truepose.pipeline import TruePosePipeline


def make_preview(
    folder: Path, pipe: TruePosePipeline, pictures: Pictures, pairs: Pairs
) -> Callable[[int], None]:
    """Return a function that paints the first two views of held-out products.

    It writes `preview.png`, rows of sources, results and targets, and appends step and mean PSNR to
    `preview.csv`, both in `folder`.
    """
    count, views = min(12, len(pictures.photos)), pictures.photos.shape[1]

    def preview(step: int) -> None:
        """Write the sheet with the weights as they are."""
        pipe.unet.eval()
        with torch.no_grad():
            conditions = []
            for p in range(count):
                first, second = p * views, p * views + 1
                embeddings = {
                    int(i): pairs.embeddings[first, i] for i in np.flatnonzero(pairs.known[first])
                }
                features = pipe.encode_source(
                    pictures.photos[p, 0], pictures.labels[p, 0], embeddings
                )
                conditions.append(
                    pipe.condition(
                        features, frozenset(np.flatnonzero(pairs.shown[second]).tolist())
                    )
                )
            results = pipe.generate(conditions, pictures.joints[:count, 1], list(range(count)))
        pipe.unet.train()
        write_sheet(
            folder / "preview.png",
            [pictures.photos[:count, 0], results, pictures.photos[:count, 1]],
        )
        error = (results.astype(np.float64) - pictures.photos[:count, 1]) ** 2
        psnr = float(np.mean(10 * np.log10(255**2 / error.mean(axis=(1, 2, 3)))))
        with (folder / "preview.csv").open("a", encoding="utf-8") as file:
            file.write(f"{step},{psnr:.3f}\n")

    return preview
