"""Recipes as small readable files: everything that decides a model, and nothing about a machine."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalogpose.errors import UsageError

FOLDER = Path(__file__).resolve().parent

SIZE_STEP = 8
"""What height and width are multiples of: pixels of a latent's side."""


def _need(section: str, values: Any, needed: set[str]) -> None:
    """Raise ValueError naming what a section lacks."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{section} must hold names and values")
    lacking = sorted(needed - set(values))
    if lacking:
        raise ValueError(f"{section} lacks {', '.join(lacking)}")


def _need_whole(section: str, least: int, values: Mapping[str, Any]) -> None:
    """Raise ValueError naming what is no whole number of at least `least`."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{section}{name} must be a whole number, {least} or more")


def _need_size(height: Any, width: Any) -> None:
    """Raise ValueError unless a canvas can be made a latent."""
    _need_whole("", SIZE_STEP, {"height": height, "width": width})
    if height % SIZE_STEP or width % SIZE_STEP:
        raise ValueError(f"height and width must be multiples of {SIZE_STEP}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is made from studio pictures; a section holds a net's configuration and its
    schedule.
    """

    name: str
    """The model's name, for its card."""
    height: int
    """Canvas height in pixels."""
    width: int
    """Canvas width in pixels."""
    products: int
    """Products drawn to learn from."""
    views: int
    """Views of each product."""
    vae: Mapping[str, Any]
    """`widths`, `latent_channels`, `schedule`; and `finish`, the `pool` of predictions and the
    `schedule` of the decoder's last training, on what TruePose predicts; without it there is none.
    """
    clip: Mapping[str, Any]
    """`model` (open_clip's configuration), `objective` (see `ClipObjective`; may be left out),
    `schedule`."""
    parser: Mapping[str, Any]
    """`model` (SegformerConfig's options), `schedule`."""
    truepose: Mapping[str, Any]
    """`unet`, `fusion`, `pose`, `pose_style`, `scheduler`; `start`, the schedule of the net that
    sees the pose alone, from which both UNets start; `warm`, whether HPFA starts from the
    self-attention; `objective`, `schedule`, and the card's `steps` and `guidance`. And `matcher`,
    `model` (see `Matcher`), `schedule` and, where heads are to count more than the rest,
    `head_weight` of what carries the source's photo to the pose; without it nothing does. And
    `compositor`, `model` (see `Compositor`), `pool` of predictions and `schedule` of what retouches
    the painted picture and lays the carried photo over it, and its `critic`, `objective` (see
    `Criticism`) and `schedule`; without it nothing does."""
    fine: int = 1
    """How many times as high and wide photos are drawn before they are fitted onto the canvas, as
    the nets meet users' (CLIP and parser see those at their own size); 1: their pixels are points.
    Drawing takes longer, 2 about twice as long."""

    def __post_init__(self) -> None:
        """Raise ValueError naming what a section lacks or a number that is out of range."""
        _need_size(self.height, self.width)
        drawn = {"products": self.products, "views": self.views, "fine": self.fine}
        _need_whole("", 1, drawn)
        _need("vae", self.vae, {"widths", "latent_channels", "schedule"})
        _need("clip", self.clip, {"model", "schedule"})
        _need("parser", self.parser, {"model", "schedule"})
        _need("truepose", self.truepose, {"unet", "fusion", "pose", "pose_style", "scheduler",
              "start", "warm", "objective", "schedule", "steps", "guidance"})  # fmt: skip

    @property
    def facts(self) -> dict[str, Any]:
        """What a training that goes on must have been begun with, by name; an option at its default
        is left out, so that one that came later stops no training from before.
        """
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }


@dataclass(frozen=True, kw_only=True)
class PhotoRecipe:
    """How TruePose is trained on a manifest of photos, from weights that exist."""

    name: str
    """The model's name, for its card."""
    height: int
    """Canvas height in pixels."""
    width: int
    """Canvas width in pixels."""
    start: str
    """Where the weights come from: hub id or folder of a Stable Diffusion 1.5, or of a model of
    ours. `--model` takes its place."""
    parser: Mapping[str, Any]
    """`name`, hub id or folder of a SegFormer; `label_set` of its classes, null: it says itself;
    `licence`, for the card."""
    clip: Mapping[str, Any]
    """`name`, hub id or folder of an open_clip model with safetensors; `licence`, for the card."""
    truepose: Mapping[str, Any]
    """`net` (TargetNet's own options), `pose` (PoseEncoder's), `pose_style`, `scheduler`,
    `objective`, `schedule`, `gradient_checkpointing`, `warm` (whether HPFA starts from the
    self-attention; the paper has it start from nothing), and the card's `steps` and `guidance`.
    Where the weights are a model's of ours, `net`, `pose` and `scheduler` are that model's."""
    validation: Mapping[str, Any]
    """`every` so many steps, on how many `pairs`."""
    save_minutes: float = 30.0
    """Least time between checkpoints; one of Stable Diffusion's size is 28 GB."""

    def __post_init__(self) -> None:
        """Raise ValueError naming what a section lacks or a number that is out of range."""
        _need_size(self.height, self.width)
        _need("parser", self.parser, {"name"})
        _need("clip", self.clip, {"name"})
        _need("validation", self.validation, {"every", "pairs"})
        _need("truepose", self.truepose, {"net", "pose", "pose_style", "scheduler", "objective",
              "schedule", "steps", "guidance"})  # fmt: skip
        checks = {"every": self.validation["every"], "pairs": self.validation["pairs"]}
        _need_whole("validation: ", 1, checks)
        _need_whole("truepose: ", 1, {"steps": self.truepose["steps"]})
        if not self.save_minutes >= 0:
            raise ValueError("save_minutes must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """How the alignment of words and picture is trained on studio pictures, over a frozen model."""

    name: str
    """The recipe's name, for the model's card."""
    products: int
    """Products drawn to learn from."""
    views: int
    """Views of each product."""
    alignment: Mapping[str, Any]
    """Options of `Alignment` that the model does not decide."""
    mix: Mapping[str, Any]
    """What rows ask for; see `Mix`."""
    objective: Mapping[str, Any]
    """What is minimised; see `AlignmentObjective`."""
    schedule: Mapping[str, Any]
    """Steps, batch and rates."""
    clip: Mapping[str, Any] | None = None
    """`model`, `objective` and `schedule`, as a studio recipe's, of a CLIP that takes the place of
    the model's first, near which it stays (`near` above 0); None: the model keeps its own."""

    def __post_init__(self) -> None:
        """Raise ValueError naming what a section lacks or a number that is out of range."""
        _need_whole("", 1, {"products": self.products, "views": self.views})
        if self.clip is not None:
            _need("clip", self.clip, {"model", "objective", "schedule"})


def load_recipe(name: str) -> Recipe | PhotoRecipe | TextRecipe:
    """Read a shipped recipe by name, or a JSON file by path; one with a `start` is of photos, one
    with an `alignment` of words.

    Raises:
        UsageError: If there is no such recipe, or it lacks a section.
    """
    path = FOLDER / f"{name}.json" if (FOLDER / f"{name}.json").is_file() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.json")))
        raise UsageError(f"no recipe {name!r}; known: {known}, or the path of a JSON file")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if "alignment" in values:
            return TextRecipe(**values)
        return PhotoRecipe(**values) if "start" in values else Recipe(**values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path} is not a recipe: {error}") from None
