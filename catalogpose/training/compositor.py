"""Training the compositor: to lay what was carried where it looks like the truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from catalogpose.catalog.sheets import write_sheet
from catalogpose.pixels import to_bytes, to_floats
from catalogpose.training.loop import Progress, Schedule, fit
from catalogpose.truepose.compositor import Compositor

SIDE = 7
"""Pixels of a square's side; the mean over squares of their means is what colours are compared by,
so that a stripe and the next count together."""

APART = 0.2
"""How far, in units of -1..1, mean or spread of a colour may lie from the truth's for a likeness of
exp(-1/2)."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What was painted and carried of n pairs, and what is true."""

    painted: NDArray[np.uint8]
    """(n, H, W, 3)."""
    carried: NDArray[np.float32]
    """(n, 4, H, W), from `Matcher.carry`."""
    truth: NDArray[np.uint8]
    """(n, H, W, 3)."""
    person: NDArray[np.bool_]
    """(n, H, W), where the truth shows the person."""


def likeness(carried: Tensor, truth: Tensor, person: Tensor) -> Tensor:
    """Say how much carried pictures look like the truth: whether, around each pixel and channel
    by channel, colours have the same mean and the same spread.

    These are SSIM's comparisons of luminance and contrast. Its third, of structure, is left out: of
    stripes that lie a little off it would say that they are none.

    Args:
        carried: (B, 3, H, W) in -1..1.
        truth: (B, 3, H, W) in -1..1.
        person: bool (B, 1, H, W); no other pixels count.

    Returns:
        (B, 1, H, W): 0..1, 0 outside the person.
    """
    share = _local_mean(person.float()).clamp(min=1e-6)

    def describe(picture: Tensor) -> tuple[Tensor, Tensor]:
        """Return the local mean and standard deviation of the person."""
        mean = _local_mean(picture * person) / share
        square = _local_mean(picture.square() * person) / share
        return mean, (square - mean.square()).clamp(min=1e-4).sqrt()

    (mean, spread), (true_mean, true_spread) = describe(carried), describe(truth)
    apart = (mean - true_mean).square() + (spread - true_spread).square()
    return torch.exp(-apart.mean(dim=1, keepdim=True) / (2 * APART**2)) * person


def _local_mean(picture: Tensor) -> Tensor:
    """Return the mean around each pixel, nearer ones counting more; there is nothing outside."""
    for _ in range(2):
        picture = F.avg_pool2d(picture, SIDE, stride=1, padding=SIDE // 2)
    return picture


def train_compositor(
    layers: Layers,
    compositor: Compositor,
    schedule: Schedule,
    folder: Path,
    *,
    device: str,
    progress: Progress | None = None,
) -> Compositor:
    """Train a compositor; see `fit` for what is written.

    The mask is learnt as such, by cross-entropy to `likeness`: squared error of the composed
    picture is least for something between a stripe and the next.

    Args:
        layers: To learn from.
        compositor: Trained in place.
        schedule: Steps, batch and rates.
        folder: For the checkpoint, the losses and the sheets.
        device: Where to train.
        progress: Told the steps done; None: nobody is told.
    """
    compositor.to(device, memory_format=torch.channels_last)

    def load(rows: NDArray[np.integer]) -> tuple[Tensor, Tensor]:
        """Return what was painted and carried of some pairs."""
        painted = torch.from_numpy(to_floats(layers.painted[rows]))
        return painted.to(device), torch.from_numpy(layers.carried[rows]).to(device)

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Say of a batch where what was carried fits."""
        rows = torch.randint(len(layers.truth), (schedule.batch,), generator=generator).numpy()
        painted, carried = load(rows)
        truth = torch.from_numpy(to_floats(layers.truth[rows])).to(device)
        person = torch.from_numpy(layers.person[rows, None]).to(device)
        wanted = likeness(carried[:, :3], truth, person)
        logits = compositor(painted, carried).float()
        laid = (logits.detach().sigmoid() * person).sum() / person.sum().clamp(min=1)
        return {"loss": F.binary_cross_entropy_with_logits(logits, wanted), "laid": laid}

    def preview(step: int) -> None:
        """Show what was painted, what was carried, what is made of both, and the truth."""
        rows = np.arange(min(12, len(layers.truth)))
        painted, carried = load(rows)
        with torch.no_grad():
            shown = compositor.compose(painted, carried)
        sheet = [to_bytes(picture.cpu().numpy()) for picture in (painted, carried[:, :3], shown)]
        write_sheet(folder / "preview.png", [*sheet, layers.truth[rows]])

    fit(
        "compositor", compositor, loss_of, schedule, folder,
        device=device, preview=preview, progress=progress,
    )  # fmt: skip
    return compositor
