"""Training on photos from end to end: companions, arrays, nets, the loop and the model folder.

`Course` says what is done and where. `prepare` makes the arrays, `try_course` tries one batch,
`run_course` trains and writes the model.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

from catalogpose.catalog.files import sha256_json, write_atomically
from catalogpose.catalog.labels import keypoint_table_hash, load_keypoint_table
from catalogpose.errors import UsageError
from catalogpose.perception.clip import CONFIG_NAME, clip_settings
from catalogpose.perception.parser import Parser, parser_settings
from catalogpose.records import Row
from catalogpose.training.companions import copy_clip, copy_parser
from catalogpose.training.compiling import compile_parts
from catalogpose.training.loop import Check, Progress, Schedule
from catalogpose.training.objective import Objective
from catalogpose.training.origin import Origin, is_own_model, read_origin, read_vae
from catalogpose.training.photo_pairs import plan_pictures
from catalogpose.training.prepare import Look, PhotoPairs, Setting, open_photos, prepare_photos
from catalogpose.training.processes import choose_precision
from catalogpose.training.recipes import PhotoRecipe
from catalogpose.training.trial import Trial, try_out
from catalogpose.training.truepose import loss_over, train_truepose
from catalogpose.training.validation import Validation, describe
from catalogpose.training.workshop import check_begun, logged_seconds
from catalogpose.truepose.model import ModelCard
from catalogpose.truepose.model_page import write_model_page
from catalogpose.truepose.pipeline import TruePosePipeline

TRIED_ROWS = 8
"""Rows prepared for a dry run where nothing is prepared yet."""

LIBRARIES = ("catalogpose", "torch", "diffusers", "accelerate", "transformers", "open_clip_torch")
"""Distributions whose versions the card names."""

UNKNOWN_LICENCE = "unknown: that of the training data"
"""The card's licence where nobody stated one."""


Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class Course:
    """What is trained on photos, and where."""

    recipe: PhotoRecipe
    """What is made."""
    folder: Path
    """`prepared/` has the arrays, `work/` checkpoint, losses, sheets; `model/` is the result."""
    start: str
    """Where the weights come from; see `PhotoRecipe.start`."""
    manifests: Mapping[str, str]
    """sha256 of the manifests, by `train` and, where there is one, `validation`."""
    device: str
    """`cpu` or `cuda`."""
    precision: str = "auto"
    """One of `config.PRECISIONS`."""
    accumulation: int = 1
    """Micro-batches a step in each process."""
    compiled: bool = False
    """Whether torch compiles the nets."""
    seed: int = 0
    """Seed of what has no weights yet, and of the batches, 0 to 2**31 - 1."""
    licence: str | None = None
    """The licence of the weights; None: nobody stated one."""
    progress: Progress | None = None
    """Told what is done; None: nobody is told."""
    warn: Callable[[str], None] | None = None
    """Told, in a line, what looks wrong; None: nobody is told."""

    @property
    def model(self) -> Path:
        """The model folder that is made."""
        return self.folder / "model"

    @property
    def work(self) -> Path:
        """The folder of checkpoint, losses and sheets."""
        return self.folder / "work" / "truepose"

    @property
    def accelerate_precision(self) -> str:
        """The precision in accelerate's words; UsageError where the device has it not."""
        return choose_precision(self.precision, self.device)

    @property
    def clip_width(self) -> int:
        """D, the width of the embeddings that the model folder's CLIP gives."""
        config = json.loads((self.model / "clip" / CONFIG_NAME).read_text(encoding="utf-8"))
        return int(config["model_cfg"]["embed_dim"])

    def schedule(self, pairs: int) -> Schedule:
        """Return the schedule in steps, for so many pairs; UsageError where it is wrong."""
        options = {**self.recipe.truepose["schedule"], "seed": self.seed}
        return self._make(Schedule, "schedule", options).over(pairs)

    @property
    def objective(self) -> Objective:
        """What is minimised; UsageError where the recipe's section is wrong."""
        return self._make(Objective, "objective", self.recipe.truepose["objective"])

    def _make(self, kind: type[Made], section: str, options: Mapping[str, Any]) -> Made:
        """Build what a section describes; UsageError where it has other keys."""
        try:
            return kind(**options)
        except TypeError as error:
            raise UsageError(f"recipe {self.recipe.name}, {section}: {error}") from None

    def setting(self, split: str) -> Setting:
        """Return what decides a split's arrays."""
        folders = {
            "parser": dict(parser_settings(self.model / "parser")),
            "clip": dict(clip_settings(self.model / "clip")),
        }
        return Setting(
            height=self.recipe.height,
            width=self.recipe.width,
            clip_width=self.clip_width,
            photos=split == "validation",
            facts={
                "manifest": self.manifests[split],
                "start": self.start,
                "keypoint_table": keypoint_table_hash(load_keypoint_table()),
                **{name: sha256_json(settings) for name, settings in folders.items()},
            },
        )


