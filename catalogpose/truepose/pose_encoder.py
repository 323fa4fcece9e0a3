"""The target pose as pictures, and the four convolutions that add it to the noisy latent (TruePose,
section 4.4).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

LIMBS = ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12),
         (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17))  # fmt: skip
"""The 17 bones between COCO-18 joints, in the order in which they are painted."""

STYLE_CHANNELS = {"rgb": 3, "rgb+joints": 21}
"""Channels of a pose picture by style: the skeleton in colour, and beside it one blob a joint."""


def _rainbow() -> Tensor:
    """Return 18 colours (18, 3) in 0..1, evenly spaced in hue, one a joint."""
    hue = torch.arange(18) / 18 * 6
    ramps = torch.stack([(hue - 3).abs() - 1, 2 - (hue - 2).abs(), 2 - (hue - 4).abs()], dim=1)
    return ramps.clamp(0, 1)


def _distance_to_bone(x: Tensor, y: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return distances (B, H, W) of pixels x (W,), y (H, 1) to segments of points (B, 2)."""
    start_x, start_y = start[:, 0, None, None], start[:, 1, None, None]
    along_x, along_y = end[:, 0, None, None] - start_x, end[:, 1, None, None] - start_y
    length = (along_x.square() + along_y.square()).clamp(min=1e-6)
    away_x, away_y = x - start_x, y - start_y
    share = (away_x * (along_x / length) + away_y * (along_y / length)).clamp(0, 1)
    return torch.hypot(away_x - share * along_x, away_y - share * along_y)


def draw_pose(joints: Tensor, height: int, width: int, style: str = "rgb") -> Tensor:
    """Draw skeletons, antialiased, so that a fraction of a pixel shows.

    Bones are painted one over the other in the colour of their second joint, dimmed to 0.6, then
    joints
    in full colour. A bone or a joint with a missing end is left out. Widths are a share of the
    height, so that a pose looks the same at every size.

    Args:
        joints: (B, 18, 3) x, y in canvas pixels and confidence; missing where confidence is 0.
        height: Of the canvas, in pixels.
        width: Of the canvas, in pixels.
        style: `rgb` (3 channels) or `rgb+joints` (and 18 Gaussian blobs, one a joint).

    Returns:
        float32 (B, channels, height, width) in 0..1.

    Raises:
        ValueError: If the style is unknown.
    """
    if style not in STYLE_CHANNELS:
        raise ValueError(f"unknown pose style {style!r}; known: {', '.join(STYLE_CHANNELS)}")
    # The clamp keeps squares finite: a NaN distance of an infinite joint would spoil every pixel.
    points = joints[..., :2].float().nan_to_num().clamp(-1e6, 1e6)
    seen = (joints[..., 2] > 0) & joints[..., :2].isfinite().all(-1)
    y = torch.arange(height, device=points.device)[:, None] + 0.5
    x = torch.arange(width, device=points.device) + 0.5
    colours = _rainbow().to(points.device)
    picture = torch.zeros(len(points), 3, height, width, device=points.device)
    bone, dot = max(height / 200, 0.6), max(height / 110, 1.1)
    for first, second in LIMBS:
        distance = _distance_to_bone(x, y, points[:, first], points[:, second])
        ink = (bone + 0.5 - distance).clamp(0, 1) * (seen[:, first] & seen[:, second])[
            :, None, None
        ]
        picture = picture.lerp(0.6 * colours[second][None, :, None, None], ink[:, None])
    away_x = x - points[..., 0, None, None]
    away_y = y - points[..., 1, None, None]
    for joint in range(18):
        ink = (dot + 0.5 - torch.hypot(away_x[:, joint], away_y[:, joint])).clamp(0, 1) * seen[
            :, joint, None, None
        ]
        picture = picture.lerp(colours[joint][None, :, None, None], ink[:, None])
    if style == "rgb":
        return picture
    # A Gaussian is the product of its profiles along x and y.
    spread = height / 43
    blobs = torch.exp(-0.5 * (away_y / spread).square()) * torch.exp(
        -0.5 * (away_x / spread).square()
    )
    blobs = blobs * seen[:, :, None, None]
    return torch.cat([picture, blobs], dim=1)


class PoseEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]  # diffusers is untyped
    """Four convolutions from a pose picture to features at the latent's size.

    The first three halve the picture as often as the VAE does, three times for Stable Diffusion's;
    the last starts at zero, so training starts from the plain UNet.
    """

    @register_to_config  # type: ignore[untyped-decorator]  # diffusers is untyped
    def __init__(
        self,
        in_channels: int = 3,
        widths: tuple[int, int, int] = (16, 32, 96),
        out_channels: int = 320,
        strides: tuple[int, int, int] = (2, 2, 2),
    ) -> None:
        """Build them from the pose style's channels to the UNet's first layer.

        Args:
            in_channels: Of the pose style, see `STYLE_CHANNELS`.
            widths: Channels behind each of the first three.
            out_channels: Of the UNet's first layer.
            strides: 1 or 2 each; their product is the pixels of a latent's side.
        """
        super().__init__()
        channels = (in_channels, *widths)
        self.stages = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1)
            for (before, after), stride in zip(pairwise(channels), strides, strict=True)
        )
        self.out = nn.Conv2d(widths[-1], out_channels, kernel_size=3, padding=1)
        nn.init.zeros_(self.out.weight)
        if self.out.bias is None:
            raise AssertionError("the last convolution has a bias")
        nn.init.zeros_(self.out.bias)

    @property
    def factor(self) -> int:
        """Pixels of a latent's side."""
        return math.prod(self.config.strides)

    def forward(self, pose: Tensor) -> Tensor:
        """Turn pose pictures (B, in_channels, H, W) into features (B, out_channels, h, w), whose
        sides are halved as often as `strides` says, rounded up.
        """
        hidden = pose
        for stage in self.stages:
            hidden = F.silu(stage(hidden))
        features: Tensor = self.out(hidden)
        return features
