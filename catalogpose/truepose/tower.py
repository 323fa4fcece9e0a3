"""A small UNet without noise or time, for what is found beside the denoiser."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D
from torch import Tensor, nn

HEAD_WIDTH = 32
"""Most channels of a head in the attention at the coarsest level."""


class Tower(nn.Module):
    """From features of cells to as many numbers a cell as are asked for."""

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
