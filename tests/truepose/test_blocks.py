import math

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from catalogpose.truepose.blocks import (
    FUSIONS,
    BiasAttention,
    ParsingGuidedFusion,
    PosedConv,
    TargetBlock,
)
from catalogpose.truepose.conditions import Conditions, LayerConditions


@pytest.fixture
def block(wake) -> TargetBlock:
    """Return an awake block of 8 channels and 2 heads that reads 6-wide regions."""
    plain = BasicTransformerBlock(8, 2, 4, cross_attention_dim=6).eval()
    made = TargetBlock(plain, 1, FUSIONS["hpfa+caa"], clip_width=6)
    wake(made)
    return made.double()


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend with 2 heads from tokens (N, 8) to tokens (T, 8), one head at a time."""
    out = []
    for head in (slice(0, 4), slice(4, 8)):
        logits = query[:, head] @ key[:, head].T / math.sqrt(4)
        out.append(logits.softmax(dim=1) @ value[:, head])
    return torch.cat(out, dim=1)


def heads(tokens: Tensor) -> Tensor:
    """Bring tokens (T, 8) to the shape of conditions, (1, 2, T, 4)."""
    return torch.stack([tokens[:, :4], tokens[:, 4:]])[None]


@torch.no_grad()
def test_a_block_does_the_equations_in_order(block):
    """Self-attention, then HPFA to K_h and V_h (Eq. 8), then CAA (Eq. 9), then feed-forward.

    Each is added to what came before, and each normalises its own input.
    """
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    key, value = torch.randn(2, 7, 8, generator=generator, dtype=torch.float64)
    region_key, region_value = torch.randn(2, 2, 8, generator=generator, dtype=torch.float64)
    layer = LayerConditions(
        key=heads(key),
        value=heads(value),
        region_key=heads(region_key),
        region_value=heads(region_value),
        region_valid=torch.tensor([[True, False]]),
    )
    conditions = Conditions(layers=[None, layer])

    self_attention, hpfa, text = block.attn1, block.hpfa, block.attn2
    normed = block.norm1(hidden)
    own = attend(
        *(to(normed) for to in (self_attention.to_q, self_attention.to_k, self_attention.to_v))
    )
    after_self = hidden + self_attention.to_out[0](own)
    fused = after_self + hpfa.to_out(attend(hpfa.to_q(hpfa.norm(after_self)), key, value))
    query = text.to_q(block.norm2(fused))
    # One region is valid, so every token reads it alone.
    aligned = fused + text.to_out[0](attend(query, region_key[:1], region_value[:1]))
    expected = aligned + block.ff(block.norm3(aligned))

    found = block(hidden[None], cross_attention_kwargs={"conditions": conditions})[0]
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_fresh_fusion_adds_nothing():
    """HPFA's output projection starts at zero, so training starts from the plain UNet."""
    fusion = ParsingGuidedFusion(8, 2)
    tokens = torch.randn(1, 5, 8)
    key, value = torch.randn(2, 1, 2, 7, 4)
    assert not fusion(fusion.query(tokens), LayerConditions(key=key, value=value)).any()


@torch.no_grad()
def test_fusion_has_no_biases(wake):
    """With K_h = V_h = 0 trained HPFA adds exactly nothing, so the dropped half may skip it."""
    fusion = ParsingGuidedFusion(8, 2)
    wake(fusion)
    zero = torch.zeros(1, 2, 7, 4)
    query = fusion.query(torch.randn(1, 5, 8))
    assert not fusion(query, LayerConditions(key=zero, value=zero)).any()
    biased = {name for name, _ in fusion.named_parameters() if name.endswith("bias")}
    assert biased == {"norm.bias"}


def test_attention_to_nothing_is_its_bias():
    """Without a context a text attention gives its output bias, under the weights' own name."""
    attention = BiasAttention(3)
    assert list(attention.state_dict()) == ["to_out.0.bias"]
    attention.load_state_dict({"to_out.0.bias": torch.tensor([1.0, 2.0, 3.0])})
    assert attention(torch.zeros(1, 2, 3)).tolist() == [[[1.0, 2.0, 3.0]] * 2]


@torch.no_grad()
def test_the_pose_rides_behind_the_latent():
    """The first convolution reads its own channels and adds the rest to its output."""
    conv = PosedConv(2, 3, 3, padding=1)
    latent, pose = torch.randn(1, 2, 4, 5), torch.randn(1, 3, 4, 5)
    expected = nn.functional.conv2d(latent, conv.weight, conv.bias, padding=1) + pose
    torch.testing.assert_close(conv(torch.cat([latent, pose], dim=1)), expected)
