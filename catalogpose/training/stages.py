"""From a recipe to a model folder: pictures, VAE, CLIP, TruePose, parser, each stage resumable on
its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from numpy.typing import NDArray

from catalogpose.catalog.files import write_atomically
from catalogpose.catalog.labels import keypoint_table_hash, load_keypoint_table
from catalogpose.errors import UsageError
from catalogpose.perception.clip import Clip
from catalogpose.training.clip import train_clip
from catalogpose.training.loop import Progress, Schedule
from catalogpose.training.parser import train_parser
from catalogpose.training.pictures import Pictures, draw_pictures
from catalogpose.training.recipes import Recipe
from catalogpose.training.sheets import write_sheet
from catalogpose.training.truepose import Pairs, TruePoseNets, prepare_pairs, train_truepose
from catalogpose.training.vae import make_vae, train_vae
from catalogpose.truepose.model import ModelCard
from catalogpose.truepose.pipeline import TruePosePipeline
from catalogpose.truepose.pose_encoder import STYLE_CHANNELS, PoseEncoder
from catalogpose.truepose.siamese import SourceNet, TargetNet

STAGES = ("vae", "clip", "truepose", "parser", "assemble")
"""In the order in which they run."""

NEEDS = {
    "vae": (),
    "clip": (),
    "truepose": ("vae", "clip"),
    "parser": (),
    "assemble": ("vae", "clip", "truepose", "parser"),
}
"""The stages that a stage needs."""


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where a recipe is carried out."""

    recipe: Recipe
    """What is made."""
    folder: Path
    """`work/` holds pictures, checkpoints, losses and sheets; `model/` is the result."""
    device: str
    """Where nets are trained."""
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
            workers=os.cpu_count() or 1,
            progress=self.progress,
        )


