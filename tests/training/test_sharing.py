"""Pairs of one source share what SourceNet sees of it, and nothing but time changes."""

import dataclasses
from typing import Any

import pytest
import torch

from catalogpose.records import LABELS
from catalogpose.training.nets import TruePoseNets
from catalogpose.training.pairs import PairBatch

UNET = {
    "in_channels": 4, "out_channels": 4, "sample_size": None, "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"],
    "block_out_channels": [16], "attention_head_dim": [2], "cross_attention_dim": 8,
    "norm_num_groups": 4,
}  # fmt: skip


def make_batch(draw: torch.Generator) -> PairBatch:
    """Return four pairs of two sources, in mixed order; the last two see the same regions."""
    sources, source_of = torch.randn(2, 4, 4, 3, generator=draw), torch.tensor([1, 0, 1, 1])
    labels = torch.randint(len(LABELS), (2, 32, 24), generator=draw)[source_of]
    some = (torch.rand(3, len(LABELS), generator=draw) < 0.5)[[0, 1, 2, 2]]
    return PairBatch(
        sources=sources,
        source_of=source_of,
        target=torch.randn(4, 4, 4, 3, generator=draw),
        labels=labels,
        target_labels=labels,
        known=torch.ones(4, len(LABELS), dtype=torch.bool),
        embeddings=torch.randn(2, len(LABELS), 6, generator=draw)[source_of],
        shown=some,
        joints=torch.zeros(4, 18, 3),
        source_surface=None,
        target_surface=None,
    )


@pytest.mark.parametrize("fusion", ["hpfa+caa", "concat+caa"])
def test_shared_sources_give_the_same_picture_and_gradients(fusion: str) -> None:
    """A batch whose pairs share sources equals one that repeats them, forwards and backwards."""
    draw = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        nets = TruePoseNets(UNET, {"widths": [4, 4, 4], "in_channels": 3}, 6, fusion)
    with torch.no_grad():
        for weight in nets.parameters():
            if not weight.any():
                weight.copy_(0.2 * torch.randn(weight.shape, generator=draw))
    shared = make_batch(draw)
    apart = dataclasses.replace(
        shared, sources=shared.sources[shared.source_of], source_of=torch.arange(4)
    )
    noisy = torch.randn(8, 4, 4, 3, generator=draw)
    timestep = torch.randint(1000, (8,), generator=draw)
    pose, keep = torch.rand(4, 3, 32, 24, generator=draw), torch.arange(8) % 3 > 0
    found = []
    for batch in (shared, apart):
        nets.zero_grad(set_to_none=True)
        predicted = nets(batch, noisy, timestep, pose, keep)[0]
        predicted.square().mean().backward()
        graded = {n: w.grad.clone() for n, w in nets.named_parameters() if w.grad is not None}
        found.append((predicted.detach(), graded))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        assert torch.allclose(gradient, found[1][1][name], atol=1e-6), name
    assert any(name.startswith("source_unet") for name in found[0][1])


def test_the_same_look_at_a_source_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eq. 6 to 9 are computed for three looks where two of four pairs see the same regions."""
    draw = torch.Generator().manual_seed(0)
    nets = TruePoseNets(UNET, {"widths": [4, 4, 4], "in_channels": 3}, 6)
    looks: list[int] = []
    condition = nets.unet.condition

    def count(layers: Any, mask: torch.Tensor, *others: Any) -> Any:
        """Note how many looks are computed."""
        looks.append(len(mask))
        return condition(layers, mask, *others)

    monkeypatch.setattr(nets.unet, "condition", count)
    batch = make_batch(draw)
    noisy, pose = torch.randn(4, 4, 4, 3, generator=draw), torch.rand(4, 3, 32, 24, generator=draw)
    with torch.no_grad():
        nets(batch, noisy, torch.tensor([500] * 4), pose, torch.ones(4, dtype=torch.bool))
    assert looks == [3]
