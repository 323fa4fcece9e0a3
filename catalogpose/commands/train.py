"""`catalogpose train`: a recipe becomes a model folder, from the studio or from photos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from catalogpose.catalog.cache import default_cache_folder
from catalogpose.catalog.data_record import read_data_record
from catalogpose.catalog.files import sha256_file
from catalogpose.catalog.manifest import check_manifest, read_rows
from catalogpose.config import TrainOptions
from catalogpose.errors import EnvironmentFault, UsageError
from catalogpose.training.recipes import PhotoRecipe, Recipe, TextRecipe, load_recipe
from catalogpose.truepose.model import resolve_model

if TYPE_CHECKING:  # torch takes seconds to import, and a wrong flag must be said at once
    from catalogpose.run.perceive import Perception
    from catalogpose.training.course import Course
    from catalogpose.training.prepare import Look, PhotoPairs
    from catalogpose.training.trial import Trial

SHOWN_FAILURES = 10
"""Pictures that could not be used which the summary names; the number of all is beside them."""

StageProgress = Callable[[str, int, int], None]
"""Called with a stage's name, how much is done and how much there is."""


@dataclass(frozen=True, kw_only=True)
class TrainSummary:
    """What a training left behind."""

    model: Path
    """The model folder, which `generate --model` takes; complete once all stages have run."""
    stages: tuple[str, ...]
    """The stages that are now done."""

    exit_code = 0
    """The shell's exit code."""

    def __str__(self) -> str:
        """Tell a person what is done and what to do next."""
        done = f"done: {', '.join(self.stages)}"
        if not {"assemble", "truepose"} & set(self.stages[-1:]):
            return done
        return f"{done}\nnext: catalogpose generate --manifest FILE --model {self.model}"


@dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """What `train --prepare` did."""

    folder: Path
    """Where the arrays lie."""
    pairs: int
    """Pairs that training will read."""
    pictures: int
    """Distinct pictures, those that could not be used included."""
    left_out: int
    """Rows left out, since a picture of theirs could not be used."""
    bytes: int
    """Size of the arrays on disk."""
    failures: tuple[tuple[int, str, str, str], ...]
    """Row, column, photo and reason of each picture that could not be used."""

    @property
    def exit_code(self) -> int:
        """The shell's exit code: 0, or 3 where rows were left out."""
        return 3 if self.left_out else 0

    def __str__(self) -> str:
        """Tell a person what was made and what could not be."""
        lines = [
            f"{self.pairs} pairs of {self.pictures} pictures, {self.left_out} rows left out; "
            f"{self.bytes / 1e9:.2f} GB in {self.folder}"
        ]
        for row, column, photo, reason in self.failures[:SHOWN_FAILURES]:
            lines.append(f"row {row}, column {column}: {photo}: {reason}")
        if len(self.failures) > SHOWN_FAILURES:
            lines.append(f"and {len(self.failures) - SHOWN_FAILURES} more in report.json there")
        if self.failures:
            lines.append("once they are mended, --prepare tries them again, until training begins")
        return "\n".join(lines)


def train_model(
    options: TrainOptions,
    progress: StageProgress | None = None,
    warn: Callable[[str], None] | None = None,
) -> TrainSummary | PrepareSummary | Trial:
    """Carry out a recipe, or only prepare or try it; a second call goes on where one stopped.

    `progress` is told what is done, `warn`, in a line, what looks wrong and stops nothing. Started
    by `accelerate launch` or `torchrun`, several processes train together.

    Raises:
        UsageError: If a flag or the recipe is wrong, or `out` was begun with another recipe.
        ManifestError: If a manifest is faulty, or rows lack a target.
        EnvironmentFault: If there is no such device, or its memory is too small.
        CatalogposeError: If the training breaks: a loss or gradient that is not a number.
    """
    recipe = load_recipe(options.recipe)
    if isinstance(recipe, Recipe):
        return _train_studio(options, recipe, progress)
    if isinstance(recipe, TextRecipe):
        return _train_words(options, recipe, progress)
    return _train_photos(options, recipe, progress, warn)


