"""What lies in a model folder: its parts, their sizes, TargetNet's settings and what it lacks."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from catalogpose.errors import UsageError
from catalogpose.truepose.model import ALIGNMENT, ModelCard, check_weights

NETS = ("unet", "source_unet", "pose_encoder", "vae")
"""The parts that every model folder has weights of."""

COMPANIONS = ("parser", "clip")
"""The parts that a folder may carry along, so that `generate` needs nothing else."""

MATCHER = "matcher"
"""The part that carries photos over, which not every model has."""

COMPOSITOR = "compositor"
"""The part that lays them over what was painted, which not every model with a matcher has."""

INDEX = "model_index.json"
"""Where diffusers says which class each part is."""

SCHEDULER = "scheduler/scheduler_config.json"
"""The one part without weights."""

SUFFIXES = (".json", ".safetensors", ".txt")
"""Kinds of files that make up a part; what is fetched from the hub is of these kinds alone."""

UNET_CONFIG = "unet/config.json"
"""TargetNet's settings."""

NET_SETTINGS = ("fusion", "delta", "sigma", "region_count", "clip_width", "carried_channels")
"""TargetNet's own settings among those of a plain UNet; a folder shows those that it has."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a model: a subfolder with weights."""

    name: str
    """The subfolder's name."""
    parameters: int
    """How many numbers its weights are."""
    bytes: int
    """Size of its weights on disk."""
    kinds: tuple[str, ...]
    """The types of those numbers as safetensors calls them, such as `F16`, sorted."""


def read_parts(folder: Path) -> tuple[Part, ...]:
    """Return the parts of a model folder by name, from the heads of their files alone.

    Loads no torch and no weights. Raises UsageError naming a file that is no safetensors file.
    """
    files = defaultdict(list)
    for path in sorted(folder.glob("*/*.safetensors")):
        files[path.parent.name].append(path)
    return tuple(_read_part(name, paths) for name, paths in sorted(files.items()))


def _read_part(name: str, paths: list[Path]) -> Part:
    """Count what the heads of a part's files announce."""
    parameters, kinds = 0, set()
    for path in paths:
        try:
            with safe_open(path, "np") as file:
                for key in file.keys():  # noqa: SIM118  # it is no dict and does not iterate
                    tensor = file.get_slice(key)
                    parameters += math.prod(tensor.get_shape())
                    kinds.add(tensor.get_dtype())
        except (SafetensorError, OSError) as error:
            raise UsageError(
                f"{path} cannot be read: {error}; fetch the model folder again"
            ) from None
    size = sum(path.stat().st_size for path in paths)
    return Part(name=name, parameters=parameters, bytes=size, kinds=tuple(sorted(kinds)))


def read_net_settings(folder: Path) -> dict[str, object]:
    """Return those of `NET_SETTINGS` that TargetNet's config holds; empty where there is none.

    Raises UsageError where the file is no JSON object.
    """
    values = _read_config(folder / UNET_CONFIG)
    return {name: values[name] for name in NET_SETTINGS if name in values}


def read_picture_size(folder: Path, card: ModelCard) -> tuple[int, int]:
    """Return height and width of the pictures that a model makes: its canvas's, or of a model whose
    compositor has a scale so many times that.

    Raises UsageError where the compositor's config is no JSON object, or its scale no whole number.
    """
    path = folder / COMPOSITOR / "config.json"
    scale = _read_config(path).get("scale", 1)
    if not isinstance(scale, int) or scale < 1:
        raise UsageError(
            f"{path} has a scale that is no whole number; fetch the model folder again"
        )
    return card.height * scale, card.width * scale


def _read_config(path: Path) -> dict[str, Any]:
    """Return what a part's config holds; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} is not a JSON object; fetch the model folder again")
    return values


def folder_faults(folder: Path, card: ModelCard, *, check: bool = True) -> list[str]:
    """Return what keeps a model folder from being published, a line each with its remedy.

    Looked for are missing parts, weights that are not the card's (`check=False` compares no
    hashes; comparing takes about a second a gigabyte), a licence that is missing or
    unknown, and missing training data.
    """
    faults = [
        f"{folder / name} is missing: train the model to its end or fetch the folder again"
        for name in (INDEX, SCHEDULER, UNET_CONFIG)
        if not (folder / name).is_file()
    ]
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}
    faults += [
        f"{folder / net} has no weights: train the model to its end or fetch the folder again"
        for net in NETS
        if not any(name.startswith(f"{net}/") for name in found | set(card.weights))
    ]
    faults += [
        f"{folder / name} is not among the card's weights: renew the card with "
        "catalogpose.truepose.model.write_card, or remove the file"
        for name in sorted(found - set(card.weights))
    ]
    if check:
        try:
            check_weights(folder, card)
        except UsageError as error:
            faults.append(str(error))
    if not card.licence.strip() or card.licence.strip().lower().startswith("unknown"):
        faults.append(f"{folder} names no licence: set `licence` in its catalogpose.json")
    if not card.training.get("data"):
        faults.append(
            f"{folder} does not say what it was trained on: set `training.data` in its "
            "catalogpose.json"
        )
    return faults


def list_files(folder: Path) -> list[Path]:
    """Return the files that make up a model, relative to `folder`, sorted.

    They are those at the top that a model has, its page and licence included, and those of
    `SUFFIXES` in its parts; logs, previews and whatever else lies there are no part of it.
    """
    parts = {*NETS, *COMPANIONS, MATCHER, COMPOSITOR, ALIGNMENT, Path(SCHEDULER).parent.name}
    top = {INDEX, "catalogpose.json", "README.md", "LICENSE"}
    files = [folder / name for name in top if (folder / name).is_file()]
    files += [
        path
        for path in folder.glob("*/*")
        if path.parent.name in parts and path.suffix in SUFFIXES and path.is_file()
    ]
    return sorted(path.relative_to(folder) for path in files)
