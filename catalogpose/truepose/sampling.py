"""Seeded noise, guidance, style transfer and the DDIM loop: tensors in, tensors out (TruePose,
Eq. 1 and 11, section 5.4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Predict = Callable[[Tensor, Tensor], Tensor]
"""Takes z_t (B, c, h, w) and a timestep (no axes, on the CPU) and returns the guided prediction."""


def make_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """Draw each picture's own noise on the CPU, so that it depends on its seed alone.

    Args:
        seeds: One a picture, 0 to 2**63 - 1.
        shape: Channels, height and width of a latent.

    Returns:
        float32 (len(seeds), *shape) on the CPU.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def guide(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance, Eq. 11: unconditional + scale * (conditional - unconditional)."""
    return unconditional + scale * (conditional - unconditional)


def latent_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a mask (B, H, W), 0 to 1, to a latent's size: float32 (B, 1, h, w), each cell the mean.

    The paper's binary mask is one of pixels, and a cell stands for many of them (ours): at every
    step a cell that the mask touches belongs to the source, and at the end each is blended by its
    share. Blended by their shares at every step, cells on the border carry the reference's garment
    into the source's: 16.8 dE00 in place of 12.7 after 20 steps, measured as in `keep_known`.
    """
    return F.interpolate(mask[:, None].float(), size=size, mode="area")


def known_prediction(noisy: Tensor, clean: Tensor, alpha: Tensor, kind: str) -> Tensor:
    """Return the prediction that leads from z_t to a latent z_0 that is known: Eq. 1, solved.

    Args:
        noisy: z_t, (B, c, h, w).
        clean: z_0, of that shape.
        alpha: The schedule's cumulative product at t, 0 to below 1; no axes. At 0, where
            zero-terminal-SNR schedules start, `epsilon` says nothing of z_0, as for any model.
        kind: `epsilon`, `v_prediction` or `sample`, as the scheduler's configuration names it.

    Raises:
        ValueError: If `kind` is another word.
    """
    if kind == "sample":
        return clean
    if kind == "epsilon":
        return (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()
    if kind == "v_prediction":
        # v = a eps - s z_0, where eps = (z_t - a z_0) / s and a^2 + s^2 = 1.
        return (alpha.sqrt() * noisy - clean) / (1 - alpha).sqrt()
    raise ValueError(f"unknown kind of prediction: {kind}")


def keep_known(predict: Predict, clean: Tensor, mask: Tensor, scheduler: Any) -> Predict:
    """Blend a model's predictions with those of a known picture at every step (section 5.4):
    y_t = m * y_t + (1 - m) * y_t^ref.

    m = 1 where the source's cloth shall appear (ours: the paper leaves its sense open). y_t^ref is
    what leads from z_t to the reference's own latent (ours). The paper's is the net's prediction
    for the reference as its own source; but a net that paints the reference anew keeps it no better
    than it re-poses, and costs a second pass a step. With this one the latent outside the mask is
    the reference's, noised, at every step, and the reference itself at the end. Measured outside
    the mask on 16 studio pairs with the first bundled model, PSNR to the reference: the paper's
    21.5 dB, this 25.8 dB, the VAE alone 26.8 dB. Inside, PSNR to the truth is level, and the mean
    colour 12.0 dE00 from the truth against 11.2.

    Args:
        predict: The model's guided prediction y_t.
        clean: The reference's latent, (B, c, h, w).
        mask: m, (B, 1, h, w), 0 to 1; a row of ones keeps the model's prediction to the bit.
        scheduler: Says by its configuration what kind of prediction y_t is, and its schedule.
    """

    def blend(noisy: Tensor, timestep: Tensor) -> Tensor:
        alpha = scheduler.alphas_cumprod[timestep]
        known = known_prediction(noisy, clean, alpha, scheduler.config.prediction_type)
        return mask * predict(noisy, timestep) + (1 - mask) * known

    return blend


def sample(
    predict: Predict,
    noise: Tensor,
    scheduler: Any,
    steps: int,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Run a diffusers scheduler from noise to a latent.

    Args:
        predict: The model's guided prediction, of the kind that the scheduler's configuration
            names.
        noise: (B, c, h, w), standard normal.
        scheduler: A diffusers scheduler such as `DDIMScheduler`; its timesteps are set here.
        steps: Number of denoising steps, 1 or more.
        on_step: Called with 1, 2, ... after each step; None: nobody is told.

    Returns:
        z_0, (B, c, h, w).
    """
    # The timesteps stay on the CPU: a CUDA timestep makes DDIMScheduler synchronise at each step.
    scheduler.set_timesteps(steps)
    latent: Tensor = noise * scheduler.init_noise_sigma
    for index, timestep in enumerate(scheduler.timesteps, start=1):
        predicted = predict(scheduler.scale_model_input(latent, timestep), timestep)
        latent = scheduler.step(predicted, timestep, latent).prev_sample
        if on_step is not None:
            on_step(index)
    return latent
