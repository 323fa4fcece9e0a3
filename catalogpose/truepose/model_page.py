"""The page of a model folder, `README.md`: what the hub and people read of a model first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from catalogpose.catalog.files import write_atomically
from catalogpose.errors import UsageError
from catalogpose.truepose.model import CARD_NAME, ModelCard
from catalogpose.truepose.parts import (
    COMPANIONS,
    Part,
    read_net_settings,
    read_parts,
    read_picture_size,
)

PAGE_NAME = "README.md"
"""The page's file name in a model folder."""

END = "<!-- catalogpose writes this page up to here; what follows is kept -->"
"""Where our part of the page ends; people add their own words below."""

LICENCE_NAMES = frozenset({
    "apache-2.0", "mit", "bsd-3-clause", "openrail", "openrail++", "creativeml-openrail-m",
    "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0",
    "cc-by-nc-nd-4.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "unlicense",
})  # fmt: skip
"""Licences that the hub knows by name; another one is `other` there, with its name beside it."""

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""What the hub calls a model: its owner and its name."""

SHOWN_APART = ("data", "data_licence", "datasets", "base_model", "measured")
"""Keys of the card's `training` that the page shows in places of their own."""


def write_model_page(folder: Path, card: ModelCard) -> Path:
    """Write or renew a model folder's page from its card and its parts; return the file.

    What stands below the line `END` of an earlier page is kept. Raises UsageError where a page
    lies there that catalogpose did not write.
    """
    path, kept = folder / PAGE_NAME, read_kept_words(folder)
    page = make_model_page(
        card, read_parts(folder), read_net_settings(folder), read_picture_size(folder, card)
    )
    text = page + END + kept
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))
    return path


def read_kept_words(folder: Path) -> str:
    """Return what stands below the line `END` of a folder's page; a line feed where there is none.

    Raises UsageError where a page lies there that catalogpose did not write.
    """
    path = folder / PAGE_NAME
    if not path.exists():
        return "\n"
    _, mark, kept = path.read_text(encoding="utf-8").partition(END)
    if not mark:
        raise UsageError(
            f"{path} is not by catalogpose: move it away, or put this line above the words "
            f"to keep: {END}"
        )
    return kept


def make_model_page(
    card: ModelCard,
    parts: tuple[Part, ...],
    settings: Mapping[str, object],
    picture_size: tuple[int, int],
) -> str:
    """Return the page's text: what the hub reads, between lines `---`, then five sections.

    Every figure on it is the card's or counted in the folder; `picture_size` is height and width of
    the pictures that the model makes. `training.measured` of the card, a mapping of names to
    figures, is what its last section shows.
    """
    sections = (
        ("What it is", _what_it_is(card, parts, settings, picture_size)),
        ("What it is not", _what_it_is_not(card, picture_size)),
        ("Training data and licence", _training(card)),
        ("How to use it", _usage(card, parts)),
        ("How it was measured", _measured(card)),
    )
    body = "\n".join(f"## {title}\n\n{text.strip()}\n" for title, text in sections)
    return f"---\n{_front_matter(card)}\n---\n\n# {_line(card.name)}\n\n{body}\n"


def _front_matter(card: ModelCard) -> str:
    """Return the YAML that the hub files the model by."""
    # Imported here: the hub's client takes a while, and training loads this module early.
    from huggingface_hub import ModelCardData

    licence = card.licence.strip().lower()
    known = licence in LICENCE_NAMES
    return ModelCardData(
        license=licence if known else "other",
        license_name=None if known else re.sub(r"[^a-z0-9.]+", "-", licence).strip("-") or None,
        library_name="diffusers",
        pipeline_tag="image-to-image",
        tags=["catalogpose", "truepose", "pose-transfer", "fashion"],
        datasets=_names(card.training.get("datasets")),
        base_model=_hub_ids(card.training.get("base_model")),
    ).to_yaml()


def _names(value: object) -> list[str] | None:
    """Return one name or several as a list; None where the card has none: the hub sees no key."""
    if isinstance(value, str) and value.strip():
        return [value]
    names = [str(name) for name in value] if isinstance(value, list | tuple) else []
    return names or None


def _hub_ids(value: object) -> list[str] | None:
    """Return those of one name or several that can be hub ids; a folder of some machine is none."""
    return [name for name in _names(value) or () if HUB_ID.fullmatch(name)] or None


