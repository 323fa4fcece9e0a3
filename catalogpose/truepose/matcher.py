"""Where the source shows what a pose will show, found once for each of them, and the source's photo
carried there for the denoiser to see (ours: attention over a few tokens gives cloth its colour long
before its stripes).

Shapes: B batch, E width of an embedding, h and w the canvas in tokens of `stride` pixels, H and W
in pixels, s how many times as high and wide as the canvas a photo is that is carried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from numpy.typing import NDArray
from torch import Tensor, nn

from catalogpose.pixels import to_floats
from catalogpose.records import LABELS
from catalogpose.truepose.attention import without_autocast
from catalogpose.truepose.carrying import (
    carry_pixels,
    find_places,
    similarity,
    smooth_places,
    spread_person,
)
from catalogpose.truepose.regions import selection_mask
from catalogpose.truepose.tower import Tower

REACH = 4
"""Pixels, or one token where that is more, around the likeliest place: weights from there decide it
to a fraction of a token."""


class Keys(NamedTuple):
    """What a pose looks for in sources, from `Matcher.keys`."""

    tokens: Tensor
    """(B, E, h, w), where it may be found."""
    levels: tuple[Tensor, ...] = ()
    """(B, C, h', w') each, coarsest first: what a matcher that attends sees of the sources before
    it looks; empty for one that does not."""

    def taken(self, rows: Tensor) -> Keys:
        """Return those of some rows."""
        return Keys(self.tokens[rows], tuple(level[rows] for level in self.levels))


@dataclass(frozen=True, kw_only=True)
class SourcePhoto:
    """Photos of sources, embedded once, so that they can be carried to any number of poses."""

    photo: Tensor
    """float32 (B, 3, sH, sW) in -1..1, from `spread_person`, so that places a little off the person
    show it."""
    labels: Tensor
    """Their parsing maps, int64 (B, H, W)."""
    keys: Keys
    """From `Matcher.keys`."""
    kept: Tensor | None = None
    """float32 (B, 1, sH, sW), 0 where something else stands in the photo for what words replace, so
    that nothing from there is sure; None: the photo is whole."""


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
        nowhere: bool = False,
        attends: bool = False,
        rounds: int = 1,
        smoothing: int = 0,
    ) -> None:
        """Build both towers.

        Args:
            pose_channels: Of the pose style, see `pose_encoder.STYLE_CHANNELS`.
            labels: Of the common vocabulary, background included.
            channels: Of each level of the towers, finest first.
            width: E.
            stride: Pixels of a token's side, an even number.
            groups: Of the group norms; divides every one of `channels`.
            nowhere: Whether a pose's token can say that the source shows it nowhere, as attention
                with a sink does; it is then not sure of any place.
            attends: Whether a pose's tower attends to the source's, coarse to fine as in LoFTR, so
                that it knows what it looks for: hair and hems have no joints.
            rounds: How often each level of both towers is worked over, 1 or more.
            smoothing: How many tokens away places are smoothed by each other, see `smooth_places`,
                wherever a photo is carried; 0: each is as it was found.

        Raises:
            ValueError: If `smoothing` is less than 0, or no whole number.
        """
        super().__init__()
        if not isinstance(smoothing, int) or smoothing < 0:
            raise ValueError(f"smoothing must be a whole number, 0 or more, not {smoothing}")
        self.source_tower = Tower(3 * stride**2 + labels, channels, width, groups, rounds=rounds)
        self.pose_tower = Tower(4 * pose_channels, channels, width, groups, attends, rounds)
        self.nowhere_key = nn.Parameter(torch.zeros(width)) if nowhere else None

    def keys(self, photo: Tensor, labels: Tensor) -> Keys:
        """Embed sources, once for all poses.

        Args:
            photo: (B, 3, H, W) in -1..1; H and W are multiples of the stride.
            labels: Its parsing map, int64 (B, H, W).
        """
        stride = self.config.stride
        member = F.one_hot(labels, self.config.labels).movedim(-1, 1).to(photo.dtype)
        features = [F.pixel_unshuffle(photo, stride), F.avg_pool2d(member, stride)]
        *levels, finest = self.source_tower.levels(torch.cat(features, dim=1))
        tokens = self.source_tower.leave(finest)
        return Keys(tokens, tuple(levels) if self.config.attends else ())

    def queries(self, pose: Tensor, keys: Keys) -> Tensor:
        """Embed pose pictures (B, C, H, W), of one pose a source: (B, E, h, w)."""
        halves = F.avg_pool2d(pose, self.config.stride // 2)
        embedded: Tensor = self.pose_tower(F.pixel_unshuffle(halves, 2), keys.levels)
        return embedded

    def carry(self, source: SourcePhoto, queries: Tensor) -> Tensor:
        """Carry sources over to where poses show them.

        Args:
            source: B of them; only tokens of the person are places to find.
            queries: Of one pose a source, (B, E, h, w).

        Returns:
            float32 (B, 4, sH, sW): the photo as it would lie on the posed person, and how sure the
            places are, 0..1.
        """
        rows = zip(source.keys.tokens, queries, source.labels, strict=True)
        found = [self._find(*row) for row in rows]
        places, sure = (torch.stack(part) for part in zip(*found, strict=True))
        if self.config.smoothing:
            places = smooth_places(places, sure, source.labels, self.config.smoothing)
        if source.kept is None:
            return carry_pixels(source.photo, places, sure)
        carried = carry_pixels(torch.cat([source.photo, source.kept], dim=1), places, sure)
        return torch.cat([carried[:, :3], carried[:, 3:4] * carried[:, 4:]], dim=1)

    def _find(self, keys: Tensor, queries: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Find the places of a pose's tokens (E, h, w) in a source, and how sure they are; see
        `find_places`.
        """
        size = (keys.shape[1], keys.shape[2])
        allowed = selection_mask(labels[None] > 0, size)[0]
        tokens = (allowed | ~allowed.any()).nonzero().flatten()
        logits = similarity(keys.flatten(1)[None, :, tokens, None], queries[None])[0]
        nowhere = None if self.nowhere_key is None else self.nowhere_logits(queries[None]).flatten()
        return find_places(logits, tokens, size, max(REACH // self.config.stride, 1), nowhere)

    def nowhere_logits(self, queries: Tensor) -> Tensor:
        """Return how much each token of a pose (B, E, h, w) says that the source does not show it:
        the logits (B, h, w) beside those of `similarity`, float32.
        """
        assert self.nowhere_key is not None  # else nobody asks
        key = self.nowhere_key.float() * queries.shape[1] ** -0.5
        with without_autocast(queries.device):
            logits: Tensor = (queries.float() * key[:, None, None]).sum(dim=1)
        return logits


def encode_floats(vae: Any, floats: Tensor) -> Tensor:
    """Encode photos (B, 3, H, W) in -1..1 as latents (B, c, h, w): an `AutoencoderKL`'s scaled
    mean, in the type of its weights.
    """
    latents: Tensor = vae.encode(floats.to(vae.dtype)).latent_dist.mean * vae.config.scaling_factor
    return latents


@torch.no_grad()
def embed_photo(
    matcher: Matcher,
    photo: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    kept: NDArray[np.bool_] | None = None,
    finer: NDArray[np.uint8] | None = None,
) -> SourcePhoto:
    """Embed a photo, so that it can be carried.

    Args:
        matcher: What finds the places.
        photo: (H, W, 3), on the canvas.
        labels: (H, W), its map.
        kept: (H, W), as of `SourcePhoto`; None: the photo is whole.
        finer: (sH, sW, 3), the same photo, s times as high and wide, which is carried in its place;
            None: it is carried itself.
    """
    device = matcher.device
    pixels = torch.from_numpy(to_floats(photo[None])).to(device)
    shown = pixels if finer is None else torch.from_numpy(to_floats(finer[None])).to(device)
    regions = torch.from_numpy(labels.astype(np.int64))[None].to(device)
    whole, spreading = None, regions
    if kept is not None:
        whole = torch.from_numpy(kept.astype(np.float32))[None, None].to(device)
        # What stands in the photo for what words replace spreads nowhere: around it all is sure
        # again.
        spreading = regions * (whole[:, 0] > 0)
        whole = F.interpolate(whole, size=(shown.shape[2], shown.shape[3]))
    return SourcePhoto(
        photo=spread_person(shown, spreading),
        labels=regions,
        keys=matcher.keys(pixels.to(matcher.dtype), regions),
        kept=whole,
    )


@torch.no_grad()
def carry_photos(
    matcher: Matcher, photos: Sequence[SourcePhoto | None], pose: Tensor
) -> Tensor | None:
    """Carry photos to pose pictures (B, C, H, W), each on its own: a batch changes nothing.

    Returns:
        As `Matcher.carry`, zero where a photo is None; None: all of them are.
    """
    drawn = pose.to(matcher.dtype)[:, None]
    found = [
        None if photo is None else matcher.carry(photo, matcher.queries(one, photo.keys))
        for photo, one in zip(photos, drawn, strict=True)
    ]
    there = [row for row in found if row is not None]
    if not there:
        return None
    return torch.cat([torch.zeros_like(there[0]) if row is None else row for row in found])


@torch.no_grad()
def carried_latents(encode: Callable[[Tensor], Tensor], carried: Tensor) -> Tensor:
    """Return what TargetNet sees of carried photos: their latents, and how sure they are, as an
    inpainting Stable Diffusion sees what is kept and where.

    Args:
        encode: Turns photos (B, 3, H, W) into latents (B, c, h, w).
        carried: (B, 4, H, W), from `Matcher.carry`.

    Returns:
        (B, c + 1, h, w); zero in rows that are sure of nothing, such as those without a photo.
    """
    latent = encode(carried[:, :3])
    sure = F.adaptive_avg_pool2d(carried[:, 3:], (latent.shape[2], latent.shape[3]))
    there = carried[:, 3:].amax(dim=(1, 2, 3), keepdim=True) > 0
    return torch.cat([latent * there, sure.to(latent.dtype)], dim=1)
