from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from catalogpose.truepose.attention import merge_heads, reweighted_attention, split_heads
from catalogpose.truepose.conditions import Conditions
from catalogpose.truepose.regions import choose_regions, selection_mask
from catalogpose.truepose.siamese import (
    SourceNet,
    TargetNet,
)
from catalogpose.truepose.stable_diffusion import load_stable_diffusion

TIME = torch.tensor(400)
"""Some noise level."""

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
"""Rounding of float32 in two orders of computation."""


@pytest.fixture
def nets(unet: UNet2DConditionModel) -> tuple[TargetNet, SourceNet]:
    """Return both nets as they start from a plain UNet."""
    return TargetNet.start_from(unet, clip_width=12).eval(), SourceNet.start_from(unet).eval()


@pytest.fixture
def awake(nets, wake) -> tuple[TargetNet, SourceNet]:
    """Return both nets with nothing left at zero, as after some training."""
    wake(nets[0])
    return nets


def no_context(batch: int) -> Tensor:
    """Return the text tokens that a plain UNet must see to see nothing: zeros."""
    return torch.zeros(batch, 5, 24)


def test_both_nets_start_from_a_folder(unet, tmp_path):
    """A pipeline folder's `unet` in safetensors gives both nets its weights, all of them used."""
    unet.save_pretrained(tmp_path / "unet", safe_serialization=True)
    target, source = load_stable_diffusion(str(tmp_path), clip_width=12, fusion="hpfa-literal+caa")
    plain, of_target, of_source = (net.state_dict() for net in (unet, target, source))
    added = set(of_target) - set(plain)
    assert all(".hpfa." in name or name.startswith("region_proj.") for name in added)
    assert set(plain) <= set(of_target)
    assert set(of_source) <= set(plain)
    assert all(torch.equal(of_target[name], plain[name]) for name in plain)
    assert all(torch.equal(of_source[name], plain[name]) for name in of_source)
    assert (target.config.clip_width, target.config.fusion) == (12, "hpfa-literal+caa")
    assert source.config.timestep == 0


def test_pickled_weights_are_not_loaded(unet, tmp_path):
    """A folder without safetensors is refused: a pickle can run anything."""
    unet.save_pretrained(tmp_path / "unet", safe_serialization=False)
    with pytest.raises(OSError, match="safetensors"):
        load_stable_diffusion(str(tmp_path))


def test_a_unet_that_lacks_weights_is_refused(unet, monkeypatch):
    """Weights that are not there would stay random; the error names the first of them."""
    weights = {name: w for name, w in unet.state_dict().items() if name != "conv_in.bias"}
    monkeypatch.setattr(unet, "state_dict", lambda: weights)
    with pytest.raises(ValueError, match=r"lacks 1 weights.*conv_in\.bias"):
        TargetNet.start_from(unet)


def test_a_unet_of_deeper_transformers_is_refused(make_unet):
    """Of several blocks a transformer all but the first would be lost, so that is an error."""
    deep = make_unet(transformer_layers_per_block=2)
    for net in (TargetNet, SourceNet):
        with pytest.raises(ValueError, match="one block a transformer"):
            net.start_from(deep)


def test_starting_keeps_the_type(unet):
    """Nets that start from a bfloat16 UNet are bfloat16 throughout."""
    unet = unet.to(torch.bfloat16)
    for net in (TargetNet.start_from(unet, clip_width=12), SourceNet.start_from(unet)):
        assert {weight.dtype for weight in net.parameters()} == {torch.bfloat16}


@torch.no_grad()
@pytest.mark.parametrize("trained", [False, True])
def test_without_a_condition_target_is_the_plain_unet(unet, nets, scene, wake, trained):
    """With C = 0 TargetNet equals the UNet on all-zero tokens, whatever HPFA and CAA learned.

    Zero tokens have zero keys and values, so attn2 gives its output bias, as C = 0 does.
    """
    target, source = nets
    if trained:
        wake(target)
    dropped = scene.conditions(target, source).dropped(torch.tensor([False, False]))
    found = target(scene.noisy, TIME, 0 * scene.pose, dropped)
    expected = unet(scene.noisy, TIME, no_context(2)).sample
    torch.testing.assert_close(found, expected, **CLOSE)


