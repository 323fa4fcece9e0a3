from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from catalogpose.truepose.sampling import (
    guide,
    keep_known,
    known_prediction,
    latent_mask,
    make_noise,
    sample,
)

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


ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
"""The bundled model's schedule: it starts at noise alone, where noise says nothing of a picture."""


def other_picture(schedule: DDIMScheduler, clean: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the predictions of a model that knows but one picture."""

    def predict(latent: Tensor, timestep: Tensor) -> Tensor:
        alpha = schedule.alphas_cumprod[timestep]
        return known_prediction(latent, clean, alpha, schedule.config.prediction_type)

    return predict


@pytest.mark.parametrize("steps", [1, 2, 20])
@pytest.mark.parametrize(
    "options", [{}, ZERO_SNR, {"prediction_type": "sample"}, {"prediction_type": "v_prediction"}]
)
def test_blended_predictions_end_on_the_blend(options, steps):
    """Between two known pictures the sampler ends on m of the one and 1 - m of the other, exactly:
    where m is 0 the reference stays, whatever the model says and however few the steps.
    """
    schedule = scheduler(**options)
    noise, mine, reference = make_noise([1, 2, 3], (4, 3, 3)).double().chunk(3)
    mask = torch.tensor([[0.0, 0.0, 0.5], [0.25, 1.0, 1.0], [0.0, 1.0, 0.5]])[None, None].double()
    predict = keep_known(other_picture(schedule, mine), reference, mask, schedule)
    found = sample(predict, noise, schedule, steps)
    expected = mask * mine + (1 - mask) * reference
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_every_step_of_a_known_picture_is_its_noised_self():
    """Outside the mask the latent is the reference's, noised as Equation 1 says, at every step."""
    schedule = scheduler(**ZERO_SNR)
    noise, reference = make_noise([4, 5], (2, 3, 3)).double().chunk(2)
    seen = []

    def predict(latent: Tensor, timestep: Tensor) -> Tensor:
        seen.append((latent, schedule.alphas_cumprod[timestep].double()))
        return torch.full_like(latent, 7.0)

    sample(keep_known(predict, reference, torch.zeros(1, 1, 3, 3), schedule), noise, schedule, 5)
    for latent, alpha in seen:
        expected = alpha.sqrt() * reference + (1 - alpha).sqrt() * noise
        torch.testing.assert_close(latent, expected, rtol=0, atol=1e-5)


def test_a_mask_of_ones_changes_no_bit():
    """A picture without a reference shares a batch with others and stays as it was."""
    schedule = scheduler(**ZERO_SNR)
    noise = make_noise([6], (4, 3, 3))

    def predict(latent: Tensor, timestep: Tensor) -> Tensor:
        return latent.sin()

    blended = keep_known(predict, torch.zeros_like(noise), torch.ones(1, 1, 3, 3), schedule)
    assert torch.equal(sample(blended, noise, schedule, 6), sample(predict, noise, schedule, 6))


def test_an_unknown_kind_of_prediction_is_refused():
    """A scheduler that predicts something else would be blended wrongly without a word."""
    latent = torch.zeros(1, 4, 2, 2)
    with pytest.raises(ValueError, match="flow"):
        known_prediction(latent, latent, torch.tensor(0.5), "flow")


def test_a_latents_mask_is_the_mean_of_its_pixels():
    """A cell that the mask cuts has its share; cells wholly inside or outside are 1 or 0."""
    mask = torch.zeros(1, 16, 24)
    mask[0, :8, :14] = 1
    mask[0, 8:, 8:] = 0.5
    expected = torch.tensor([[[[1.0, 0.75, 0.0], [0.0, 0.5, 0.5]]]])
    assert torch.equal(latent_mask(mask, (2, 3)), expected)
