"""Training the compositor: to lay what was carried where it looks like the truth, and to put right
what was painted elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from catalogpose.catalog.sheets import write_sheet
from catalogpose.pixels import to_bytes, to_floats
from catalogpose.records import LABEL_ID, LABELS
from catalogpose.training.critic import Critic, Criticism, criticise
from catalogpose.training.loop import Progress, Schedule, fit
from catalogpose.truepose.compositor import Compositor
from catalogpose.truepose.pose_encoder import STYLE_CHANNELS, draw_pose

SIDE = 7
"""Pixels of the canvas of a square's side; the mean over squares of their means is what colours are
compared by, so that a stripe and the next count together."""

APART = 0.2
"""How far, in units of -1..1, mean or spread of a colour may lie from the truth's for a likeness of
exp(-1/2)."""

RETOUCHING = 4.0
"""Weight of what is left wrong of what was painted, its mean absolute error in units of -1..1."""

HEAD = tuple(LABEL_ID[name] for name in ("hat", "hair", "face", "sunglasses"))
"""What people are known by."""

HEAD_WEIGHT = 4.0
"""How much a pixel of a head counts; others count 1, and there are about thirty times as many."""

FORGOTTEN = 0.15
"""Share of the rows in which one region counts as not carried: the compositor would else meet that
in use alone."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What was painted and carried of n pairs, and what is true, s times as high and wide."""

    painted: NDArray[np.uint8]
    """(n, H, W, 3)."""
    carried: NDArray[np.floating]
    """(n, 4, sH, sW), from `Matcher.carry`."""
    joints: NDArray[np.float32]
    """(n, 18, 3), the poses in canvas pixels."""
    truth: NDArray[np.uint8]
    """(n, sH, sW, 3)."""
    labels: NDArray[np.uint8]
    """(n, sH, sW), the maps of the truth, ids in `records.LABELS`."""


def likeness(carried: Tensor, truth: Tensor, person: Tensor, scale: int = 1) -> Tensor:
    """Say how much carried pictures look like the truth: whether, around each pixel and channel
    by channel, colours have the same mean and the same spread.

    These are SSIM's comparisons of luminance and contrast. Its third, of structure, is left out: of
    stripes that lie a little off it would say that they are none.

    Args:
        carried: (B, 3, H, W) in -1..1.
        truth: (B, 3, H, W) in -1..1.
        person: bool (B, 1, H, W); no other pixels count.
        scale: How many times as high and wide as the canvas they are; it is found for cells of so
            many pixels' side.

    Returns:
        (B, 1, H, W): 0..1, 0 outside the person.
    """
    share = _local_mean(person.float(), scale).clamp(min=1e-6)

    def describe(picture: Tensor) -> tuple[Tensor, Tensor]:
        """Return the local mean and standard deviation of the person."""
        mean = _local_mean(picture * person, scale) / share
        square = _local_mean(picture.square() * person, scale) / share
        return mean, (square - mean.square()).clamp(min=1e-4).sqrt()

    (mean, spread), (true_mean, true_spread) = describe(carried), describe(truth)
    apart = (mean - true_mean).square() + (spread - true_spread).square()
    alike = torch.exp(-apart.mean(dim=1, keepdim=True) / (2 * APART**2))
    return F.interpolate(alike, size=(person.shape[2], person.shape[3])) * person


