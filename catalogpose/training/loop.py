"""One loop for every net, on accelerate: seeded by the step, logged, averaged, checkpointed and
resumable, on one process or many.

`fit` trains. `Schedule` says how long, `Check` what is measured on the way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from catalogpose.catalog.files import write_atomically
from catalogpose.errors import EnvironmentFault
from catalogpose.training.processes import fast_bfloat16, open_accelerator
from catalogpose.training.schedule import Schedule as Schedule
from catalogpose.training.schedule import draw_generator
from catalogpose.training.stopping import catch_stops, describe_step, needing_memory
from catalogpose.training.watch import Report, Watch

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, how much is done and how much there is."""

LossOf = Callable[[torch.Generator], Mapping[str, Tensor]]
"""Draws a micro-batch with a generator and returns named losses."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What is measured while a net trains."""

    every: int
    """Steps between two checks, 1 or more; the last step is checked too."""
    measure: Callable[[int], Mapping[str, float]]
    """Called with the step number while the net holds its averaged weights and evaluates; returns
    numbers by name, which go to `validation.csv` and to the trackers."""


def autocast(device: str) -> AbstractContextManager[object]:
    """Compute in bfloat16 where that is faster: GPUs, and CPUs that multiply it in hardware."""
    if device != "cpu" or fast_bfloat16(device):
        return torch.autocast(torch.device(device).type, torch.bfloat16)
    return nullcontext()


def make_adam(net: nn.Module, schedule: Schedule) -> torch.optim.AdamW:
    """Return AdamW over a net, its rate the schedule's highest; one kernel for all weights."""
    return torch.optim.AdamW(
        net.parameters(), schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True
    )


