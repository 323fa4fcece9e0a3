"""The transformer blocks of both nets, made of the modules of diffusers' own (TruePose, Eq. 3, 8
and 9).

Modules keep the names that Stable Diffusion's weights have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from catalogpose.truepose.attention import cross_attention, merge_heads, split_heads
from catalogpose.truepose.conditions import Conditions, LayerConditions, SourceLayer

WARM_SHARE = 0.5
"""How much of the self-attention's output a warm HPFA starts with: own tokens and the source's
share what one of them had. At 0 what it reads would not show at first."""


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """How TargetNet takes in the source: the paper's way, or one of its ablations (Table 2)."""

    source: Literal["hpfa", "hpfa-literal", "concat", "clip-mlp", "none"]
    """Where keys and values come from. `none`: nowhere, the pose is all there is. `hpfa`: F' + H'
    (ours); `hpfa-literal`: H' alone, as Eq. 8 says; `concat`: F' behind the keys of the
    self-attention, as in AnimateAnyone; `clip-mlp`: an MLP of every region's CLIP embedding,
    without SourceNet."""
    caa: bool
    """Whether attn2 attends to the overlooked regions (Eq. 9); if not, its bias alone remains."""


FUSIONS = {
    "hpfa+caa": Fusion(source="hpfa", caa=True),
    "hpfa": Fusion(source="hpfa", caa=False),
    "concat+caa": Fusion(source="concat", caa=True),
    "concat": Fusion(source="concat", caa=False),
    "clip-mlp": Fusion(source="clip-mlp", caa=False),
    "hpfa-literal+caa": Fusion(source="hpfa-literal", caa=True),
    "none": Fusion(source="none", caa=False),
}
"""By the name that a net's configuration has: the full model, the paper's B3, B4, B2 and B1, Eq. 8
to the letter, and a net that sees the pose alone, from which the others may start."""


class BlockShape(NamedTuple):
    """What a transformer block is like."""

    level: int
    """0: the latent's size; each further one halves it."""
    channels: int
    """C of its tokens."""
    heads: int
    """h of its attentions."""


class ParsingGuidedFusion(nn.Module):
    """HPFA's cross-attention to the reweighted source (Eq. 8); no biases: C = 0 adds nothing."""

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

    @torch.no_grad()
    def start_from(self, attention: Any, norm: nn.Module) -> None:
        """Take over a self-attention's norm and projections, the last at `WARM_SHARE`.

        Both nets start alike, so what compares TargetNet's tokens with one another compares them
        with SourceNet's too (ours: from random projections HPFA must learn that first, and falls
        behind concatenated self-attention, which need not).
        """
        self.norm.load_state_dict(norm.state_dict())
        for name in ("to_q", "to_k", "to_v"):
            getattr(self, name).weight.copy_(getattr(attention, name).weight)
        self.to_out.weight.copy_(WARM_SHARE * attention.to_out[0].weight)

    def query(self, hidden: Tensor) -> Tensor:
        """Return Q of Eq. 8, (B, h, N, d), for hidden F (B, N, C)."""
        return split_heads(self.to_q(self.norm(hidden)), self.heads)

    def forward(self, query: Tensor, layer: LayerConditions) -> Tensor:
        """Return F~ - F (B, N, C) for Q and the layer's K_h, V_h (B, h, N', d)."""
        found = cross_attention(query, layer.key, layer.value, layer.key_valid)
        fused: Tensor = self.to_out(merge_heads(found))
        return fused


