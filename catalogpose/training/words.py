"""The training of a model folder's alignment, from a recipe to the finished folder."""

from __future__ import annotations

import dataclasses
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from catalogpose.catalog.files import write_atomically
from catalogpose.errors import UsageError
from catalogpose.humandiffusion.alignment import Alignment
from catalogpose.humandiffusion.text_driven import check_fusion
from catalogpose.perception.clip import Clip
from catalogpose.training.alignment import AlignmentNets, AlignmentObjective, train_alignment
from catalogpose.training.clip import ClipObjective, train_clip
from catalogpose.training.loop import Progress
from catalogpose.training.pictures import Pictures, draw_pictures
from catalogpose.training.processes import ALONE, Team, process_count
from catalogpose.training.recipe_checks import build
from catalogpose.training.recipes import TextRecipe
from catalogpose.training.schedule import Schedule
from catalogpose.training.truepose import studio_pairs
from catalogpose.training.wishes import Mix
from catalogpose.training.wording import studio_wording
from catalogpose.training.workshop import check_begun, logged_seconds
from catalogpose.truepose.model import ALIGNMENT, read_card, write_card
from catalogpose.truepose.model_page import write_model_page
from catalogpose.truepose.parts import read_net_settings
from catalogpose.truepose.pipeline import TruePosePipeline

DONE = "done"
"""The file in `work/` that says that a model folder is finished."""


@dataclass(frozen=True, kw_only=True)
class TextCourse:
    """Where a `TextRecipe` is carried out, and over what."""

    recipe: TextRecipe
    """What is made."""
    start: Path
    """The model folder whose nets stay as they are."""
    folder: Path
    """`work/` holds pictures, arrays and checkpoint; `model/` is the result."""
    device: str
    """Where the alignment is trained."""
    team: Team = ALONE
    """The processes that train together."""
    seed: int = 0
    """Seed of the first weights and of the batches, 0 to 2**31 - 1."""
    progress: Progress | None = None
    """Told what is done; None: nobody is told."""

    @property
    def work(self) -> Path:
        """The folder of all that is not the result."""
        return self.folder / "work"

    @property
    def model(self) -> Path:
        """The model folder that is made."""
        return self.folder / "model"

    @property
    def schedule(self) -> Schedule:
        """Steps, batch and rates; UsageError where they are wrong."""
        options = {**self.recipe.schedule, "seed": self.seed}
        return build(self.recipe.name, "schedule", Schedule, options)

    @property
    def objective(self) -> AlignmentObjective:
        """What is minimised; UsageError where it is wrong."""
        return build(self.recipe.name, "objective", AlignmentObjective, self.recipe.objective)

    @property
    def eyes(self) -> tuple[ClipObjective, Schedule]:
        """How a new CLIP is trained; UsageError where it is wrong."""
        assert self.recipe.clip is not None  # else nobody asks
        objective = build(self.recipe.name, "clip", ClipObjective, self.recipe.clip["objective"])
        if not objective.near:
            raise UsageError(
                f"recipe {self.recipe.name}, clip: near must be above 0, since the model's nets "
                "read the embeddings as they are"
            )
        options = {**self.recipe.clip["schedule"], "seed": self.seed}
        return objective, build(self.recipe.name, "schedule of clip", Schedule, options)

    @property
    def mix(self) -> Mix:
        """What rows ask for; UsageError where it is wrong."""
        return build(self.recipe.name, "mix", Mix, self.recipe.mix)