class _Lesson(nn.Module):
    """A net and its loss as one module, so that several processes share its gradients."""

    def __init__(self, net: nn.Module, loss_of: LossOf) -> None:
        """Hold both."""
        super().__init__()
        self.net, self.loss_of = net, loss_of

    def forward(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of one micro-batch."""
        return dict(self.loss_of(generator))


class _Run:
    """The state of one training: what a checkpoint holds."""

    def __init__(
        self,
        net: nn.Module,
        loss_of: LossOf,
        schedule: Schedule,
        path: Path,
        accelerator: Accelerator,
    ) -> None:
        """Start at step 0, or where the checkpoint at `path` left off."""
        self.net, self.schedule, self.path, self.accelerator = net, schedule, path, accelerator
        self.step = 0
        # Frozen weights are listed too, which costs nothing: AdamW keeps no moments of them.
        adam = make_adam(net, schedule)
        saved: dict[str, Any] | None = None
        if path.exists():
            # Mapped: several processes of one machine share what they read.
            saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            net.load_state_dict(saved["net"])
        net.train()
        self.lesson, self.adam = accelerator.prepare(_Lesson(net, loss_of), adam)
        # A frozen weight is its own average, so that checkpoints list the same ones in any case.
        self.average = (
            [_wide(t).clone() if moves else t.detach() for t, moves in _state_of(net)]
            if schedule.average
            else []
        )
        if saved is not None:
            adam.load_state_dict(saved["optimizer"])
            self.step = int(saved["step"])
            for mean, kept in zip(self.average, saved["average"], strict=False):
                mean.copy_(kept)
            if accelerator.scaler is not None and "scaler" in saved:
                accelerator.scaler.load_state_dict(saved["scaler"])

    def save(self) -> None:
        """Write the checkpoint under a temporary name, sync it and move it into place.

        Raises:
            EnvironmentFault: If it cannot be written, as on a full disk.
        """
        state = {
            "net": self.net.state_dict(),
            "optimizer": self.adam.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
        }
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        try:
            write_atomically(self.path, lambda file: torch.save(state, file))
        except OSError as error:
            raise EnvironmentFault(
                f"cannot write {self.path}: {error.strerror}; the one from before stays"
            ) from error

    def learn(
        self, accumulation: int, precision: AbstractContextManager[object]
    ) -> dict[str, Tensor]:
        """Gather one step's gradient over its micro-batches; return the mean losses."""
        found: dict[str, list[Tensor]] = {}
        self.adam.zero_grad(set_to_none=True)
        for micro in range(accumulation):
            lane = self.accelerator.process_index * accumulation + micro
            generator = draw_generator(self.schedule.seed, self.step, lane)
            last = micro == accumulation - 1
            # Processes share their gradients once a step.
            with nullcontext() if last else self.accelerator.no_sync(self.lesson):
                with precision:
                    losses: dict[str, Tensor] = self.lesson(generator)
                self.accelerator.backward(losses["loss"] / accumulation)
            for name, value in losses.items():
                found.setdefault(name, []).append(value.detach().float())
        # A micro-batch may lack a loss, such as that of rows which kept their conditions.
        return {name: torch.stack(values).mean() for name, values in found.items()}

    def advance(self) -> float:
        """Take one optimiser step unless the gradient is broken; return the gradient's norm."""
        parameters = self.net.parameters()
        norm = float(self.accelerator.clip_grad_norm_(parameters, self.schedule.clip_norm))
        # A float16 scaler skips a step that overflowed by itself, and must see it to learn.
        if math.isfinite(norm) or self.accelerator.scaler is not None:
            for group in self.adam.param_groups:
                group["lr"] = self.schedule.rate(self.step)
            self.adam.step()
            self.step += 1
            self._move_average()
        return norm

    @torch.no_grad()
    def _move_average(self) -> None:
        """Draw the averaged weights towards the present ones."""
        if self.average:
            # A young average follows fast, so that the random start is forgotten.
            keep = min(self.schedule.average, self.step / (self.step + 10))
            pairs = [
                (mean, _wide(tensor))
                for mean, (tensor, moves) in zip(self.average, _state_of(self.net), strict=True)
                if moves
            ]
            averages, current = map(list, zip(*pairs, strict=True))
            torch._foreach_lerp_(averages, current, 1 - keep)

    @torch.no_grad()
    def install_average(self) -> None:
        """Put the averaged weights, and the statistics that belong to them, into the net."""
        for (tensor, _), mean in zip(_state_of(self.net), self.average, strict=False):
            tensor.copy_(mean)

    @torch.no_grad()
    def measure(self, check: Check | None, report: Report) -> None:
        """Report a check's numbers, measured while the net holds its averaged weights, where this
        step has one that the report lacks; one process measures for all.
        """
        if check is None or not self.accelerator.is_main_process:
            return
        due = self.step == self.schedule.steps or self.step % check.every == 0
        if not due or report.last_measured() == self.step:
            return
        trained = [t for t, moves in _state_of(self.net) if moves] if self.average else []
        current = [p.detach().cpu().clone() for p in trained]
        self.install_average()
        self.net.eval()
        with needing_memory("a check beside the training", "go on without --validation"):
            report.measured(self.step, check.measure(self.step))
        for tensor, value in zip(trained, current, strict=True):
            tensor.copy_(value)
        self.net.train()


def _state_of(net: nn.Module) -> list[tuple[Tensor, bool]]:
    """Return what is averaged and whether training moves it: weights, and behind them the
    statistics of batch norms, which belong to the weights that they were gathered under.
    """
    norms = [
        module for module in net.modules() if isinstance(module, nn.modules.batchnorm._NormBase)
    ]
    statistics = [t for norm in norms for t in (norm.running_mean, norm.running_var)]
    return [(p, p.requires_grad) for p in net.parameters()] + [
        (t, True) for t in statistics if t is not None
    ]


def _wide(parameter: Tensor) -> Tensor:
    """Return a weight in float32: in fewer bits a slow average would never move."""
    return parameter.detach().float()


def fit(
    name: str,
    net: nn.Module,
    loss_of: LossOf,
    schedule: Schedule,
    folder: Path,
    *,
    device: str = "cpu",
    save_seconds: float = 240.0,
    preview: Callable[[int], None] | None = None,
    progress: Progress | None = None,
    accelerator: Accelerator | None = None,
    accumulation: int = 1,
    check: Check | None = None,
    warn: Callable[[str], None] | None = None,
) -> nn.Module:
    """Train `net` and return it with averaged weights; a second call goes on where one stopped.

    Args:
        name: For progress and errors.
        net: Trained in place; on the device where it shall be trained.
        loss_of: Draws a micro-batch with a CPU generator, which seed, step, micro-batch and process
            alone decide (`schedule.place_of`), and returns named losses; `loss` is minimised.
        schedule: Steps, batch and rates.
        folder: Where `checkpoint.pt`, `loss.csv` and `validation.csv` lie.
        device: Where the net is, if no `accelerator` says it.
        save_seconds: Least time between checkpoints and previews.
        preview: Called with the step number after each checkpoint; None: no previews.
        progress: Told the steps done; None: nobody is told.
        accelerator: Processes, precision, trackers; None: one process, precision of `autocast`.
        accumulation: Micro-batches a step in each process, 1 or more.
        check: What is measured on the way; None: nothing.
        warn: Told, in a line, what looks wrong and does not stop the training; None: nobody is.

    Raises:
        CatalogposeError: If loss or gradient are not finite.
        EnvironmentFault: If a checkpoint cannot be written, or the GPU's memory is too small.
        KeyboardInterrupt: At Ctrl-C, once a checkpoint is written; at SIGTERM SystemExit.
    """
    made = accelerator or open_accelerator("cpu" if device == "cpu" else "cuda")
    precision = autocast(device) if accelerator is None else nullcontext()
    with needing_memory(*describe_step(schedule.batch, accumulation)):
        run = _Run(net, loss_of, schedule, folder / "checkpoint.pt", made)
    watch, report = Watch(name, run.path, warn), Report(name, folder, made, progress, warn)
    saved = time.monotonic()
    with catch_stops() as stop:
        while run.step < schedule.steps:
            _take_step(run, watch, report, accumulation, precision)
            due = stop.number is not None or time.monotonic() - saved > save_seconds
            if made.is_main_process and (due or run.step == schedule.steps):
                run.save()
                stop.leave()
                if preview is not None:
                    preview(run.step)
                saved = time.monotonic()
            run.measure(check, report)
        run.measure(check, report)  # A kill may have come between last checkpoint and check.
    run.install_average()
    made.wait_for_everyone()
    return net.eval()


def _take_step(
    run: _Run,
    watch: Watch,
    report: Report,
    accumulation: int,
    precision: AbstractContextManager[object],
) -> None:
    """Learn from one batch, look whether that went well, and tell it."""
    with needing_memory(*describe_step(run.schedule.batch, accumulation)):
        means = run.learn(accumulation, precision)
        step, norm = run.step, run.advance()
    watch.look(step, float(means["loss"]), norm, skips=run.accelerator.scaler is not None)
    report.step(run.step, run.schedule.steps, {**means, "norm": torch.tensor(norm)})
