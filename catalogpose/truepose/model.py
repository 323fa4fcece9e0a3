"""The model folder: where it is, and the card beside its weights that says what they need and
whence they come.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from catalogpose.errors import UsageError, first_line

CARD_NAME = "catalogpose.json"
"""The card's file name in a model folder."""

SCHEMA = 1
"""Version of the card's fields; a card of another version is refused."""

BUNDLED = Path(__file__).resolve().parent.parent / "bundled"
"""The small model that the package carries."""

ALIGNMENT = "alignment"
"""The subfolder of a model folder that text-driven rows need."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a checkpoint must be used with, and how it was made."""

    name: str
    """The model's name, for provenance."""
    height: int
    """Canvas height in pixels."""
    width: int
    """Canvas width in pixels."""
    steps: int = 35
    """Denoising steps by default; 35 in the paper."""
    guidance: float = 3.5
    """Guidance scale by default (Eq. 11); 3.5 in the paper."""
    label_set: str = "common"
    """The vocabulary of the parsing maps; region ids are its ids."""
    keypoint_table: str | None = None
    """Hash of the keypoint-to-label table used in training; None: not recorded."""
    pose_style: str = "rgb"
    """How the target pose is drawn; a mismatch silently ruins pictures."""
    clip_preprocessing: str = "squash"
    """How a region's rectangle becomes CLIP's square."""
    licence: str = ""
    """The weights' licence."""
    training: Mapping[str, object] = field(default_factory=dict)
    """Data, hardware, hours and steps of the training, for people. `data` says what was seen and is
    asked for before a model is published; the model's page also has places for `data_licence`,
    `datasets` and `base_model` (hub ids) and `measured` (names and figures). A folder whose
    `parser/` or `clip/` is somebody else's names their origins and licences as `companions`."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """sha256 of every safetensors file by its path in the folder; written when the folder is."""
    schema: int = SCHEMA
    """Version of these fields."""


def read_card(folder: Path) -> ModelCard:
    """Read a model folder's card; loads no torch.

    Raises:
        UsageError: If the folder has none, or one that this version cannot read.
    """
    path = folder / CARD_NAME
    if not path.is_file():
        raise UsageError(
            f"{folder} is not a catalogpose model folder: it has no {CARD_NAME}; "
            "name one that `catalogpose train` wrote"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise UsageError(
            f"{path} has another schema than {SCHEMA}; use the catalogpose that wrote it"
        )
    known = {field.name for field in dataclasses.fields(ModelCard)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UsageError(f"{path} has unknown fields: {', '.join(unknown)}")
    try:
        card = ModelCard(**values)
    except TypeError as error:
        raise UsageError(f"{path} lacks fields: {error}") from None
    sizes = (card.height, card.width, card.steps)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise UsageError(f"{path}: height, width and steps must be whole numbers above 0")
    if not isinstance(card.licence, str):
        raise UsageError(f"{path}: licence must be a text")
    for name, value in (("training", card.training), ("weights", card.weights)):
        if not isinstance(value, dict):
            raise UsageError(f"{path}: {name} must be an object of names and values")
    return card


def check_weights(folder: Path, card: ModelCard) -> None:
    """Compare a folder's weights with the card's hashes; takes about a second a gigabyte.

    Raises:
        UsageError: If a file is missing, or is not the one that the card was written for.
    """
    for name, expected in card.weights.items():
        path = folder / name
        if not path.is_file():
            raise UsageError(f"{path} is missing; fetch the model folder again")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise UsageError(f"{path} is not the file of {CARD_NAME}; fetch the model folder again")


@contextmanager
def fitting(folder: Path) -> Iterator[None]:
    """Say plainly that a folder's weights have other shapes than its nets, where diffusers tells of
    its options.

    Raises:
        UsageError: If diffusers refuses weights.
    """
    try:
        yield
    except ValueError as error:
        reason, _, _ = first_line(error).partition(". If you")
        raise UsageError(
            f"{folder}: a part does not fit this version's nets; train it anew, or use the "
            f"catalogpose that wrote it ({reason})"
        ) from None


def write_card(folder: Path, card: ModelCard) -> ModelCard:
    """Write the card with the hashes of all weights below `folder`, and return it as written."""
    hashes = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.safetensors"))
    }
    card = dataclasses.replace(card, weights=hashes)
    text = json.dumps(dataclasses.asdict(card), indent=2, ensure_ascii=False) + "\n"
    (folder / CARD_NAME).write_text(text, encoding="utf-8")
    return card


def resolve_model(name: str | None) -> Path:
    """Return the local folder of a model.

    Args:
        name: A folder, or a hub id such as `team/model`, which is downloaded. None: the bundled
            model.

    Raises:
        UsageError: If there is no such folder and the hub does not answer with one.
    """
    if name is None:
        if not (BUNDLED / CARD_NAME).is_file():
            raise UsageError("this installation carries no bundled model; pass --model FOLDER")
        return BUNDLED
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UsageError(f"no model folder at {name}")
    # Imported here: looking up a local folder must stay instant.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt"]
    try:
        return Path(
            snapshot_download(name, allow_patterns=[*patterns, *(f"*/{p}" for p in patterns)])
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = first_line(error)
        raise UsageError(
            f"no folder {name}, and the hub gave no model of that name: {reason}"
        ) from None