def run_text_course(course: TextCourse) -> None:
    """Train an alignment over a model and put both into a new model folder; a second call goes on.

    Raises:
        UsageError: If the recipe or the start is wrong, or the folder was begun otherwise.
    """
    schedule, objective, mix = course.schedule, course.objective, course.mix
    if course.recipe.clip is not None:
        _ = course.eyes  # Wrong, it stops here and not after hours.
        if process_count() > 1 and not (course.work / "eyes" / DONE).exists():
            raise UsageError(
                f"recipe {course.recipe.name} trains its CLIP in one process: run this without a "
                "launcher until the alignment begins, stop it, and go on with several"
            )
    if course.start.resolve() == course.model.resolve():
        raise UsageError(f"--model {course.start} is what this training writes: name a new --out")
    schedule.share(process_count())
    card = read_card(course.start)
    check_fusion(str(read_net_settings(course.start)["fusion"]))
    facts = {
        "recipe": dataclasses.asdict(course.recipe), "seed": course.seed,
        "model": dict(card.weights),
    }  # fmt: skip
    with course.team.leader_first():
        course.work.mkdir(parents=True, exist_ok=True)
        check_begun(course.work / "recipe.json", facts, course.folder)
    if (course.work / DONE).exists():
        return
    pipe = TruePosePipeline.from_pretrained(course.start, dtype=torch.float32)
    factor = pipe.pose_encoder.factor
    torch.manual_seed(course.seed)
    made = build(
        course.recipe.name, "alignment", lambda **o: Alignment.over(pipe.unet, factor, **o),
        course.recipe.alignment,
    )  # fmt: skip
    pipe.vae.to(course.device)
    with course.team.leader_first():
        pictures = _draw(course, (card.height, card.width))
        eyes = _train_eyes(course, pictures)
        clip = Clip.load(eyes, course.device)
        pairs = studio_pairs(pictures, pipe.vae, clip, course.work / "pairs", course.progress)
        wording = studio_wording(
            pairs, pictures.captions, clip, course.work / "wording", course.progress
        )
    nets = train_alignment(
        pairs, wording, pictures.photos.reshape(-1, *pictures.photos.shape[2:]), clip, pipe,
        AlignmentNets(made), mix, objective, schedule, course.work / "alignment",
        device=course.device, progress=course.progress, **course.team.options,
    )  # fmt: skip
    if course.team.leads:
        _finish(course, nets.alignment)


def _draw(course: TextCourse, size: tuple[int, int]) -> Pictures:
    """Draw, or read again, the pictures to learn from."""
    recipe = course.recipe
    return draw_pictures(
        course.work / "pictures", "train", recipe.products, recipe.views, size,
        workers=os.cpu_count() or 1, progress=course.progress,
    )  # fmt: skip


def _train_eyes(course: TextCourse, pictures: Pictures) -> Path:
    """Train the CLIP that takes the place of the model's, or read it again; return its folder."""
    former = course.start / "clip"
    if course.recipe.clip is None:
        return former
    folder = course.work / "eyes"
    if not (folder / DONE).exists():
        train_clip(
            pictures, course.recipe.clip["model"], *course.eyes, course.work / "clip", folder,
            begin=former, device=course.device, progress=course.progress,
        )  # fmt: skip
        write_atomically(folder / DONE, lambda file: file.write(b""))
    return folder


def _finish(course: TextCourse, alignment: Alignment) -> None:
    """Put the start, a new CLIP and the alignment into the model folder, with a card and a page of
    all.
    """
    shutil.copytree(course.start, course.model, dirs_exist_ok=True)
    if course.recipe.clip is not None:
        shutil.copytree(
            course.work / "eyes", course.model / "clip",
            ignore=shutil.ignore_patterns(DONE), dirs_exist_ok=True,
        )  # fmt: skip
    alignment.half().save_pretrained(str(course.model / ALIGNMENT))
    card, recipe = read_card(course.start), course.recipe
    facts = {
        "recipe": recipe.name,
        "data": f"{recipe.products} studio products of the train split, {recipe.views} views each",
        "hardware": f"{course.device}, {os.cpu_count()} cores, {platform.machine()}",
        "seconds": logged_seconds(course.work / "alignment" / "loss.csv"),
        "schedule": dict(recipe.schedule),
        "mix": dict(recipe.mix),
        "objective": dict(recipe.objective),
        "torch": torch.__version__,
    }
    if recipe.clip is not None:
        facts["clip"] = {
            "objective": dict(recipe.clip["objective"]),
            "schedule": dict(recipe.clip["schedule"]),
            "seconds": logged_seconds(course.work / "clip" / "loss.csv"),
        }
    card = dataclasses.replace(card, training={**card.training, "alignment": facts})
    write_model_page(course.model, write_card(course.model, card))
    write_atomically(course.work / DONE, lambda file: file.write(b""))