class BiasAttention(nn.Module):
    """Cross-attention to nothing: its output bias alone, under the name it has there."""

    def __init__(self, channels: int) -> None:
        """Make the bias (channels,), zero until weights load."""
        super().__init__()
        holder = nn.Module()
        holder.register_parameter("bias", nn.Parameter(torch.zeros(channels)))
        self.to_out = nn.ModuleList([holder])

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the bias, which broadcasts over (B, N, C)."""
        return self.to_out[0].get_parameter("bias").expand_as(hidden)


class TargetBlock(nn.Module):
    """A transformer block of TargetNet: self-attention, HPFA, CAA, feed-forward."""

    def __init__(self, block: Any, index: int, fusion: Fusion, clip_width: int) -> None:
        """Take over a `BasicTransformerBlock`; `index` says which conditions are its own."""
        super().__init__()
        self.index, self.fusion = index, fusion
        self.norm1, self.attn1, self.norm2 = block.norm1, block.attn1, block.norm2
        self.attn2, self.norm3, self.ff = block.attn2, block.norm3, block.ff
        channels = block.norm1.normalized_shape[0]
        if not fusion.caa:
            self.attn2, self.norm2 = BiasAttention(channels), nn.Identity()
        self.fuses = fusion.source not in ("concat", "none")
        if self.fuses:
            self.hpfa = ParsingGuidedFusion(channels, block.attn1.heads)
        if fusion.source == "clip-mlp":
            hidden = nn.Linear(clip_width, channels)
            self.from_clip = nn.Sequential(hidden, nn.SiLU(), nn.Linear(channels, channels))

    def _attend(self, hidden: Tensor, layer: LayerConditions | None) -> Tensor:
        """Self-attention (B, N, C); given a layer, its keys stand behind the own ones (B2 and B4,
        as in AnimateAnyone).
        """
        attn, normed = self.attn1, self.norm1(hidden)
        query, key, value = (
            split_heads(to(normed), attn.heads) for to in (attn.to_q, attn.to_k, attn.to_v)
        )
        every = None
        if layer is not None:
            assert layer.key_valid is not None  # TargetNet.condition sets it for this fusion
            key, value = torch.cat([key, layer.key], dim=2), torch.cat([value, layer.value], dim=2)
            own = layer.key_valid.new_ones(normed.shape[:2])
            every = torch.cat([own, layer.key_valid], dim=1)
        output: Tensor = attn.to_out[0](merge_heads(cross_attention(query, key, value, every)))
        return output

    def _look_around(self, hidden: Tensor, layer: LayerConditions, skip: int) -> Tensor:
        """Self-attention (B, N, C); the rows behind the first `skip` may see the source in it."""
        if self.fusion.source != "concat":
            return self._attend(hidden, None)
        with_c = self._attend(hidden[skip:], layer)
        return torch.cat([self._attend(hidden[:skip], None), with_c]) if skip else with_c

    def _overlooked(self, hidden: Tensor, layer: LayerConditions) -> Tensor:
        """CAA (Eq. 9): attend to the overlooked regions' embeddings through attn2."""
        if layer.region_key is None or layer.region_value is None:
            bias: Tensor = self.attn2(hidden)
            return bias
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
        hidden = hidden_states + self._look_around(hidden_states, layer, skip)
        with_c = hidden[skip:]
        if self.fuses:
            query = self.hpfa.query(with_c)
            if conditions.seen is not None:
                conditions.seen.append((self.index, query))
            with_c = with_c + self.hpfa(query, layer)
        with_c = with_c + self._overlooked(with_c, layer)
        if layer.addition is not None:
            with_c = with_c + layer.addition(with_c)
        # With C = 0 HPFA adds nothing and attn2 its bias alone (Eq. 11's unconditional half).
        bias = self.attn2.to_out[0].bias
        hidden = torch.cat([hidden[:skip] + bias, with_c]) if skip else with_c
        output: Tensor = hidden + self.ff(self.norm3(hidden))
        return output


class SourceBlock(nn.Module):
    """A transformer block of SourceNet: no context, and what attn1 projects is kept."""

    def __init__(self, block: Any, index: int, level: int, *, last: bool) -> None:
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
        """Run the block on (B, N, C) and put its `SourceLayer` into
        `cross_attention_kwargs["layers"]`.

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
        attended = merge_heads(cross_attention(query, key, value))
        hidden = hidden_states + self.attn1.to_out[0](attended)
        hidden = hidden + self.attn2(hidden)
        output: Tensor = hidden + self.ff(self.norm3(hidden))
        return output


class PosedConv(nn.Conv2d):
    """The UNet's first convolution; it adds the pose features that ride behind its input."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # nn.Conv2d names it so
        """Convolve the first `in_channels` of (B, in + out, h, w) and add the rest."""
        return super().forward(input[:, : self.in_channels]) + input[:, self.in_channels :]
