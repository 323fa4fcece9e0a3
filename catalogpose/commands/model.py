"""`catalogpose model inspect` and `push`: what a model folder is, and how it gets to the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from catalogpose.config import InspectOptions, PushOptions
from catalogpose.errors import EnvironmentFault, UsageError, first_line
from catalogpose.truepose.model import CARD_NAME, ModelCard, check_weights, read_card, resolve_model
from catalogpose.truepose.model_page import PAGE_NAME, read_kept_words, write_model_page
from catalogpose.truepose.parts import (
    COMPANIONS,
    Part,
    folder_faults,
    list_files,
    read_net_settings,
    read_parts,
    read_picture_size,
)

SERVER_FAULT = 500
"""HTTP status from which on the fault is the server's."""


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """What a model folder is and holds."""

    folder: Path
    """Where it lies; of a hub model, its local copy."""
    card: ModelCard
    """Name, canvas, sampling, label set, training, licence and the weights' hashes."""
    picture_size: tuple[int, int]
    """Height and width of the pictures that it makes, in pixels."""
    settings: Mapping[str, object]
    """TargetNet's own settings, such as `fusion`."""
    parts: tuple[Part, ...]
    """Each subfolder with weights, by name."""
    companions: Mapping[str, bool]
    """Whether it carries `parser` and `clip`."""
    weights: Literal["the card's", "not the card's", "not compared"]
    """What comparing the weights with the card's hashes showed."""
    faults: tuple[str, ...]
    """What keeps it from being published, a line each; empty where nothing does."""

    @property
    def exit_code(self) -> int:
        """Return 2 where the weights are not the card's: such a folder cannot be used."""
        return 2 if self.weights == "not the card's" else 0

    def __str__(self) -> str:
        """Tell a person, a line a fact."""
        card = self.card
        facts = {
            "model": f"{card.name} ({self.folder})",
            "canvas": f"{card.height} x {card.width} pixels, height first",
            "pictures": f"{self.picture_size[0]} x {self.picture_size[1]} pixels",
            "sampling": f"{card.steps} steps, guidance {card.guidance:g}",
            "label set": card.label_set,
            "pose style": card.pose_style,
            "network": ", ".join(f"{name} {value}" for name, value in self.settings.items()),
            **{
                f"{part.name}/": f"{part.parameters:,} parameters, {part.bytes:,} bytes, "
                f"{' '.join(part.kinds)}"
                for part in self.parts
            },
            "total": f"{sum(part.parameters for part in self.parts):,} parameters, "
            f"{sum(part.bytes for part in self.parts):,} bytes",
            "carries": ", ".join(
                f"{name}/ {'yes' if has else 'no'}" for name, has in self.companions.items()
            ),
            "weights": f"{self.weights}",
            "licence": card.licence or "none named",
            "trained on": card.training.get("data") or "not recorded",
            "publishable": "no" if self.faults else "yes",
        }
        lines = [f"{name + ':':<14} {value}" for name, value in facts.items() if value]
        return "\n".join([*lines, *(f"  {fault}" for fault in self.faults)])


@dataclass(frozen=True, kw_only=True)
class PushSummary:
    """What was published, or would be."""

    folder: Path
    """The model folder."""
    repo_id: str
    """Where on the hub."""
    url: str | None
    """The model's address there; None after a dry run."""
    files: tuple[str, ...]
    """The files sent, relative to the folder."""
    bytes: int
    """Their size; after a dry run, without the page that it does not write."""

    def __str__(self) -> str:
        """Tell a person what is where."""
        what = f"{len(self.files)} files, {self.bytes:,} bytes"
        if self.url is not None:
            return f"published {what}: {self.url}"
        return "\n".join([f"would publish {what} as {self.repo_id}:", *self.files])


def inspect_model(options: InspectOptions) -> ModelSummary:
    """Tell what a model folder is and holds; loads no torch and no weights.

    Raises:
        UsageError: If it is no model folder, or one of its files cannot be read.
    """
    folder = resolve_model(options.model)
    card = read_card(folder)
    weights: Literal["the card's", "not the card's", "not compared"] = "not compared"
    faults = folder_faults(folder, card, check=False)
    if options.check:
        try:
            check_weights(folder, card)
            weights = "the card's"
        except UsageError as error:
            weights = "not the card's"
            faults.append(str(error))
    parts = read_parts(folder)
    carried = {part.name for part in parts}
    return ModelSummary(
        folder=folder,
        card=card,
        picture_size=read_picture_size(folder, card),
        settings=read_net_settings(folder),
        parts=parts,
        companions={name: name in carried for name in COMPANIONS},
        weights=weights,
        faults=tuple(faults),
    )


def push_model(options: PushOptions) -> PushSummary:
    """Publish a model folder with its page on the hub; nothing is sent unless it is fit for it.

    Raises:
        UsageError: If it is no model folder, is incomplete, its weights are not the card's, it
            names no licence or no training data, or the hub refuses it: a line each.
        EnvironmentFault: If the hub cannot be reached.
    """
    folder = options.folder
    card = read_card(folder)
    faults = folder_faults(folder, card)
    if faults:
        raise UsageError("\n".join(faults))
    read_kept_words(folder)  # refuses a page that is not ours
    if not options.dry_run:
        write_model_page(folder, card)
    names = sorted({path.as_posix() for path in list_files(folder)} | {PAGE_NAME})
    url = None if options.dry_run else _upload(options, names)
    size = sum((folder / name).stat().st_size for name in names if (folder / name).exists())
    return PushSummary(
        folder=folder, repo_id=options.repo_id, url=url, files=tuple(names), bytes=size
    )


def _upload(options: PushOptions, names: list[str]) -> str:
    """Make the repository if need be and send these files in one commit; return its address."""
    # Imported here: the hub's client takes a while, and a refusal comes at once.
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is passed on
        HfHubHTTPError,
        HTTPError,
        LocalTokenNotFoundError,
    )

    hub = HfApi()
    try:
        repo = hub.create_repo(options.repo_id, private=options.private, exist_ok=True)
        hub.upload_folder(
            repo_id=repo.repo_id,
            folder_path=options.folder,
            allow_patterns=names,
            commit_message=f"catalogpose: {CARD_NAME}, weights and page",
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, ValueError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code >= SERVER_FAULT:
            raise EnvironmentFault(
                f"the hub failed: {first_line(error)}; try again later"
            ) from None
        raise UsageError(
            f"the hub refused {options.repo_id}: {first_line(error)}; `hf auth login` with a token "
            "that may write there"
        ) from None
    except (HTTPError, OSError) as error:
        raise EnvironmentFault(
            f"the hub cannot be reached: {first_line(error)}; the same command tries again"
        ) from None
    return str(repo)