def _local_mean(picture: Tensor, scale: int) -> Tensor:
    """Return the mean around each cell of `scale` pixels' side, nearer ones counting more; there is
    nothing outside.
    """
    picture = F.avg_pool2d(picture, scale)
    for _ in range(2):
        picture = F.avg_pool2d(picture, SIDE, stride=1, padding=SIDE // 2)
    return picture


def forget(carried: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """Return what was carried, and in some rows grey, sure of nothing, for one of the person's
    regions, whichever: so it comes where words replace what a photo shows.

    Args:
        carried: (B, 4, H, W), from `Matcher.carry`.
        labels: Maps of the truth, int64 (B, H, W).
        generator: A CPU generator; it alone decides which.
    """
    drawn = torch.rand(len(labels), len(LABELS), generator=generator).to(labels.device)
    some = torch.rand(len(labels), generator=generator).to(labels.device) < FORGOTTEN
    there = torch.zeros_like(drawn).scatter_(1, labels.flatten(1), 1.0)
    there[:, 0] = 0
    chosen = (there * drawn).argmax(dim=1)[:, None, None]
    gone = (labels == chosen) & (labels > 0) & some[:, None, None]
    return carried * ~gone[:, None]


class Rivals(nn.Module):
    """A compositor and the critic that learns with it, as one net."""

    def __init__(self, compositor: Compositor, critic: Critic, criticism: Criticism) -> None:
        """Hold both, and what the critic's word counts."""
        super().__init__()
        self.compositor, self.critic, self.criticism = compositor, critic, criticism


def composing_loss(
    net: Compositor | Rivals, seen: tuple[Tensor, Tensor, Tensor], truth: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Return how far a compositor is from saying where what was carried fits, and from putting
    right what was painted.

    The mask is learnt as such, by cross-entropy to `likeness`: squared error of the composed
    picture is least for something between a stripe and the next. What was painted is put right by
    its absolute error, as in CP-VTON, where the mask does not hide it. Where nothing is sure it
    stays, as in `Compositor.compose`. Pixels of heads count more. With a critic what is composed
    counts too: the mask learns of it as well.

    Args:
        net: What learns.
        seen: What was painted and carried, and the poses, as the net takes them.
        truth: (B, 3, sH, sW) in -1..1.
        labels: Its maps, int64 (B, sH, sW).

    Returns:
        `loss`; `wrong`, what of the absolute error is not hidden; `laid`, the mask's mean on the
        person; and with a critic `off`, the absolute error of what is composed, and what
        `criticise` gives.
    """
    compositor = net.compositor if isinstance(net, Rivals) else net
    person = labels[:, None] > 0
    heads = torch.isin(labels, torch.tensor(HEAD, device=labels.device))[:, None].float()
    weight = 1 + (HEAD_WEIGHT - 1) * heads
    weight = weight / weight.mean()
    carried, sure = seen[1][:, :3], seen[1][:, 3:] > 0
    wanted = likeness(carried, truth, person & sure, compositor.config.scale)
    logits, touched = compositor(*seen)
    touched = touched.where(sure, compositor.enlarge(seen[0]))
    share = logits.sigmoid() * sure
    mask = share.detach() * person
    wrong = ((touched - truth).abs() * (1 - mask) * weight).mean()
    laid = mask.sum() / person.sum().clamp(min=1)
    loss = F.binary_cross_entropy_with_logits(logits, wanted, weight) + RETOUCHING * wrong
    if not isinstance(net, Rivals):
        return {"loss": loss, "wrong": wrong, "laid": laid}
    composed, counts = torch.lerp(touched, carried, share), net.criticism
    off = ((composed - truth).abs() * weight).mean()
    pose = F.interpolate(seen[2], size=(truth.shape[2], truth.shape[3]))
    said = criticise(net.critic, composed, truth, pose, weight)
    loss = loss + counts.error_weight * off + said["critic"]
    loss = loss + counts.verdict_weight * said["verdict"]
    loss = loss + counts.feature_weight * said["features"]
    return {"loss": loss, "wrong": wrong, "laid": laid, "off": off, **said}


def train_compositor(
    layers: Layers,
    compositor: Compositor,
    pose_style: str,
    schedule: Schedule,
    folder: Path,
    *,
    device: str,
    criticism: Criticism | None = None,
    progress: Progress | None = None,
) -> Compositor:
    """Train a compositor; see `composing_loss`, and `fit` for what is written.

    Args:
        layers: To learn from.
        compositor: Trained in place.
        pose_style: How poses are drawn.
        schedule: Steps, batch and rates.
        folder: For the checkpoint, the losses and the sheets.
        device: Where to train.
        criticism: What a critic's word counts, which starts from random weights and learns along;
            None: there is none.
        progress: Told the steps done; None: nobody is told.
    """
    net: Compositor | Rivals = compositor
    if criticism is not None:
        net = Rivals(compositor, Critic(STYLE_CHANNELS[pose_style]), criticism)
    net.to(device).to(memory_format=torch.channels_last)
    height, width = layers.painted.shape[1:3]
    schedule = schedule.over(len(layers.truth))

    def load(rows: NDArray[np.integer]) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the net sees of some pairs."""
        painted = torch.from_numpy(to_floats(layers.painted[rows])).to(device)
        carried = torch.from_numpy(layers.carried[rows]).to(device).float()
        joints = torch.from_numpy(layers.joints[rows]).to(device)
        return painted, carried, draw_pose(joints, height, width, pose_style)

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Compose a batch."""
        rows = torch.randint(len(layers.truth), (schedule.batch,), generator=generator).numpy()
        truth = torch.from_numpy(to_floats(layers.truth[rows])).to(device)
        labels = torch.from_numpy(layers.labels[rows]).to(device).long()
        painted, carried, pose = load(rows)
        seen = painted, forget(carried, labels, generator), pose
        return composing_loss(net, seen, truth, labels)

    def preview(step: int) -> None:
        """Show what was painted, what was carried, what is made of both, and the truth."""
        rows = np.arange(min(12, len(layers.truth)))
        seen = load(rows)
        with torch.no_grad():
            shown = compositor.compose(*seen)
        below = compositor.enlarge(seen[0])
        sheet = [to_bytes(picture.cpu().numpy()) for picture in (below, seen[1][:, :3], shown)]
        write_sheet(folder / "preview.png", [*sheet, layers.truth[rows]])

    name = "compositor" if criticism is None else "critic"
    fit(name, net, loss_of, schedule, folder, device=device, preview=preview, progress=progress)
    return compositor
