"""Seeded noise, guidance and the DDIM loop: tensors in, tensors out (TruePose, Eq. 1 and 11)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


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


def sample(
    predict: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    scheduler: Any,
    steps: int,
    on_step: Callable[[int], None] | None = None,
) -> Tensor:
    """Run a diffusers scheduler from noise to a latent.

    Args:
        predict: Takes z_t (B, c, h, w) and a timestep (a tensor without axes, on the CPU) and
            returns
            the model's guided prediction, of the kind that the scheduler's configuration names.
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
