"""How a net starts: from nothing, with a path past its residual branches that keeps what it
carries, or from the weights of one that was trained before.
"""

from __future__ import annotations

from pathlib import Path

from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from safetensors.torch import load_file
from torch import nn

from catalogpose.errors import UsageError, first_line


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


def take_weights(net: nn.Module, folder: Path, *, but: str | None = None) -> None:
    """Give a net the weights that a part of a model folder holds, in the net's own precision.

    Args:
        net: Changed in place.
        folder: The part's.
        but: What the names of weights begin with that the net keeps as it has them; None: it keeps
            none.

    Raises:
        UsageError: If that part is another net.
    """
    (path,) = folder.glob("*.safetensors")
    found = load_file(path)
    if but is not None:
        own = net.state_dict()
        found = {name: value for name, value in found.items() if not name.startswith(but)}
        found |= {name: value for name, value in own.items() if name.startswith(but)}
    try:
        net.load_state_dict(found)
    except RuntimeError as error:
        raise UsageError(
            f"{folder} is not the net of this recipe ({first_line(error)}): name another --model "
            "or recipe"
        ) from None