def _train_studio(
    options: TrainOptions, recipe: Recipe, progress: StageProgress | None
) -> TrainSummary:
    """Carry out a recipe on pictures that the studio draws."""
    _refuse_photo_flags(options, recipe.name)
    # Imported once the recipe is known to exist: torch takes seconds.
    from catalogpose.training.continuing import EYES
    from catalogpose.training.processes import join_team, process_count
    from catalogpose.training.recipe_checks import check_studio_recipe
    from catalogpose.training.stages import STAGES, TOGETHER, run_stages
    from catalogpose.training.workshop import Workshop

    if options.only is not None and options.only not in STAGES:
        raise UsageError(f"--only {options.only}: no such stage; known: {', '.join(STAGES)}")
    if unknown := sorted(set(options.refine) - set(EYES)):
        raise UsageError(f"--refine {unknown[0]}: no such part; known: {', '.join(EYES)}")
    if options.refine and options.model is None:
        raise UsageError("--refine goes with --model, whose parts it trains on")
    if process_count() > 1 and options.only not in TOGETHER:
        raise UsageError(
            f"several processes train {', '.join(TOGETHER)} of {recipe.name} alone, which --only "
            "names; start the other stages without launcher"
        )
    check_studio_recipe(recipe)
    stages = STAGES if options.only is None else (options.only,)
    device = _torch_device(options.device)
    with join_team(device) as team:
        shop = Workshop(
            recipe=recipe,
            folder=options.out,
            device=device,
            team=team,
            start=None if options.model is None else resolve_model(options.model),
            refine=options.refine,
            seed=options.seed,
            progress=progress,
        )
        run_stages(shop, stages)
    return TrainSummary(model=shop.model, stages=tuple(stages))


def _train_words(
    options: TrainOptions, recipe: TextRecipe, progress: StageProgress | None
) -> TrainSummary:
    """Train the alignment of words and picture over a model, on pictures that the studio draws."""
    _refuse_photo_flags(options, recipe.name)
    for flag, value in (("--only", options.only), ("--refine", options.refine)):
        if value:
            raise UsageError(f"{flag} goes with other recipes; {recipe.name} trains one part")
    from catalogpose.training.processes import join_team
    from catalogpose.training.words import TextCourse, run_text_course

    device = _torch_device(options.device)
    with join_team(device) as team:
        course = TextCourse(
            recipe=recipe,
            start=resolve_model(options.model),
            folder=options.out,
            device=device,
            team=team,
            seed=options.seed,
            progress=progress,
        )
        run_text_course(course)
    return TrainSummary(model=course.model, stages=("alignment", "assemble"))


def _refuse_photo_flags(options: TrainOptions, name: str) -> None:
    """Raise UsageError where a flag is given that pictures of the studio's own have no use for."""
    for flag, value in (
        ("--manifest", options.manifest), ("--validation", options.validation),
        ("--prepare", options.prepare), ("--dry-run", options.dry_run),
        ("--precision", options.precision != "auto"), ("--accumulate", options.accumulate > 1),
        ("--compile", options.compile_nets), ("--licence", options.licence),
    ):  # fmt: skip
        if value:
            raise UsageError(f"{flag} goes with recipes for photos; {name} draws its own")


def _train_photos(
    options: TrainOptions,
    recipe: PhotoRecipe,
    progress: StageProgress | None,
    warn: Callable[[str], None] | None,
) -> TrainSummary | PrepareSummary | Trial:
    """Carry out a recipe on photos."""
    if options.refine:
        raise UsageError(f"--refine goes with studio recipes; {recipe.name} trains one part")
    if options.only is not None:
        raise UsageError(f"--only goes with studio recipes; {recipe.name} trains one part")
    if options.manifest is None:
        raise UsageError(f"--manifest FILE is needed: {recipe.name} learns from pairs of photos")
    for manifest in (options.manifest, options.validation):
        if manifest is not None:
            check_manifest(manifest)
    from catalogpose.training.beginning import begin
    from catalogpose.training.photos import run_course
    from catalogpose.training.processes import (
        closing_accelerator,
        open_accelerator,
        process_count,
    )

    course = _make_course(options, recipe, progress, warn)
    alone = process_count() == 1
    if not alone and (options.prepare or options.dry_run):
        raise UsageError("--prepare and --dry-run work in one process: start them without launcher")
    if not alone:
        _need_prepared(course)
    begin(course, binding=not options.dry_run)
    if options.dry_run:
        return _try(course, options)
    with _open_eyes(course, options) as eyes:
        data, held_out = _prepare(course, options, eyes.look)
    if options.prepare:
        return _summarise(course, data)
    accelerator = open_accelerator(course.device, course.accelerate_precision, course.folder)
    with closing_accelerator(accelerator):
        run_course(course, accelerator, data, held_out)
    return TrainSummary(model=course.model, stages=("prepare", "truepose"))


