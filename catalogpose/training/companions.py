"""The parser and the CLIP that a model folder carries along, copied in from folders or the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from catalogpose.catalog.labels import LABEL_SETS
from catalogpose.errors import UsageError, first_line
from catalogpose.training.origin import is_own_model
from catalogpose.training.recipes import PhotoRecipe
from catalogpose.truepose.model import read_card

PARSER_FILES = ("config.json", "preprocessor_config.json", "model*.safetensors", "model*.json")
"""Files of a transformers folder that `Parser.load` reads."""

CLIP_FILES = (
    "open_clip_config.json", "open_clip_model.safetensors", "tokenizer*.json", "vocab.json",
    "merges.txt", "special_tokens_map.json",
)  # fmt: skip
"""Files of an open_clip folder that `Clip.load` reads."""


UNTOLD = "not recorded"
"""The licence of a companion where nobody stated one."""


@dataclass(frozen=True, kw_only=True)
class Companion:
    """A parser or a CLIP that is copied."""

    name: str
    """Hub id or folder."""
    label_set: str | None = None
    """The label set of a parser's classes; None: its configuration says it, and for CLIP."""
    notes: Mapping[str, object] | None
    """`origin` and `licence` for the card; None where it is the same maker's as the nets."""


def choose_companions(recipe: PhotoRecipe, start: str) -> dict[str, Companion]:
    """Return the `parser` and the `clip` to copy: a model's own where the start is one of ours and
    has them, else the recipe's.
    """
    chosen = {}
    for part, section in (("parser", recipe.parser), ("clip", recipe.clip)):
        held = Path(start) / part
        if is_own_model(start) and (part == "clip" or (held / "config.json").is_file()):
            noted = read_card(Path(start)).training.get("companions")
            notes = noted.get(part) if isinstance(noted, Mapping) else None
            chosen[part] = Companion(name=str(held), notes=notes)
            continue
        name = str(section["name"])
        origin = Path(name).name if Path(name).is_dir() else name
        chosen[part] = Companion(
            name=name,
            label_set=section.get("label_set"),
            notes={"origin": origin, "licence": section.get("licence") or UNTOLD},
        )
    return chosen


def copy_parser(name: str, target: Path, label_set: str | None, *, renew: bool = False) -> None:
    """Copy a SegFormer into a model folder's `parser`; what was there goes once the copy is whole.

    Args:
        name: Hub id or folder.
        target: The folder made.
        label_set: The label set of its classes. None: what its configuration names.
        renew: Whether one that is there is replaced; else it stays as it is.

    Raises:
        UsageError: If it lacks a file, safetensors above all, or its label set is unknown.
    """
    if (target / "config.json").is_file() and not renew:
        return
    folder = _fetch(name, "parser", PARSER_FILES)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["label_set"] = label_set or config.get("label_set")
    if config["label_set"] not in LABEL_SETS:
        raise UsageError(
            f"the recipe's parser {name} has label set {config['label_set']!r}; "
            f"name one of {', '.join(LABEL_SETS)} beside it"
        )
    _copy(folder, target, PARSER_FILES, {"config.json": json.dumps(config, indent=2) + "\n"})


def copy_clip(name: str, target: Path, *, renew: bool = False) -> None:
    """Copy an open_clip model, hub id or folder, into a model folder's `clip`; one that is there
    stays, unless `renew` says that it goes once the copy is whole.

    Raises:
        UsageError: If it lacks a file, safetensors above all.
    """
    if renew or not (target / "open_clip_config.json").is_file():
        _copy(_fetch(name, "clip", CLIP_FILES), target, CLIP_FILES, {})


def _fetch(name: str, what: str, patterns: Sequence[str]) -> Path:
    """Return a local folder with the files of a folder or hub id; UsageError where some lack."""
    folder = Path(name)
    if not folder.is_dir():
        # Imported here: a local folder needs no hub.
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(name, allow_patterns=list(patterns)))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            reason = first_line(error)
            raise UsageError(
                f"no folder {name}, and the hub gave no {what} of that name: {reason}"
            ) from None
    for pattern in patterns:
        plain = "*" not in pattern and pattern.startswith(("config", "open_clip", "preprocessor"))
        if (plain or pattern.endswith(".safetensors")) and not any(folder.glob(pattern)):
            raise UsageError(f"the recipe's {what} {name} lacks {pattern}")
    return folder


def _copy(folder: Path, target: Path, patterns: Sequence[str], changed: dict[str, str]) -> None:
    """Copy the files that fit into a new folder, some with other text; it appears whole."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for path in sorted(folder.iterdir()):
        if any(fnmatch(path.name, pattern) for pattern in patterns):
            shutil.copyfile(path, partial / path.name)
    for name, text in changed.items():
        (partial / name).write_text(text, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)
