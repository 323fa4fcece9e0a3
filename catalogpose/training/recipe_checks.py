"""Whether nets, losses and schedules can be made of what a recipe says: asked before hours are
spent on what comes before them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from diffusers import DDIMScheduler, UNet2DConditionModel

from catalogpose.errors import UsageError, first_line
from catalogpose.training.clip import ClipObjective
from catalogpose.training.critic import Criticism
from catalogpose.training.nets import make_compositor, make_matcher
from catalogpose.training.objective import Objective
from catalogpose.training.recipes import PhotoRecipe, Recipe
from catalogpose.training.schedule import Schedule
from catalogpose.truepose.blocks import FUSIONS
from catalogpose.truepose.parts import NET_SETTINGS
from catalogpose.truepose.pose_encoder import STYLE_CHANNELS, PoseEncoder

Made = TypeVar("Made")

PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a net may predict."""

STAGES_OF_POSE = 3
"""Widths and strides of a pose encoder, which halves the picture until it has the latent's size."""


def check_photo_recipe(recipe: PhotoRecipe) -> None:
    """Raise UsageError naming the section of a recipe for photos that is wrong."""
    options = recipe.truepose
    # The width of CLIP's embeddings is found out, not chosen; photos have no matcher.
    own = set(NET_SETTINGS) - {"clip_width", "carried_channels"}
    _need_known(recipe.name, "net", options["net"], own)
    objective = _check_parts(recipe.name, options["net"].get("fusion", "hpfa+caa"), options)
    if objective.truth_weight:
        raise UsageError(
            f"recipe {recipe.name}, objective: truth_weight needs studio pictures; photos have no "
            "surfaces"
        )
    _build_schedule(recipe.name, "schedule", options["schedule"])


def check_studio_recipe(recipe: Recipe) -> None:
    """Raise UsageError naming the section of a studio recipe that is wrong."""
    options = recipe.truepose
    known = set(inspect.signature(UNet2DConditionModel.__init__).parameters)
    _need_known(recipe.name, "unet", options["unet"], known - {"self"})
    _check_parts(recipe.name, options["fusion"], options)
    factor = 2 ** (len(recipe.vae["widths"]) - 1)
    if math.prod(options["pose"].get("strides", [2] * STAGES_OF_POSE)) != factor:
        raise UsageError(
            f"recipe {recipe.name}, pose: strides must multiply to {factor}, the VAE's factor"
        )
    if "matcher" in options:
        _check_matcher(recipe)
    if "compositor" in options:
        _check_compositor(recipe)
    finish = recipe.vae.get("finish")
    if finish is not None:
        _need_known(recipe.name, "finish", finish, {"pool", "schedule"})
        described = finish.get("schedule", {})
        last = _build_schedule(recipe.name, "schedule of finish", described, epochs=False)
        if last.batch % 2 or not isinstance(finish.get("pool"), int) or finish["pool"] < 1:
            raise UsageError(
                f"recipe {recipe.name}, finish: pool must be 1 or more, and the batch even"
            )
    build(recipe.name, "clip", ClipObjective, recipe.clip.get("objective", {}))
    for section, schedule in (
        ("vae", recipe.vae["schedule"]), ("clip", recipe.clip["schedule"]),
        ("parser", recipe.parser["schedule"]), ("start", options["start"]),
    ):  # fmt: skip
        _build_schedule(recipe.name, f"schedule of {section}", schedule, epochs=False)
    _build_schedule(recipe.name, "schedule of truepose", options["schedule"])


def _check_matcher(recipe: Recipe) -> None:
    """Raise UsageError where no matcher can be made of what a recipe says."""
    options = recipe.truepose
    known = {"model", "schedule", "head_weight"}
    _need_known(recipe.name, "matcher", options["matcher"], known)
    section = {"model": {}, "schedule": {}, "head_weight": 1.0, **options["matcher"]}
    weight = section["head_weight"]
    if not isinstance(weight, int | float) or not 1 <= weight < math.inf:
        raise UsageError(f"recipe {recipe.name}, matcher: head_weight must be 1 or more")
    _build_schedule(recipe.name, "schedule of matcher", section["schedule"])
    if options["fusion"] == "none" or recipe.views < 2:
        raise UsageError(f"recipe {recipe.name}: a matcher needs a source and two views or more")
    described = {"truepose": {**options, "matcher": section}}
    matcher = build(recipe.name, "model of matcher", make_matcher, described)
    stride = matcher.config.stride
    if stride < 2 or stride % 2 or recipe.height % stride or recipe.width % stride:
        raise UsageError(
            f"recipe {recipe.name}, matcher: stride must be even and divide height and width"
        )


