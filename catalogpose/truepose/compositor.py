"""Retouches what was painted and lays the carried photo over it where it fits: the rendered person
and the composition mask of CP-VTON's try-on module; what is warped is the matcher's (ours).

A latent holds no letter of a few pixels, and a denoiser's mean no stripe; the photo has both, and
where it is finer than the canvas the picture can be too, as in super-resolution from a reference
(SRNTT, Zhang et al., CVPR 2019).
Shapes: B batch, H and W the canvas in pixels, s how many times as high and wide the picture is.
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

LOGIT_SPREAD = 4.0
"""By which logits are divided for a net to see them about as large as colours."""


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
        scale: int = 1,
        last_channels: int = 24,
    ) -> None:
        """Build the net; at first it adds nothing to what was painted.

        Args:
            pose_channels: Of the pose style, see `pose_encoder.STYLE_CHANNELS`.
            channels: Of each level, finest first.
            stride: Pixels of a cell's side at the finest level.
            groups: Of the group norms; divides every one of `channels`.
            rounds: How often each level is worked over, 1 or more.
            scale: s, 1 or more.
            last_channels: Where s is more than 1, of a last look at every pixel of the picture,
                which changes nothing at first.

        Raises:
            ValueError: If `rounds` or `scale` is less, or `scale` no whole number.
        """
        super().__init__()
        if not isinstance(scale, int) or scale < 1:
            raise ValueError(f"scale must be a whole number, 1 or more, not {scale}")
        cell = stride**2
        inputs = (SEEN + pose_channels) * cell
        self.tower = Tower(inputs, channels, GIVEN * cell, groups, rounds=rounds)
        for weights in (self.tower.leave.weight, self.tower.leave.bias):
            nn.init.zeros_(weights[cell:])  # type: ignore[index]  # both are there

        finer = scale > 1
        self.last_look = _LastLook(channels[0], last_channels) if finer else None

    def forward(self, painted: Tensor, carried: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (B, 1, sH, sW) of the composition mask, and what was painted, enlarged
        and retouched (B, 3, sH, sW); both float32.

        Args:
            painted: (B, 3, H, W) in -1..1; H and W are multiples of the stride.
            carried: (B, 4, sH, sW), from `Matcher.carry`.
            pose: The pose pictures (B, C, H, W), drawn in the model's style.
        """
        stride, size = self.config.stride, (painted.shape[2], painted.shape[3])
        fitted = F.adaptive_avg_pool2d(carried, size)
        seen = torch.cat([painted, fitted, pose.to(painted.dtype)], dim=1).to(self.dtype)
        cells = self.tower.levels(F.pixel_unshuffle(seen, stride))[-1]
        given = F.pixel_shuffle(self.tower.leave(cells), stride).float()
        logits, touched = given[:, :1], painted.float() + given[:, 1:]
        if self.last_look is None:
            return logits, touched
        scale = float(self.config.scale)
        logits = F.interpolate(logits, scale_factor=scale, mode="bilinear", align_corners=False)
        touched = self.enlarge(touched)
        changed = self.last_look(touched, carried.float(), logits, cells)
        return logits + changed[:, :1], touched + changed[:, 1:]

    def enlarge(self, painted: Tensor) -> Tensor:
        """Return pictures (B, C, H, W) as large as what is composed, (B, C, sH, sW) float32, by
        bicubic interpolation; where s is 1, as they are.
        """
        scale = float(self.config.scale)
        if scale == 1:
            return painted.float()
        return F.interpolate(
            painted.float(), scale_factor=scale, mode="bicubic", align_corners=False
        )

    def compose(
        self,
        painted: Tensor,
        carried: Tensor | None,
        pose: Tensor,
        within: Tensor | None = None,
    ) -> Tensor:
        """Retouch what was painted, and lay what was carried over it; arguments as of `forward`.

        Args:
            painted: What lies below.
            carried: What is laid over it; what is sure of nothing, such as a row without a photo,
                stays as it was painted. None: there is nothing, and all stays.
            pose: Of the pose.
            within: (B, 1, H, W), 0 to 1: how far anything may change; None: everywhere.

        Returns:
            float32 (B, 3, sH, sW).
        """
        below = self.enlarge(painted)
        if carried is None:
            return below
        logits, touched = self(painted, carried, pose)
        composed = torch.lerp(touched, carried[:, :3].float(), logits.sigmoid())
        changed = (carried[:, 3:] > 0).float()
        if within is not None:
            changed = changed * F.interpolate(within.float(), size=below.shape[2:])
        return torch.lerp(below, composed, changed)


class _LastLook(nn.Module):
    """Looks at every pixel of a picture finer than the canvas; it adds nothing at first."""

    def __init__(self, cell_channels: int, channels: int) -> None:
        """Build the net, which sees 9 pixels far; `cell_channels` are of the tower's cells."""
        super().__init__()
        self.enter = nn.Conv2d(SEEN + 2, channels, 3, padding=1)
        self.around = nn.Conv2d(cell_channels, channels, 1)
        self.looks = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=far, dilation=far) for far in (2, 4, 1)
        )
        self.leave = nn.Conv2d(channels, GIVEN, 3, padding=1)
        for weights in self.leave.parameters():
            nn.init.zeros_(weights)

    def forward(self, touched: Tensor, carried: Tensor, logits: Tensor, cells: Tensor) -> Tensor:
        """Return what is added to logits and picture, float32 (B, 4, sH, sW).

        Args:
            touched: What was painted, enlarged and retouched, (B, 3, sH, sW).
            carried: (B, 4, sH, sW).
            logits: Of the mask, (B, 1, sH, sW).
            cells: The tower's finest level, (B, C, h, w).
        """
        apart = (carried[:, :3] - touched).abs().mean(dim=1, keepdim=True)
        seen = torch.cat([touched, carried, logits / LOGIT_SPREAD, apart], dim=1)
        size = (seen.shape[2], seen.shape[3])
        around = F.interpolate(self.around(cells), size=size, mode="bilinear", align_corners=False)
        hidden = F.silu(self.enter(seen.to(cells.dtype)) + around)
        for look in self.looks:
            hidden = hidden + F.silu(look(hidden))
        added: Tensor = self.leave(hidden)
        return added.float()