def begin(course: Course, *, binding: bool = True) -> None:
    """Copy parser and CLIP into the model folder, and note what decides the training.

    Args:
        course: What is trained, and where.
        binding: Whether the folder is from now on for this training alone; a dry run binds nothing.

    Raises:
        UsageError: If the folder was begun otherwise, or a companion cannot be had.
    """
    # Before anything is written or fetched.
    _ = course.objective, course.schedule(1)
    noted = course.folder / "work" / "recipe.json"
    facts = {
        "recipe": dataclasses.asdict(course.recipe),
        "seed": course.seed,
        "start": course.start,
        "manifest": course.manifests["train"],
    }
    if binding or noted.exists():
        check_begun(noted, facts, course.folder)
    parser, label_set, clip = course.recipe.parser["name"], None, course.recipe.clip["name"]
    start = Path(course.start)
    if is_own_model(course.start):
        clip = str(start / "clip")
    if is_own_model(course.start) and (start / "parser" / "config.json").is_file():
        parser = str(start / "parser")
    else:
        label_set = course.recipe.parser.get("label_set")
    names = course.folder / "work" / "companions.json"
    text = json.dumps({"parser": parser, "label_set": label_set, "clip": clip}, indent=2)
    if not names.exists() or names.read_text(encoding="utf-8") != text:
        for part in ("parser", "clip"):
            shutil.rmtree(course.model / part, ignore_errors=True)
    copy_parser(parser, course.model / "parser", label_set)
    copy_clip(clip, course.model / "clip")
    write_atomically(names, lambda file: file.write(text.encode()))


def prepare(course: Course, split: str, rows: Sequence[Row], look: Look) -> PhotoPairs:
    """Make, or open, the arrays of `train` or `validation` from a manifest's rows."""
    return _prepare(course, course.folder / "prepared" / split, split, rows, look)


def _prepare(
    course: Course, folder: Path, split: str, rows: Sequence[Row], look: Look
) -> PhotoPairs:
    """Make, or open, arrays in a folder."""
    setting = course.setting(split)
    found = open_photos(folder, setting)
    if found is not None:
        return found
    vae = read_vae(course.start).to(course.device)
    return prepare_photos(folder, plan_pictures(rows), setting, vae, look, course.progress)


def try_course(course: Course, accelerator: Accelerator, rows: Sequence[Row], look: Look) -> Trial:
    """Check one batch and estimate the whole; where nothing is prepared yet, with a few rows."""
    setting = course.setting("train")
    found = open_photos(course.folder / "prepared" / "train", setting)
    pairs = len(rows) if found is None else len(found.pairs)
    if found is None:
        # A dry run is for trying settings: each has arrays of its own.
        folder = course.folder / "dry-run" / sha256_json(dataclasses.asdict(setting))[:16] / "train"
        found = _prepare(course, folder, "train", rows[:TRIED_ROWS], look)
    origin = _open_origin(course, accelerator)
    options, schedule = course.recipe.truepose, course.schedule(pairs)
    lanes = accelerator.num_processes * course.accumulation
    loss_of = loss_over(
        found.pairs,
        origin.nets,
        origin.scheduler,
        options["pose_style"],
        course.objective,
        schedule,
        lanes,
        str(accelerator.device),
    )
    return try_out(origin.nets, loss_of, schedule, accelerator, course.accumulation)