def _check_compositor(recipe: Recipe) -> None:
    """Raise UsageError where no compositor can be made of what a recipe says."""
    options = recipe.truepose
    known = {"model", "pool", "schedule", "critic"}
    _need_known(recipe.name, "compositor", options["compositor"], known)
    section = {"model": {}, "schedule": {}, "pool": None, **options["compositor"]}
    if "matcher" not in options:
        raise UsageError(f"recipe {recipe.name}: a compositor needs a matcher")
    if not isinstance(section["pool"], int) or section["pool"] < 1:
        raise UsageError(f"recipe {recipe.name}, compositor: pool must be 1 or more")
    _build_schedule(recipe.name, "schedule of compositor", section["schedule"])
    if "critic" in section:
        _check_critic(recipe.name, section["critic"])
    described = {"truepose": {**options, "compositor": section}}
    compositor = build(recipe.name, "model of compositor", make_compositor, described)
    stride = compositor.config.stride
    if stride < 1 or recipe.height % stride or recipe.width % stride:
        raise UsageError(f"recipe {recipe.name}, compositor: stride must divide height and width")


def _check_critic(name: str, options: Any) -> None:
    """Raise UsageError where a recipe's critic cannot be trained."""
    _need_known(name, "critic", options, {"objective", "schedule"})
    _build_schedule(name, "schedule of critic", options.get("schedule", {}))
    build(name, "objective of critic", Criticism, options.get("objective", {}))


def _build_schedule(name: str, section: str, options: Any, *, epochs: bool = True) -> Schedule:
    """Return the schedule that a recipe's section describes.

    Args:
        name: The recipe's, for the error.
        section: The section's, for the error.
        options: The schedule's arguments.
        epochs: Whether it may count epochs; a stage that draws samples as they come has none.

    Raises:
        UsageError: If it is none, has a seed of its own, or counts epochs where it may not.
    """
    if isinstance(options, Mapping) and "seed" in options:
        raise UsageError(f"recipe {name}, {section}: the seed is that of --seed; leave it out")
    schedule = build(name, section, Schedule, options)
    if schedule.epochs and not epochs:
        raise UsageError(f"recipe {name}, {section}: steps are needed, not epochs")
    return schedule


def build(name: str, section: str, kind: Callable[..., Made], options: Mapping[str, Any]) -> Made:
    """Return what a section of a recipe describes.

    Args:
        name: The recipe's, for the error.
        section: The section's, for the error.
        kind: What is built.
        options: Its arguments.

    Raises:
        UsageError: If the section has other keys, or values that cannot be used.
    """
    try:
        return kind(**options)
    except UsageError as error:
        raise UsageError(f"recipe {name}, {section}: {error}") from None
    except (TypeError, ValueError, NotImplementedError) as error:
        reason = first_line(error)
        raise UsageError(f"recipe {name}, {section}: {reason}") from None


def _check_parts(name: str, fusion: str, options: Mapping[str, Any]) -> Objective:
    """Check what both kinds of recipe say of TruePose's nets; return what is minimised."""
    if fusion not in FUSIONS:
        raise UsageError(f"recipe {name}: unknown fusion {fusion!r}; known: {', '.join(FUSIONS)}")
    if options.get("warm", False) and not FUSIONS[fusion].source.startswith("hpfa"):
        raise UsageError(f"recipe {name}: warm needs HPFA; fusion {fusion} has none")
    if options["pose_style"] not in STYLE_CHANNELS:
        raise UsageError(
            f"recipe {name}: unknown pose_style {options['pose_style']!r}; known: "
            f"{', '.join(STYLE_CHANNELS)}"
        )
    pose = options["pose"]
    own = set(inspect.signature(PoseEncoder.__init__).parameters)
    _need_known(name, "pose", pose, own - {"self", "in_channels", "out_channels"})
    widths = pose.get("widths", [1] * STAGES_OF_POSE)
    if not isinstance(widths, Sequence) or len(widths) != STAGES_OF_POSE:
        raise UsageError(f"recipe {name}, pose: widths must be {STAGES_OF_POSE} whole numbers")
    strides = pose.get("strides", [2] * STAGES_OF_POSE)
    whole = isinstance(strides, Sequence) and len(strides) == STAGES_OF_POSE
    if not whole or any(stride not in (1, 2) for stride in strides):
        raise UsageError(
            f"recipe {name}, pose: strides must be {STAGES_OF_POSE} numbers, each 1 or 2"
        )
    scheduler = build(name, "scheduler", DDIMScheduler, options["scheduler"])
    if scheduler.config.prediction_type not in PREDICTIONS:
        raise UsageError(
            f"recipe {name}, scheduler: prediction_type must be one of {', '.join(PREDICTIONS)}"
        )
    objective = build(name, "objective", Objective, options["objective"])
    objective.check_parts(fusion, matched="matcher" in options)
    return objective


def _need_known(name: str, section: str, options: Any, known: set[str]) -> None:
    """Raise UsageError where a section is no mapping or has keys that nothing asks for."""
    if not isinstance(options, Mapping):
        raise UsageError(f"recipe {name}, {section}: names and values are needed")
    unknown = sorted(set(options) - known)
    if unknown:
        raise UsageError(
            f"recipe {name}, {section}: unknown {', '.join(unknown)}; known: "
            f"{', '.join(sorted(known))}"
        )
