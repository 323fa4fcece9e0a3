"""Training on photos from end to end: arrays, nets, the loop and the model folder.

After `begin`, `prepare` makes the arrays, `try_course` tries one batch, and `run_course` trains and
writes the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from accelerate import Accelerator

from catalogpose.catalog.files import sha256_json
from catalogpose.errors import UsageError
from catalogpose.perception.parser import Parser
from catalogpose.records import Row
from catalogpose.training.compiling import compile_parts
from catalogpose.training.course import Course
from catalogpose.training.loop import Check
from catalogpose.training.origin import Origin, read_origin, read_vae
from catalogpose.training.photo_card import make_photo_card, training_facts
from catalogpose.training.photo_pairs import plan_pictures
from catalogpose.training.prepare import (
    Look,
    PhotoPairs,
    open_photos,
    prepare_photos,
    try_failed_again,
)
from catalogpose.training.trial import Trial, try_out
from catalogpose.training.truepose import loss_over, train_truepose
from catalogpose.training.validation import Validation
from catalogpose.truepose.model_page import write_model_page
from catalogpose.truepose.pipeline import TruePosePipeline

TRIED_ROWS = 8
"""Rows prepared for a dry run where nothing is prepared yet."""


def prepare(
    course: Course, split: str, rows: Sequence[Row], look: Look, *, again: bool = False
) -> PhotoPairs:
    """Make, or open, the arrays of `train` or `validation` from a manifest's rows.

    `again` looks once more at pictures that could not be used, unless there is a checkpoint: a
    training that goes on must meet the same pairs. UsageError where the folder holds other arrays.
    """
    folder = course.folder / "prepared" / split
    if again and not (course.work / "checkpoint.pt").exists():
        open_photos(folder, course.setting(split))  # refuses what is not this training's
        try_failed_again(folder)
    return _prepare(course, folder, split, rows, look)


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
    # The few rows tried may share a source more often than all do: none shared is the most.
    schedule = dataclasses.replace(schedule, together=1)
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
    pipe = origin.nets.pipeline(vae, origin.scheduler, None)
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
        pipe.card = make_photo_card(course, data, training_facts(course, accelerator))
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
        if options["schedule"].get("together", 1) > 1:
            raise UsageError("--compile needs together 1: every number of sources compiles anew")
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
