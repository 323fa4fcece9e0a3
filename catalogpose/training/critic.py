"""A critic, which tells composed pictures from true ones, and what a compositor learns from it.

Squared and absolute errors are least for a blur where more than one picture is possible. The
features by which a critic tells what is composed from what is true are those that lack: they are
compared, as in pix2pixHD (Wang et al., CVPR 2018). The critic is pix2pix's of patches (Isola et
al., CVPR 2017), trained with the hinge loss.
Shapes: B batch, H and W the pictures in pixels. Patches are so many of these, whatever the size: of
pictures finer than the canvas they are smaller parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.nn.utils.parametrize import cached

from catalogpose.errors import UsageError

CHANNELS = (32, 64, 128)
"""Of a critic's levels, each half as fine as the one before; all but the first give verdicts, so
that small patches and larger ones are judged."""


@dataclass(frozen=True, kw_only=True)
class Criticism:
    """What counts how much beside the compositor's own losses."""

    verdict_weight: float = 0.0
    """0 or more: of the critic's verdict on what is composed; it makes bright seams at outlines
    brighter before it makes anything better (measured, 1200 steps)."""
    feature_weight: float = 20.0
    """0 or more: of how far its features of what is composed are from those of the truth."""
    error_weight: float = 5.0
    """0 or more: of the absolute error of what is composed, in units of -1..1; with 2 the features
    too leave a bright seam at outlines, with 6 none was seen (measured, 200 steps)."""

    def __post_init__(self) -> None:
        """Raise UsageError where a value is out of range."""
        for name, value in vars(self).items():
            plain = isinstance(value, int | float) and not isinstance(value, bool)
            if not plain or not 0 <= value < math.inf:
                raise UsageError(f"{name} must be a number, 0 or more, not {value!r}")


class Critic(nn.Module):
    """Says of patches of a picture whether they look true for a pose."""

    def __init__(self, pose_channels: int) -> None:
        """Build the net; its norms are spectral, which bounds how fast verdicts change.

        Args:
            pose_channels: Of the pose style, see `pose_encoder.STYLE_CHANNELS`.
        """
        super().__init__()
        sizes = (3 + pose_channels, *CHANNELS)
        self.looks = nn.ModuleList(
            spectral_norm(nn.Conv2d(fine, coarse, 4, stride=2, padding=1))
            for fine, coarse in pairwise(sizes)
        )
        self.says = nn.ModuleList(
            spectral_norm(nn.Conv2d(size, 1, 3, padding=1)) for size in CHANNELS[1:]
        )

    def forward(self, picture: Tensor, pose: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the features of each level, (B, C, h, w), and the verdicts of all but the first,
        (B, 1, h, w), above 0 for true; finest first.

        Args:
            picture: (B, 3, H, W) in -1..1.
            pose: The pose pictures (B, C, H, W).
        """
        hidden, features = torch.cat([picture, pose.to(picture.dtype)], dim=1), []
        for look in self.looks:
            hidden = F.leaky_relu(look(hidden), 0.2)
            features.append(hidden)
        judged = zip(self.says, features[1:], strict=True)
        return features, [say(feature) for say, feature in judged]


def criticise(
    critic: Critic, composed: Tensor, truth: Tensor, pose: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """Return what a compositor is to lessen, and what its critic is; neither loss moves the other's
    weights, so that one optimiser may take their sum. `fit` clips by the norm of all gradients: a
    critic's great one shortens the compositor's step.

    Args:
        critic: What judges; its weights must take gradients.
        composed: (B, 3, H, W) in -1..1.
        truth: (B, 3, H, W) in -1..1.
        pose: The pose pictures (B, C, H, W).
        weight: What each pixel counts, (B, 1, H, W).

    Returns:
        `verdict`, the less the truer what is composed looks; `features`, the mean absolute
        difference of features; and `critic`, the hinge loss of the critic itself, 2 for one that
        knows nothing.
    """
    critic.requires_grad_(False)  # Or the compositor's losses would teach the critic.
    # Each look would else move the spectral norms a little, and with them the features.
    with cached():
        features, verdicts = critic(composed, pose)
        with torch.no_grad():
            true_features, _ = critic(truth, pose)
    apart = [
        _mean((feature - true).abs(), weight)
        for feature, true in zip(features, true_features, strict=True)
    ]
    losses = {
        "verdict": _average([_mean(-verdict, weight) for verdict in verdicts]),
        "features": _average(apart),
    }
    critic.requires_grad_(True)
    with cached():
        of_truth, of_composed = critic(truth, pose)[1], critic(composed.detach(), pose)[1]
    losses["critic"] = _average(
        [
            _mean(F.relu(1 - true) + F.relu(1 + made), weight)
            for true, made in zip(of_truth, of_composed, strict=True)
        ]
    )
    return losses


def _mean(found: Tensor, weight: Tensor) -> Tensor:
    """Return the mean of (B, C, h, w), each cell counting as its pixels do."""
    share = F.adaptive_avg_pool2d(weight, (found.shape[2], found.shape[3]))
    return (found * share).sum() / (share.sum() * found.shape[1])


def _average(values: Sequence[Tensor]) -> Tensor:
    """Return the mean of numbers."""
    return torch.stack(list(values)).mean()
