"""Where a studio recipe is carried out: its folders, its data, and the record of what is done."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from catalogpose.catalog.files import write_atomically
from catalogpose.catalog.labels import to_common
from catalogpose.errors import UsageError
from catalogpose.perception.clip import Clip
from catalogpose.perception.parser import Parser
from catalogpose.training.loop import Progress, Schedule
from catalogpose.training.pairs import Pairs
from catalogpose.training.pictures import Pictures, draw_pictures
from catalogpose.training.processes import ALONE, Team
from catalogpose.training.recipes import Recipe
from catalogpose.training.truepose import studio_pairs


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where a studio recipe is carried out."""

    recipe: Recipe
    """What is made."""
    folder: Path
    """`work/` holds pictures, checkpoints, losses and sheets; `model/` is the result."""
    device: str
    """Where nets are trained."""
    start: Path | None = None
    """Folder of a model of the same recipe whose TruePose is trained on, with the eyes it has;
    None: every part is trained from nothing."""
    team: Team = ALONE
    """The processes that train together."""
    refine: tuple[str, ...] = ()
    """Eyes of that model which are trained on before TruePose is, of `continuing.EYES`."""
    seed: int = 0
    """Seed of the first weights and of the batches, 0 to 2**31 - 1."""
    progress: Progress | None = None
    """Told what is done; None: nobody is told."""

    def begin(self, part: str) -> Path | None:
        """Return the folder of the part that one of `refine` goes on from; None: from nothing."""
        return self.start / part if self.start is not None and part in self.refine else None

    @property
    def work(self) -> Path:
        """The folder of all that is not the result."""
        return self.folder / "work"

    @property
    def model(self) -> Path:
        """The model folder that is made."""
        return self.folder / "model"

    def schedule(self, options: Mapping[str, Any]) -> Schedule:
        """Return the schedule of a recipe's section, and seed the first weights of its net."""
        torch.manual_seed(self.seed)
        return Schedule(**options["schedule"], seed=self.seed)

    def pictures(self, split: str) -> Pictures:
        """Draw, or read again, a split's pictures: all to learn from, a few to look at."""
        recipe = self.recipe
        products = recipe.products if split == "train" else min(24, recipe.products)
        size = (recipe.height, recipe.width)
        return draw_pictures(
            self.work / "pictures",
            split,
            products,
            recipe.views,
            size,
            fine=recipe.fine,
            workers=os.cpu_count() or 1,
            progress=self.progress,
        )

    @property
    def times(self) -> dict[str, float]:
        """The seconds of every finished stage; stages may run in processes side by side."""
        record = self.work / "times.json"
        times: dict[str, float] = {}
        if record.exists():
            times = json.loads(record.read_text(encoding="utf-8"))
        return times

    def note_time(self, stage: str, seconds: float) -> None:
        """Record that a stage is finished."""
        if not self.team.leads:
            return
        text = json.dumps({**self.times, stage: round(seconds, 1)})
        write_atomically(self.work / "times.json", lambda file: file.write(text.encode()))


def flat(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Forget which product a picture shows: (P, V, ...) to (P * V, ...)."""
    return pictures.reshape(-1, *pictures.shape[2:])


def load_eyes(shop: Workshop) -> tuple[AutoencoderKL, Clip]:
    """Load the VAE and the CLIP that earlier stages made."""
    folder = str(shop.model / "vae")
    vae = AutoencoderKL.from_pretrained(folder, dtype=torch.float32).to(shop.device)
    return vae, Clip.load(shop.model / "clip", shop.device)


def make_pairs(
    shop: Workshop, split: str, vae: AutoencoderKL, clip: Clip, *, parsed: bool = False
) -> Pairs:
    """Prepare the pairs of a split with the trained VAE and CLIP; for a matcher with the photos.

    `parsed`: with the trained parser's maps of the pictures to learn from, `train`, as sources.
    """
    folder = shop.work / f"pairs-{split}"
    with shop.team.leader_first():
        pictures = shop.pictures(split)
        pairs = studio_pairs(pictures, vae, clip, folder, shop.progress)
    if "matcher" not in shop.recipe.truepose:
        return pairs
    pairs = dataclasses.replace(pairs, photos=flat(pictures.photos))
    return dataclasses.replace(pairs, parsed=flat(parse_pictures(shop))) if parsed else pairs


def parse_pictures(shop: Workshop) -> NDArray[np.uint8]:
    """Return the maps (P, V, H, W) that the trained parser makes of the pictures to learn from;
    made once.
    """
    file = shop.work / "parsed.npy"
    with shop.team.leader_first():
        if not file.exists():
            photos = shop.pictures("train").photos
            parser = Parser.load(shop.model / "parser", shop.device)
            maps = np.empty(photos.shape[:-1], np.uint8)
            for product, views in enumerate(photos):
                maps[product] = to_common(parser.parse_all(views), parser.label_set)
                if shop.progress is not None:
                    shop.progress("parsing", product + 1, len(photos))
            write_atomically(file, lambda out: np.save(out, maps))
    found: NDArray[np.uint8] = np.load(file)
    return found


def check_begun(
    path: Path, facts: Mapping[str, object], folder: Path, option: str = "--out"
) -> None:
    """Note in a JSON file what decides a training; a training that goes on must have the same.

    Args:
        path: The file.
        facts: What decides it, by name.
        folder: Where it goes on, for the error.
        option: The command line's, which named the folder.

    Raises:
        UsageError: If `folder` was begun with other facts; it names those that differ.
    """
    plain = json.loads(json.dumps(facts))
    if not path.exists():
        text = json.dumps(plain, indent=2)
        write_atomically(path, lambda file: file.write(text.encode()))
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [key for key in plain if plain[key] != before.get(key)]
    if changed:
        raise UsageError(
            f"{folder} was begun with another {' and '.join(changed)}: name a new {option}"
        )


def logged_seconds(path: Path) -> int:
    """Return the seconds that a log spans; its clock starts anew whenever training goes on."""
    total = last = 0.0
    for line in path.read_text(encoding="utf-8").splitlines():
        seconds = float(line.split(",")[1])
        if seconds < last:
            total += last
        last = seconds
    return round(total + last)
