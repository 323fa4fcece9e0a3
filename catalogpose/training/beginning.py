"""The first step of a training on photos: refuse what cannot work, note what decides it, and copy
parser and CLIP.
"""

from __future__ import annotations

import json
from pathlib import Path

from catalogpose.catalog.files import write_atomically
from catalogpose.errors import UsageError
from catalogpose.training.companions import choose_companions, copy_clip, copy_parser
from catalogpose.training.course import Course
from catalogpose.training.origin import check_start
from catalogpose.training.processes import process_count
from catalogpose.training.recipe_checks import check_photo_recipe
from catalogpose.training.recipes import PhotoRecipe
from catalogpose.training.workshop import check_begun

DECIDING = ("net", "pose", "pose_style", "scheduler", "objective", "schedule", "warm")
"""Keys of a recipe's `truepose` that decide the weights."""


def begin(course: Course, *, binding: bool = True) -> None:
    """Copy parser and CLIP into the model folder, and note what decides the training.

    Args:
        course: What is trained, and where.
        binding: Whether the folder is from now on for this training alone; a dry run binds nothing.

    Raises:
        UsageError: If the recipe or the batch is wrong, the folder was begun otherwise, what it
            starts from would be written over, or a companion cannot be had.
    """
    # Before anything is written, and before more than small files is fetched.
    check_photo_recipe(course.recipe)
    _ = course.accelerate_precision
    course.schedule(1).share(process_count() * course.accumulation)
    chosen = choose_companions(course.recipe, course.start)
    parser, clip = chosen["parser"], chosen["clip"]
    _refuse_own_folder(course, course.start, parser.name, clip.name)
    check_start(course.start, course.recipe.truepose["pose_style"])
    noted = course.folder / "work" / "recipe.json"
    facts = {
        "recipe": _deciding(course.recipe),
        "seed": course.seed,
        "start": course.weights,
        "manifest": course.manifests["train"],
    }
    names = course.folder / "work" / "companions.json"
    if not names.exists():
        _refuse_foreign(course.model)
    if binding or noted.exists():
        check_begun(noted, facts, course.folder)
    text = json.dumps(
        {"parser": parser.name, "label_set": parser.label_set, "clip": clip.name}, indent=2
    )
    if not names.exists():
        # From here on what lies there is this training's, should it be stopped while copying.
        write_atomically(names, lambda file: file.write(b"{}"))
    renew = names.read_text(encoding="utf-8") != text
    copy_parser(parser.name, course.model / "parser", parser.label_set, renew=renew)
    copy_clip(clip.name, course.model / "clip", renew=renew)
    write_atomically(names, lambda file: file.write(text.encode()))


def _deciding(recipe: PhotoRecipe) -> dict[str, object]:
    """Return what of a recipe decides the weights: neither how often they are saved and looked at,
    nor what the card says of licences and sampling.
    """
    return {
        "size": [recipe.height, recipe.width],
        "parser": [recipe.parser["name"], recipe.parser.get("label_set")],
        "clip": recipe.clip["name"],
        "truepose": {key: recipe.truepose.get(key) for key in DECIDING},
    }


def _refuse_own_folder(course: Course, *names: str) -> None:
    """Raise UsageError where something to start from lies in the model folder that is written."""
    written = course.model.resolve()
    for name in names:
        if Path(name).exists() and Path(name).resolve().is_relative_to(written):
            raise UsageError(
                f"{name} lies in {course.model}, which this training writes: name a new --out"
            )


def _refuse_foreign(model: Path) -> None:
    """Raise UsageError where a model folder holds what no training here has put there."""
    if model.exists() and any(model.iterdir()):
        raise UsageError(f"{model} holds a model that was not begun here: name a new --out")
