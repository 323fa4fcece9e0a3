"""Both nets from Stable Diffusion 1.5's weights, as the paper starts."""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DConditionModel

from catalogpose.truepose.siamese import SourceNet, TargetNet


def load_stable_diffusion(
    name: str, clip_width: int = 768, fusion: str = "hpfa+caa", **options: Any
) -> tuple[TargetNet, SourceNet]:
    """Start both nets from a Stable Diffusion 1.5 UNet: hub id or folder, safetensors.

    Args:
        name: A folder with a `unet` subfolder, or a hub id such as
            `stable-diffusion-v1-5/stable-diffusion-v1-5`.
        clip_width: Width of a region's CLIP embedding.
        fusion: See `TargetNet`.
        **options: Passed to `UNet2DConditionModel.from_pretrained`, such as `dtype`.
    """
    unet = UNet2DConditionModel.from_pretrained(
        name, subfolder="unet", use_safetensors=True, **options
    )
    target = TargetNet.start_from(unet, clip_width=clip_width, fusion=fusion)
    return target, SourceNet.start_from(unet)
