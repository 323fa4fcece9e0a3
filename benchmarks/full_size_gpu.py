"""What `full_size.py --device cuda` measures: the recipe's training steps on a GPU.

Random weights of Stable Diffusion 1.5's sizes, made on the card; weights, gradients, AdamW's
moments and the moving average are float32, the nets compute under bfloat16's autocast with gradient
checkpointing, as `catalogpose train` does. The batch is one studio pair, repeated, each with a
source of its own. Losses and gradients are real, checkpoints are not written, and reading pairs
from the disk is left out.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers import __version__ as diffusers_version
from full_size import (
    GIB,
    UNET,
    VAE,
    LossOf,
    bind_loss,
    count_parameters,
    look_at_gradients,
    make_nets,
    make_pair,
    make_vae,
    recipe_of,
    seeds_with_conditions,
)
from torch import Tensor

from catalogpose.training.loop import autocast, make_adam
from catalogpose.training.nets import TruePoseNets
from catalogpose.training.schedule import Schedule

WARM_UP = 2
"""Steps that are not timed: kernels are chosen, and AdamW's moments made, in the first."""


def build(
    device: str, unet: Mapping[str, Any] = UNET, vae: Mapping[str, Any] = VAE
) -> tuple[TruePoseNets, AutoencoderKL]:
    """Make the nets and the VAE on the device itself: on a CPU random weights take a minute."""
    torch.manual_seed(0)
    with torch.device(device):
        return make_nets(unet), make_vae(vae)


def make_step(nets: TruePoseNets, loss_of: LossOf, device: str) -> Callable[[int], float]:
    """Return what takes the training loop's step with a seed and returns its loss."""
    schedule = Schedule(**recipe_of()["schedule"])
    adam, precision = make_adam(nets, schedule), autocast(device)
    weights: list[Tensor] = list(nets.parameters())
    average = [weight.detach().clone() for weight in weights]

    def step(seed: int) -> float:
        """Learn, and draw the averaged weights towards the present ones."""
        adam.zero_grad(set_to_none=True)
        with precision:
            loss: Tensor = loss_of(nets, seed)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, schedule.clip_norm)
        adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1 - schedule.average)
        return float(loss.detach())

    return step


def time_steps(step: Callable[[int], float], seeds: list[int]) -> tuple[list[float], list[float]]:
    """Take a step a seed; return seconds and losses of all but the first `WARM_UP`."""
    seconds, losses = [], []
    for seed in seeds:
        torch.cuda.synchronize()
        started = time.perf_counter()
        losses.append(step(seed))
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds[WARM_UP:], losses[WARM_UP:]


def report(nets: TruePoseNets, loss_of: LossOf, batch: int, steps: int) -> dict[str, Any]:
    """Take the steps and return what was seen."""
    seeds = list(itertools.islice(seeds_with_conditions(loss_of), WARM_UP + steps))
    torch.cuda.reset_peak_memory_stats()
    seconds, losses = time_steps(make_step(nets, loss_of, "cuda"), seeds)
    median = statistics.median(seconds)
    return {
        "seconds_per_step": round(median, 4),
        "pairs_per_second": round(batch / median, 3),
        "max_memory_allocated_gib": round(torch.cuda.max_memory_allocated() / GIB, 3),
        "seconds": [round(value, 4) for value in seconds],
        "losses": losses,
        "gradients": look_at_gradients(nets),
    }


def measure_gpu(size: tuple[int, int], batch: int, steps: int) -> dict[str, Any]:
    """Return the figures of the first GPU.

    Raises:
        SystemExit: If there is none, or its memory is too small.
    """
    if not torch.cuda.is_available():
        raise SystemExit("no GPU that torch can use; --device cpu works without")
    card = torch.cuda.get_device_properties(0)
    try:
        nets, coder = build("cuda")
        parameters = count_parameters(nets, coder)
        pairs = make_pair(coder, size)
        del coder  # Training reads latents that were made before.
        found = report(nets, bind_loss(pairs, count=batch, device="cuda"), batch, steps)
    except torch.OutOfMemoryError:
        raise SystemExit(
            f"a batch of {batch} at {size[0]} x {size[1]} does not fit into the "
            f"{card.total_memory / GIB:.1f} GiB of {card.name}: lower --batch"
        ) from None
    return {
        "card": card.name,
        "card_gib": round(card.total_memory / GIB, 1),
        "torch": torch.__version__,
        "diffusers": diffusers_version,
        "cuda": torch.version.cuda,
        "precision": "float32 weights and moments, bfloat16 autocast",
        "gradient_checkpointing": True,
        "warm_up_steps": WARM_UP,
        "timed_steps": steps,
        "latent": [side // 8 for side in size],
        "parameters": parameters,
        **found,
    }
