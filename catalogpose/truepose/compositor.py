"""Lays a carried photo over what was painted, pixel by pixel, where it fits: the composition mask
of try-on networks such as VITON and CP-VTON; what is warped is the matcher's (ours).

A latent holds no letter of a few pixels, and a denoiser's mean no stripe; the photo has both.
Shapes: B batch, H and W the canvas in pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from catalogpose.truepose.tower import Tower

SEEN = 7
"""Channels it looks at: what was painted, what was carried, and how sure that is."""


class Compositor(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers is untyped
    """Says of each pixel how well what was carried there fits what was painted."""

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is untyped
    def __init__(
        self, channels: tuple[int, ...] = (32, 48, 64), stride: int = 2, groups: int = 8
    ) -> None:
        """Build the net.

        Args:
            channels: Of each level, finest first.
            stride: Pixels of a cell's side at the finest level.
            groups: Of the group norms; divides every one of `channels`.
        """
        super().__init__()
        self.tower = Tower(SEEN * stride**2, channels, stride**2, groups)

    def forward(self, painted: Tensor, carried: Tensor) -> Tensor:
        """Return the logits (B, 1, H, W) of the composition mask.

        Args:
            painted: (B, 3, H, W) in -1..1; H and W are multiples of the stride.
            carried: (B, 4, H, W), from `Matcher.carry`.
        """
        stride = self.config.stride
        seen = F.pixel_unshuffle(torch.cat([painted, carried], dim=1), stride)
        logits: Tensor = F.pixel_shuffle(self.tower(seen.to(self.dtype)), stride)
        return logits

    def compose(self, painted: Tensor, carried: Tensor, within: Tensor | None = None) -> Tensor:
        """Lay what was carried over what was painted; arguments as of `forward`.

        Args:
            painted: What lies below.
            carried: What is laid over it, but for what is sure of nothing.
            within: (B, 1, H, W), 0 to 1: how far it may be; None: everywhere.

        Returns:
            float32 (B, 3, H, W).
        """
        mask = self(painted, carried).float().sigmoid() * (carried[:, 3:] > 0)
        if within is not None:
            mask = mask * within.float()
        return torch.lerp(painted.float(), carried[:, :3].float(), mask)
