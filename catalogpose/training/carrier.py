"""What a trained matcher carries over for the pairs of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from catalogpose.pixels import to_bytes, to_floats
from catalogpose.training.objective import carried_trust
from catalogpose.training.pairs import PairBatch, Pairs
from catalogpose.truepose.attention import without_autocast
from catalogpose.truepose.carrying import spread_person
from catalogpose.truepose.matcher import Matcher, SourcePhoto, carried_latents, encode_floats
from catalogpose.truepose.pose_encoder import draw_pose

MOST = 20
"""Pairs decoded at once."""


@dataclass(frozen=True, kw_only=True)
class Carrier:
    """A matcher and the VAE whose latents the denoiser sees; neither learns."""

    matcher: Matcher
    """What finds the places."""
    vae: AutoencoderKL
    """What encodes the carried photos."""
    pose_style: str
    """How the matcher's poses are drawn."""

    def to(self, device: str | torch.device) -> Carrier:
        """Move both to a device, frozen."""
        for net in (self.matcher, self.vae):
            net.to(device, memory_format=torch.channels_last).requires_grad_(False).eval()
        return self

    def carry(self, batch: PairBatch) -> PairBatch:
        """Return a batch with what is carried over in each pair, as TargetNet sees it.

        Raises:
            ValueError: If the batch has no photos.
        """
        with without_autocast(batch.source_of.device):
            return replace(batch, carried=carried_latents(self._encode, self.carry_photos(batch)))

    @torch.no_grad()
    def carry_photos(self, batch: PairBatch, finer: Tensor | None = None) -> Tensor:
        """Return what is carried over in each pair of a batch, (B, 4, sH, sW), see `Matcher.carry`;
        sources are embedded once.

        Args:
            batch: With photos.
            finer: The sources' photos, s times as high and wide as the canvas, which are carried in
                place of the batch's: (B, 3, sH, sW) in -1..1, one a pair. None: the batch's are.

        Raises:
            ValueError: If the batch has no photos.
        """
        if batch.photos is None:
            raise ValueError("a matcher needs pairs with photos")
        source_of, height, width = batch.source_of, *batch.labels.shape[1:]
        rows = torch.arange(len(source_of), device=source_of.device)
        first = torch.full_like(rows[: len(batch.photos)], len(rows))
        first = first.scatter_reduce(0, source_of, rows, "amin")
        with without_autocast(source_of.device):
            maps = batch.labels[first]
            if finer is None:
                spread = spread_person(batch.photos, maps)[source_of]
            else:
                spread = spread_person(finer, batch.labels)
            source = SourcePhoto(
                photo=spread,
                labels=batch.labels,
                keys=self.matcher.keys(batch.photos, maps).taken(source_of),
            )
            pose = draw_pose(batch.joints, height, width, self.pose_style)
            return self.matcher.carry(source, self.matcher.queries(pose, source.keys))

    def _encode(self, photos: Tensor) -> Tensor:
        """Encode photos (B, 3, H, W) in -1..1."""
        return encode_floats(self.vae, photos)


@torch.no_grad()
def draw_carried(
    carrier: Carrier,
    pairs: Pairs,
    places: Sequence[int],
    photos: NDArray[np.uint8],
    weight: float,
) -> NDArray[np.uint8]:
    """Return the targets of pairs as `carried_target` wants them drawn, decoded: (n, H, W, 3).

    Args:
        carrier: On its device.
        pairs: With photos.
        places: n numbers of pairs.
        photos: Of the targets, (n, H, W, 3).
        weight: How far they move towards what is carried, 0..1.
    """
    device, scale = carrier.vae.device, carrier.vae.config.scaling_factor
    drawn = []
    for start in range(0, len(places), MOST):
        batch = carrier.carry(pairs.take(places[start : start + MOST]).to(device))
        assert batch.carried is not None  # the carrier made it
        trust = carried_trust(batch.target, batch.carried, batch.target_labels)
        shown = carrier.vae.decode(batch.carried[:, :-1] / scale).sample.float()
        truth = torch.from_numpy(to_floats(photos[start : start + MOST])).to(device)
        share = F.interpolate(weight * trust, size=truth.shape[2:], mode="bilinear")
        drawn.append(to_bytes(torch.lerp(truth, shown, share.expand_as(truth)).cpu().numpy()))
    return np.concatenate(drawn)


def make_carrier(matcher: Matcher | None, vae: AutoencoderKL, pose_style: str) -> Carrier | None:
    """Return what carries with this matcher; None where there is none."""
    return None if matcher is None else Carrier(matcher=matcher, vae=vae, pose_style=pose_style)
