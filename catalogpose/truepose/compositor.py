"""Retouches what was painted and lays the carried photo over it where it fits: the rendered person
and the composition mask of CP-VTON's try-on module; what is warped is the matcher's (ours).

A latent holds no letter of a few pixels, and a denoiser's mean no stripe; the photo has both.
Shapes: B batch, H and W the canvas in pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from catalogpose.truepose.tower import Tower

SEEN = 7
"""Channels it looks at beside the pose: what was painted, what was carried, how sure that is."""

GIVEN = 4
"""Channels it gives: the mask's logits, and what is added to what was painted."""


class Compositor(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers is untyped
    """Says of each pixel how well what was carried there fits, and what is to be put right else."""

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is untyped
    def __init__(
        self,
        pose_channels: int = 3,
        channels: tuple[int, ...] = (32, 48, 64),
        stride: int = 2,
        groups: int = 8,
        rounds: int = 1,
    ) -> None:
        """Build the net; at first it adds nothing to what was painted.

        Args:
            pose_channels: Of the pose style, see `pose_encoder.STYLE_CHANNELS`.
            channels: Of each level, finest first.
            stride: Pixels of a cell's side at the finest level.
            groups: Of the group norms; divides every one of `channels`.
            rounds: How often each level is worked over, 1 or more.
        """
        super().__init__()
        cell = stride**2
        inputs = (SEEN + pose_channels) * cell
        self.tower = Tower(inputs, channels, GIVEN * cell, groups, rounds=rounds)
        for weights in (self.tower.leave.weight, self.tower.leave.bias):
            nn.init.zeros_(weights[cell:])  # type: ignore[index]  # both are there

    def forward(self, painted: Tensor, carried: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (B, 1, H, W) of the composition mask, and what was painted, retouched
        (B, 3, H, W); both float32.

        Args:
            painted: (B, 3, H, W) in -1..1; H and W are multiples of the stride.
            carried: (B, 4, H, W), from `Matcher.carry`.
            pose: The pose pictures (B, C, H, W), drawn in the model's style.
        """
        stride = self.config.stride
        seen = torch.cat([painted, carried, pose.to(painted.dtype)], dim=1).to(self.dtype)
        given = self.tower(F.pixel_unshuffle(seen, stride))
        given = F.pixel_shuffle(given, stride).float()
        return given[:, :1], painted.float() + given[:, 1:]

    def compose(
        self, painted: Tensor, carried: Tensor, pose: Tensor, within: Tensor | None = None
    ) -> Tensor:
        """Retouch what was painted, and lay what was carried over it; arguments as of `forward`.

        Args:
            painted: What lies below.
            carried: What is laid over it; what is sure of nothing, such as a row without a photo,
                stays as it was painted.
            pose: Of the pose.
            within: (B, 1, H, W), 0 to 1: how far anything may change; None: everywhere.

        Returns:
            float32 (B, 3, H, W).
        """
        logits, touched = self(painted, carried, pose)
        composed = torch.lerp(touched, carried[:, :3].float(), logits.sigmoid())
        changed = (carried[:, 3:] > 0).float()
        if within is not None:
            changed = changed * within.float()
        return torch.lerp(painted.float(), composed, changed)