def run_course(
    course: Course, accelerator: Accelerator, data: PhotoPairs, held_out: PhotoPairs | None
) -> None:
    """Train, or go on, and write the model folder; see `fit` for what lies in `work/`.

    Args:
        course: What is trained, and where.
        accelerator: Processes, precision and trackers.
        data: To learn from.
        held_out: To validate on; None: nothing is validated.
    """
    recipe, options = course.recipe, course.recipe.truepose
    origin = _open_origin(course, accelerator)
    vae = read_vae(course.start)
    pipe = TruePosePipeline(
        origin.nets.unet, origin.nets.source_unet, origin.nets.pose_encoder, vae, origin.scheduler
    )
    pipe.card = make_photo_card(course, data, {})
    check = None
    if held_out is not None and accelerator.is_main_process:
        vae.to(accelerator.device)
        check = _make_check(course, pipe, held_out, accelerator.autocast)
    if accelerator.is_main_process:
        accelerator.init_trackers("truepose", config={"recipe": recipe.name, "seed": course.seed})
    train_truepose(
        data.pairs,
        origin.nets,
        origin.scheduler,
        options["pose_style"],
        course.objective,
        course.schedule(len(data.pairs)),
        course.work,
        device=str(accelerator.device),
        lanes=accelerator.num_processes * course.accumulation,
        accelerator=accelerator,
        accumulation=course.accumulation,
        save_seconds=60 * recipe.save_minutes,
        progress=course.progress,
        check=check,
        warn=course.warn,
    )
    if accelerator.is_main_process:
        for net in (pipe.unet, pipe.source_unet, pipe.pose_encoder):
            net.half()
        pipe.card = make_photo_card(course, data, _facts_of(course, accelerator))
        pipe.save_pretrained(course.model)
        write_model_page(course.model, pipe.card)


def _open_origin(course: Course, accelerator: Accelerator) -> Origin:
    """Load the nets onto the device, with checkpointing and compiling as wished."""
    options = course.recipe.truepose
    origin = read_origin(course.start, options, course.clip_width, course.seed)
    nets = origin.nets.to(accelerator.device)
    if options.get("gradient_checkpointing", False):
        nets.unet.enable_gradient_checkpointing()
        nets.source_unet.enable_gradient_checkpointing()
    if course.compiled:
        compile_parts(nets)
    return origin


def _make_check(
    course: Course,
    pipe: TruePosePipeline,
    held_out: PhotoPairs,
    precision: Callable[[], AbstractContextManager[object]],
) -> Check:
    """Return the check of a training: the report's metrics on the held-out pairs."""
    parser = Parser.load(course.model / "parser", str(pipe.vae.device))
    validation = Validation(
        pipe=pipe,
        held_out=held_out,
        parser=parser,
        folder=course.work / "sheets",
        precision=precision,
    )
    return Check(every=int(course.recipe.validation["every"]), measure=validation.measure)


def make_photo_card(course: Course, data: PhotoPairs, training: Mapping[str, Any]) -> ModelCard:
    """Return the model card of a recipe for photos."""
    recipe, options = course.recipe, course.recipe.truepose
    return ModelCard(
        name=recipe.name,
        height=recipe.height,
        width=recipe.width,
        steps=options["steps"],
        guidance=options["guidance"],
        keypoint_table=keypoint_table_hash(load_keypoint_table()),
        pose_style=options["pose_style"],
        licence=course.licence or UNKNOWN_LICENCE,
        training={
            "data": f"{len(data.pairs)} pairs of {len(data.pairs.latents)} photos, "
            f"{data.rows - len(data.pairs)} of {data.rows} rows left out",
            "manifest_sha256": course.manifests["train"],
            "base_model": course.start,
            **training,
        },
    )


def _facts_of(course: Course, accelerator: Accelerator) -> dict[str, Any]:
    """Return how a finished training went: recipe, hardware, hours, versions, figures."""
    on_gpu = accelerator.device.type == "cuda"
    machine = torch.cuda.get_device_name(accelerator.device) if on_gpu else platform.machine()
    facts: dict[str, Any] = {
        "recipe": {
            key: course.recipe.truepose[key] for key in ("objective", "schedule", "pose_style")
        },
        "seed": course.seed,
        "hardware": f"{accelerator.num_processes} x {machine}",
        "precision": accelerator.mixed_precision.replace("no", "float32"),
        "hours": round(logged_seconds(course.work / "loss.csv") / 3600, 3),
        "versions": {name: version(name) for name in LIBRARIES},
    }
    measured = course.work / "validation.csv"
    if measured.exists():
        with measured.open(encoding="utf-8", newline="") as file:
            last = list(csv.DictReader(file))[-1]
        facts["measured"] = describe({key: float(value) for key, value in last.items()})
    return facts
