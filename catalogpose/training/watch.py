"""What a training says of itself: early warnings, and the logs that people and trackers read."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean

from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from catalogpose.errors import CatalogposeError
from catalogpose.training.processes import lacks_tracker

YOUNG = 200
"""Steps before which no loss is called a spike."""

SPIKE = 4.0
"""How many times its usual value a loss must be, over about ten steps, to be called a spike."""

QUIET = 500
"""Least steps between two warnings."""

MOST_SKIPS = 50
"""Steps in a row that a float16 scaler may skip before the training counts as broken."""

LOG_STEPS = 20
"""Steps between two lines of `loss.csv`."""


class Watch:
    """Looks at every step's loss and gradient, and says early what is wrong."""

    def __init__(self, name: str, checkpoint: Path, warn: Callable[[str], None] | None) -> None:
        """Watch the training `name`; `warn` is told of spikes, None: nobody is."""
        self._name, self._checkpoint, self._warn = name, checkpoint, warn
        self._seen = self._skipped = 0
        self._usual = self._recent = math.nan
        self._warned = -QUIET

    def look(self, step: int, loss: float, norm: float, *, skips: bool) -> None:
        """Look at a step; `skips` says that a float16 scaler leaves out what overflowed.

        Raises:
            CatalogposeError: If the loss or the gradient's norm is not finite.
        """
        if not math.isfinite(loss):
            raise CatalogposeError(self._broken("the loss is not a number", step))
        self._skipped = 0 if math.isfinite(norm) else self._skipped + 1
        if self._skipped > (MOST_SKIPS if skips else 0):
            raise CatalogposeError(self._broken("the gradient is not finite", step))
        self._seen += 1
        if self._seen == 1:
            self._usual = self._recent = loss
        self._usual += (loss - self._usual) / min(self._seen, YOUNG)
        self._recent += (loss - self._recent) / min(self._seen, 10)
        spike = self._seen > YOUNG and self._recent > SPIKE * abs(self._usual)
        if spike and self._warn is not None and step - self._warned >= QUIET:
            self._warned = step
            self._warn(
                f"{self._name}: at step {step} the loss is {self._recent:.3g}, "
                f"usually {self._usual:.3g}; if it stays, lower learning_rate or raise warmup"
            )

    def _broken(self, what: str, step: int) -> str:
        """Say what is wrong, since which step, and what helps."""
        kept = (
            f"{self._checkpoint} from before stays"
            if self._checkpoint.exists()
            else "nothing was saved before"
        )
        return (
            f"{self._name}: {what} at step {step}; {kept}; begin anew in a new --out with a lower "
            "learning_rate, or go on with another --precision"
        )


class Report:
    """`loss.csv`, `validation.csv`, the trackers and the progress of one training."""

    def __init__(
        self,
        name: str,
        folder: Path,
        accelerator: Accelerator,
        progress: Callable[[str, int, int], None] | None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """Append to the files in `folder`; only the first process writes. `warn` is told where a
        tracker is missing; None: nobody is.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._name, self._folder, self._accelerator = name, folder, accelerator
        self._progress = progress if accelerator.is_main_process else None
        self._started = time.monotonic()
        if accelerator.is_main_process and warn is not None and lacks_tracker(accelerator):
            warn(
                f"{name}: tensorboard is not installed, so loss.csv in {folder} has all there is; "
                "pip install 'catalogpose[train]'"
            )

    def step(self, step: int, steps: int, values: Mapping[str, Tensor]) -> None:
        """Tell that `step` of `steps` are done, and now and then the losses, over all processes."""
        if step % LOG_STEPS == 0 or step == steps:
            means = self._means({name: float(value) for name, value in values.items()})
            if self._accelerator.is_main_process:
                seconds = time.monotonic() - self._started
                words = " ".join(f"{key}={value:.6g}" for key, value in means.items())
                self._append("loss.csv", f"{step},{seconds:.1f},{words}\n")
                self._accelerator.log(means, step=step)
        if self._progress is not None:
            self._progress(self._name, step, steps)

    def _means(self, values: dict[str, float]) -> dict[str, float]:
        """Return each value's mean over the processes that have it."""
        if self._accelerator.num_processes == 1:
            return values
        everyone: list[dict[str, float]] = gather_object([values])
        names = dict.fromkeys(name for each in everyone for name in each)
        return {name: fmean(each[name] for each in everyone if name in each) for name in names}

    def last_measured(self) -> int | None:
        """Return the step of the last line of `validation.csv`; None: nothing was measured."""
        path = self._folder / "validation.csv"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return int(lines[-1].split(",")[0]) if len(lines) > 1 else None

    def measured(self, step: int, values: Mapping[str, float]) -> None:
        """Write a check's numbers; a new file begins with their names."""
        path = self._folder / "validation.csv"
        if not path.exists():
            self._append(path.name, ",".join(["step", *values]) + "\n")
        self._append(
            path.name, ",".join([str(step), *(f"{v:.6g}" for v in values.values())]) + "\n"
        )
        named = {f"validation/{key}": value for key, value in values.items()}
        self._accelerator.log(named, step=step)

    def _append(self, name: str, text: str) -> None:
        """Append text to a file of the folder."""
        with (self._folder / name).open("a", encoding="utf-8") as file:
            file.write(text)
