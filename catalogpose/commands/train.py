"""`catalogpose train`: a recipe becomes a model folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from catalogpose.config import TrainOptions
from catalogpose.errors import EnvironmentFault, UsageError


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """What a training left behind."""

    model: Path
    """The model folder, which `generate --model` takes; complete once all stages have run."""
    stages: tuple[str, ...]
    """The stages that are now done."""

    def __str__(self) -> str:
        """Tell a person what is done and what to do next."""
        done = f"done: {', '.join(self.stages)}"
        if "assemble" not in self.stages:
            return done
        return f"{done}\nnext: catalogpose generate --manifest FILE --model {self.model}"


def train_model(
    options: TrainOptions, progress: Callable[[str, int, int], None] | None = None
) -> TrainSummary:
    """Carry out a recipe; a second call goes on where the first was stopped.

    Raises:
        UsageError: If the recipe or the stage is unknown, or `out` was begun with another recipe.
        EnvironmentFault: If there is no such device.
    """
    from catalogpose.training.recipes import load_recipe

    recipe = load_recipe(options.recipe)
    # Imported once the recipe is known to exist: torch takes seconds.
    import torch

    from catalogpose.training.stages import STAGES, Workshop, run_stages

    if options.only is not None and options.only not in STAGES:
        raise UsageError(f"--only {options.only}: no such stage; known: {', '.join(STAGES)}")
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFault("torch cannot use a GPU here; --device cpu works without")
    shop = Workshop(
        recipe=recipe, folder=options.out, device=device, seed=options.seed, progress=progress
    )
    stages = STAGES if options.only is None else (options.only,)
    run_stages(shop, stages)
    return TrainSummary(model=shop.model, stages=tuple(stages))
