"""The nets that TruePose's training moves, and how they look at a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn

from catalogpose.records import LABELS
from catalogpose.training.pairs import PairBatch
from catalogpose.truepose.blocks import FUSIONS, SourceBlock
from catalogpose.truepose.compositor import Compositor
from catalogpose.truepose.conditions import Conditions, LayerConditions, SourceLayer
from catalogpose.truepose.matcher import Matcher
from catalogpose.truepose.pipeline import TruePosePipeline
from catalogpose.truepose.pose_encoder import STYLE_CHANNELS, PoseEncoder
from catalogpose.truepose.regions import choose_regions
from catalogpose.truepose.siamese import SourceNet, TargetNet

PARTS = ("unet", "source_unet", "pose_encoder")
"""The nets by their names in a model folder."""


class TruePoseNets(nn.Module):
    """The trained part of the pipeline: both UNets and the pose encoder."""

    def __init__(
        self,
        unet: Mapping[str, Any],
        pose: Mapping[str, Any],
        clip_width: int,
        fusion: str = "hpfa+caa",
        carried: int = 0,
    ) -> None:
        """Build both UNets from the same random weights, as the paper does from one model;
        `carried` as `carried_channels` of TargetNet.
        """
        super().__init__()
        self.unet = TargetNet(
            clip_width=clip_width, fusion=fusion, carried_channels=carried, **unet
        )
        self.source_unet = SourceNet(**unet)
        self.source_unet.load_state_dict(self.unet.state_dict(), strict=False)
        self.pose_encoder = PoseEncoder(out_channels=unet["block_out_channels"][0], **pose)
        self._settle()

    @classmethod
    def joined(cls, unet: TargetNet, source_unet: SourceNet, pose_encoder: PoseEncoder) -> Self:
        """Join nets that exist."""
        nets = cls.__new__(cls)
        nn.Module.__init__(nets)
        nets.unet, nets.source_unet, nets.pose_encoder = unet, source_unet, pose_encoder
        nets._settle()
        return nets

    def pipeline(
        self,
        vae: AutoencoderKL,
        scheduler: DDIMScheduler,
        matcher: Matcher | None,
        compositor: Compositor | None = None,
    ) -> TruePosePipeline:
        """Return what paints with these nets; it has no card yet. None: no photo is carried, or
        none is laid over what was painted.
        """
        nets = self.unet, self.source_unet, self.pose_encoder
        return TruePosePipeline(*nets, vae, scheduler, matcher, compositor)

    def _settle(self) -> None:
        """Lay weights out for training, and take from it what the fusion leaves unused: processes
        wait for every gradient.
        """
        # Convolutions and the tokens of attention then share one order in memory: measured 10 to
        # 15 % less time a step on CPUs.
        self.to(memory_format=torch.channels_last)
        fusion = FUSIONS[self.unet.config.fusion].source
        if fusion in ("clip-mlp", "none"):
            self.source_unet.requires_grad_(False)
        elif fusion == "concat":
            # TargetNet projects F' itself; of the last block nothing else is asked.
            for block in self.source_unet.modules():
                if isinstance(block, SourceBlock) and block.last:
                    block.attn1.requires_grad_(False)

    def forward(
        self,
        batch: PairBatch,
        noisy: Tensor,
        timestep: Tensor,
        pose: Tensor,
        keep: Tensor,
        watch: bool = False,
    ) -> tuple[Tensor, Sequence[tuple[int, Tensor]], Sequence[LayerConditions]]:
        """Predict for noisy latents (m * B, c, h, w) of a batch's B targets, m noises a pair, set
        after set.

        SourceNet looks at each source once; C is computed once a pair and dropped where `keep`
        (m * B,) is False. The other arguments: timesteps (m * B,), pose pictures (B, C, H, W), and
        whether HPFA's queries are wanted.

        Returns:
            The prediction; the queries with their block's index, none unless `watch`; and each
            block's conditions.
        """
        # Weights in bfloat16 take no float32 input; for float32 weights nothing happens here.
        dtype = self.unet.dtype
        sources, noisy, pose = batch.sources.to(dtype), noisy.to(dtype), pose.to(dtype)
        conditions = self._look(batch, self.source_unet(sources))
        conditions = replace(conditions, carried=batch.carried)
        times = len(noisy) // len(batch)
        features = self.pose_encoder(pose).repeat(times, 1, 1, 1)
        seen: list[tuple[int, Tensor]] = []
        shared = conditions.repeated(times).dropped(keep).watched(seen if watch else None)
        predicted: Tensor = self.unet(noisy, timestep, features, shared)
        return predicted, seen, shared.layers

    def _look(self, batch: PairBatch, layers: Sequence[SourceLayer]) -> Conditions:
        """Return C of a batch's B pairs from what SourceNet gave of its sources.

        Where pairs share sources, those that see the same regions of one share Eq. 6 to 9 too.
        """
        labels = batch.labels
        shown = batch.shown.gather(1, labels.flatten(1)).view_as(labels)
        # A pose that shows no region of the source sees the whole person, as in the pipeline.
        mask = shown | (~shown.flatten(1).any(dim=1)[:, None, None] & (labels > 0))
        shares = len(batch.sources) < len(batch)
        rows, look_of = _distinct(batch.source_of, mask) if shares else (batch.source_of,) * 2
        layers = [layer.taken(batch.source_of[rows]) for layer in layers] if shares else layers
        labels, mask, embeddings = labels[rows], mask[rows], batch.embeddings[rows]
        known = batch.known[rows].gather(1, labels.flatten(1)).view_as(labels)
        count = self.unet.config.region_count
        chosen = choose_regions(layers, labels * known, len(LABELS), count)
        conditions = self.unet.condition(layers, mask, embeddings, chosen)
        return conditions.taken(look_of) if shares else conditions


def _distinct(source_of: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first row of each distinct pair of source (B,) and mask (B, H, W), and which of
    these each row is like: (D,) and (B,), int64.
    """
    looks = torch.cat([source_of[:, None], mask.flatten(1).long()], dim=1)
    _, look_of = torch.unique(looks, dim=0, return_inverse=True)
    rows = torch.arange(len(look_of), device=look_of.device)
    first = torch.full_like(rows, len(rows)).scatter_reduce(0, look_of, rows, "amin")
    return first[: int(look_of.max()) + 1], look_of


