"""How long and how fast a net is trained, and which draws and samples each micro-batch gets."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from catalogpose.errors import UsageError

MOST_STEPS = 1 << 24
"""Steps that a micro-batch's seed has room for."""

MOST_LANES = 1 << 8
"""Micro-batches of one step, over all processes, that a micro-batch's seed has room for."""

GOLDEN = 0x9E3779B1
"""2**32 divided by the golden ratio, made odd."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How one net is trained."""

    steps: int = 0
    """Optimiser steps in all; 0: `epochs` says it."""
    epochs: float = 0.0
    """How often every sample is met, over all steps; 0: `steps` says how long it takes."""
    batch: int
    """Pictures or pairs an optimiser step, over all its micro-batches and all processes."""
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
    together: int = 1
    """Samples that follow one another in the data and are met one after the other, 1 or more; pairs
    of one source are neighbours, and a batch looks at each of its sources once."""
    seed: int = 0
    """Seed of the batches, 0 to 2**31 - 1."""

    def __post_init__(self) -> None:
        """Raise UsageError unless one of `steps` and `epochs` says how long it takes, and where a
        value has the wrong kind or is out of range.
        """
        for name in ("steps", "batch", "warmup", "together", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise UsageError(
                    f"a schedule's {name} must be a whole number, 0 or more, not {value!r}"
                )
        for name in ("epochs", "learning_rate", "decay", "weight_decay", "average", "clip_norm"):
            value = getattr(self, name)
            share = name in ("decay", "average")
            plain = isinstance(value, int | float) and not isinstance(value, bool)
            if not plain or not 0 <= value < math.inf or (share and value > 1):
                wanted = "from 0 to 1" if share else "0 or more"
                raise UsageError(f"a schedule's {name} must be a number, {wanted}, not {value!r}")
        if (self.steps > 0) == (self.epochs > 0):
            raise UsageError("a schedule needs either steps or epochs, above 0")
        if self.batch < 1:
            raise UsageError(f"a schedule's batch must be 1 or more, not {self.batch}")
        if self.together < 1:
            raise UsageError(f"a schedule's together must be 1 or more, not {self.together}")
        if self.steps >= MOST_STEPS:
            raise UsageError(f"a schedule may have fewer than {MOST_STEPS} steps")

    def over(self, samples: int) -> Schedule:
        """Return the schedule in steps, for so many samples; the last step may begin an epoch."""
        if self.steps:
            return self
        steps = math.ceil(self.epochs * samples / self.batch)
        return dataclasses.replace(self, steps=max(1, steps), epochs=0.0)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        start = self.steps * (1 - self.decay)
        if self.decay == 0 or step < start:
            return self.learning_rate * warm
        share = (step - start) / max(1.0, self.steps - start)
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * share))

    def share(self, lanes: int) -> int:
        """Return the samples of one micro-batch where a step has `lanes` of them.

        Raises:
            UsageError: If the batch cannot be split evenly, or into so many.
        """
        if self.batch % lanes or lanes > MOST_LANES:
            raise UsageError(
                f"a batch of {self.batch} cannot be split evenly into {lanes} micro-batches "
                f"(processes times --accumulate; at most {MOST_LANES})"
            )
        return self.batch // lanes


def draw_generator(seed: int, step: int, lane: int) -> torch.Generator:
    """Return the CPU generator of a micro-batch, which these three numbers alone decide.

    Args:
        seed: 0 to 2**31 - 1.
        step: Counted from 0, below `MOST_STEPS`.
        lane: The micro-batch's place in its step, counted over all processes from 0, below
            `MOST_LANES`.
    """
    # torch's CPU generator starts from the lower 32 bits alone: seed and lane must show there too.
    # Multiples of the golden ratio lie far apart, so the steps of two lanes do not meet.
    start = (step + GOLDEN * (seed * MOST_LANES + lane)) % (1 << 32)
    place = lane * MOST_STEPS + step
    return torch.Generator().manual_seed((place << 32) + start)


def place_of(generator: torch.Generator) -> tuple[int, int]:
    """Return step and lane of a generator that `draw_generator` made, however much it has drawn."""
    lane, step = divmod((generator.initial_seed() >> 32) & 0xFFFFFFFF, MOST_STEPS)
    return step, lane


def visited(first: int, amount: int, total: int, seed: int, together: int = 1) -> NDArray[np.int64]:
    """Return which of `total` samples a training meets from its `first` on, `amount` of them.

    Every epoch meets each sample once, in an order that seed and epoch alone decide. Nothing is
    remembered, so a resumed training, or one on another number of GPUs, meets the same samples.

    Args:
        first: How many were met before, 0 or more.
        amount: How many are asked for.
        total: How many there are, 1 or more.
        seed: 0 or more.
        together: Neighbours that stay together, 1 or more; the last ones may be fewer.
    """
    epochs, places = np.divmod(np.arange(first, first + amount, dtype=np.int64), total)
    found = np.empty(amount, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        found[here] = _order(total, seed, int(epoch), together)[places[here]]
    return found


@lru_cache(maxsize=2)
def _order(total: int, seed: int, epoch: int, together: int) -> NDArray[np.int64]:
    """Return the order (total,) of an epoch."""
    groups = np.random.default_rng([seed, epoch]).permutation(math.ceil(total / together))
    order: NDArray[np.int64] = (groups[:, None] * together + np.arange(together)).ravel()
    return order[order < total]
