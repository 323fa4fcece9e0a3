"""The nouns that every room shares: labels, joints, poses, regions, rows and outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LABELS = (
    "background",
    "hat",
    "hair",
    "face",
    "sunglasses",
    "scarf",
    "upper-clothes",
    "coat",
    "dress",
    "jumpsuit",
    "skirt",
    "pants",
    "belt",
    "gloves",
    "socks",
    "left-arm",
    "right-arm",
    "left-leg",
    "right-leg",
    "left-shoe",
    "right-shoe",
    "bag",
    "torso-skin",
    "jewelry",
    "arm",
    "leg",
    "shoe",
    "skin",
)
"""The common vocabulary of parsing maps: a label's id is its index. 24 to 27 are for parsers that
know no sides.
"""

LABEL_ID: Mapping[str, int] = {name: index for index, name in enumerate(LABELS)}
"""A label's id by its name."""

GARMENTS = (
    "hat", "scarf", "upper-clothes", "coat", "dress", "jumpsuit", "skirt", "pants", "belt",
    "gloves", "socks", "left-shoe", "right-shoe", "bag", "shoe",
)  # fmt: skip
"""Labels of things one can buy; the others are the person and the background."""

SIDES_OF: Mapping[str, tuple[str, ...]] = {
    "shoe": ("left-shoe", "right-shoe", "shoe"),
    "skin": ("skin", "torso-skin", "left-arm", "right-arm", "arm", "left-leg", "right-leg", "leg"),
}
"""What a label stands for where words, or maps of another parser, tell no sides apart."""

GROUP_OF: Mapping[str, str] = {name: name for name in LABELS} | {
    side: label for label, sides in SIDES_OF.items() for side in sides
}
"""The label that stands for a label and its like: itself, or `shoe` or `skin` for their sides."""

JOINTS = (
    "nose", "neck", "right-shoulder", "right-elbow", "right-wrist", "left-shoulder",
    "left-elbow", "left-wrist", "right-hip", "right-knee", "right-ankle", "left-hip",
    "left-knee", "left-ankle", "right-eye", "left-eye", "right-ear", "left-ear",
)  # fmt: skip
"""OpenPose's COCO-18 order; left and right are the person's own."""


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where a person's joints are."""

    joints: NDArray[np.float32]
    """(18, 3) in the order of `JOINTS`: x, y in pixels of the canvas and confidence 0..1; NaN, NaN,
    0 where missing.
    """
    width: int
    """Canvas width in pixels."""
    height: int
    """Canvas height in pixels."""


