"""Where the source shows what a pose will show, found once for each of them, and the source's photo
carried there for the denoiser to see (ours: attention over a few tokens gives cloth its colour long
before its stripes).

Shapes: B batch, E width of an embedding, h and w the canvas in tokens of `stride` pixels, H and W
in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D
from torch import Tensor, nn

from catalogpose.records import LABELS
from catalogpose.truepose.attention import without_autocast
from catalogpose.truepose.regions import selection_mask

REACH = 2
"""Tokens around the likeliest place whose weights decide it to a fraction of a token."""

HEAD_WIDTH = 32
"""Most channels of a head in the attention at the coarsest level."""


@dataclass(frozen=True, kw_only=True)
class SourcePhoto:
    """Photos of sources, embedded once, so that they can be carried to any number of poses."""

    photo: Tensor
    """(B, 3, H, W) in -1..1."""
    labels: Tensor
    """Their parsing maps, int64 (B, H, W)."""
    keys: Tensor
    """(B, E, h, w), from `Matcher.keys`."""


class _Tower(nn.Module):
    """A small UNet from features at the tokens' size to an embedding a token."""

    def __init__(self, inputs: int, channels: tuple[int, ...], width: int, groups: int) -> None:
        """Build a level for each of `channels`, each half as fine as the one before."""
        super().__init__()

        def block(size: int) -> ResnetBlock2D:
            return ResnetBlock2D(in_channels=size, temb_channels=None, groups=groups)

        self.enter = nn.Conv2d(inputs, channels[0], 1)
        self.looks = nn.ModuleList(block(size) for size in channels[:-1])
        self.down = nn.ModuleList(
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairwise(channels)
        )
        self.middle = UNetMidBlock2D(
            in_channels=channels[-1],
            temb_channels=None,
            attention_head_dim=min(HEAD_WIDTH, channels[-1]),
            resnet_groups=groups,
        )
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairwise(channels))
        self.joins = nn.ModuleList(block(size) for size in channels[:-1])
        self.leave = nn.Conv2d(channels[0], width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Turn (B, inputs, h, w) into (B, width, h, w); odd sides are halved upwards."""
        hidden, kept = self.enter(features), []
        for look, down in zip(self.looks, self.down, strict=True):
            hidden = look(hidden, None)
            kept.append(hidden)
            hidden = down(hidden)
        hidden = self.middle(hidden)
        levels = zip(kept, self.up, self.joins, strict=True)
        for fine, up, join in reversed(list(levels)):
            hidden = join(fine + F.interpolate(up(hidden), size=fine.shape[2:]), None)
        embedded: Tensor = self.leave(hidden)
        return embedded


class Matcher(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers is untyped
    """Embeds a source's tokens and a pose's alike where they show the same point of a person."""

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is untyped
    def __init__(
        self,
        pose_channels: int = 3,
        labels: int = len(LABELS),
        channels: tuple[int, ...] = (32, 64, 96),
        width: int = 32,
        stride: int = 8,
        groups: int = 8,
    ) -> None:
        """Build both towers.

        Args:
            pose_channels: Of the pose style, see `pose_encoder.STYLE_CHANNELS`.
            labels: Of the common vocabulary, background included.
            channels: Of each level of the towers, finest first.
            width: E.
            stride: Pixels of a token's side, an even number.
            groups: Of the group norms; divides every one of `channels`.
        """
        super().__init__()
        self.source_tower = _Tower(3 * stride**2 + labels, channels, width, groups)
        self.pose_tower = _Tower(4 * pose_channels, channels, width, groups)

    def keys(self, photo: Tensor, labels: Tensor) -> Tensor:
        """Embed a source, once: (B, E, h, w).

        Args:
            photo: (B, 3, H, W) in -1..1; H and W are multiples of the stride.
            labels: Its parsing map, int64 (B, H, W).
        """
        stride = self.config.stride
        member = F.one_hot(labels, self.config.labels).movedim(-1, 1).to(photo.dtype)
        features = [F.pixel_unshuffle(photo, stride), F.avg_pool2d(member, stride)]
        embedded: Tensor = self.source_tower(torch.cat(features, dim=1))
        return embedded

    def queries(self, pose: Tensor) -> Tensor:
        """Embed pose pictures (B, C, H, W), each once: (B, E, h, w)."""
        halves = F.avg_pool2d(pose, self.config.stride // 2)
        embedded: Tensor = self.pose_tower(F.pixel_unshuffle(halves, 2))
        return embedded

    def carry(self, source: SourcePhoto, queries: Tensor) -> Tensor:
        """Carry sources over to where poses show them.

        Args:
            source: B of them; only tokens of the person are places to find.
            queries: Of one pose a source, (B, E, h, w).

        Returns:
            (B, 4, H, W): the photo as it would lie on the posed person, and how sure the places
            are, 0..1.
        """
        keys = source.keys
        size = (keys.shape[2], keys.shape[3])
        allowed = selection_mask(source.labels > 0, size)
        found = [
            find_places(similarity(*row[:2]), row[2], size)
            for row in zip(keys[:, None], queries[:, None], allowed[:, None], strict=True)
        ]
        places, sure = (torch.cat(part) for part in zip(*found, strict=True))
        return carry_pixels(source.photo, places, sure)


def encode_floats(vae: Any, floats: Tensor) -> Tensor:
    """Encode photos (B, 3, H, W) in -1..1 as latents (B, c, h, w): an `AutoencoderKL`'s scaled
    mean, in the type of its weights.
    """
    latents: Tensor = vae.encode(floats.to(vae.dtype)).latent_dist.mean * vae.config.scaling_factor
    return latents


@torch.no_grad()
def carried_latents(
    matcher: Matcher,
    encode: Callable[[Tensor], Tensor],
    source: SourcePhoto,
    pose: Tensor,
) -> Tensor:
    """Return what TargetNet sees of sources carried to pose pictures (B, C, H, W): their latents,
    and how sure they are, as an inpainting Stable Diffusion sees what is kept and where.

    Args:
        matcher: What carries.
        encode: Turns photos (B, 3, H, W) into latents (B, c, h, w).
        source: B of them.
        pose: One picture a source.

    Returns:
        (B, c + 1, h, w).
    """
    carried = matcher.carry(source, matcher.queries(pose))
    latent = encode(carried[:, :3])
    size = (latent.shape[2], latent.shape[3])
    sure = F.adaptive_avg_pool2d(carried[:, 3:], size)
    return torch.cat([latent.to(sure.dtype), sure], dim=1)


def similarity(keys: Tensor, queries: Tensor) -> Tensor:
    """Return the logits (B, h * w, h * w) of each token of a pose over those of a source, float32.

    Args:
        keys: (B, E, h, w).
        queries: (B, E, h, w).
    """
    with without_autocast(keys.device):
        key, query = (tokens.float().flatten(2) for tokens in (keys, queries))
        logits: Tensor = query.transpose(1, 2) @ key * key.shape[1] ** -0.5
    return logits


def find_places(logits: Tensor, allowed: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Find where each token comes from: the mean place within reach of the likeliest one.

    The mean over all places would lie between two arms; the likeliest token alone would break
    stripes at every token's edge.

    Args:
        logits: (B, N, N), from `similarity`.
        allowed: bool (B, N): the source's tokens that are places to find; all where there is none.
        size: Height and width in tokens; N is their product.

    Returns:
        Places (B, h, w, 2): x and y in tokens, the first token's middle at 0; and the share of the
        weights within reach, 0..1, (B, h, w).
    """
    height, width = size
    allowed = allowed | ~allowed.any(dim=1, keepdim=True)
    weights = logits.masked_fill(~allowed[:, None], -torch.inf).softmax(dim=-1)
    grid = weights.reshape(-1, height, width)
    windows = F.pad(grid, (REACH,) * 4)
    side = 2 * REACH + 1
    mass = F.avg_pool2d(windows[:, None], side, stride=1, divisor_override=1)
    sure, best = mass.flatten(1).max(dim=1)
    offsets = torch.arange(side, device=logits.device)
    rows, columns = (best // width)[:, None] + offsets, (best % width)[:, None] + offsets
    near = windows[torch.arange(len(best), device=best.device)[:, None, None],
                   rows[:, :, None], columns[:, None, :]]  # fmt: skip
    near = near / sure.clamp(min=1e-9)[:, None, None]
    x = (near.sum(dim=1) * (columns - REACH)).sum(dim=1)
    y = (near.sum(dim=2) * (rows - REACH)).sum(dim=1)
    shape = (len(logits), height, width)
    return torch.stack([x, y], dim=-1).view(*shape, 2), sure.view(shape)


def carry_pixels(photo: Tensor, places: Tensor, sure: Tensor) -> Tensor:
    """Sample a photo (B, 3, H, W) at places (B, h, w, 2), in tokens, and join how sure they are
    (B, h, w): (B, 4, H, W).
    """
    size = photo.shape[2:]
    tokens = places.new_tensor([places.shape[2], places.shape[1]])
    # `grid_sample` counts from -1 to 1 between the picture's edges.
    grid = ((places + 0.5) / tokens * 2 - 1).permute(0, 3, 1, 2)
    fine = F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
    carried = F.grid_sample(
        photo.float(), fine.permute(0, 2, 3, 1), padding_mode="border", align_corners=False
    )
    weight = F.interpolate(sure[:, None], size=size, mode="bilinear", align_corners=False)
    return torch.cat([carried, weight], dim=1).to(photo.dtype)
