"""torch.compile where it pays and holds: the residual blocks and feed-forwards of the UNets."""

from __future__ import annotations

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

SHAPES = 64
"""Different sizes of one kind of block that may be compiled: Stable Diffusion 1.5's residual blocks
come in 14, and once more for validation."""


def compile_parts(nets: nn.Module) -> int:
    """Let torch compile the blocks in place when each is first used; return how many there are.

    These do three quarters of a UNet's arithmetic, and blocks of one size share what is compiled.
    The whole net would take many minutes, and its attentions hand conditions around that break it.
    """
    torch._dynamo.config.recompile_limit = SHAPES
    parts = [part for part in nets.modules() if isinstance(part, ResnetBlock2D | FeedForward)]
    for part in parts:
        part.compile(dynamic=False)
    return len(parts)
