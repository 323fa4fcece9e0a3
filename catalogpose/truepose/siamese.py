"""TargetNet and SourceNet: Stable Diffusion 1.5's UNet twice, once to paint and once to look
(TruePose, Eq. 3 to 9).

A transformer block of TargetNet does: self-attention, HPFA (Eq. 8), CAA (Eq. 9, in place of the
text
attention), feed-forward. A block of SourceNet keeps its plain self-attention, so what it computes
depends on the source alone and is computed once however many poses and steps follow.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from diffusers import (
    ModelMixin as ModelMixin,
)  # diffusers looks for a component's loader by this name
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from catalogpose.truepose.attention import (
    merge_heads,
    reweighted_attention,
    split_heads,
)
from catalogpose.truepose.blocks import (
    FUSIONS,
    BlockShape,
    PosedConv,
    SourceBlock,
    TargetBlock,
)
from catalogpose.truepose.conditions import Conditions, LayerConditions, SourceLayer
from catalogpose.truepose.regions import level_sizes, selection_mask

OWN_PARTS = (".hpfa.", ".from_clip.", "region_proj.", "conv_carried.")
"""What names of weights hold that no plain UNet has."""


def _transformers(unet: UNet2DConditionModel) -> Iterator[tuple[int, Any]]:
    """Yield each `Transformer2DModel` and its level (0: the latent's size) in running order."""
    levels = len(unet.down_blocks)
    stages = [*enumerate(unet.down_blocks), (levels - 1, unet.mid_block)]
    stages += [(levels - 1 - index, block) for index, block in enumerate(unet.up_blocks)]
    for level, stage in stages:
        for transformer in getattr(stage, "attentions", None) or ():
            yield level, transformer


class _SiameseNet(UNet2DConditionModel):  # type: ignore[misc]  # diffusers ships no types
    """What both nets share: a plain UNet's options and weights are theirs."""

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        """Tell diffusers that the UNet's options, passed through `**unet`, are options of ours."""
        own = set(inspect.signature(input_class.__init__).parameters) - {"unet"}  # type: ignore[misc]
        return own | set(inspect.signature(UNet2DConditionModel.__init__).parameters)

    @classmethod
    def start_from(cls, unet: UNet2DConditionModel, **options: Any) -> Self:
        """Build the net on a plain UNet's weights, as the paper does on those of SD 1.5.

        Raises:
            ValueError: If a weight that the net shares with the UNet is missing, or it has
                transformers of several blocks, as Stable Diffusion XL has.
        """
        plain = {k: v for k, v in unet.config.items() if not k.startswith("_")}
        if any(len(transformer.transformer_blocks) != 1 for _, transformer in _transformers(unet)):
            raise ValueError("only UNets with one block a transformer can be started from")
        net = cls(**plain, **options)
        missing, _ = net.load_state_dict(unet.state_dict(), strict=False)
        foreign = [name for name in missing if not any(part in name for part in OWN_PARTS)]
        if foreign:
            raise ValueError(
                f"the UNet lacks {len(foreign)} weights, the first of them {foreign[0]}"
            )
        return net if unet.dtype == net.dtype else net.to(unet.dtype)


class SourceNet(_SiameseNet):
    """The net that looks at the source once (Eq. 3): no context, fixed timestep, clean latent."""

    def __init__(self, *, timestep: int = 0, **unet: Any) -> None:
        """Build a UNet of these options and remove what lies after the last block's projections.

        Args:
            timestep: The timestep given to every pass, in training too (ours; Eq. 3 has none).
            **unet: Options of `UNet2DConditionModel`.
        """
        super().__init__(**unet)
        self.register_to_config(timestep=timestep)
        transformers = list(_transformers(self))
        for index, (level, transformer) in enumerate(transformers):
            last = index == len(transformers) - 1
            block = SourceBlock(transformer.transformer_blocks[0], index, level, last=last)
            transformer.transformer_blocks = nn.ModuleList([block])
        transformers[-1][1].proj_out = nn.Identity()
        self.conv_norm_out = self.conv_act = None
        self.conv_out = nn.Identity()

    def forward(self, latent: Tensor) -> list[SourceLayer]:
        """Return the layers of a clean source latent z_s (B, c, h, w) in running order."""
        height, width = latent.shape[-2:]
        sizes = level_sizes((height, width), len(self.down_blocks))
        found: dict[str, Any] = {"layers": {}, "sizes": sizes}
        time = torch.full((len(latent),), self.config.timestep, device=latent.device)
        super().forward(latent, time, None, cross_attention_kwargs=found)
        return [found["layers"][index] for index in sorted(found["layers"])]


def _project(attention: Any, tokens: Tensor) -> dict[str, Any]:
    """Return an attention's keys and values (B, h, T, d) of tokens (B, T, C)."""
    heads = attention.heads
    return {
        "key": split_heads(attention.to_k(tokens), heads),
        "value": split_heads(attention.to_v(tokens), heads),
    }


class TargetNet(_SiameseNet):
    """The net that denoises: HPFA and CAA in every transformer block (Eq. 5, 8, 9)."""

    def __init__(
        self,
        *,
        clip_width: int = 768,
        fusion: str = "hpfa+caa",
        delta: float = 0.6,
        sigma: float = 0.3,
        region_count: int = 2,
        carried_channels: int = 0,
        **unet: Any,
    ) -> None:
        """Build a UNet of these options with the paper's two attentions.

        Args:
            clip_width: Width of a region's CLIP embedding.
            fusion: One of `FUSIONS`: how the source comes in.
            delta: Of Eq. 6.
            sigma: Of Eq. 6.
            region_count: K of Eq. 9.
            carried_channels: Of what a matcher carries over, the latent's and one; 0: nothing.
            **unet: Options of `UNet2DConditionModel`.

        Raises:
            ValueError: If there is no such fusion.
        """
        if fusion not in FUSIONS:
            raise ValueError(f"unknown fusion {fusion!r}; known: {', '.join(FUSIONS)}")
        super().__init__(**unet)
        self.register_to_config(
            clip_width=clip_width,
            fusion=fusion,
            delta=delta,
            sigma=sigma,
            region_count=region_count,
        )
        for index, (_, transformer) in enumerate(_transformers(self)):
            block = TargetBlock(
                transformer.transformer_blocks[0], index, FUSIONS[fusion], clip_width
            )
            transformer.transformer_blocks = nn.ModuleList([block])
        if FUSIONS[fusion].caa:
            self.region_proj = nn.Linear(clip_width, self.config.cross_attention_dim)
        # A change of class keeps the convolution's weights and their names.
        self.conv_in.__class__ = PosedConv
        # Last, so that all else is drawn as in a net without it.
        self.add_carried(carried_channels)

    def _blocks(self) -> Iterator[TargetBlock]:
        """Yield the transformer blocks in the order in which they run."""
        for _, transformer in _transformers(self):
            yield transformer.transformer_blocks[0]

    def block_shapes(self) -> list[BlockShape]:
        """Return what each transformer block is like, in running order."""
        levels = [level for level, _ in _transformers(self)]
        return [
            BlockShape(level, block.norm1.normalized_shape[0], block.attn1.heads)
            for level, block in zip(levels, self._blocks(), strict=True)
        ]

    def add_carried(self, channels: int) -> None:
        """Take in what a matcher carries over, (B, channels, h, w), from now on; it adds nothing
        until trained, as what an inpainting Stable Diffusion has beside the noisy latent.
        """
        self.register_to_config(carried_channels=channels)
        if channels:
            width = self.config.block_out_channels[0]
            # No bias: where nothing is carried nothing is added.
            self.conv_carried = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            nn.init.zeros_(self.conv_carried.weight)

    def silence_regions(self) -> None:
        """Have CAA add nothing but its bias until trained, where attn2 has no pretrained weights:
        random ones would disturb a net that has learnt without it.
        """
        for block in self._blocks():
            if block.fusion.caa:
                nn.init.zeros_(block.attn2.to_out[0].weight)

    def warm_fusion(self) -> None:
        """Start each block's HPFA from its own self-attention; for nets not trained yet, before
        which the self-attention must have its weights.

        Raises:
            ValueError: If the fusion has no HPFA.
        """
        for block in self._blocks():
            if not block.fuses:
                raise ValueError(f"fusion {self.config.fusion!r} has no HPFA to start")
            block.hpfa.start_from(block.attn1, block.norm1)

    def condition(
        self,
        layers: Sequence[SourceLayer],
        mask: Tensor,
        embeddings: Tensor,
        chosen: Sequence[Tensor],
    ) -> Conditions:
        """Do once what every step needs of the source: Eq. 6-7, keys and values of Eq. 8-9.

        Args:
            layers: What SourceNet gave.
            mask: M, bool (B, H, W): the source regions that the target pose shows.
            embeddings: F_clip, (B, L, D), unit length; zero where a region has none.
            chosen: int64 (B, K) a layer, from `choose_regions`.
        """
        return Conditions(
            layers=[
                LayerConditions(
                    **self._source_keys(block, layer, mask, embeddings),
                    **self._region_keys(block, embeddings, regions),
                )
                for block, layer, regions in zip(self._blocks(), layers, chosen, strict=True)
            ]
        )

    def condition_alone(
        self, embeddings: Tensor, chosen: Tensor, size: tuple[int, int]
    ) -> Conditions:
        """Prepare rows that have no source: F' is zero, as where C is dropped (Eq. 10), and CAA
        attends to what was made of words.

        Args:
            embeddings: (B, L, D), unit length.
            chosen: int64 (B, K), the labels that CAA attends to; -1 for none.
            size: Height and width of the latent.
        """
        sizes = level_sizes(size, len(self.down_blocks))
        layers = []
        for shape, block in zip(self.block_shapes(), self._blocks(), strict=True):
            height, width = sizes[shape.level]
            nothing = embeddings.new_zeros(len(embeddings), height * width, shape.channels)
            keys = split_heads(nothing.to(self.region_proj.weight.dtype), shape.heads)
            regions = self._region_keys(block, embeddings, chosen)
            every = chosen.new_ones(len(chosen), height * width, dtype=torch.bool)
            layers.append(LayerConditions(key=keys, value=keys, key_valid=every, **regions))
        return Conditions(layers=layers)

    def _source_keys(
        self, block: TargetBlock, layer: SourceLayer, mask: Tensor, embeddings: Tensor
    ) -> dict[str, Any]:
        """Return the keys and values that stand for the source in one layer; see `condition`."""
        if block.fusion.source == "none":
            return {"key": layer.key[:, :, :0], "value": layer.value[:, :, :0]}
        if block.fusion.source == "concat":
            everywhere = mask.new_ones(layer.hidden.shape[:2])
            return {**_project(block.attn1, layer.hidden), "key_valid": everywhere}
        if block.fusion.source == "clip-mlp":
            features = block.from_clip(embeddings.to(layer.hidden.dtype))
            return {**_project(block.hpfa, features), "key_valid": embeddings.any(dim=-1)}
        fused = merge_heads(
            reweighted_attention(
                layer.query,
                layer.key,
                layer.value,
                selection_mask(mask, layer.size),
                delta=self.config.delta,
                sigma=self.config.sigma,
            )
        )
        literal = block.fusion.source == "hpfa-literal"
        return _project(block.hpfa, fused if literal else layer.hidden + fused)

    def _region_keys(
        self, block: TargetBlock, embeddings: Tensor, chosen: Tensor
    ) -> dict[str, Any]:
        """Return CAA's keys and values of one layer, nothing where the fusion has no CAA."""
        if not block.fusion.caa:
            return {}
        index = chosen.clamp(min=0)[..., None].expand(-1, -1, embeddings.shape[-1])
        picked = embeddings.gather(1, index).to(self.region_proj.weight.dtype)
        found = _project(block.attn2, self.region_proj(picked))
        return {f"region_{name}": tensor for name, tensor in found.items()} | {
            "region_valid": chosen >= 0
        }

    def forward(
        self, latent: Tensor, timestep: Tensor, pose: Tensor, conditions: Conditions
    ) -> Tensor:
        """Predict for noisy latents (Eq. 5).

        Args:
            latent: z_t, (B, c, h, w).
            timestep: () or (B,).
            pose: Features of the target pose, (B, C_0, h, w).
            conditions: C for the last B - `conditions.unconditional` rows.

        Returns:
            (B, c, h, w), of the kind that the scheduler's configuration names.
        """
        pose = pose.to(latent.dtype)
        if conditions.carried is not None:
            skip = conditions.unconditional
            carried = self.conv_carried(conditions.carried.to(pose.dtype))
            pose = torch.cat([pose[:skip], pose[skip:] + carried])
        together = torch.cat([latent, pose], dim=1)
        residuals = conditions.residuals
        prediction: Tensor = (
            super()
            .forward(
                together,
                timestep,
                None,
                cross_attention_kwargs={"conditions": conditions},
                down_intrablock_additional_residuals=(
                    None if residuals is None else residuals.of(conditions.unconditional)
                ),
            )
            .sample
        )
        return prediction
