"""One loop for every net: seeded by the step, logged, averaged, checkpointed and resumable."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from catalogpose.errors import CatalogposeError

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, how much is done and how much there is."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How one net is trained."""

    steps: int
    """Optimiser steps in all."""
    batch: int
    """Pictures or pairs a step."""
    learning_rate: float
    """AdamW's highest rate, reached after `warmup` steps."""
    warmup: int = 100
    """Steps over which the rate rises from 0."""
    decay: float = 1.0
    """Share of the steps, the last ones, with a rate falling along a cosine; 0: it stays."""
    weight_decay: float = 0.01
    """AdamW's weight decay."""
    average: float = 0.0
    """Decay of the weights' moving average, which is what is kept; 0 keeps the last weights."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    seed: int = 0
    """Seed of the batches, 0 to 2**31 - 1."""

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        start = self.steps * (1 - self.decay)
        if self.decay == 0 or step < start:
            return self.learning_rate * warm
        share = (step - start) / max(1.0, self.steps - start)
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * share))


def autocast(device: str) -> AbstractContextManager[object]:
    """Compute in bfloat16 where that is faster: GPUs, and CPUs that multiply it in hardware."""
    if (
        device != "cpu"
        or torch.cpu._is_amx_tile_supported()
        or torch.cpu._is_avx512_bf16_supported()
    ):
        return torch.autocast(torch.device(device).type, torch.bfloat16)
    return nullcontext()


class _Run:
    """The state of one training: what a checkpoint holds."""

    def __init__(self, net: nn.Module, schedule: Schedule, folder: Path) -> None:
        """Start at step 0, or where the checkpoint in `folder` left off."""
        self.net, self.schedule, self.path = net, schedule, folder / "checkpoint.pt"
        self.step = 0
        self.optimizer = torch.optim.AdamW(
            net.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay
        )
        self.average = [p.detach().clone() for p in net.parameters()]
        if self.path.exists():
            place = next(net.parameters()).device
            state = torch.load(self.path, map_location=place, weights_only=True)
            net.load_state_dict(state["net"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.step = list(state["average"]), int(state["step"])

    def save(self) -> None:
        """Write the checkpoint under a temporary name and move it into place."""
        state = {
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
        }
        temporary = self.path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.path)  # noqa: PTH105  # atomic on POSIX

    def advance(self, loss: Tensor) -> None:
        """Take one optimiser step and move the average."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.schedule.clip_norm)
        self.optimizer.step()
        self.step += 1
        # A young average follows fast, so that the random start is forgotten.
        keep = min(self.schedule.average, self.step / (self.step + 10))
        current = [p.detach() for p in self.net.parameters()]
        torch._foreach_lerp_(self.average, current, 1 - keep)

    def install_average(self) -> None:
        """Put the averaged weights into the net."""
        with torch.no_grad():
            for parameter, mean in zip(self.net.parameters(), self.average, strict=True):
                parameter.copy_(mean)


def fit(
    name: str,
    net: nn.Module,
    loss_of: Callable[[torch.Generator], Mapping[str, Tensor]],
    schedule: Schedule,
    folder: Path,
    *,
    device: str = "cpu",
    save_seconds: float = 240.0,
    preview: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """Train `net` and return it with averaged weights; a second call goes on where one stopped.

    Args:
        name: For progress and errors.
        net: Trained in place.
        loss_of: Draws a batch with the generator, which seed and step alone decide, and returns
            named
            losses; `loss` is minimised, the others are logged.
        schedule: Steps, batch and rates.
        folder: Where `checkpoint.pt` and `loss.csv` lie.
        device: Where the net is.
        save_seconds: Least time between checkpoints and previews.
        preview: Called with the step number after each checkpoint; None: no previews.
        progress: Told the steps done; None: nobody is told.

    Raises:
        CatalogposeError: If the loss is not a number; the last checkpoint is older than that step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(net, schedule, folder)
    started = saved = time.monotonic()
    net.train()
    with (folder / "loss.csv").open("a", encoding="utf-8") as log:
        while run.step < schedule.steps:
            generator = torch.Generator().manual_seed((schedule.seed << 32) + run.step)
            with autocast(device):
                losses = loss_of(generator)
            if not torch.isfinite(losses["loss"]):
                raise CatalogposeError(f"{name}: the loss is not a number at step {run.step}")
            run.advance(losses["loss"])
            if run.step % 20 == 0 or run.step == schedule.steps:
                values = " ".join(
                    f"{key}={float(value.detach()):.6g}" for key, value in losses.items()
                )
                log.write(f"{run.step},{time.monotonic() - started:.1f},{values}\n")
                log.flush()
            if progress is not None:
                progress(name, run.step, schedule.steps)
            if time.monotonic() - saved > save_seconds or run.step == schedule.steps:
                run.save()
                if preview is not None:
                    preview(run.step)
                saved = time.monotonic()
    run.install_average()
    return net.eval()
