"""A studio training that goes on from a model: what is taken over, and what has to agree."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catalogpose.errors import UsageError
from catalogpose.training.nets import make_matcher
from catalogpose.training.recipes import Recipe
from catalogpose.training.workshop import Workshop
from catalogpose.truepose.matcher import Matcher
from catalogpose.truepose.model import read_card

EYES = ("vae", "clip", "parser")
"""The parts that are copied from a model to start from, or trained on."""

TAKEN_OVER = (*EYES, "start", "matcher")
"""The stages that a model to start from spares; a matcher's only where that model has one."""

UNLEARNT = ("smoothing",)
"""Options of a matcher that its weights know nothing of: a recipe may have others."""

INHERITED = ("data_licence", "companions", "base_model", "datasets")
"""What a card says of where weights come from, which holds for all that is made of them."""


def check_start(recipe: Recipe, start: Path) -> None:
    """Raise UsageError where a model cannot be gone on from: a part is missing, or it differs from
    the recipe in what training does not change.
    """
    parts = ("unet", "source_unet", "pose_encoder", "scheduler", "vae", "parser", "clip")
    missing = [name for name in parts if not (start / name).is_dir()]
    if missing:
        raise UsageError(f"--model {start} has no {', '.join(missing)}: name a whole model folder")
    card, options = read_card(start), recipe.truepose
    theirs = {
        "canvas": [card.height, card.width],
        "pose_style": card.pose_style,
        "fusion": _read(start / "unet/config.json").get("fusion"),
        "latent_channels": _read(start / "vae/config.json").get("latent_channels"),
        **_read(start / "scheduler/scheduler_config.json"),
    }
    wanted = {
        "canvas": [recipe.height, recipe.width],
        "pose_style": options["pose_style"],
        "fusion": options["fusion"],
        "latent_channels": recipe.vae["latent_channels"],
        **options["scheduler"],
    }
    matched = (start / "matcher").is_dir()
    if matched and "matcher" in options:
        # JSON has lists where a configuration has tuples.
        made = json.loads(json.dumps(dict(make_matcher(options).config)))
        # A matcher that was made before an option has what it is without.
        defaults = inspect.signature(Matcher.__init__).parameters
        found = {name: option.default for name, option in defaults.items()}
        found |= _read(start / "matcher/config.json")
        own = [name for name in made if not name.startswith("_") and name not in UNLEARNT]
        theirs |= {f"matcher's {name}": found.get(name) for name in own}
        wanted |= {f"matcher's {name}": made[name] for name in own}
    for name, value in wanted.items():
        if theirs.get(name) != value:
            raise UsageError(
                f"--model {start} has {name} {theirs.get(name)}, recipe {recipe.name} {value}: "
                "name another model or recipe"
            )
    for part in ("matcher", "compositor"):
        if (start / part).is_dir() and part not in options:
            raise UsageError(
                f"--model {start} has a {part}, recipe {recipe.name} has none: name another model "
                "or recipe"
            )


def is_spared(shop: Workshop, stage: str) -> bool:
    """Say whether the model to start from spares a stage, so that nothing is trained in it."""
    if shop.start is None or stage in shop.refine or stage not in TAKEN_OVER:
        return False
    return stage != "matcher" or (shop.start / stage).is_dir()


def take_over(shop: Workshop, start: Path) -> None:
    """Copy what the model to start from spares, such as its eyes: what their stages would make is
    there.
    """
    for name in TAKEN_OVER:
        if name not in shop.times and is_spared(shop, name):
            if (start / name).is_dir():
                shutil.copytree(start / name, shop.model / name, dirs_exist_ok=True)
            if name == "matcher":
                _set_unlearnt(shop.model / "matcher/config.json", shop.recipe)
            shop.note_time(name, 0.0)


def _set_unlearnt(config: Path, recipe: Recipe) -> None:
    """Give a matcher that was taken over the recipe's options which it need not have learnt."""
    wanted = make_matcher(recipe.truepose).config
    values = {**_read(config), **{name: wanted[name] for name in UNLEARNT}}
    config.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def inherited_facts(start: Path) -> dict[str, Any]:
    """Return what the card of a model made from another has to say of that one."""
    card = read_card(start)
    kept = {name: card.training[name] for name in INHERITED if name in card.training}
    return {**kept, "from": {"name": card.name, **card.training}}


def _read(path: Path) -> Mapping[str, Any]:
    """Read a JSON object."""
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
