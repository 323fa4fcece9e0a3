"""A small UNet without noise or time, for what is found beside the denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D
from torch import Tensor, nn

HEAD_WIDTH = 32
"""Most channels of a head in attention."""


class Tower(nn.Module):
    """From features of cells to as many numbers a cell as are asked for."""

    def __init__(
        self,
        inputs: int,
        channels: tuple[int, ...],
        width: int,
        groups: int,
        attends: bool = False,
    ) -> None:
        """Build a level for each of `channels`, each half as fine as the one before.

        Args:
            inputs: Numbers of a cell.
            channels: Of each level, finest first.
            width: Numbers of a cell that are asked for.
            groups: Of the group norms; divides every one of `channels`.
            attends: Whether every level but the finest attends to that of a tower like this one;
                at first it sees nothing.
        """
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
        attended = channels[:0:-1] if attends else ()
        self.attentions = nn.ModuleList(_attention(size, groups) for size in attended)

    def forward(self, features: Tensor, seen: Sequence[Tensor] = ()) -> Tensor:
        """Turn (B, inputs, h, w) into (B, width, h, w); arguments as of `levels`."""
        embedded: Tensor = self.leave(self.levels(features, seen)[-1])
        return embedded

    def levels(self, features: Tensor, seen: Sequence[Tensor] = ()) -> list[Tensor]:
        """Return the levels on the way up, coarsest first, each (B, C, h, w).

        Args:
            features: (B, inputs, h, w) of the finest level; odd sides are halved upwards.
            seen: What a tower that attends looks at, the levels of another's way up, coarsest
                first; the finest may be left out. Empty: this one does not attend.
        """
        hidden, kept = self.enter(features), []
        for look, down in zip(self.looks, self.down, strict=True):
            hidden = look(hidden, None)
            kept.append(hidden)
            hidden = down(hidden)
        found = [self._attend(0, self.middle(hidden), seen)]
        levels = zip(kept, self.up, self.joins, strict=True)
        for index, (fine, up, join) in enumerate(reversed(list(levels)), start=1):
            joined = join(fine + F.interpolate(up(found[-1]), size=fine.shape[2:]), None)
            found.append(self._attend(index, joined, seen))
        return found

    def _attend(self, index: int, hidden: Tensor, seen: Sequence[Tensor]) -> Tensor:
        """Let a level of a tower that attends, other than the finest, look at the other's."""
        if index >= len(self.attentions):
            return hidden
        tokens = seen[index].flatten(2).transpose(1, 2)
        attended: Tensor = self.attentions[index](hidden, tokens)
        return attended


def _attention(channels: int, groups: int) -> Attention:
    """Return attention from one picture to another's, which adds nothing at first."""
    width = min(HEAD_WIDTH, channels)
    attention = Attention(
        query_dim=channels,
        cross_attention_dim=channels,
        heads=channels // width,
        dim_head=width,
        bias=True,
        norm_num_groups=groups,
        cross_attention_norm="layer_norm",
        residual_connection=True,
    )
    for weights in attention.to_out[0].parameters():
        nn.init.zeros_(weights)
    return attention
