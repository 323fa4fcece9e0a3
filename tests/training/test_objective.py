"""What is minimised: the plain loss, and each switch with a known answer."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from catalogpose.errors import UsageError
from catalogpose.records import LABEL_ID
from catalogpose.training.objective import (
    Objective,
    carried_target,
    denoising_loss,
    draw_timesteps,
    latent_weights,
    prediction_target,
)
from catalogpose.training.pairs import PairBatch

SIZE = (4, 3)


def make_batch() -> PairBatch:
    """Return two pairs whose target is their source, each cell another point of one part."""
    latents = torch.randn(2, 2, *SIZE, generator=torch.Generator().manual_seed(0))
    labels = torch.full((2, 32, 24), LABEL_ID["hair"])
    v, u = torch.meshgrid(torch.arange(8) * 32, torch.arange(6) * 42, indexing="ij")
    surface = torch.stack([torch.ones_like(u), v, u], dim=-1).to(torch.uint8)
    return PairBatch(
        sources=latents,
        source_of=torch.arange(2),
        target=latents,
        labels=labels,
        target_labels=labels,
        known=torch.zeros(2, 28, dtype=torch.bool),
        embeddings=torch.zeros(2, 28, 5),
        shown=torch.zeros(2, 28, dtype=torch.bool),
        joints=torch.full((2, 18, 3), 10.0),
        source_surface=surface.expand(2, 8, 6, 3),
        target_surface=surface.expand(2, 8, 6, 3),
    )


class Nets:
    """Predicts `offset` away from the noise; its attention is sharp on the same cell, or flat."""

    def __init__(self, offset: float = 0.0, sharpness: float = 0.0) -> None:
        """Remember both."""
        self.offset, self.sharpness = offset, sharpness
        self.keep = torch.zeros(0)
        self.watched: list[bool] = []

    def __call__(
        self,
        batch: PairBatch,
        noisy: Tensor,
        timestep: Tensor,
        pose: Tensor,
        keep: Tensor,
        watch: bool,
    ) -> tuple[Tensor, Any, Any]:
        """Return prediction, queries and keys, as TruePoseNets does."""
        source, self.keep = batch.sources[batch.source_of], keep
        clean = source.repeat(len(noisy) // len(source), 1, 1, 1)
        alphas = DDIMScheduler().alphas_cumprod[timestep][:, None, None, None]
        noise = (noisy - alphas.sqrt() * clean) / (1 - alphas).sqrt()
        count = SIZE[0] * SIZE[1]
        cells = self.sharpness * torch.eye(count).expand(len(noisy), 1, count, count)
        self.watched.append(watch)
        layers: Sequence[Any] = [SimpleNamespace(key=torch.eye(count).expand_as(cells))]
        return noise + self.offset, [(0, cells)], layers


def loss_with(nets: Nets, batch: PairBatch | None = None, **options: Any) -> dict[str, float]:
    """Return the losses of one batch under an objective."""
    found = denoising_loss(
        batch or make_batch(), nets, DDIMScheduler(), "rgb", Objective(**options),
        torch.Generator().manual_seed(1), "cpu",
    )  # fmt: skip
    return {name: float(value) for name, value in found.items()}


def test_the_plain_loss_is_the_mean_squared_error_of_the_noise() -> None:
    """A prediction that is off by 0.5 everywhere costs 0.25, and nobody watches (Eq. 2)."""
    nets = Nets(offset=0.5)
    found = loss_with(nets, condition_dropout=0.0)
    assert found == pytest.approx({"loss": 0.25, "with_c": 0.25}, rel=1e-3)
    assert nets.watched == [False]


def test_the_condition_is_dropped_as_often_as_asked() -> None:
    """Of many rows the share without C is near eta (Eq. 10)."""
    nets = Nets()
    loss_with(nets, condition_dropout=0.3, noises=400)
    assert 1 - float(nets.keep.float().mean()) == pytest.approx(0.3, abs=0.06)


def test_each_kind_of_prediction_has_its_target() -> None:
    """Noise, velocity and clean latent are what the scheduler's configuration says."""
    clean, noise, time = torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 3.0), torch.tensor([500])
    found = {
        kind: prediction_target(DDIMScheduler(prediction_type=kind), clean, noise, time)
        for kind in ("epsilon", "sample", "v_prediction")
    }
    assert torch.equal(found["epsilon"], noise)
    assert torch.equal(found["sample"], clean)
    alpha = DDIMScheduler().alphas_cumprod[500]
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
    torch.testing.assert_close(found["v_prediction"], velocity)


@pytest.mark.parametrize(("kind", "mean"), [("uniform", 500), ("high", 750)])
def test_timesteps_are_drawn_as_asked(kind: Any, mean: float) -> None:
    """Uniform timesteps average half of all; 1 - u**3 of them three quarters."""
    drawn = draw_timesteps(Objective(timesteps=kind), 4000, 1000, torch.Generator().manual_seed(0))
    assert float(drawn.float().mean()) == pytest.approx(mean, abs=20)
    assert 0 <= int(drawn.min()) <= int(drawn.max()) <= 999


def test_latents_of_the_person_count_more() -> None:
    """Background 1, skin 1 + s, a garment 1 + 2 s, all over their mean."""
    labels = torch.zeros(1, 24, 8, dtype=torch.long)
    labels[:, 8:16], labels[:, 16:] = LABEL_ID["left-arm"], LABEL_ID["dress"]
    found = latent_weights(labels, (3, 1), 2.0).flatten()
    torch.testing.assert_close(found, torch.tensor([1.0, 3.0, 5.0]) / 3)


