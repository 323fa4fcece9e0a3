"""The card of a model trained on photos: whence it came, how it was trained and what it scored."""

from __future__ import annotations

import csv
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from catalogpose import __version__
from catalogpose.training.card import make_card
from catalogpose.training.companions import choose_companions
from catalogpose.training.course import Course
from catalogpose.training.prepare import PhotoPairs
from catalogpose.training.validation import describe
from catalogpose.training.workshop import logged_seconds
from catalogpose.truepose.model import ModelCard

LIBRARIES = ("torch", "diffusers", "accelerate", "transformers", "open_clip_torch")
"""Distributions whose versions the card names, beside this package's own."""


def make_photo_card(course: Course, data: PhotoPairs, training: Mapping[str, Any]) -> ModelCard:
    """Return the model card of a recipe for photos."""
    facts = {
        **_data_facts(course, data),
        "manifest_sha256": course.manifests["train"],
        **_start_facts(course),
        **training,
    }
    return make_card(course.recipe, facts, course.licence or "")


def _data_facts(course: Course, data: PhotoPairs) -> dict[str, object]:
    """Return what was learnt from, and under which licence where that is known."""
    text = (
        f"{len(data.pairs)} pairs of {len(data.pairs.latents)} photos, "
        f"{data.rows - len(data.pairs)} of {data.rows} rows left out"
    )
    if course.data is None:
        return {"data": text}
    return {"data": f"{course.data.name}: {text}", "data_licence": course.data.licence}


def _start_facts(course: Course) -> dict[str, object]:
    """Return whence the weights came, without a path of this machine, and whose parser and CLIP
    lie beside them.
    """
    chosen = choose_companions(course.recipe, course.start)
    notes = {part: companion.notes for part, companion in chosen.items() if companion.notes}
    facts: dict[str, object] = {"companions": notes} if notes else {}
    if "hub_id" in course.weights:
        return {
            "base_model": course.weights["hub_id"],
            "base_revision": course.weights["revision"],
            **facts,
        }
    return {"started_from": {"folder": Path(course.start).name, **course.weights}, **facts}


def training_facts(course: Course, accelerator: Accelerator) -> dict[str, Any]:
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
        "versions": {
            "catalogpose": __version__,
            **{name: version(name) for name in LIBRARIES},
        },
    }
    measured = course.work / "validation.csv"
    if measured.exists():
        with measured.open(encoding="utf-8", newline="") as file:
            last = list(csv.DictReader(file))[-1]
        facts["measured"] = describe({key: float(value) for key, value in last.items()})
    return facts
