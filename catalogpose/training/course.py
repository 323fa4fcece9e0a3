"""What is trained on photos, and where: `Course`, which every step of such a training is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from catalogpose.catalog.data_record import DataRecord
from catalogpose.catalog.files import sha256_json
from catalogpose.catalog.labels import keypoint_table_hash, load_keypoint_table
from catalogpose.perception.clip import CONFIG_NAME, clip_settings
from catalogpose.perception.parser import parser_settings
from catalogpose.training.loop import Progress, Schedule
from catalogpose.training.objective import Objective
from catalogpose.training.origin import identify_start
from catalogpose.training.prepare import Setting
from catalogpose.training.processes import choose_precision
from catalogpose.training.recipe_checks import build
from catalogpose.training.recipes import PhotoRecipe


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
    """Whether torch compiles the nets' residual blocks and feed-forwards."""
    seed: int = 0
    """Seed of what has no weights yet, and of the batches, 0 to 2**31 - 1."""
    licence: str | None = None
    """The licence of the weights; None: nobody stated one."""
    data: DataRecord | None = None
    """What `catalogpose import` noted of the data set; None: the manifest is not of its making."""
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

    @cached_property
    def weights(self) -> dict[str, str]:
        """Which weights it starts from; see `identify_start`."""
        return identify_start(self.start)

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
        return build(self.recipe.name, "schedule", Schedule, options).over(pairs)

    @property
    def objective(self) -> Objective:
        """What is minimised; UsageError where the recipe's section is wrong."""
        return build(self.recipe.name, "objective", Objective, self.recipe.truepose["objective"])

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
                "rows": self.recipe.validation["pairs"] if split == "validation" else "all",
                "manifest": self.manifests[split],
                "start": sha256_json(self.weights),
                "keypoint_table": keypoint_table_hash(load_keypoint_table()),
                **{name: sha256_json(settings) for name, settings in folders.items()},
            },
        )
