from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from catalogpose.truepose.sampling import guide, make_noise, sample

MEAN, DEVIATION = 0.7, 0.4
"""Of the Gaussian data whose best denoiser is known."""


def scheduler(**options: object) -> DDIMScheduler:
    """Return Stable Diffusion's DDIM schedule; trailing: any number of steps starts at T."""
    settings = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "timestep_spacing": "trailing",
    }
    return DDIMScheduler(**(settings | options))


def predict_noise(schedule: DDIMScheduler, deviation: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the best noise prediction for data N(MEAN, deviation^2)."""

    def predict(latent: Tensor, timestep: Tensor) -> Tensor:
        alpha = schedule.alphas_cumprod[timestep].double()
        variance = alpha * deviation**2 + 1 - alpha
        return (1 - alpha).sqrt() * (latent - alpha.sqrt() * MEAN) / variance

    return predict


def endpoint(schedule: DDIMScheduler, noise: Tensor) -> Tensor:
    """Return where the probability-flow ODE carries `noise`: it keeps each sample's quantile."""
    start, end = schedule.alphas_cumprod[-1].double(), schedule.final_alpha_cumprod.double()
    variance = [alpha * DEVIATION**2 + 1 - alpha for alpha in (start, end)]
    return end.sqrt() * MEAN + (noise - start.sqrt() * MEAN) * (variance[1] / variance[0]).sqrt()


def error_after(steps: int) -> float:
    """Return the sampler's largest error for Gaussian data after so many steps."""
    schedule = scheduler()
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    found = sample(predict_noise(schedule, DEVIATION), noise, schedule, steps)
    return (found - endpoint(schedule, noise)).abs().max().item()


def test_the_loop_converges_with_first_order():
    """Twice the steps halve the error, as DDIM must; any slip in the loop would show here."""
    errors = [error_after(steps) for steps in (25, 50, 100, 200)]
    assert errors[-1] < 0.05
    for coarse, fine in pairwise(errors):
        assert 1.7 < coarse / fine < 2.3


@pytest.mark.parametrize(("spacing", "steps"), [("trailing", 1), ("trailing", 20), ("leading", 35)])
def test_a_single_picture_is_hit_exactly(spacing, steps):
    """Where all data is one value, the ideal denoiser ends on it in any number of steps."""
    schedule = scheduler(timestep_spacing=spacing, steps_offset=int(spacing == "leading"))
    noise = make_noise([1, 2], (4, 3, 2)).double()
    found = sample(predict_noise(schedule, 0.0), noise, schedule, steps)
    torch.testing.assert_close(found, torch.full_like(found, MEAN), rtol=0, atol=1e-5)


def test_velocity_and_noise_predictions_agree():
    """The scheduler's configuration alone says what kind of prediction the loop gets."""
    noise = make_noise([5], (1, 4, 4)).double()
    by_noise, by_velocity = scheduler(), scheduler(prediction_type="v_prediction")

    def predict_velocity(latent: Tensor, timestep: Tensor) -> Tensor:
        alpha = by_velocity.alphas_cumprod[timestep].double()
        epsilon = predict_noise(by_velocity, DEVIATION)(latent, timestep)
        clean = (latent - (1 - alpha).sqrt() * epsilon) / alpha.sqrt()
        return alpha.sqrt() * epsilon - (1 - alpha).sqrt() * clean

    expected = sample(predict_noise(by_noise, DEVIATION), noise, by_noise, 20)
    torch.testing.assert_close(sample(predict_velocity, noise, by_velocity, 20), expected)


def test_every_step_is_told_and_asked_once():
    """The model is asked once a step, with falling timesteps on the CPU; each step is counted."""
    asked, told = [], []

    def predict(latent: Tensor, timestep: Tensor) -> Tensor:
        assert timestep.shape == ()
        assert timestep.device.type == "cpu"
        asked.append(int(timestep))
        return torch.zeros_like(latent)

    sample(predict, make_noise([0], (4, 2, 2)), scheduler(), 7, told.append)
    assert told == [1, 2, 3, 4, 5, 6, 7]
    assert len(asked) == 7
    assert asked == sorted(asked, reverse=True)


def test_noise_is_the_seeds_own():
    """A picture's noise is the same alone, in any company and in any place."""
    together = make_noise([11, 2**63 - 1, 0], (4, 5, 3))
    assert together.shape == (3, 4, 5, 3)
    assert together.dtype == torch.float32
    for index, seed in enumerate([11, 2**63 - 1, 0]):
        assert torch.equal(together[index], make_noise([seed], (4, 5, 3))[0])
    assert torch.equal(make_noise([0, 11], (4, 5, 3)), together[[2, 0]])


def test_noise_leaves_the_global_generator_alone():
    """Drawing noise neither reads nor moves torch's own random state."""
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = make_noise([9], (4, 2, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(make_noise([9], (4, 2, 2)), first)


def test_noise_is_standard_normal():
    """Different seeds give independent noise of mean 0 and deviation 1."""
    noise = make_noise(range(64), (4, 16, 11)).flatten(1)
    assert abs(noise.mean().item()) < 0.02
    assert abs(noise.std().item() - 1) < 0.02
    apart = torch.corrcoef(noise) - torch.eye(64)
    assert apart.abs().max() < 0.2


def test_guidance_is_equation_11():
    """Scale 0 is the unconditional prediction, 1 the conditional one, and 3.5 goes beyond it."""
    unconditional, conditional = torch.tensor([1.0, -2.0]), torch.tensor([3.0, -2.0])
    assert torch.equal(guide(unconditional, conditional, 0.0), unconditional)
    assert torch.equal(guide(unconditional, conditional, 1.0), conditional)
    assert guide(unconditional, conditional, 3.5).tolist() == [8.0, -2.0]
