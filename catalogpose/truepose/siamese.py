"""TargetNet and SourceNet: Stable Diffusion 1.5's UNet twice, once to paint and once to look (TruePose, Eq. 3 to 9).

A transformer block of TargetNet does: self-attention, HPFA (Eq. 8), CAA (Eq. 9, in place of the text
attention), feed-forward. A block of SourceNet keeps its plain self-attention, so what it computes
depends on the source alone and is computed once however many poses and steps follow.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
import torch.nn.functional as F
from diffusers import (
    ModelMixin as ModelMixin,
)  # diffusers looks for a component's loader by this name
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from catalogpose.truepose.attention import (
    cross_attention,
    least_attended_regions,
    merge_heads,
    reweighted_attention,
    split_heads,
)
from catalogpose.truepose.regions import label_grid, selection_mask

REGION_COUNT = 2
"""K of Eq. 9: how many overlooked regions each layer attends to."""


@dataclass(frozen=True, kw_only=True)
class SourceLayer:
    """What SourceNet gives at one layer (Eq. 3), enough for Eq. 6 to 9."""

    hidden: Tensor
    """F', (B, N, C): what the layer's self-attention projects."""
    query: Tensor
    """Q', (B, h, N, d)."""
    key: Tensor
    """K', (B, h, N, d)."""
    value: Tensor
    """V', (B, h, N, d)."""
    size: tuple[int, int]
    """Height and width of the layer in tokens; N is their product."""


@dataclass(frozen=True, kw_only=True)
class LayerConditions:
    """C = {F', F_clip} as one layer of TargetNet attends to it; constant over all denoising steps."""

    key: Tensor
    """K_h of Eq. 8, (B, h, N, d)."""
    value: Tensor
    """V_h of Eq. 8, (B, h, N, d)."""
    region_key: Tensor
    """K_clip of Eq. 9, (B, h, K, d)."""
    region_value: Tensor
    """V_clip of Eq. 9, (B, h, K, d)."""
    region_valid: Tensor
    """bool (B, K): False where the source has fewer than K regions."""

    def dropped(self, keep: Tensor) -> LayerConditions:
        """Set C to zero in the rows of bool `keep` (B,) that are False (Eq. 10); all four must vanish for C = 0."""
        factor = keep.to(self.key.dtype)[:, None, None, None]
        names = ("key", "value", "region_key", "region_value")
        scaled = {name: getattr(self, name) * factor for name in names}
        return LayerConditions(**scaled, region_valid=self.region_valid)


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """C for every layer, in the order in which TargetNet runs them."""

    layers: Sequence[LayerConditions]
    """One a transformer block."""
    unconditional: int = 0
    """How many leading rows of the target's batch run with C = 0, for which nothing is computed."""

    @classmethod
    def stack(cls, conditions: Sequence[Conditions], *, unconditional: int = 0) -> Conditions:
        """Join conditions along the batch, so that pictures of several sources share a batch."""
        names = [field.name for field in fields(LayerConditions)]
        layers = [
            LayerConditions(
                **{name: torch.cat([getattr(layer, name) for layer in same]) for name in names}
            )
            for same in zip(*(c.layers for c in conditions), strict=True)
        ]
        return cls(layers=layers, unconditional=unconditional)

    def dropped(self, keep: Tensor) -> Conditions:
        """Set C to zero in the rows where bool `keep` (B,) is False (Eq. 10)."""
        layers = [layer.dropped(keep) for layer in self.layers]
        return Conditions(layers=layers, unconditional=self.unconditional)