def _what_it_is(
    card: ModelCard,
    parts: tuple[Part, ...],
    settings: Mapping[str, object],
    picture_size: tuple[int, int],
) -> str:
    """Return the method, the settings and the table of parts."""
    facts: dict[str, object] = {
        "canvas": f"{card.height} x {card.width} pixels, height first",
        "pictures": f"{picture_size[0]} x {picture_size[1]} pixels",
        "sampling": f"{card.steps} steps, guidance {card.guidance:g}",
        "label set": card.label_set,
        "pose style": card.pose_style,
    }
    if settings:
        facts["network"] = ", ".join(f"{name} {value}" for name, value in settings.items())
    table = "\n".join(
        f"| `{part.name}` | {part.parameters:,} | {part.bytes / 1e6:,.1f} |" for part in parts
    )
    return (
        "A model that paints the person of one photo in another pose and keeps face and clothes: "
        "TruePose (human-parsing-guided attention diffusion), built from the paper by "
        "catalogpose.\n\n"
        + "\n".join(_listing(facts))
        + f"\n\n| part | parameters | MB |\n|---|---|---|\n{table}"
    )


def _what_it_is_not(card: ModelCard, picture_size: tuple[int, int]) -> str:
    """Return the limits that hold for every model that catalogpose trains."""
    return "\n".join((
        "- Not the paper authors' model: no weights of theirs are public, and none are in here.",
        "- Not a model for pictures unlike those it was trained on, which the next section names.",
        f"- Not larger than its pictures: details finer than {picture_size[0]} x {picture_size[1]} "
        f"pixels can hold are lost. What is not laid over from the source photo is painted on the "
        f"canvas, {card.height} x {card.width}, and what the photo does not show is invented.",
        "- Not a record of anything that happened: catalogpose marks each picture in its XMP as "
        "made by a model, and the mark should stay. Re-pose people only with their consent.",
    ))  # fmt: skip


def _training(card: ModelCard) -> str:
    """Return data, licences and whatever else the card tells of the training."""
    training = card.training
    facts: dict[str, object] = {"data": training.get("data") or "not recorded"}
    labels = {"data_licence": "licence of the data", "base_model": "started from"}
    facts |= {labels[key]: training[key] for key in labels if training.get(key)}
    facts["licence of the weights"] = card.licence.strip() or "not recorded"
    facts |= {key: value for key, value in training.items() if key not in SHOWN_APART}
    return "\n".join(_listing(facts))


def _usage(card: ModelCard, parts: tuple[Part, ...]) -> str:
    """Return the command and the Python lines."""
    carried = {part.name for part in parts}
    missing = [name for name in COMPANIONS if name not in carried]
    lacks = (
        f"\n\nIt carries no {' and no '.join(f'`{name}/`' for name in missing)}: see catalogpose's"
    )
    note = f"{lacks} README for what to put there." if missing else ""
    return (
        "```sh\ncatalogpose generate --manifest FILE.csv --model FOLDER_OR_HUB_ID\n```\n\n"
        "```python\nfrom catalogpose.truepose.pipeline import TruePosePipeline\n\n"
        'pipe = TruePosePipeline.from_pretrained("FOLDER_OR_HUB_ID")\n```\n\n'
        f"The folder is a diffusers pipeline of catalogpose's own classes; `{CARD_NAME}` says what "
        "it must be used with and holds the weights' sha256, which are compared at every loading."
        f"{note}"
    )


def _measured(card: ModelCard) -> str:
    """Return the card's figures; where it has none, how to get some."""
    measured = card.training.get("measured")
    if not measured:
        return (
            f"`{CARD_NAME}` records no figures of this model. `catalogpose generate` on held-out "
            "rows with a `target` column and then `catalogpose report` measure it."
        )
    return "\n".join(_listing(measured if isinstance(measured, Mapping) else {"result": measured}))


def _listing(values: Mapping[str, object], depth: int = 0) -> Iterator[str]:
    """Yield a Markdown list of names and values; a mapping becomes a list within the list."""
    for name, value in values.items():
        begin = f"{'  ' * depth}- {_line(str(name)).replace('_', ' ')}:"
        if isinstance(value, Mapping):
            yield begin
            yield from _listing(value, depth + 1)
        else:
            several = isinstance(value, list | tuple)
            yield f"{begin} {_line(', '.join(map(str, value)) if several else str(value))}"  # type: ignore[call-overload]


def _line(text: str) -> str:
    """Return a text as one line that Markdown does not take for HTML."""
    return " ".join(text.split()).replace("<", "&lt;")