def _need_prepared(course: Course) -> None:
    """Raise UsageError unless every split's arrays are there: many processes cannot make them."""
    lacking = [
        split
        for split in course.manifests
        if not (course.folder / "prepared" / split / "pairs.npy").exists()
    ]
    if lacking:
        raise UsageError(
            f"{' and '.join(lacking)} not prepared in {course.folder}: first run the same command "
            "with --prepare, without launcher"
        )


def _make_course(
    options: TrainOptions,
    recipe: PhotoRecipe,
    progress: StageProgress | None,
    warn: Callable[[str], None] | None,
) -> Course:
    """Resolve what the options leave open."""
    from catalogpose.training.course import Course

    assert options.manifest is not None  # else refused before
    start = options.model or recipe.start
    manifests = {"train": options.manifest}
    if options.validation is not None:
        manifests["validation"] = options.validation
    return Course(
        recipe=recipe,
        folder=options.out,
        start=str(Path(start).resolve()) if Path(start).is_dir() else start,
        manifests={split: sha256_file(path) for split, path in manifests.items()},
        device=_torch_device(options.device),
        precision=options.precision,
        accumulation=options.accumulate,
        compiled=options.compile_nets,
        seed=options.seed,
        licence=options.licence,
        data=read_data_record(options.manifest),
        progress=progress,
        warn=warn,
    )


def _open_eyes(course: Course, options: TrainOptions) -> Perception:
    """Return parser and CLIP of the model folder, behind the caches that `parse` fills."""
    from catalogpose.run.perceive import Perception

    return Perception(course.model, options.cache or default_cache_folder(), course.device)


def _prepare(
    course: Course, options: TrainOptions, look: Look
) -> tuple[PhotoPairs, PhotoPairs | None]:
    """Make, or open, the arrays of the manifest and of the fixed rows that validate."""
    from catalogpose.training.photo_pairs import pick_evenly
    from catalogpose.training.photos import prepare

    assert options.manifest is not None  # else refused before
    again = options.prepare
    data = prepare(course, "train", list(read_rows(options.manifest)), look, again=again)
    if options.validation is None:
        return data, None
    rows = pick_evenly(read_rows(options.validation), int(course.recipe.validation["pairs"]))
    return data, prepare(course, "validation", rows, look, again=again)


def _try(course: Course, options: TrainOptions) -> Trial:
    """Check one batch and estimate the whole."""
    from catalogpose.training.photos import try_course
    from catalogpose.training.processes import closing_accelerator, open_accelerator

    assert options.manifest is not None  # else refused before
    rows = list(read_rows(options.manifest))
    accelerator = open_accelerator(course.device, course.accelerate_precision)
    with closing_accelerator(accelerator), _open_eyes(course, options) as eyes:
        return try_course(course, accelerator, rows, eyes.look)


def _summarise(course: Course, data: PhotoPairs) -> PrepareSummary:
    """Say what was prepared."""
    return PrepareSummary(
        folder=course.folder / "prepared" / "train",
        pairs=len(data.pairs),
        pictures=len(data.pairs.latents),
        left_out=data.rows - len(data.pairs),
        bytes=data.bytes,
        failures=tuple((f.row, f.column, f.path, f.reason) for f in data.failures),
    )


def _torch_device(device: str) -> str:
    """Return `cpu` or `cuda`; EnvironmentFault where that is not there."""
    import torch

    there = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if there else "cpu"
    if device == "cuda" and not there:
        raise EnvironmentFault("torch cannot use a GPU here; --device cpu works without")
    return device
