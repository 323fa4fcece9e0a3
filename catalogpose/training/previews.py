"""What a training looks like on the way: held-out studio pairs, painted as the weights are now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from catalogpose.catalog.sheets import write_sheet
from catalogpose.training.held_out import hold_out_pairs, paint
from catalogpose.training.pairs import Pairs
from catalogpose.training.pictures import Pictures
from catalogpose.truepose.pipeline import TruePosePipeline


def make_preview(
    folder: Path, pipe: TruePosePipeline, pictures: Pictures, pairs: Pairs
) -> Callable[[int], None]:
    """Return a function that paints the first two views of held-out products.

    It writes `preview.png`, rows of sources, results and targets, and appends step and mean PSNR to
    `preview.csv`, both in `folder`.
    """
    count, views = min(12, len(pictures.photos)), pictures.photos.shape[1]
    first = np.arange(count) * views
    photos = pictures.photos.reshape(-1, *pictures.photos.shape[2:])
    held_out = hold_out_pairs(pairs, photos, np.stack([first, first + 1], axis=1))

    def preview(step: int) -> None:
        """Write the sheet with the weights as they are."""
        pipe.unet.eval()
        results = paint(pipe, held_out)
        pipe.unet.train()
        write_sheet(folder / "preview.png", [held_out.sources, results, held_out.targets])
        error = (results.astype(np.float64) - held_out.targets) ** 2
        psnr = float(np.mean(10 * np.log10(255**2 / error.mean(axis=(1, 2, 3)))))
        with (folder / "preview.csv").open("a", encoding="utf-8") as file:
            file.write(f"{step},{psnr:.3f}\n")

    return preview
