"""What a trained matcher carries over for the pairs of a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import torch
from diffusers import AutoencoderKL

from catalogpose.training.pairs import PairBatch
from catalogpose.truepose.attention import without_autocast
from catalogpose.truepose.matcher import Matcher, SourcePhoto, carried_latents, encode_floats
from catalogpose.truepose.pose_encoder import draw_pose


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

    @torch.no_grad()
    def carry(self, batch: PairBatch) -> PairBatch:
        """Return a batch with what is carried over in each pair; sources are embedded once.

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
            source = SourcePhoto(
                photo=batch.photos[source_of],
                labels=batch.labels,
                keys=self.matcher.keys(batch.photos, batch.labels[first])[source_of],
            )
            carried = carried_latents(
                self.matcher,
                partial(encode_floats, self.vae),
                source,
                draw_pose(batch.joints, height, width, self.pose_style),
            )
        return replace(batch, carried=carried)


def make_carrier(matcher: Matcher | None, vae: AutoencoderKL, pose_style: str) -> Carrier | None:
    """Return what carries with this matcher; None where there is none."""
    return None if matcher is None else Carrier(matcher=matcher, vae=vae, pose_style=pose_style)
