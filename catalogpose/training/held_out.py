"""Held-out pairs with a known truth: painted by the real pipeline and scored as `report` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from catalogpose.catalog.labels import load_keypoint_table
from catalogpose.perception.clip import Clip
from catalogpose.quality.pairs import score_pair
from catalogpose.training.pairs import Pairs
from catalogpose.training.pictures import Pictures
from catalogpose.training.truepose import embed_regions
from catalogpose.truepose.pipeline import TruePosePipeline
from catalogpose.truepose.prepared import PoseConditions
from catalogpose.truepose.regions import selected_labels

Parse = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""Turns a picture uint8 (H, W, 3) into its map (H, W) in the common vocabulary."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """n pairs that no net was trained on, on the model's canvas."""

    sources: NDArray[np.uint8]
    """(n, H, W, 3)."""
    labels: NDArray[np.uint8]
    """(n, H, W): the sources' maps."""
    embeddings: Sequence[Mapping[int, NDArray[np.float16]]]
    """Of the sources' regions, by label id."""
    joints: NDArray[np.float32]
    """(n, 18, 3): the targets' poses in canvas pixels."""
    shown: Sequence[frozenset[int]]
    """The labels that each pose shows."""
    targets: NDArray[np.uint8]
    """(n, H, W, 3): the truth."""
    target_labels: NDArray[np.uint8] | None
    """(n, H, W): the targets' maps; None: nobody made them."""

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.sources)


def hold_out(pictures: Pictures, clip: Clip, count: int) -> HeldOut:
    """Pair the first view of each of the first `count` products with its second."""
    first, second = (slice(0, count), 0), (slice(0, count), 1)
    table = load_keypoint_table()
    joints = pictures.joints[second]
    vectors = []
    for photo, labels in zip(pictures.photos[first], pictures.labels[first], strict=True):
        table_of, known = embed_regions(clip, photo, labels)
        vectors.append({int(label): table_of[label] for label in np.flatnonzero(known)})
    return HeldOut(
        sources=pictures.photos[first],
        labels=pictures.labels[first],
        embeddings=vectors,
        joints=joints,
        shown=[selected_labels(joint, table) for joint in joints],
        targets=pictures.photos[second],
        target_labels=pictures.labels[second],
    )


def hold_out_pairs(pairs: Pairs, photos: NDArray[np.uint8], places: NDArray[np.integer]) -> HeldOut:
    """Take pairs whose embeddings are computed.

    Args:
        pairs: N pictures; which of them are its own pairs does not matter.
        photos: (N, H, W, 3), what they are of.
        places: (n, 2), rows of source and target.
    """
    sources, targets = places.T
    return HeldOut(
        sources=photos[sources],
        labels=pairs.source_labels[sources],
        embeddings=[
            {int(label): pairs.embeddings[row, label] for label in np.flatnonzero(pairs.known[row])}
            for row in sources
        ],
        joints=pairs.joints[targets],
        shown=[frozenset(np.flatnonzero(pairs.shown[row]).tolist()) for row in targets],
        targets=photos[targets],
        target_labels=pairs.labels[targets],
    )


def paint(
    pipe: TruePosePipeline,
    pairs: HeldOut,
    *,
    batch: int = 20,
    seed: int = 0,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> NDArray[np.uint8]:
    """Paint every pair with the card's steps and guidance, pair i from the noise of seed + i.

    Args:
        pipe: What paints, pictures of the canvas's size; in evaluation mode.
        pairs: At least one.
        batch: Pairs painted together.
        seed: 0 or more.
        precision: Makes the context in which the nets compute.

    Returns:
        (n, H, W, 3).
    """
    pictures = []
    for start in range(0, len(pairs), batch):
        with precision():
            conditions, joints, seeds = _condition(pipe, pairs, start, batch, seed)
            pictures.append(pipe.generate(conditions, joints, seeds))
    return np.concatenate(pictures)


def predict(
    pipe: TruePosePipeline,
    pairs: HeldOut,
    *,
    batch: int = 20,
    seed: int = 0,
    precision: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[Tensor]:
    """Yield the latents that `paint` decodes: (at most `batch`, c, h, w) each; same arguments."""
    for start in range(0, len(pairs), batch):
        with precision():
            conditions, joints, seeds = _condition(pipe, pairs, start, batch, seed)
            found = pipe.denoise(conditions, joints, seeds)
        yield found


def _condition(
    pipe: TruePosePipeline, pairs: HeldOut, start: int, batch: int, seed: int
) -> tuple[list[PoseConditions], NDArray[np.float32], list[int]]:
    """Return conditions, joints and seeds of at most `batch` pairs from number `start` on."""
    rows = range(start, min(start + batch, len(pairs)))
    conditions = []
    for row in rows:
        features = pipe.encode_source(pairs.sources[row], pairs.labels[row], pairs.embeddings[row])
        conditions.append(pipe.condition(features, pairs.shown[row]))
    return conditions, pairs.joints[rows.start : rows.stop], [seed + row for row in rows]


def score(
    pictures: NDArray[np.uint8], pairs: HeldOut, parse: Parse | None
) -> list[dict[str, float | None]]:
    """Score pictures (n, H, W, 3) against the truth: a dictionary of `score_pair` each.

    Without `parse` the metrics that need the picture's own map are None or use the target's, and
    without the target's map there is neither.
    """
    maps = [None] * len(pairs) if pairs.target_labels is None else pairs.target_labels
    return [
        score_pair(picture, target, None if parse is None else parse(picture), labels)
        for picture, target, labels in zip(pictures, pairs.targets, maps, strict=True)
    ]