def make_matcher(truepose: Mapping[str, Any]) -> Matcher:
    """Build the matcher that a recipe's section describes, with random weights."""
    options = truepose["matcher"].get("model", {})
    made: Matcher = Matcher(STYLE_CHANNELS[truepose["pose_style"]], **options)
    return made


def read_matcher(folder: Path, dtype: torch.dtype = torch.float32) -> Matcher | None:
    """Read a model folder's matcher; None where it has none."""
    if not (folder / "matcher").is_dir():
        return None
    matcher: Matcher = Matcher.from_pretrained(str(folder / "matcher"), dtype=dtype)
    return matcher


def make_compositor(truepose: Mapping[str, Any]) -> Compositor:
    """Build the compositor that a recipe's section describes, with random weights."""
    options = truepose["compositor"].get("model", {})
    made: Compositor = Compositor(STYLE_CHANNELS[truepose["pose_style"]], **options)
    return made


def read_compositor(folder: Path, dtype: torch.dtype = torch.float32) -> Compositor | None:
    """Read a model folder's compositor; None where it has none."""
    if not (folder / "compositor").is_dir():
        return None
    compositor: Compositor = Compositor.from_pretrained(str(folder / "compositor"), dtype=dtype)
    return compositor


def read_nets(folder: Path, dtype: torch.dtype = torch.float32) -> TruePoseNets:
    """Read a model folder's nets."""
    return TruePoseNets.joined(
        TargetNet.from_pretrained(str(folder / "unet"), dtype=dtype),
        SourceNet.from_pretrained(str(folder / "source_unet"), dtype=dtype),
        PoseEncoder.from_pretrained(str(folder / "pose_encoder"), dtype=dtype),
    )