@pytest.mark.parametrize("name", ["truth", "flow"])
def test_attention_that_looks_where_it_should_costs_less(name: str) -> None:
    """Looking at the same cell, where the target's surface and latent are, beats looking around."""
    options = {f"{name}_weight": 2.0, "condition_dropout": 0.0}
    sharp, flat = (loss_with(Nets(sharpness=s), **options) for s in (30.0, 0.0))
    assert sharp[name] < 0.5 * flat[name]
    assert sharp["loss"] == pytest.approx(2 * sharp[name], abs=1e-3)
    if name == "truth":
        assert flat["truth"] == pytest.approx(math.log(12), rel=1e-3)
    else:
        assert sharp["flow"] == pytest.approx(0.0, abs=1e-4)


def test_dropped_rows_are_not_supervised() -> None:
    """Where C is zero there is no attention to speak of."""
    found = loss_with(Nets(), truth_weight=1.0, flow_weight=1.0, condition_dropout=1.0)
    assert (found["truth"], found["flow"]) == (0.0, 0.0)
    assert "with_c" not in found
    assert math.isfinite(found["loss"])


def test_layers_too_fine_to_watch_cost_nothing(monkeypatch) -> None:
    """Where no layer is watched, truth and flow are 0."""
    monkeypatch.setattr("catalogpose.training.objective.WATCHED_TOKENS", 11)
    found = loss_with(Nets(), truth_weight=1.0, flow_weight=1.0, condition_dropout=0.0)
    assert (found["truth"], found["flow"]) == (0.0, 0.0)


@pytest.mark.parametrize("fusion", ["none", "concat+caa", "clip-mlp"])
def test_only_hpfa_can_be_watched(fusion: str) -> None:
    """Another fusion is refused in one line, and allowed where nothing is watched."""
    for name in ("truth_weight", "flow_weight"):
        with pytest.raises(UsageError, match=f"need a fusion with HPFA, not {re.escape(fusion)}"):
            Objective(**{name: 1.0}).check_parts(fusion, matched=False)
        Objective(**{name: 1.0}).check_parts("hpfa-literal+caa", matched=False)
    Objective().check_parts(fusion, matched=False)


def test_what_is_carried_needs_a_matcher() -> None:
    """Without one, learning what it carries is refused in one line."""
    with pytest.raises(UsageError, match="carried_weight needs a matcher"):
        Objective(carried_weight=1.0).check_parts("hpfa+caa", matched=False)
    Objective(carried_weight=1.0).check_parts("hpfa+caa", matched=True)


def carried_beside(target: Tensor, sure: float) -> Tensor:
    """Return a carried pattern of the target's mean colour, everywhere as sure: stripes of +-0.5,
    whose mean over `COLOUR_SIDE` cells is a tenth at most.
    """
    stripes = torch.ones_like(target)
    stripes[..., ::2, :] = -1
    return torch.cat([target + 0.5 * stripes, torch.full_like(target[:, :1], sure)], dim=1)


def test_what_is_carried_is_learnt_where_it_is_sure() -> None:
    """Sure and of the right colour: stripes become the target; not sure, they do not; half sure,
    half of them; and by the weight.
    """
    target = torch.zeros(1, 2, 20, 6)
    labels = torch.full((1, 160, 48), LABEL_ID["dress"])
    stripes = carried_beside(target, 1.0)[:, :2]
    for sure, weight, share in [
        (1, 1, 1),
        (0.5, 1, 1),
        (0.25, 1, 0),
        (0.325, 1, 0.5),
        (1, 0.25, 0.25),
    ]:
        found = carried_target(target, carried_beside(target, sure), labels, weight)
        torch.testing.assert_close(found, share * stripes, rtol=0.01, atol=1e-4)


def test_what_is_carried_is_not_learnt_elsewhere() -> None:
    """Beside the person, and where the colour is another, the target is the truth."""
    target = torch.zeros(1, 2, 20, 6)
    labels = torch.zeros(1, 160, 48, dtype=torch.long)
    assert torch.equal(carried_target(target, carried_beside(target, 1.0), labels, 1.0), target)
    labels[:] = LABEL_ID["dress"]
    other = carried_beside(target, 1.0) + 2.0
    torch.testing.assert_close(carried_target(target, other, labels, 1.0), target)


def test_rows_without_c_learn_the_truth() -> None:
    """Where C is dropped, nothing is carried: the target is the pair's own, whatever the weight."""
    batch = make_batch()
    labels = torch.full((2, 32, 24), LABEL_ID["dress"])
    batch = replace(batch, target_labels=labels, carried=carried_beside(batch.target, 1.0))
    kept, dropped = (
        loss_with(Nets(), batch, carried_weight=1.0, condition_dropout=rate)["loss"]
        for rate in (0.0, 1.0)
    )
    assert dropped == pytest.approx(0.0, abs=1e-6)
    assert kept > 0.05


def test_photos_have_no_true_correspondences() -> None:
    """Asking for them is one plain line."""
    photos = replace(make_batch(), source_surface=None)
    with pytest.raises(UsageError, match="truth_weight needs studio pictures"):
        loss_with(Nets(), photos, truth_weight=1.0)


@pytest.mark.parametrize(
    "options",
    [
        {"flow_weight": -1},
        {"noises": 0},
        {"condition_dropout": 2},
        {"timesteps": "low"},
        {"carried_weight": 1.5},
    ],
)
def test_an_objective_out_of_range_is_refused(options: dict[str, Any]) -> None:
    """The line names what is wrong."""
    with pytest.raises(UsageError, match=next(iter(options))):
        Objective(**options)
