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
        rounds: int = 1,
    ) -> None:
        """Build a level for each of `channels`, each half as fine as the one before.

        Args:
            inputs: Numbers of a cell.
            channels: Of each level, finest first.
            width: Numbers of a cell that are asked for.
            groups: Of the group norms; divides every one of `channels`.
            attends: Whether every level but the finest attends to that of a tower like this one;
                at first it sees nothing.
            rounds: How often a level on the way up is worked over, 1 or more; all but the first
                add nothing at first, so that a trained tower can be given more.

        Raises:
            ValueError: If `rounds` is less.
        """
        super().__init__()
        if rounds < 1:
            raise ValueError(f"rounds must be 1 or more, not {rounds}")
        self.enter = nn.Conv2d(inputs, channels[0], 1)
        self.looks = nn.ModuleList(_block(size, groups) for size in channels[:-1])
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
        self.joins = nn.ModuleList(_block(size, groups) for size in channels[:-1])
        self.leave = nn.Conv2d(channels[0], width, 1)
        upwards = channels[::-1]
        attended = upwards[:-1] if attends else ()
        self.attentions = nn.ModuleList(_attention(size, groups) for size in attended)
        self.further = nn.ModuleList(
            nn.ModuleList(
                _Round(size, groups, attends=attends and level < len(upwards) - 1)
                for _ in range(rounds - 1)
            )
            for level, size in enumerate(upwards)
        )

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
        found = [self._finish(0, self.middle(hidden), seen)]
        levels = zip(kept, self.up, self.joins, strict=True)
        for index, (fine, up, join) in enumerate(reversed(list(levels)), start=1):
            joined = join(fine + F.interpolate(up(found[-1]), size=fine.shape[2:]), None)
            found.append(self._finish(index, joined, seen))
        return found

    def _finish(self, index: int, hidden: Tensor, seen: Sequence[Tensor]) -> Tensor:
        """Finish a level: a tower that attends looks at the other's unless it is the finest one;
        then come the further rounds.
        """
        tokens = seen[index].flatten(2).transpose(1, 2) if index < len(self.attentions) else None
        if tokens is not None:
            hidden = self.attentions[index](hidden, tokens)
        for again in self.further[index].children():
            hidden = again(hidden, tokens)
        return hidden


class _Round(nn.Module):
    """One more look at a level, which adds nothing at first."""

    def __init__(self, channels: int, groups: int, *, attends: bool) -> None:
        """Build a block, and attention to another tower's level if asked to."""
        super().__init__()
        self.block = _block(channels, groups)
        _silence(self.block.conv2)
        self.attention = _attention(channels, groups) if attends else None

    def forward(self, hidden: Tensor, tokens: Tensor | None) -> Tensor:
        """Work over (B, C, h, w); `tokens` (B, n, C) are None where nothing is attended to."""
        hidden = self.block(hidden, None)
        if self.attention is not None:
            hidden = self.attention(hidden, tokens)
        return hidden


def _block(channels: int, groups: int) -> ResnetBlock2D:
    """Return a residual block without time."""
    return ResnetBlock2D(in_channels=channels, temb_channels=None, groups=groups)


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
    _silence(attention.to_out[0])
    return attention


def _silence(layer: nn.Module) -> None:
    """Make a layer give zero until it learns."""
    for weights in layer.parameters():
        nn.init.zeros_(weights)
