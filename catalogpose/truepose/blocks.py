"""The transformer blocks of both nets, made of the modules of diffusers' own (TruePose, Eq. 3, 8
and 9).

Modules keep the names that Stable Diffusion's weights have.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from catalogpose.truepose.attention import cross_attention, merge_heads, split_heads
from catalogpose.truepose.conditions import Conditions, LayerConditions, SourceLayer


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

    def forward(self, hidden: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return F~ - F (B, N, C) for hidden F (B, N, C) and K_h, V_h (B, h, N', d)."""
        query = split_heads(self.to_q(self.norm(hidden)), self.heads)
        fused: Tensor = self.to_out(merge_heads(cross_attention(query, key, value)))
        return fused


class TargetBlock(nn.Module):
    """A transformer block of TargetNet: self-attention, HPFA, CAA, feed-forward."""

    def __init__(self, block: Any, index: int) -> None:
        """Take over a `BasicTransformerBlock`; `index` says which conditions are its own."""
        super().__init__()
        self.index = index
        self.norm1, self.attn1, self.norm2 = block.norm1, block.attn1, block.norm2
        self.attn2, self.norm3, self.ff = block.attn2, block.norm3, block.ff
        self.hpfa = ParsingGuidedFusion(block.norm1.normalized_shape[0], block.attn1.heads)

    def _overlooked(self, hidden: Tensor, layer: LayerConditions) -> Tensor:
        """CAA (Eq. 9): attend to the overlooked regions' embeddings through attn2."""
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
        attended = merge_heads(F.scaled_dot_product_attention(query, key, value))
        hidden = hidden_states + self.attn1.to_out[0](attended)
        hidden = hidden + self.attn2(hidden)
        output: Tensor = hidden + self.ff(self.norm3(hidden))
        return output


class PosedConv(nn.Conv2d):
    """The UNet's first convolution; it adds the pose features that ride behind its input."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # nn.Conv2d names it so
        """Convolve the first `in_channels` of (B, in + out, h, w) and add the rest."""
        return super().forward(input[:, : self.in_channels]) + input[:, self.in_channels :]
