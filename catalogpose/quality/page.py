"""The report page: one file that needs nothing else, neither a network nor a script."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from catalogpose.quality.pairs import Metric
from catalogpose.quality.skeleton import Skeleton
from catalogpose.quality.summary import Spread

THUMBNAIL = 320
"""Longest side of a picture on the page, in pixels."""
WEBP_QUALITY = 80
"""Quality of those pictures, 0 to 100."""


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small picture inside the page."""

    uri: str
    """`data:` URI of a WebP."""
    width: int
    """Width in pixels."""
    height: int
    """Height in pixels."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One metric over all rows."""

    metric: Metric
    """What is measured."""
    spread: Spread
    """Its numbers."""
    bars: tuple[float, ...]
    """Histogram heights 0 to 1; empty where there is nothing to draw."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One row with its pictures."""

    id: str
    """The row's id."""
    product: str | None
    """The product's id; None where the manifest names none."""
    source: Thumbnail | None
    """The source photo; None where it could not be read any more."""
    reference: Thumbnail | None
    """The photo that took the source's cloth; None where it could not be read any more, or where
    the row is not `styled`.
    """
    styled: bool
    """Whether the row has a reference."""
    prompt: str | None
    """What the row asks for in words; None where it was re-posed."""
    asked: Thumbnail | None
    """The map that says where, in colours; None where it cannot be read any more, or where the row
    has no `prompt`.
    """
    pose: Skeleton | None
    """The pose; None where it could not be read any more."""
    result: Thumbnail | None
    """The picture made; None where its file is gone."""
    target: Thumbnail | None
    """The true picture; None where the row has none."""
    values: Mapping[str, float | None]
    """The row's value of each metric; None where it has none."""
    note: str | None
    """Why it could not be scored; None where it could, or has no target."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One row without a picture."""

    id: str
    """The row's id."""
    stage: str
    """Where it failed."""
    error_class: str
    """The kind of failure."""
    message: str
    """The reason on one line."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that the page says."""

    title: str
    """The run's name."""
    counts: Mapping[str, int]
    """Number of rows `total`, `done`, `failed`, `pending` and `scored`."""
    facts: Mapping[str, str]
    """What was run, for the card at the top: a name and a value each."""
    notes: Sequence[str]
    """What a reader must know before trusting the numbers."""
    canvas: str
    """What is compared with what."""
    interval: str
    """How the interval around a mean is made."""
    tiles: Sequence[Tile]
    """One a metric."""
    examples: Sequence[Example]
    """Rows shown, worst first."""
    failures: Sequence[Failure]
    """Failed rows shown."""
    failure_counts: Mapping[str, int]
    """Number of failed rows of each kind, most frequent first."""


def make_thumbnail(picture: NDArray[np.uint8]) -> Thumbnail:
    """Shrink a picture uint8 (H, W, 3) to at most `THUMBNAIL` pixels a side; never enlarge it."""
    image = Image.fromarray(picture)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=WEBP_QUALITY)
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(uri=uri, width=image.width, height=image.height)


def render_page(page: Page) -> str:
    """Return the whole page as HTML; every text in it is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = format_number
    source = files("catalogpose.quality").joinpath("page.html").read_text("utf-8")
    return environment.from_string(source).render(page=page)


def format_number(value: float | None, digits: int) -> str:
    """Return a value with so many decimals; a dash for None, ∞ for infinity."""
    if value is None:
        return "\N{EN DASH}"
    return "∞" if math.isinf(value) else f"{value:.{digits}f}"
