"""How a net starts from nothing: the path past its residual branches keeps what it carries."""

from __future__ import annotations

from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn


def open_path(net: nn.Module) -> None:
    """Silence residual branches and make the path past them orthogonal, in place.

    diffusers leaves PyTorch's own start to checkpoints that replace it. With it each layer of the
    path shrinks its input, so what the picture says drowns in what untrained branches add.
    """
    for module in net.modules():
        if isinstance(module, ResnetBlock2D):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
            if module.conv_shortcut is not None:
                nn.init.orthogonal_(module.conv_shortcut.weight)
        elif isinstance(module, Downsample2D | Upsample2D):
            nn.init.orthogonal_(module.conv.weight)
        if isinstance(conv := getattr(module, "conv_in", None), nn.Conv2d):
            nn.init.orthogonal_(conv.weight)