@torch.no_grad()
def test_a_fresh_target_reads_regions_as_the_unet_reads_text(unet, nets, scene):
    """While HPFA is zero, TargetNet equals the UNet whose text tokens are the chosen regions."""
    target, source = nets
    layers = source(scene.source)
    chosen = torch.tensor([[1, 4], [5, 2]])
    mask = scene.labels > 2
    conditions = target.condition(layers, mask, scene.embeddings, [chosen] * len(layers))
    found = target(scene.noisy, TIME, 0 * scene.pose, conditions)
    picked = scene.embeddings[torch.arange(2)[:, None], chosen]
    expected = unet(scene.noisy, TIME, target.region_proj(picked)).sample
    torch.testing.assert_close(found, expected, **CLOSE)
    assert (found - unet(scene.noisy, TIME, no_context(2)).sample).abs().max() > 1e-3


@torch.no_grad()
def test_pose_features_join_the_first_convolution(unet, nets, scene):
    """The pose is added to the noisy latent's first features and nowhere else."""
    target, source = nets
    dropped = scene.conditions(target, source).dropped(torch.tensor([False, False]))
    found = target(scene.noisy, TIME, scene.pose, dropped)
    hook = unet.conv_in.register_forward_hook(lambda *call: call[2] + scene.pose)
    expected = unet(scene.noisy, TIME, no_context(2)).sample
    hook.remove()
    torch.testing.assert_close(found, expected, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("timestep", [0, 261])
def test_source_layers_are_the_plain_unets(unet, scene, timestep):
    """F', Q', K' and V' are what the plain UNet's self-attentions see at the fixed timestep."""
    source = SourceNet.start_from(unet, timestep=timestep)
    seen: list[tuple[Tensor, ...]] = []

    def note(attention: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        hidden = inputs[0]
        seen.append(
            (hidden, *(to(hidden) for to in (attention.to_q, attention.to_k, attention.to_v)))
        )

    for name, module in unet.named_modules():
        if name.endswith("attn1"):
            module.register_forward_hook(note)
    unet(scene.source, torch.tensor(timestep), no_context(2))
    layers = source(scene.source)
    assert len(layers) == len(seen) == 10
    for layer, (hidden, *projected) in zip(layers, seen, strict=True):
        torch.testing.assert_close(layer.hidden, hidden, **CLOSE)
        for heads, flat in zip((layer.query, layer.key, layer.value), projected, strict=True):
            torch.testing.assert_close(merge_heads(heads), flat, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize(
    "levels", [[(16, 11), (8, 6), (4, 3), (2, 2)], [(11, 9), (6, 5), (3, 3), (2, 2)]]
)
def test_layers_know_their_size(nets, levels):
    """Sizes that are no multiples of eight round up at every level, and tokens fill them."""
    layers = nets[1](torch.randn(1, 4, *levels[0]))
    order = [0, 1, 2, 3, 2, 2, 1, 1, 0, 0]
    assert [layer.size for layer in layers] == [levels[level] for level in order]
    for layer in layers:
        assert layer.hidden.shape[1] == layer.size[0] * layer.size[1]


@torch.no_grad()
def test_source_pictures_are_independent(nets, scene):
    """A source's features do not depend on its neighbours in the batch."""
    together, alone = nets[1](scene.source), nets[1](scene.source[1:])
    for both, one in zip(together, alone, strict=True):
        torch.testing.assert_close(both.hidden[1:], one.hidden, **CLOSE)


@torch.no_grad()
def test_features_do_not_depend_on_the_shown_labels(awake, scene):
    """Conditioning for other poses leaves F' untouched, and only K_h and V_h differ."""
    target, source = awake
    layers = source(scene.source)
    before = [layer.query.clone() for layer in layers]
    chosen = choose_regions(layers, scene.labels, 6)
    few, many = (
        target.condition(
            layers, (scene.labels > 0) & (scene.labels <= last), scene.embeddings, chosen
        )
        for last in (1, 4)
    )
    assert all(torch.equal(a, layer.query) for a, layer in zip(before, layers, strict=True))
    for a, b in zip(few.layers, many.layers, strict=True):
        assert not torch.equal(a.key, b.key)
        assert not torch.equal(a.value, b.value)
        assert torch.equal(a.region_key, b.region_key)


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["hpfa-literal+caa", "hpfa+caa"])
def test_hpfa_projects_what_the_option_says(unet, scene, fusion):
    """K_h and V_h project H' alone (Eq. 8 to the letter) or F' + H' (ours, the default)."""
    target = TargetNet.start_from(unet, clip_width=12, fusion=fusion)
    source = SourceNet.start_from(unet)
    layers = source(scene.source)
    mask = (scene.labels > 0) & (scene.labels <= 3)
    found = scene.conditions(target, source, shown=3).layers[4]
    layer, hpfa = layers[4], target.up_blocks[1].attentions[0].transformer_blocks[0].hpfa
    selected = selection_mask(mask, layer.size)
    fused = merge_heads(reweighted_attention(layer.query, layer.key, layer.value, selected))
    expected = fused if "literal" in fusion else layer.hidden + fused
    torch.testing.assert_close(found.key, split_heads(hpfa.to_k(expected), 2))
    torch.testing.assert_close(found.value, split_heads(hpfa.to_v(expected), 2))


def test_the_papers_settings_are_the_default(nets):
    """Delta, sigma, K and the residual are on record in the configuration."""
    config = nets[0].config
    assert (config.delta, config.sigma, config.region_count) == (0.6, 0.3, 2)
    assert config.fusion == "hpfa+caa"


@torch.no_grad()
def test_the_strengths_of_equation_6_are_the_nets_own(unet, scene):
    """Delta and sigma of the configuration decide how the source is reweighted."""
    source = SourceNet.start_from(unet)
    target = TargetNet.start_from(
        unet, clip_width=12, fusion="hpfa-literal+caa", delta=0.9, sigma=0.1
    )
    layer = source(scene.source)[0]
    selected = selection_mask((scene.labels > 0) & (scene.labels <= 3), layer.size)
    arguments = (layer.query, layer.key, layer.value, selected)
    fused = merge_heads(reweighted_attention(*arguments, delta=0.9, sigma=0.1))
    to_k = target.down_blocks[0].attentions[0].transformer_blocks[0].hpfa.to_k
    found = scene.conditions(target, source, shown=3).layers[0]
    torch.testing.assert_close(found.key, split_heads(to_k(fused), 2))


@torch.no_grad()
def test_the_number_of_regions_is_free(nets, scene):
    """Each layer attends to as many regions as are chosen, the most overlooked first."""
    layers = nets[1](scene.source)
    two, four = (choose_regions(layers, scene.labels, 6, count) for count in (2, 4))
    assert all(torch.equal(b[:, :2], a) for a, b in zip(two, four, strict=True))
    conditions = nets[0].condition(layers, scene.labels > 0, scene.embeddings, four)
    assert {layer.region_key.shape[2] for layer in conditions.layers} == {4}


@torch.no_grad()
def test_regions_without_embeddings_are_never_read(awake, scene):
    """Where fewer regions exist than are asked for, what the table holds elsewhere cannot show."""
    target, source = awake
    one_region = scene.labels * (scene.labels == 2)
    mask = scene.labels > 0
    layers = source(scene.source)
    chosen = choose_regions(layers, one_region, 6)
    # At the smallest layers the region may be too small to own a cell.
    assert [2, -1] in [row.tolist() for regions in chosen for row in regions]
    noise = torch.full_like(scene.embeddings, 30.0)
    noise[:, 2] = scene.embeddings[:, 2]
    outputs = [
        target(scene.noisy, TIME, scene.pose, target.condition(layers, mask, table, chosen))
        for table in (scene.embeddings, noise)
    ]
    torch.testing.assert_close(*outputs, **CLOSE)


@torch.no_grad()
def test_a_source_without_regions_runs(awake, scene):
    """A source of background alone has no regions to overlook; CAA then gives its bias."""
    target, source = awake
    layers = source(scene.source)
    background = torch.zeros_like(scene.labels)
    chosen = choose_regions(layers, background, 6)
    assert all((regions == -1).all() for regions in chosen)
    conditions = target.condition(layers, background > 0, scene.embeddings, chosen)
    assert target(scene.noisy, TIME, scene.pose, conditions).isfinite().all()


def learn(target: TargetNet, source: SourceNet, scene: object) -> tuple[float, dict[str, Tensor]]:
    """Return the loss of one step and the gradient of every parameter of both nets."""
    parameters = {
        f"{side}.{name}": weight
        for side, net in (("target", target), ("source", source))
        for name, weight in net.named_parameters()
    }
    for weight in parameters.values():
        weight.grad = None
    predicted = target(scene.noisy, TIME, scene.pose, scene.conditions(target, source))
    loss = (predicted - scene.source).square().mean()
    loss.backward()
    return loss.item(), {name: weight.grad for name, weight in parameters.items()}


def test_every_parameter_learns(awake, scene):
    """Once nothing is zero any more, every parameter of both nets gets a gradient."""
    _, gradients = learn(*awake, scene)
    assert not [name for name, g in gradients.items() if g is None or not g.any()]


def test_what_learns_in_the_first_step(nets, scene):
    """At the start only HPFA's zero output projection keeps gradients away.

    They are zero, not missing, in HPFA's other parameters and in the whole of SourceNet, which
    reaches the loss through HPFA alone; all else learns at once.
    """
    _, gradients = learn(*nets, scene)
    assert None not in gradients.values()
    still = {name for name, g in gradients.items() if not g.any()}
    behind = {
        name
        for name in gradients
        if name.startswith("source.")
        or (".hpfa." in name and not name.endswith("hpfa.to_out.weight"))
    }
    assert still == behind


def test_checkpointing_changes_no_gradient(awake, scene):
    """Gradient checkpointing in both nets saves memory and gives the same loss and gradients."""
    loss, gradients = learn(*awake, scene)
    runs: list[nn.Module] = []
    for net in awake:
        net.train()
        net.enable_gradient_checkpointing()
        block = net.down_blocks[0].attentions[0].transformer_blocks[0]
        block.register_forward_pre_hook(lambda module, _: runs.append(module))
    found, checked = learn(*awake, scene)
    assert len(runs) == 4, "each block runs again in the backward pass"
    assert found == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(checked[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_a_step_under_autocast(awake, scene):
    """Training in bfloat16 autocast gives nearly the loss of float32 and finite gradients."""
    loss, _ = learn(*awake, scene)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, gradients = learn(*awake, scene)
    assert mixed == pytest.approx(loss, rel=0.05)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@torch.no_grad()
def test_nets_survive_the_disk(unet, scene, wake, tmp_path):
    """Saved nets load with their own options and paint the same."""
    target = TargetNet.start_from(unet, clip_width=12, fusion="hpfa-literal+caa")
    source = SourceNet.start_from(unet, timestep=7)
    wake(target)
    for net, name in ((target, "target"), (source, "source")):
        net.save_pretrained(tmp_path / name)
    again = TargetNet.from_pretrained(tmp_path / "target")
    source_again = SourceNet.from_pretrained(tmp_path / "source")
    assert (again.config.clip_width, again.config.fusion) == (12, "hpfa-literal+caa")
    assert source_again.config.timestep == 7
    outputs = [
        t(scene.noisy, TIME, scene.pose, scene.conditions(t, s))
        for t, s in ((target, source), (again, source_again))
    ]
    assert torch.equal(*outputs)
    assert [p.name for p in (tmp_path / "target").glob("*.safetensors")]


@torch.no_grad()
def test_gradients_are_not_needed_to_paint(awake, scene):
    """Without gradients the conditions hold no graph, so they can be kept for many poses."""
    target, source = awake
    conditions: Conditions = scene.conditions(target, source)
    assert not any(layer.key.requires_grad for layer in conditions.layers)


def test_blocks_take_their_modules_over(make_unet: Callable[..., UNet2DConditionModel]):
    """The nets' own parameters are the plain UNet's, plus and minus what the paper changes."""
    unet = make_unet(layers_per_block=2)
    target, source = TargetNet.start_from(unet, clip_width=12), SourceNet.start_from(unet)
    hpfa = [name for name, _ in target.named_parameters() if name.endswith("hpfa.to_out.weight")]
    assert len(hpfa) == 16
    gone = set(unet.state_dict()) - set(source.state_dict())
    last = "up_blocks.3.attentions.2"
    text = (
        ".attn2.to_q.",
        ".attn2.to_k.",
        ".attn2.to_v.",
        ".attn2.to_out.0.weight",
        "blocks.0.norm2.",
    )
    after = (".attn1.to_out.", ".attn2.", ".norm3.", ".ff.")
    for name in unet.state_dict():
        removed = (
            any(part in name for part in text)
            or (name.startswith(f"{last}.transformer_blocks") and any(p in name for p in after))
            or name.startswith((f"{last}.proj_out", "conv_norm_out", "conv_out"))
        )
        assert removed == (name in gone), name
