"""A dry run: one micro-batch, two real optimiser steps, and what the whole training would take."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from catalogpose.errors import CatalogposeError
from catalogpose.training.loop import LossOf, Schedule, make_adam
from catalogpose.training.schedule import draw_generator
from catalogpose.training.stopping import describe_step, needing_memory


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a dry run found; sizes in bytes, of one process."""

    parameters: int
    """All numbers of the nets."""
    trainable: int
    """Those that training changes."""
    weights: int
    """Counted: parameters in the width in which they are held."""
    gradients: int
    """Counted: as wide as the weights that they are of."""
    optimiser: int
    """Counted after a real step: AdamW's two moments."""
    average: int
    """Counted: the float32 average of the weights; 0 without one."""
    activations: int
    """Counted: what autograd kept of one micro-batch for the backward pass. With gradient
    checkpointing each block is computed again then, which takes as much as its own for a moment."""
    peak: int
    """Measured: the most that was in use; on a GPU torch's own memory, on a CPU the process's."""
    batch: int
    """Pairs a step, over all processes."""
    micro_batch: int
    """Pairs computed at once in each process."""
    steps: int
    """Steps in all."""
    seconds: float
    """Measured: the second step, accumulation included."""
    hours: float
    """Estimated from that one step; validation and checkpoints come on top."""
    loss: float
    """Of the first micro-batch."""
    silent: tuple[str, ...]
    """Trainable weights whose gradient was zero throughout both steps: rarely right."""

    exit_code = 0
    """The shell's exit code; what is wrong is an error instead."""

    def __str__(self) -> str:
        """Tell a person, a fact a line."""
        sizes = [
            ("weights", self.weights), ("gradients", self.gradients), ("AdamW", self.optimiser),
            ("average", self.average), ("activations", self.activations),
        ]  # fmt: skip
        counted = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in sizes)
        lines = [
            f"parameters: {self.parameters:,}, trainable {self.trainable:,}, "
            f"frozen {self.parameters - self.trainable:,}; the VAE is not among them",
            f"memory, GB: {counted}, sum {sum(size for _, size in sizes) / 1e9:.2f} (counted); "
            f"peak {self.peak / 1e9:.2f} (measured)",
            f"batch: {self.batch} pairs a step, {self.micro_batch} at once in each process",
            f"steps: {self.steps:,} of {self.seconds:.2f} s: about {self.hours:,.1f} hours, "
            "without validation and checkpoints (from one timed step)",
            f"one batch: loss {self.loss:.4f}, gradients in every trainable parameter, in no other",
        ]
        if self.silent:
            lines.append(
                f"note: {len(self.silent)} weights had no gradient but zero in two steps, the "
                f"first of them {self.silent[0]}"
            )
        return "\n".join(lines)


def try_out(
    nets: nn.Module,
    loss_of: LossOf,
    schedule: Schedule,
    accelerator: Accelerator,
    accumulation: int,
) -> Trial:
    """Take two optimiser steps, check them and measure; nothing is written.

    Raises:
        CatalogposeError: If the loss is not finite, a trainable weight gets no gradient, or a
            frozen one gets one.
        EnvironmentFault: If the memory is too small.
    """
    adam = make_adam(nets, schedule)
    kept = _Kept(nets)
    silent = {name for name, weight in nets.named_parameters() if weight.requires_grad}
    nets.train()
    with needing_memory(*describe_step(schedule.batch, accumulation)):
        # Layers that start at zero hold back what lies behind them in the first step.
        for step in range(2):
            started = time.perf_counter()
            losses = _learn(loss_of, kept, schedule.seed, step, accelerator, accumulation)
            silent -= _check(nets, losses)
            torch.nn.utils.clip_grad_norm_(nets.parameters(), schedule.clip_norm)
            adam.step()
            adam.zero_grad(set_to_none=True)
            if accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - started
    trainable = [weight for weight in nets.parameters() if weight.requires_grad]
    return Trial(
        parameters=sum(weight.numel() for weight in nets.parameters()),
        trainable=sum(weight.numel() for weight in trainable),
        weights=_bytes(nets.parameters()),
        gradients=_bytes(trainable),
        optimiser=_bytes(v for s in adam.state.values() for v in s.values()),
        average=4 * sum(weight.numel() for weight in trainable) if schedule.average else 0,
        activations=kept.most,
        peak=_peak(accelerator.device),
        batch=schedule.batch,
        micro_batch=schedule.share(accelerator.num_processes * accumulation),
        steps=schedule.steps,
        seconds=seconds,
        hours=schedule.steps * seconds / 3600,
        loss=losses[0],
        silent=tuple(sorted(silent)),
    )


def _learn(
    loss_of: LossOf,
    kept: _Kept,
    seed: int,
    step: int,
    accelerator: Accelerator,
    accumulation: int,
) -> list[float]:
    """Gather one step's gradient; return the losses of its micro-batches."""
    losses = []
    for micro in range(accumulation):
        generator = draw_generator(seed, step, accelerator.process_index * accumulation + micro)
        with kept.counting(), accelerator.autocast():
            loss = loss_of(generator)["loss"]
        # Without a scaler, so that what overflows is the model's own fault.
        (loss / accumulation).backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
    return losses


def _check(nets: nn.Module, losses: Sequence[float]) -> set[str]:
    """Check a step's loss and gradients; return the names of weights whose own is not zero."""
    if not all(map(math.isfinite, losses)):
        raise CatalogposeError("the loss of a batch is not a number; try another --precision")
    without = [n for n, w in nets.named_parameters() if w.requires_grad and w.grad is None]
    if without:
        raise CatalogposeError(
            f"{len(without)} trainable weights got no gradient, the first of them {without[0]}"
        )
    frozen = [n for n, w in nets.named_parameters() if not w.requires_grad and w.grad is not None]
    if frozen:
        raise CatalogposeError(f"{len(frozen)} frozen weights got a gradient: {frozen[0]}")
    graded = {n: w.grad for n, w in nets.named_parameters() if w.grad is not None}
    broken = [n for n, grad in graded.items() if not torch.isfinite(grad).all()]
    if broken:
        raise CatalogposeError(
            f"{len(broken)} weights got gradients that are not finite, the first of them "
            f"{broken[0]}; try another --precision"
        )
    return {n for n, grad in graded.items() if grad.any()}


class _Kept:
    """Counts the bytes that autograd keeps of a forward pass, the weights themselves left out."""

    def __init__(self, nets: nn.Module) -> None:
        """Leave out the weights of `nets`."""
        self.most = 0
        self._weights = {weight.untyped_storage().data_ptr() for weight in nets.parameters()}

    def counting(self) -> torch.autograd.graph.saved_tensors_hooks:
        """Return a context that counts what is kept in it; each storage counts once."""
        seen = set(self._weights)
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            """Count a tensor's storage."""
            nonlocal total
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                total += storage.nbytes()
                self.most = max(self.most, total)
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Return the size of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _peak(device: torch.device) -> int:
    """Return the most memory that was in use: torch's on a GPU, else the process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