def _flat(photos: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Forget which product a picture shows: (P, V, H, W, 3) to (P * V, H, W, 3)."""
    return photos.reshape(-1, *photos.shape[2:])


def run_vae(shop: Workshop) -> None:
    """Train the VAE and write `vae/` in float16."""
    options = shop.recipe.vae
    schedule = shop.schedule(options)
    vae = make_vae(tuple(options["widths"]), options["latent_channels"])
    train_vae(
        _flat(shop.pictures("train").photos),
        _flat(shop.pictures("validation").photos),
        vae,
        schedule,
        shop.work / "vae",
        device=shop.device,
        progress=shop.progress,
    )
    vae.half().save_pretrained(str(shop.model / "vae"))


def run_clip(shop: Workshop) -> None:
    """Train CLIP and write `clip/` in float16."""
    options = shop.recipe.clip
    schedule = shop.schedule(options)
    train_clip(
        shop.pictures("train"),
        options["model"],
        schedule,
        shop.work / "clip",
        shop.model / "clip",
        device=shop.device,
        progress=shop.progress,
    )


def run_parser(shop: Workshop) -> None:
    """Train the parser and write `parser/` in float16."""
    options = shop.recipe.parser
    schedule = shop.schedule(options)
    train_parser(
        shop.pictures("train"),
        options["model"],
        schedule,
        shop.work / "parser",
        shop.model / "parser",
        device=shop.device,
        progress=shop.progress,
    )


def _pairs(shop: Workshop, split: str, vae: AutoencoderKL, clip: Clip) -> Pairs:
    """Prepare the pairs of a split with the trained VAE and CLIP."""
    path = shop.work / f"pairs-{split}.npz"
    return prepare_pairs(shop.pictures(split), vae, clip, path, shop.progress)


def run_truepose(shop: Workshop) -> None:
    """Train both UNets and the pose encoder and write them, with the scheduler, in float16."""
    recipe, options = shop.recipe, shop.recipe.truepose
    vae = AutoencoderKL.from_pretrained(str(shop.model / "vae"), dtype=torch.float32).to(
        shop.device
    )
    clip = Clip.load(shop.model / "clip", shop.device)
    pairs = _pairs(shop, "train", vae, clip)
    channels = recipe.vae["latent_channels"]
    unet = {
        **options["unet"],
        "in_channels": channels,
        "out_channels": channels,
        "sample_size": None,
    }
    schedule = shop.schedule(options)
    nets = TruePoseNets(
        unet, _pose_options(options), clip.width, options.get("hpfa_residual", True)
    )
    scheduler = DDIMScheduler(**options["scheduler"])
    pipe = TruePosePipeline(nets.unet, nets.source_unet, nets.pose_encoder, vae, scheduler)
    pipe.card = make_card(recipe, {})
    held_out = shop.pictures("validation")
    preview = _preview(shop, pipe, held_out, _pairs(shop, "validation", vae, clip))
    train_truepose(
        pairs,
        nets,
        scheduler,
        options["pose_style"],
        options["noises"],
        schedule,
        shop.work / "truepose",
        device=shop.device,
        preview=preview,
        progress=shop.progress,
    )
    for name in ("unet", "source_unet", "pose_encoder"):
        getattr(nets, name).half().save_pretrained(str(shop.model / name))
    scheduler.save_pretrained(str(shop.model / "scheduler"))


def _pose_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pose encoder's options with the channels that the pose style has."""
    return {**options["pose"], "in_channels": STYLE_CHANNELS[options["pose_style"]]}


def _preview(
    shop: Workshop, pipe: TruePosePipeline, pictures: Pictures, pairs: Pairs
) -> Callable[[int], None]:
    """Return a function that paints held-out pairs: rows of sources, results and targets."""
    count = min(12, len(pictures.photos))

    def preview(step: int) -> None:
        """Write the sheet with the weights as they are."""
        pipe.unet.eval()
        with torch.no_grad():
            conditions = []
            for p in range(count):
                embeddings = {
                    int(i): pairs.embeddings[p, 0, i] for i in np.flatnonzero(pairs.known[p, 0])
                }
                features = pipe.encode_source(
                    pictures.photos[p, 0], pictures.labels[p, 0], embeddings
                )
                conditions.append(
                    pipe.condition(features, frozenset(np.flatnonzero(pairs.shown[p, 1]).tolist()))
                )
            results = pipe.generate(conditions, pictures.joints[:count, 1], list(range(count)))
        pipe.unet.train()
        write_sheet(
            shop.work / "truepose" / "preview.png",
            [pictures.photos[:count, 0], results, pictures.photos[:count, 1]],
        )
        error = (results.astype(np.float64) - pictures.photos[:count, 1]) ** 2
        psnr = float(np.mean(10 * np.log10(255**2 / error.mean(axis=(1, 2, 3)))))
        with (shop.work / "truepose" / "preview.csv").open("a", encoding="utf-8") as file:
            file.write(f"{step},{psnr:.3f}\n")

    return preview


def make_card(recipe: Recipe, training: Mapping[str, object]) -> ModelCard:
    """Return the model card of a recipe."""
    options = recipe.truepose
    return ModelCard(
        name=recipe.name,
        height=recipe.height,
        width=recipe.width,
        steps=options["steps"],
        guidance=options["guidance"],
        keypoint_table=keypoint_table_hash(load_keypoint_table()),
        pose_style=options["pose_style"],
        licence="Apache-2.0",
        training=training,
    )


def run_assemble(shop: Workshop) -> None:
    """Write `model_index.json` and the card: the folder is then a model."""
    parts = {
        name: str(shop.model / name) for name in ("unet", "source_unet", "pose_encoder", "vae")
    }
    pipe = TruePosePipeline(
        TargetNet.from_pretrained(parts["unet"], dtype=torch.float16),
        SourceNet.from_pretrained(parts["source_unet"], dtype=torch.float16),
        PoseEncoder.from_pretrained(parts["pose_encoder"], dtype=torch.float16),
        AutoencoderKL.from_pretrained(parts["vae"], dtype=torch.float16),
        DDIMScheduler.from_pretrained(str(shop.model / "scheduler")),
    )
    pipe.card = make_card(
        shop.recipe,
        {
            "data": f"{shop.recipe.products} studio products of the train split, "
            f"{shop.recipe.views} views each",
            "hardware": f"{shop.device}, {os.cpu_count()} cores, {platform.machine()}",
            "seconds": {
                name: _logged_seconds(shop.work / name / "loss.csv")
                for name in ("vae", "clip", "parser", "truepose")
            },
            "schedules": {
                name: getattr(shop.recipe, name)["schedule"]
                for name in ("vae", "clip", "parser", "truepose")
            },
            "torch": torch.__version__,
        },
    )
    pipe.save_pretrained(shop.model)


def run_stages(shop: Workshop, stages: Sequence[str]) -> None:
    """Run stages in order; a finished one is not run again, a killed one goes on."""
    runners = {"vae": run_vae, "clip": run_clip, "truepose": run_truepose, "parser": run_parser}
    shop.work.mkdir(parents=True, exist_ok=True)
    _check_begun(shop)
    record = shop.work / "times.json"
    for stage in stages:
        missing = [name for name in NEEDS[stage] if name not in _read_times(record)]
        if missing:
            raise UsageError(f"--only {stage}: train {', '.join(missing)} first")
        if stage == "assemble":
            run_assemble(shop)
        elif stage not in _read_times(record):
            started = time.monotonic()
            runners[stage](shop)
            seconds = round(time.monotonic() - started, 1)
            text = json.dumps({**_read_times(record), stage: seconds})
            write_atomically(record, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]


def _check_begun(shop: Workshop) -> None:
    """Raise UsageError if the folder was begun with another recipe or seed; else note them."""
    text = json.dumps({"recipe": dataclasses.asdict(shop.recipe), "seed": shop.seed}, indent=2)
    begun = shop.work / "recipe.json"
    if not begun.exists():
        write_atomically(begun, lambda file: file.write(text.encode()))
    elif begun.read_text(encoding="utf-8") != text:
        raise UsageError(f"{shop.folder} was begun with another recipe or seed: name a new --out")


def _logged_seconds(path: Path) -> int:
    """Return the seconds that a log spans; its clock starts anew whenever training goes on."""
    total = last = 0.0
    for line in path.read_text(encoding="utf-8").splitlines():
        seconds = float(line.split(",")[1])
        if seconds < last:
            total += last
        last = seconds
    return round(total + last)


def _read_times(record: Path) -> dict[str, float]:
    """Return the seconds of every finished stage; stages may run in processes side by side."""
    times: dict[str, float] = {}
    if record.exists():
        times = json.loads(record.read_text(encoding="utf-8"))
    return times
