import pytest
import torch

from catalogpose.truepose.attention import merge_heads, split_heads
from catalogpose.truepose.blocks import FUSIONS
from catalogpose.truepose.conditions import Conditions, LayerConditions
from catalogpose.truepose.siamese import SourceNet, TargetNet

EVERY = pytest.mark.parametrize("fusion", FUSIONS)


def make(unet, wake, fusion: str) -> TargetNet:
    """Return a TargetNet of a fusion in which every path is awake."""
    net = TargetNet.start_from(unet, clip_width=12, fusion=fusion).eval()
    wake(net)
    return net


def paint(target: TargetNet, looker: SourceNet, scene, **changed: torch.Tensor) -> torch.Tensor:
    """Predict for the scene, some of whose tensors are changed."""
    seen = type(scene)(**{**vars(scene), **changed})
    return target(scene.noisy, torch.tensor(400), scene.pose, seen.conditions(target, looker))


@EVERY
@torch.no_grad()
def test_the_skipped_half_of_every_fusion_equals_the_dropped_one(unet, wake, scene, fusion):
    """Skipping the condition in the unconditional half is dropping it there (Eq. 10 and 11)."""
    target = make(unet, wake, fusion)
    conditions = scene.conditions(target, SourceNet.start_from(unet))
    noisy, pose, time = (
        scene.noisy.repeat(2, 1, 1, 1),
        scene.pose.repeat(2, 1, 1, 1),
        torch.ones(()),
    )
    skipped = target(noisy, time, pose, Conditions.stack([conditions], unconditional=2))
    keep = torch.tensor([False, False, True, True])
    dropped = target(noisy, time, pose, Conditions.stack([conditions, conditions]).dropped(keep))
    torch.testing.assert_close(skipped, dropped, rtol=1e-5, atol=1e-6)
    assert ((skipped[:2] - skipped[2:]).abs().max() > 1e-3) == (fusion != "none")


@EVERY
@torch.no_grad()
def test_a_fusion_sees_what_its_name_says(unet, wake, scene, fusion):
    """Photo and embeddings matter exactly where the fusion takes them in."""
    target, source = make(unet, wake, fusion), SourceNet.start_from(unet)
    before = paint(target, source, scene)
    by_photo = paint(target, source, scene, source=scene.source.flip(-1)) - before
    by_clip = paint(target, source, scene, embeddings=-scene.embeddings) - before
    assert (by_photo.abs().max() > 1e-4) == (fusion not in ("clip-mlp", "none"))
    assert (by_clip.abs().max() > 1e-4) == ("caa" in fusion or fusion == "clip-mlp")


@EVERY
def test_every_weight_of_a_fusion_learns(unet, wake, scene, fusion):
    """TargetNet has no dead weight; SourceNet's idle ones are those that the fusion never reads."""
    target, source = make(unet, wake, fusion), SourceNet.start_from(unet)
    paint(target, source, scene).square().sum().backward()
    assert [name for name, p in target.named_parameters() if p.grad is None] == []
    every = {name for name, _ in source.named_parameters()}
    last = "up_blocks.3.attentions.1.transformer_blocks.0.attn1."
    idle = {"clip-mlp": every, "none": every, "concat": {n for n in every if n.startswith(last)}}
    dead = {name for name, p in source.named_parameters() if p.grad is None}
    assert dead == idle.get(fusion.removesuffix("+caa"), set())


@torch.no_grad()
def test_concatenation_is_one_softmax_over_both(unet, wake, scene):
    """B2's self-attention is a softmax over TargetNet's tokens and the source's together."""
    target, source = make(unet, wake, "concat"), SourceNet.start_from(unet)
    layer = scene.conditions(target, source).layers[0]
    block = target.down_blocks[0].attentions[0].transformer_blocks[0]
    hidden = torch.randn(2, 176, 16, generator=torch.Generator().manual_seed(1))
    normed, attn = block.norm1(hidden), block.attn1
    both = torch.cat([normed, source(scene.source)[0].hidden], dim=1)
    query, key, value = (
        split_heads(to(tokens), attn.heads)
        for to, tokens in ((attn.to_q, normed), (attn.to_k, both), (attn.to_v, both))
    )
    weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
    expected = attn.to_out[0](merge_heads(weights @ value))
    torch.testing.assert_close(block._attend(hidden, layer), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_warm_hpfa_starts_from_the_self_attention(unet, scene):
    """Queries and keys are the self-attention's, and what it finds counts half."""
    warm = TargetNet.start_from(unet, clip_width=12, fusion="hpfa")
    warm.warm_fusion()
    layer, hidden = SourceNet.start_from(unet)(scene.source)[0], torch.randn(2, 176, 16)
    block = warm.down_blocks[0].attentions[0].transformer_blocks[0]
    query = block.hpfa.query(hidden)
    expected = split_heads(block.attn1.to_q(block.norm1(hidden)), block.attn1.heads)
    torch.testing.assert_close(query, expected)
    assert torch.equal(block.hpfa.to_k(layer.hidden), block.attn1.to_k(layer.hidden))
    found = block.hpfa(query, LayerConditions(key=layer.key, value=layer.value))
    weights = (query @ layer.key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(dim=-1)
    attended = merge_heads(weights @ layer.value) @ block.attn1.to_out[0].weight.T
    torch.testing.assert_close(found, 0.5 * attended, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no HPFA to start"):
        TargetNet.start_from(unet, fusion="concat").warm_fusion()


def test_an_unknown_fusion_is_refused(unet):
    """A misspelt fusion is answered with the known ones."""
    with pytest.raises(ValueError, match="known: hpfa\\+caa, hpfa, concat"):
        TargetNet.start_from(unet, fusion="hpfa+cca")


@torch.no_grad()
def test_training_may_look_at_the_queries(unet, wake, scene):
    """Asked to, every block leaves HPFA's queries in the order in which it runs."""
    target = make(unet, wake, "hpfa+caa")
    conditions = scene.conditions(target, SourceNet.start_from(unet))
    watched = Conditions(layers=conditions.layers, seen=[])
    plain = target(scene.noisy, torch.tensor(400), scene.pose, conditions)
    assert torch.equal(target(scene.noisy, torch.tensor(400), scene.pose, watched), plain)
    assert [index for index, _ in watched.seen] == list(range(len(conditions.layers)))
    shapes = [tuple(query.shape) for _, query in watched.seen]
    assert shapes == [tuple(layer.key.shape) for layer in conditions.layers]
