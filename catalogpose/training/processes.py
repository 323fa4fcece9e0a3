"""accelerate's door: how many processes train together, in which precision, and who is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedType,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    is_tensorboard_available,
)

from catalogpose.errors import UsageError

PATIENCE = timedelta(hours=2)
"""How long processes wait for one that writes a checkpoint or validates."""

WHOLE = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
"""Ways of working together in which every process holds the whole net."""


def fast_bfloat16(device: str) -> bool:
    """Say whether a device multiplies bfloat16 in hardware."""
    if device == "cpu":
        return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def choose_precision(precision: str, device: str) -> str:
    """Return accelerate's word, `no`, `bf16` or `fp16`, for one of `config.PRECISIONS`.

    Raises:
        UsageError: If the device cannot train so.
    """
    if precision == "auto":
        if fast_bfloat16(device):
            return "bf16"
        return "no" if device == "cpu" else "fp16"
    if precision == "fp16" and device == "cpu":
        raise UsageError("--precision fp16 needs a GPU; bf16 and float32 work on a CPU")
    return "no" if precision == "float32" else precision


def process_count() -> int:
    """Return the number of processes that a launcher started together; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def open_accelerator(
    device: str, precision: str = "no", trackers: Path | None = None
) -> Accelerator:
    """Join the processes that train together; one where no launcher started several.

    Args:
        device: `cpu` or `cuda`; with several processes each takes its own GPU.
        precision: `no`, `bf16` or `fp16`.
        trackers: Folder for tensorboard's files, if it is installed; None: nobody is told.

    Raises:
        UsageError: If the launcher splits the net among the processes, as FSDP does.
    """
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        # accelerate keeps the first precision for a process's life; another net may want another.
        AcceleratorState._reset_state()
    told = ["tensorboard"] if trackers is not None and is_tensorboard_available() else []
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=precision,
        log_with=told or None,
        project_config=ProjectConfiguration(
            project_dir=None if trackers is None else str(trackers),
            logging_dir=None if trackers is None else str(trackers),
        ),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    if accelerator.distributed_type not in WHOLE:
        raise UsageError(
            f"training in {accelerator.distributed_type.value} processes is not supported: its "
            "checkpoints are whole nets; use plain data parallel processes"
        )
    return accelerator


def lacks_tracker(accelerator: Accelerator) -> bool:
    """Say whether nobody is told, though a folder was named: tensorboard is not installed."""
    return accelerator.logging_dir is not None and not accelerator.log_with


@contextmanager
def closing_accelerator(accelerator: Accelerator) -> Iterator[Accelerator]:
    """End trackers and the process group when the block ends."""
    try:
        yield accelerator
    finally:
        accelerator.end_training()


@dataclass(frozen=True, kw_only=True)
class Team:
    """The processes that train one net together, of which one writes."""

    accelerator: Accelerator | None = None
    """What joins them; None: there is one."""

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.accelerator is None or self.accelerator.is_main_process

    def leader_first(self) -> AbstractContextManager[None]:
        """Let the process that writes go first; the others then find what it made."""
        if self.accelerator is None:
            return nullcontext()
        first: AbstractContextManager[None] = self.accelerator.main_process_first()
        return first

    @property
    def options(self) -> dict[str, Any]:
        """What `train_truepose` and its like are told of them; nothing of one alone."""
        if self.accelerator is None:
            return {}
        return {"accelerator": self.accelerator, "lanes": self.accelerator.num_processes}


ALONE = Team()
"""One process."""


@contextmanager
def join_team(device: str) -> Iterator[Team]:
    """Join the processes that a launcher started, if it did; the group ends with the block."""
    if process_count() == 1:
        yield ALONE
        return
    accelerator = open_accelerator(device, choose_precision("auto", device))
    with closing_accelerator(accelerator):
        yield Team(accelerator=accelerator)