@dataclass(frozen=True, kw_only=True)
class Letterbox:
    """The one transform from any picture to the model's canvas: scale, centre, never stretch."""

    scale: float
    """Canvas pixels per source pixel, the same in x and y."""
    left: float
    """Canvas x of the source's left edge, in pixels."""
    top: float
    """Canvas y of the source's top edge, in pixels."""
    width: int
    """Canvas width in pixels."""
    height: int
    """Canvas height in pixels."""

    @classmethod
    def fit(cls, source_width: int, source_height: int, width: int, height: int) -> Letterbox:
        """Return the transform that shows a whole source, centred, on a canvas of that size."""
        scale = min(width / source_width, height / source_height)
        left = (width - source_width * scale) / 2
        top = (height - source_height * scale) / 2
        return cls(scale=scale, left=left, top=top, width=width, height=height)

    def times(self, factor: int) -> Letterbox:
        """Return the transform to a canvas `factor` times as high and wide, everything in place."""
        return Letterbox(
            scale=self.scale * factor,
            left=self.left * factor,
            top=self.top * factor,
            width=self.width * factor,
            height=self.height * factor,
        )

    def points(self, xy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map points (..., 2), x and y in source pixels, to canvas pixels; NaN stays NaN."""
        offset = np.array([self.left, self.top], dtype=np.float32)
        return np.asarray(xy * self.scale + offset, dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Region:
    """One label's part of a parsing map."""

    label: int
    """Id in `LABELS`, never 0."""
    box: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels of the map; right and bottom are exclusive."""
    area: int
    """Number of pixels."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The photo on which the source's cloth shall appear, for style transfer, and where."""

    photo: Path
    """The photo that stays as it is elsewhere."""
    regions: tuple[str, ...] = ()
    """Names of `LABELS` whose regions in the photo take the source's cloth; empty where `mask` says
    which.
    """
    mask: Path | None = None
    """A PNG of the photo's size, white where the source's cloth shall appear; None: `regions` say.
    """
    parsing: Path | None = None
    """A ready parsing map of the photo; None: the parser makes one where `regions` need it."""
    label_set: str | None = None
    """The label set of `parsing`; None only where `parsing` is None."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a text-driven row asks for in words, and the map that says where."""

    prompt: str
    """A sentence of free words."""
    pose_map: Path
    """A PNG of label ids that says what shall be where; its shape is the picture's."""
    label_set: str
    """The label set of `pose_map`."""
    keep: tuple[str, ...] | None = None
    """Names of `LABELS` whose regions come from the source; None: the person's own (face, hair,
    skin) and every garment that the prompt does not speak of."""
    region_prompts: Mapping[str, str] = field(default_factory=dict)
    """What a label's region shall be, in place of what the prompt says of it."""
    exclude_products: tuple[str, ...] = ()
    """Products whose cloth shall not inform the picture."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a manifest, its paths resolved."""

    number: int
    """1 for the first row after the header."""
    id: str
    """Any non-empty text, unique in the manifest."""
    source: Path | None
    """The photo to re-pose; None only in rows with a `description`: nobody is kept."""
    pose: Path | None
    """The target pose, a JSON file; in a row with `reference` that of the person in it. None only
    in rows with a `description`, whose map says enough."""
    pose_size: tuple[int, int] | None = None
    """Width and height of the pose's canvas; None: what the file says, else the upright source's
    size, the upright reference's, or the map's.
    """
    target: Path | None = None
    """The true picture, for `report`; None where none exists."""
    product: str | None = None
    """The product's id; None where the manifest names none."""
    seed: int | None = None
    """The row's own seed; None: derived from the run's seed and the id."""
    parsing: Path | None = None
    """A ready parsing map of the source; None: the parser makes one."""
    label_set: str | None = None
    """The label set of `parsing`; None only where `parsing` is None."""
    reference: Reference | None = None
    """The photo on which the source's cloth shall appear; None: the source itself is re-posed."""
    description: Description | None = None
    """What a text-driven row asks for; None: the row is re-posed."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """The manifest's other columns, carried through untouched."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a row: the terminal record that the ledger keeps."""

    id: str
    """The row's id."""
    digest: str
    """Hash of everything that decides the picture; a row whose digest is in the ledger as done is
    not done again.
    """
    status: Literal["done", "failed"]
    """Whether there is a picture."""
    output: str | None = None
    """The picture's path relative to the run folder; None unless done."""
    output_sha256: str | None = None
    """Hash of the picture's file; None unless done."""
    source_sha256: str | None = None
    """Hash of the source photo's file; None where it could not be read."""
    seed: int | None = None
    """The seed used; None where the row failed before one was needed."""
    stage: str | None = None
    """Where a failed row failed; None if done."""
    error_class: str | None = None
    """The kind of failure; None if done."""
    error_message: str | None = None
    """The reason on one line; None if done."""
    attempts: int = 1
    """How often the row was tried, this time included."""
    seconds: float = 0.0
    """Time that the row took."""
    device: str | None = None
    """Where it ran, such as `cpu` or `cuda:0`; None where no worker came to it."""
    fingerprint: str | None = None
    """Fingerprint of the run's options and models."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """Provenance facts written into the picture, and notes such as `fallback: whole-person`."""