class ParsingGuidedFusion(nn.Module):
    """HPFA's cross-attention from TargetNet to the reweighted source (Eq. 8); no biases, so C = 0 adds nothing."""

    def __init__(self, channels: int, heads: int) -> None:
        """Build projections of `channels` split into `heads`; the last starts at zero."""
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(channels, channels, bias=False)
        self.to_v = nn.Linear(channels, channels, bias=False)
        self.to_out = nn.Linear(channels, channels, bias=False)
        nn.init.zeros_(self.to_out.weight)

    def forward(self, hidden: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return F~ - F (B, N, C) for hidden F (B, N, C) and K_h, V_h (B, h, N', d)."""
        query = split_heads(self.to_q(self.norm(hidden)), self.heads)
        fused: Tensor = self.to_out(merge_heads(cross_attention(query, key, value)))
        return fused


class TargetBlock(nn.Module):
    """A transformer block of TargetNet; its modules keep the names that Stable Diffusion's weights have."""

    def __init__(self, block: nn.Module, index: int) -> None:
        """Take over the modules of a diffusers `BasicTransformerBlock`; `index` says which conditions are its own."""
        super().__init__()
        self.index = index
        self.norm1, self.attn1, self.norm2 = block.norm1, block.attn1, block.norm2
        self.attn2, self.norm3, self.ff = block.attn2, block.norm3, block.ff
        self.hpfa = ParsingGuidedFusion(block.norm1.normalized_shape[0], block.attn1.heads)

    def _overlooked(self, hidden: Tensor, layer: LayerConditions) -> Tensor:
        """CAA (Eq. 9): attend to the overlooked regions' embeddings with Stable Diffusion's own attn2."""
        query = split_heads(self.attn2.to_q(self.norm2(hidden)), self.attn2.heads)
        found = cross_attention(query, layer.region_key, layer.region_value, layer.region_valid)
        output: Tensor = self.attn2.to_out[0](merge_heads(found))
        return output

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: None = None,
        encoder_hidden_states: None = None,
        encoder_attention_mask: None = None,
        timestep: None = None,
        cross_attention_kwargs: Any = None,
        class_labels: None = None,
        **_: Any,
    ) -> Tensor:
        """Run the block on (B, N, C) with the `Conditions` that `cross_attention_kwargs` carries.

        The other arguments are `BasicTransformerBlock`'s, unused: diffusers passes them by position
        under gradient checkpointing.
        """
        conditions: Conditions = cross_attention_kwargs["conditions"]
        layer, skip = conditions.layers[self.index], conditions.unconditional
        hidden = hidden_states + self.attn1(self.norm1(hidden_states))
        with_c = hidden[skip:]
        with_c = with_c + self.hpfa(with_c, layer.key, layer.value)
        with_c = with_c + self._overlooked(with_c, layer)
        # With C = 0 HPFA adds nothing and attn2 its bias alone (Eq. 11's unconditional half).
        hidden = torch.cat([hidden[:skip] + self.attn2.to_out[0].bias, with_c]) if skip else with_c
        output: Tensor = hidden + self.ff(self.norm3(hidden))
        return output


class BiasAttention(nn.Module):
    """Cross-attention to nothing: its output bias alone, under the name that Stable Diffusion's weights have."""

    def __init__(self, channels: int) -> None:
        """Make the bias (channels,), zero until weights load."""
        super().__init__()
        self.to_out = nn.ModuleList([nn.Module()])
        self.to_out[0].bias = nn.Parameter(torch.zeros(channels))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the bias, which broadcasts over (B, N, C)."""
        bias: Tensor = self.to_out[0].bias
        return bias.expand_as(hidden)


class SourceBlock(nn.Module):
    """A transformer block of SourceNet: it records what its self-attention projects and has no context."""

    def __init__(self, block: nn.Module, index: int, level: int, *, last: bool) -> None:
        """Take over a diffusers block; of the `last` one nothing is kept beyond its projections."""
        super().__init__()
        self.index, self.level, self.last = index, level, last
        self.norm1, self.attn1 = block.norm1, block.attn1
        if last:
            self.attn1.to_out = nn.ModuleList()
        else:
            self.attn2 = BiasAttention(block.norm1.normalized_shape[0])
            self.norm3, self.ff = block.norm3, block.ff

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: None = None,
        encoder_hidden_states: None = None,
        encoder_attention_mask: None = None,
        timestep: None = None,
        cross_attention_kwargs: Any = None,
        class_labels: None = None,
        **_: Any,
    ) -> Tensor:
        """Run the block on (B, N, C) and put its `SourceLayer` into `cross_attention_kwargs["layers"]`.

        The other arguments are `BasicTransformerBlock`'s, unused.
        """
        found = cross_attention_kwargs
        normed = self.norm1(hidden_states)
        projections = (self.attn1.to_q, self.attn1.to_k, self.attn1.to_v)
        query, key, value = (split_heads(to(normed), self.attn1.heads) for to in projections)
        found["layers"][self.index] = SourceLayer(
            hidden=normed, query=query, key=key, value=value, size=found["sizes"][self.level]
        )
        if self.last:
            return hidden_states
        attended = merge_heads(F.scaled_dot_product_attention(query, key, value))
        hidden = hidden_states + self.attn1.to_out[0](attended)
        hidden = hidden + self.attn2(hidden)
        output: Tensor = hidden + self.ff(self.norm3(hidden))
        return output


class PosedConv(nn.Conv2d):
    """The UNet's first convolution, which also adds the pose features that ride behind its input channels."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # nn.Conv2d names it so
        """Convolve the first `in_channels` of (B, in + out, h, w) and add the rest."""
        return super().forward(input[:, : self.in_channels]) + input[:, self.in_channels :]


def _transformers(unet: UNet2DConditionModel) -> Iterator[tuple[int, nn.Module]]:
    """Yield every `Transformer2DModel` with its level (0 is the latent's size) in the order in which they run."""
    levels = len(unet.down_blocks)
    stages = [*enumerate(unet.down_blocks), (levels - 1, unet.mid_block)]
    stages += [(levels - 1 - index, block) for index, block in enumerate(unet.up_blocks)]
    for level, stage in stages:
        for transformer in getattr(stage, "attentions", None) or ():
            yield level, transformer


class _SiameseNet(UNet2DConditionModel):  # type: ignore[misc]  # diffusers ships no types
    """What both nets share: the UNet's options are theirs, and a plain UNet's weights load into them."""

    @staticmethod
    def _get_init_keys(input_class: type) -> set[str]:
        """Tell diffusers that the UNet's options, which pass through `**unet`, are options of ours."""
        own = set(inspect.signature(input_class.__init__).parameters) - {"unet"}  # type: ignore[misc]
        return own | set(inspect.signature(UNet2DConditionModel.__init__).parameters)

    @classmethod
    def start_from(cls, unet: UNet2DConditionModel, **options: Any) -> Self:
        """Build the net around a plain UNet's weights, as the paper starts from Stable Diffusion 1.5.

        Raises:
            ValueError: If a weight that the net shares with the UNet is missing or does not fit.
        """
        plain = {k: v for k, v in unet.config.items() if not k.startswith("_")}
        net = cls(**plain, **options)
        missing, _ = net.load_state_dict(unet.state_dict(), strict=False)
        foreign = [
            name for name in missing if ".hpfa." not in name and not name.startswith("region_proj")
        ]
        if foreign:
            raise ValueError(
                f"the UNet lacks {len(foreign)} weights, the first of them {foreign[0]}"
            )
        return net if unet.dtype == net.dtype else net.to(unet.dtype)


class SourceNet(_SiameseNet):
    """The net that looks at the source once (Eq. 3): no context, one fixed timestep, clean latent."""

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
        """Return the layers (B, ...) of a clean source latent z_s (B, c, h, w), in the order in which they run."""
        sizes = [tuple(latent.shape[-2:])]
        for _ in self.down_blocks[1:]:
            sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
        found: dict[str, Any] = {"layers": {}, "sizes": sizes}
        time = torch.full((len(latent),), self.config.timestep, device=latent.device)
        super().forward(latent, time, None, cross_attention_kwargs=found)
        return [found["layers"][index] for index in sorted(found["layers"])]


def choose_regions(layers: Sequence[SourceLayer], regions: Tensor, total: int) -> list[Tensor]:
    """Choose each layer's overlooked regions (Eq. 9); they depend on the source alone.

    Args:
        layers: What SourceNet gave.
        regions: int (B, H, W), the source's parsing map with regions that have no embedding set to 0.
        total: Number of labels, background included.

    Returns:
        int64 (B, K) a layer; -1 where the source has fewer regions.
    """
    return [
        least_attended_regions(
            layer.query,
            layer.key,
            label_grid(regions, layer.size),
            count=REGION_COUNT,
            regions=total,
        )
        for layer in layers
    ]


class TargetNet(_SiameseNet):
    """The net that denoises: HPFA and CAA in every transformer block (Eq. 5, 8, 9)."""

    def __init__(self, *, clip_width: int = 768, hpfa_residual: bool = True, **unet: Any) -> None:
        """Build a UNet of these options with the paper's two attentions.

        Args:
            clip_width: Width of a region's CLIP embedding.
            hpfa_residual: Whether K_h and V_h project F' + H' (ours) or H' alone, as Eq. 8 says.
            **unet: Options of `UNet2DConditionModel`.
        """
        super().__init__(**unet)
        self.register_to_config(clip_width=clip_width, hpfa_residual=hpfa_residual)
        for index, (_, transformer) in enumerate(_transformers(self)):
            block = TargetBlock(transformer.transformer_blocks[0], index)
            transformer.transformer_blocks = nn.ModuleList([block])
        self.region_proj = nn.Linear(clip_width, self.config.cross_attention_dim)
        plain = self.conv_in
        self.conv_in = PosedConv(
            plain.in_channels, plain.out_channels, plain.kernel_size, padding=plain.padding
        )
        self.conv_in.load_state_dict(plain.state_dict())

    def _blocks(self) -> Iterator[TargetBlock]:
        """Yield the transformer blocks in the order in which they run."""
        for _, transformer in _transformers(self):
            yield transformer.transformer_blocks[0]

    def condition(
        self,
        layers: Sequence[SourceLayer],
        mask: Tensor,
        embeddings: Tensor,
        chosen: Sequence[Tensor],
    ) -> Conditions:
        """Do once what every denoising step needs of the source: Eq. 6-7 and the keys and values of Eq. 8-9.

        Args:
            layers: What SourceNet gave.
            mask: M, bool (B, H, W): the source regions that the target pose shows.
            embeddings: F_clip, (B, L, D): one embedding a label, unit length, anything where there is none.
            chosen: int64 (B, K) a layer, from `choose_regions`.
        """
        tokens = self.region_proj(embeddings.to(self.region_proj.weight.dtype))
        return Conditions(
            layers=[
                self._condition_layer(block, layer, mask, tokens, regions)
                for block, layer, regions in zip(self._blocks(), layers, chosen, strict=True)
            ]
        )

    def _condition_layer(
        self, block: TargetBlock, layer: SourceLayer, mask: Tensor, tokens: Tensor, chosen: Tensor
    ) -> LayerConditions:
        """Compute one layer's conditions; see `condition`."""
        selected = selection_mask(mask, layer.size)
        fused = merge_heads(reweighted_attention(layer.query, layer.key, layer.value, selected))
        if self.config.hpfa_residual:
            fused = layer.hidden + fused
        index = chosen.clamp(min=0)[..., None].expand(-1, -1, tokens.shape[-1])
        picked = tokens.gather(1, index)
        heads, caa = block.hpfa.heads, block.attn2
        return LayerConditions(
            key=split_heads(block.hpfa.to_k(fused), heads),
            value=split_heads(block.hpfa.to_v(fused), heads),
            region_key=split_heads(caa.to_k(picked), caa.heads),
            region_value=split_heads(caa.to_v(picked), caa.heads),
            region_valid=chosen >= 0,
        )

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
        together = torch.cat([latent, pose.to(latent.dtype)], dim=1)
        carried = {"conditions": conditions}
        prediction: Tensor = (
            super().forward(together, timestep, None, cross_attention_kwargs=carried).sample
        )
        return prediction


def load_stable_diffusion(
    name: str, clip_width: int = 768, **options: Any
) -> tuple[TargetNet, SourceNet]:
    """Load a Stable Diffusion 1.5 UNet (hub id or pipeline folder, safetensors) as the start of both nets.

    Args:
        name: A folder with a `unet` subfolder, or a hub id such as `stable-diffusion-v1-5/stable-diffusion-v1-5`.
        clip_width: Width of a region's CLIP embedding.
        **options: Passed to `UNet2DConditionModel.from_pretrained`, such as `dtype`.
    """
    unet = UNet2DConditionModel.from_pretrained(
        name, subfolder="unet", use_safetensors=True, **options
    )
    return TargetNet.start_from(unet, clip_width=clip_width), SourceNet.start_from(unet)
