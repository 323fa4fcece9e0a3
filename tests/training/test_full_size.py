"""The true sizes of Stable Diffusion 1.5, and gradients in every trainable parameter."""

import importlib
import itertools
import runpy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from catalogpose.training.nets import TruePoseNets
from catalogpose.training.objective import Objective
from catalogpose.training.pairs import Pairs
from catalogpose.training.processes import open_accelerator
from catalogpose.training.schedule import Schedule
from catalogpose.training.trial import try_out

STABLE_DIFFUSION = 859_520_964
"""Parameters of Stable Diffusion 1.5's UNet."""

WIDTHS = {320: 5, 640: 5, 1280: 6}
"""How many of its 16 transformer blocks have which width."""

TINY: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
"""A UNet with a block of every kind that matters: down, middle, up."""

SMALL_VAE: dict[str, Any] = {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
}
"""A VAE with Stable Diffusion's factor of 8."""


@pytest.fixture(scope="module")
def script() -> Mapping[str, Any]:
    """Return the names of the benchmark, which is a script and no module of the package."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "full_size.py"
    return runpy.run_path(str(path), run_name="full_size")


def test_the_true_sizes_are_the_paper_s_additions_to_stable_diffusion(script) -> None:
    """Both nets have Stable Diffusion's parameters, what the paper adds, less what is not run."""
    with torch.device("meta"):
        counts = script["count_parameters"](script["make_nets"]())
    text = 768
    # HPFA has four square layers and a norm; region_proj is as wide as CLIP and the text.
    added = sum(n * (4 * c * c + 2 * c) for c, n in WIDTHS.items()) + text * text + text
    assert added == 50_177_152
    assert counts["unet, not of Stable Diffusion"] == added
    assert counts["unet"] == STABLE_DIFFUSION + added == 909_698_116
    # Of attn2 SourceNet keeps the bias: no queries, output weight, keys, values, norm.
    unused = sum(n * (2 * c * c + 2 * text * c + 2 * c) for c, n in WIDTHS.items())
    c = 320
    # After the last block's Q', K', V': attn1's output, attn2's bias, norm3, the feed-forward of
    # 8 c gated and 4 c plain channels, proj_out, the last norm and the last convolution.
    after = (c * c + c) + c + 2 * c + (8 * c * c + 8 * c) + (4 * c * c + c) + (c * c + c)
    after += 2 * c + (9 * 4 * c + 4)
    assert counts["source_unet"] == STABLE_DIFFUSION - unused - after == 814_095_680
    convolutions = ((3, 16), (16, 32), (32, 96), (96, 320))
    assert counts["pose_encoder"] == sum(9 * a * b + b for a, b in convolutions) == 309_632
    assert counts["trainable"] == 909_698_116 + 814_095_680 + 309_632


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Keep such small nets on one core: waiting for a second takes longer than their arithmetic."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the tests of gradients share."""

    script: Mapping[str, Any]
    """The benchmark's names."""
    nets: TruePoseNets
    """Small nets as they start."""
    vae: nn.Module
    """A small frozen VAE."""
    pair: Pairs
    """A small studio pair."""
    loss_of: Callable[[nn.Module, int], Mapping[str, Tensor]]
    """The recipe's objective on the pair."""
    seeds: Sequence[int]
    """Two that keep the conditions."""

    def gradients(self, objective: Objective | None = None) -> dict[str, Tensor]:
        """Return the gradients of the first seed's loss by parameter; None: of the recipe's."""
        self.nets.zero_grad(set_to_none=True)
        loss_of = self.script["bind_loss"](self.pair, objective)
        loss_of(self.nets, self.seeds[0])["loss"].backward()
        named = self.nets.named_parameters()
        return {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.fixture
def bench(script) -> Bench:
    """Return nets, pair and seeds, all made by the benchmark itself."""
    torch.manual_seed(0)
    vae, nets = script["make_vae"](SMALL_VAE), script["make_nets"](TINY)
    pair = script["make_pair"](vae, (64, 48))
    loss_of = script["bind_loss"](pair)
    seeds = list(itertools.islice(script["seeds_with_conditions"](loss_of), 2))
    return Bench(script=script, nets=nets, vae=vae, pair=pair, loss_of=loss_of, seeds=seeds)


def checkpointing(nets: TruePoseNets, *, on: bool) -> None:
    """Switch gradient checkpointing in both UNets."""
    for unet in (nets.unet, nets.source_unet):
        if on:
            unet.enable_gradient_checkpointing()
        else:
            unet.disable_gradient_checkpointing()


def test_a_step_as_on_a_gpu_moves_every_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's part of the benchmark makes small nets where it is told, takes steps of several
    pairs in the loop's precision, and moves all weights of both UNets and the pose encoder.
    """
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    gpu = importlib.import_module("full_size_gpu")
    nets, vae = gpu.build("cpu", TINY, SMALL_VAE)
    before = [weight.detach().clone() for weight in nets.parameters()]
    loss_of = gpu.bind_loss(gpu.make_pair(vae, (64, 48)), count=3, device="cpu")
    step = gpu.make_step(nets, loss_of, "cpu")
    losses = [step(seed) for seed in itertools.islice(gpu.seeds_with_conditions(loss_of), 2)]
    assert all(0 < loss < 10 for loss in losses)
    assert losses[0] != losses[1]
    assert gpu.look_at_gradients(nets)["not_zero"] == len(before)
    pairs = zip(nets.parameters(), before, strict=True)
    assert all(bool((weight != old).any()) for weight, old in pairs)


def test_two_steps_reach_every_trainable_parameter_and_no_frozen_one(bench) -> None:
    """What starts at zero hides the layers behind it for one step; two AdamW steps move all."""
    optimizer = bench.script["make_optimizer"](bench.nets, 1e-3)
    before = bench.script["Snapshot"](bench.nets)
    meter = bench.script["Meter"]()
    found = []
    for seed in bench.seeds:
        bench.script["take_step"](bench.nets, bench.loss_of, seed, optimizer, meter)
        found.append(bench.script["look_at_gradients"](bench.nets, bench.vae))
    first, second = found
    for report in found:
        assert report["with_gradient"] == report["trainable"] > 300
        assert report["without_gradient"] == report["not_finite"] == []
        assert report["frozen_with_gradient"] == 0 < report["frozen"]
    hidden = ["pose_encoder: all but last", "source_unet", "unet: HPFA, all but last"]
    assert sorted(first["zero_throughout_by_part"]) == hidden
    assert first["zero_throughout"] == []
    assert second["not_zero"] == second["trainable"]
    assert before.compare(bench.nets)["tensors_unchanged"] == 0


def test_gradients_that_lack_are_named(bench) -> None:
    """A frozen parameter with a gradient and a trainable one without are both reported."""
    bench.gradients()
    bench.nets.unet.conv_out.bias.grad = None
    bench.nets.unet.conv_in.bias.requires_grad_(False)
    report = bench.script["look_at_gradients"](bench.nets)
    assert report["without_gradient"] == ["unet.conv_out.bias"]
    assert (report["frozen"], report["frozen_with_gradient"]) == (1, 1)


@pytest.mark.parametrize("fusion", ["hpfa+caa", "hpfa-literal+caa", "concat", "clip-mlp", "none"])
def test_what_a_fusion_leaves_unused_is_frozen(script, fusion: str) -> None:
    """The weights without a gradient are exactly those that are not trained, so a dry run finds
    nothing wrong.
    """
    torch.manual_seed(0)
    nets = TruePoseNets(TINY, {"in_channels": 3, "widths": (8, 8, 8)}, 768, fusion)
    pair = script["make_pair"](script["make_vae"](SMALL_VAE), (64, 48))
    loss_of = script["bind_loss"](pair, Objective(condition_dropout=0.0))
    loss_of(nets, 0)["loss"].backward()
    without = {name for name, weight in nets.named_parameters() if weight.grad is None}
    assert without == {n for n, weight in nets.named_parameters() if not weight.requires_grad}
    source = {name for name, _ in nets.named_parameters() if name.startswith("source_unet.")}
    assert len(without) == {"concat": 3, "clip-mlp": len(source), "none": len(source)}.get(
        fusion, 0
    )
    assert without <= source
    nets.zero_grad(set_to_none=True)
    schedule = Schedule(steps=2, batch=1, learning_rate=1e-3)
    trial = try_out(nets, lambda _: loss_of(nets, 0), schedule, open_accelerator("cpu"), 1)
    trained = [weight for weight in nets.parameters() if weight.requires_grad]
    assert trial.trainable == sum(weight.numel() for weight in trained)
    joined = TruePoseNets.joined(
        nets.unet, nets.source_unet.requires_grad_(True), nets.pose_encoder
    )
    assert without == {n for n, weight in joined.named_parameters() if not weight.requires_grad}


@pytest.mark.parametrize(
    "objective", [Objective(), Objective(flow_weight=1.0)], ids=["paper", "watched"]
)
def test_checkpointing_changes_no_gradient(bench, objective) -> None:
    """Recomputed activations give the same gradients to the bit, in every parameter."""
    with torch.no_grad():
        for weight in bench.nets.parameters():
            if not weight.any():
                weight.normal_(std=0.1)
    found = []
    for on in (True, False):
        checkpointing(bench.nets, on=on)
        found.append(bench.gradients(objective))
    with_it, without = found
    assert set(with_it) == {name for name, _ in bench.nets.named_parameters()}
    assert all(grad.any() and torch.equal(grad, without[name]) for name, grad in with_it.items())


def test_checkpointing_keeps_less_for_the_backward_pass(bench) -> None:
    """Activations within a block are not kept until they are wanted again."""
    meter = bench.script["Meter"]()
    kept = bench.script["compare_checkpointing"](
        bench.nets, lambda: bench.loss_of(bench.nets, bench.seeds[0])["loss"], meter
    )
    assert 0 < kept["with_checkpointing_mib"] < 0.6 * kept["without_checkpointing_mib"]
