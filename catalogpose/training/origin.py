"""Where a training on photos starts: the weights of Stable Diffusion 1.5, or of a model of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging

from catalogpose.catalog.files import sha256_file
from catalogpose.errors import UsageError, first_line
from catalogpose.training.nets import TruePoseNets
from catalogpose.truepose.model import CARD_NAME, read_card
from catalogpose.truepose.parts import MATCHER, NETS
from catalogpose.truepose.pose_encoder import STYLE_CHANNELS, PoseEncoder
from catalogpose.truepose.siamese import SourceNet, TargetNet

READ_WEIGHTS = re.compile(r"diffusion_pytorch_model(-\d+-of-\d+)?\.safetensors")
"""Names of the files that diffusers reads: neither another precision's nor another format's."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a training starts from, in float32."""

    nets: TruePoseNets
    """What is trained."""
    scheduler: DDIMScheduler
    """Whose noise and kind of prediction count."""


def is_own_model(start: str) -> bool:
    """Say whether weights come from a model folder of ours, not from a plain Stable Diffusion."""
    return (Path(start) / CARD_NAME).is_file()


def identify_start(start: str) -> dict[str, str]:
    """Return which weights a start has: its files' sha256 by their path in a folder, which takes
    about a second a gigabyte; `hub_id` and `revision` of a hub id.

    Raises:
        UsageError: If the hub does not know it.
    """
    if not Path(start).is_dir():
        _, commit = _read_config(start, return_commit_hash=True)
        return {"hub_id": start, "revision": str(commit)}
    return {
        f"{net}/{path.name}": sha256_file(path)
        for net in NETS
        for path in sorted((Path(start) / net).glob("*.safetensors"))
        if READ_WEIGHTS.fullmatch(path.name)
    }


def check_start(start: str, style: str) -> None:
    """Refuse, from its small files alone, what cannot be started from.

    Args:
        start: Hub id or folder.
        style: The recipe's `pose_style`.

    Raises:
        UsageError: If it is no Stable Diffusion of one block a transformer, or a model of ours with
            another pose style.
    """
    if is_own_model(start):
        if (Path(start) / MATCHER).is_dir():
            raise UsageError(
                f"{start} carries photos over by a matcher, which recipes for photos do not train: "
                "start from a model without one"
            )
        drawn = read_card(Path(start)).pose_style
        if drawn != style:
            raise UsageError(
                f"{start} was trained with pose_style {drawn}, the recipe says {style}"
            )
        return
    _refuse_own(start)
    blocks = _read_config(start).get("transformer_layers_per_block", 1)
    if any(count != 1 for count in (blocks if isinstance(blocks, list | tuple) else [blocks])):
        raise UsageError(
            f"{start} has several blocks a transformer, as Stable Diffusion XL has: start from "
            "Stable Diffusion 1.5"
        )


def read_vae(start: str) -> AutoencoderKL:
    """Load the VAE of a folder or hub id, float32, frozen.

    Raises:
        UsageError: If there is none.
    """
    vae = _load(AutoencoderKL, start, "vae", dtype=torch.float32, use_safetensors=True)
    return vae.requires_grad_(False).eval()


def read_origin(start: str, truepose: Mapping[str, Any], clip_width: int, seed: int) -> Origin:
    """Load the nets and the scheduler that a training starts from.

    Args:
        start: Hub id or folder of a Stable Diffusion 1.5, or folder of a model of ours.
        truepose: A recipe's section; see `PhotoRecipe`.
        clip_width: D, the width of the embeddings.
        seed: Of what no weights exist for yet.

    Raises:
        UsageError: If the weights cannot be loaded or do not fit the recipe or the embeddings.
    """
    torch.manual_seed(seed)
    style = truepose["pose_style"]
    check_start(start, style)
    if is_own_model(start):
        target = _load(TargetNet, start, "unet", dtype=torch.float32, use_safetensors=True)
        if target.config.clip_width != clip_width:
            raise UsageError(
                f"{start} wants CLIP embeddings of width {target.config.clip_width}, "
                f"the model folder's CLIP gives {clip_width}"
            )
        source = _load(SourceNet, start, "source_unet", dtype=torch.float32)
        encoder = _load(PoseEncoder, start, "pose_encoder", dtype=torch.float32)
        scheduler = _load(DDIMScheduler, start, "scheduler")
        return Origin(nets=TruePoseNets.joined(target, source, encoder), scheduler=scheduler)
    unet = _load(UNet2DConditionModel, start, "unet", dtype=torch.float32, use_safetensors=True)
    target = TargetNet.start_from(unet, clip_width=clip_width, **truepose["net"])
    if truepose.get("warm", False):
        target.warm_fusion()
    source = SourceNet.start_from(unet)
    encoder = PoseEncoder(
        in_channels=STYLE_CHANNELS[style],
        out_channels=target.config.block_out_channels[0],
        **truepose["pose"],
    )
    scheduler = DDIMScheduler(**truepose["scheduler"])
    return Origin(nets=TruePoseNets.joined(target, source, encoder), scheduler=scheduler)


def _refuse_own(start: str) -> None:
    """Raise UsageError where a hub id is a model of ours, whose own layers would be dropped."""
    config = _read_config(start)
    if config.get("_class_name") != UNet2DConditionModel.__name__:
        raise UsageError(
            f"{start} is no plain Stable Diffusion: its unet is a {config.get('_class_name')}; to "
            "go on from a model of ours, download it and pass --model FOLDER"
        )


def _read_config(start: str, **options: bool) -> Any:
    """Return what diffusers reads of the configuration of a folder's or hub id's UNet; UsageError
    where there is none.
    """
    try:
        return UNet2DConditionModel.load_config(start, subfolder="unet", **options)
    except (OSError, ValueError) as error:
        raise UsageError(f"no unet could be loaded from {start}: {first_line(error)}") from None


def _load(kind: Any, start: str, part: str, **options: Any) -> Any:
    """Load one part of a folder or hub id; UsageError where that fails."""
    diffusers_logging.disable_progress_bar()
    try:
        return kind.from_pretrained(start, subfolder=part, **options)
    except (OSError, ValueError) as error:
        raise UsageError(f"no {part} could be loaded from {start}: {first_line(error)}") from None
