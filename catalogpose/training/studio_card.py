"""What the card of a model that was trained in the studio says of its training."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence

import torch

from catalogpose.training.continuing import inherited_facts, is_spared
from catalogpose.training.recipes import Recipe
from catalogpose.training.workshop import Workshop, logged_seconds


def training_facts(shop: Workshop, stages: Sequence[str]) -> dict[str, object]:
    """Return what the card says of the training, of these stages; of the model to start from, what
    its card says.
    """
    recipe = shop.recipe
    trained = [name for name in stages if not is_spared(shop, name)]
    schedules = {"start": recipe.truepose["start"]} | {
        name: getattr(recipe, name)["schedule"] for name in ("vae", "clip", "truepose", "parser")
    }
    for name in ("matcher", "compositor"):
        if name in recipe.truepose:
            schedules[name] = recipe.truepose[name]["schedule"]
    if "finish" in recipe.vae:
        schedules["finish"] = recipe.vae["finish"]["schedule"]
    critic = recipe.truepose.get("compositor", {}).get("critic")
    if critic is not None and "compositor" in trained:
        schedules["critic"] = critic["schedule"]
        trained.append("critic")
    trained = [name for name in trained if name in schedules]
    facts: dict[str, object] = {
        "data": _describe_pictures(recipe),
        "hardware": f"{shop.device}, {os.cpu_count()} cores, {platform.machine()}",
        "seconds": {name: logged_seconds(shop.work / name / "loss.csv") for name in trained},
        "schedules": {name: schedules[name] for name in trained},
        "objective": dict(recipe.truepose["objective"]),
        "torch": torch.__version__,
    }
    return facts if shop.start is None else {**inherited_facts(shop.start), **facts}


def _describe_pictures(recipe: Recipe) -> str:
    """Say what a recipe's nets learn of."""
    said = f"{recipe.products} studio products of the train split, {recipe.views} views each"
    if recipe.fine == 1:
        return said
    return f"{said}, drawn {recipe.fine} times as fine as the canvas and fitted onto it"
