"""Stylized memory retrieval, in the manner of HumanDiffusion: what a phrase says, refined by the
cloth of a catalogue.

Numpy alone: vectors in, vectors out. D is the width of a CLIP's embeddings, N the memory's regions.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from catalogpose.catalog.region_table import RegionTable
from catalogpose.records import LABEL_ID

NEIGHBOURS = 8
"""k: regions that a phrase retrieves."""

TEMPERATURE = 0.02
"""Of the softmax that blends what was retrieved by its similarity."""

GATE_SLOPE = 2.5
"""How fast the gate opens as the best region comes nearer, per spread of the label's cosines:
fitted on the studio's validation split and memories of 8, 40 and 300 products, so that for plain
phrases it is the chance of the region having the colour asked for."""

NEAR_COPY = 0.98
"""Cosine from which two regions of one product and label count as the same."""

SMALLEST = 0.005
"""Smallest share of its picture that a remembered region covers."""

CHUNK = 1 << 26
"""Similarities in memory at once, queries times regions; 256 MB."""


@dataclass(frozen=True, kw_only=True)
class TextStatistics:
    """How the usual texts of one label lie beside its regions, measured when a memory is built."""

    gap: NDArray[np.float32]
    """(D,): mean difference of a region and its nearest text, the way from texts to pictures."""
    near: float
    """Mean cosine of a region to its nearest text: what words that fit come to."""
    spread: float
    """Standard deviation of a region's cosines to all the texts, above 0: how far words that fit
    stand out."""

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers and lists, for `from_json`."""
        return {"gap": self.gap.tolist(), "near": self.near, "spread": self.spread}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_json` gave."""
        return cls(**{**values, "gap": np.array(values["gap"], dtype=np.float32)})


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The garments of a catalogue, and how texts lie beside them."""

    regions: RegionTable
    """The N regions."""
    texts: Mapping[int, TextStatistics]
    """By label id, for each label that has regions."""

    def __len__(self) -> int:
        """Return N."""
        return len(self.regions)

    def find(self, products: Collection[str], pictures: Collection[str]) -> NDArray[np.int64]:
        """Return the rows that are of one of these products or pictures."""
        found = [
            rows
            for places, names in ((self._by_product, products), (self._by_picture, pictures))
            for name in names
            if (rows := places.get(name)) is not None
        ]
        return np.array([row for rows in found for row in rows], dtype=np.int64)

    @cached_property
    def _by_product(self) -> Mapping[str, Sequence[int]]:
        """The rows of each product."""
        return _places(self.regions.products)

    @cached_property
    def _by_picture(self) -> Mapping[str, Sequence[int]]:
        """The rows of each picture."""
        return _places(self.regions.pictures)

    def rows_of(self, label: str) -> slice:
        """Return the rows of a phrase's label; an empty slice where there are none."""
        first, end = np.searchsorted(self.regions.labels, [LABEL_ID[label], LABEL_ID[label] + 1])
        return slice(int(first), int(end))


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """What a phrase found, from the nearest region down."""

    rows: NDArray[np.int64]
    """(k',) rows of the memory, as many as `search` gave."""
    similarities: NDArray[np.float32]
    """(k',) cosines."""
    gate: float
    """How far the regions replace the text, 0..1; 0 where nothing was found."""
    vector: NDArray[np.float32]
    """(D,), unit length: the refined feature."""
    trusted: int
    """How many of the rows, the first ones, are near enough to be looked at beside the feature: for
    each of them alone the gate would be half open or more."""


def _places(names: Sequence[str]) -> dict[str, list[int]]:
    """Return where each name stands."""
    places: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        places.setdefault(name, []).append(row)
    return places


def drop_near_copies(vectors: NDArray[np.float32], groups: Sequence[object]) -> NDArray[np.int64]:
    """Return the rows to keep, ascending: of rows of one group that nearly agree, the first.

    Args:
        vectors: (N, D), unit length.
        groups: (N) what has to agree for two rows to be compared, such as product and label.
    """
    members: dict[object, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    kept: list[int] = []
    for rows in members.values():
        chosen: list[int] = []
        for row in rows:
            if not chosen or float((vectors[chosen] @ vectors[row]).max()) <= NEAR_COPY:
                chosen.append(row)
        kept.extend(chosen)
    return np.sort(np.array(kept, dtype=np.int64))


def measure_texts(regions: NDArray[np.float32], texts: NDArray[np.float32]) -> TextStatistics:
    """Measure how usual texts of one label lie beside its regions.

    CLIP puts texts and pictures into two separate cones, so a text is brought over by the gap; and
    raw cosines of two labels cannot be compared, so nearness is counted from what fitting words
    come to. Each region is held against the text that fits it best: what the catalogue happens to
    hold, few colours or many, then cancels out.

    Args:
        regions: (n, D), unit length, at least one.
        texts: (m, D), unit length, at least two.
    """
    cosines = regions @ texts.T
    return TextStatistics(
        gap=(regions - texts[cosines.argmax(axis=1)]).mean(axis=0),
        near=float(cosines.max(axis=1).mean()),
        spread=max(float(cosines.std(axis=1).mean()), 1e-4),
    )


def bring_over(memory: Memory, query: NDArray[np.float32], label: str) -> NDArray[np.float32]:
    """Return a phrase's text (D,), unit length, moved to where pictures of its label lie; as it is
    where the memory has no region of the label.
    """
    usual = memory.texts.get(LABEL_ID[label])
    return query if usual is None else _unit(query + usual.gap)


def search(
    memory: Memory,
    queries: NDArray[np.float32],
    labels: Sequence[str],
    *,
    count: int = NEIGHBOURS,
    without_products: Collection[str] = (),
    without_pictures: Collection[str] = (),
) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Find the nearest regions of each query's label, exactly.

    Args:
        memory: Where to look.
        queries: (Q, D), unit length.
        labels: (Q) labels of phrases.
        count: k, 1 or more.
        without_products: Whose regions do not count: the product that is to be painted would be its
            own answer.
        without_pictures: Hashes of pictures that do not count.

    Returns:
        For each query its rows and cosines, nearest first, ties by row; fewer than k where the
        memory has fewer.
    """
    found: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = [
        (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))
    ] * len(labels)
    for label in dict.fromkeys(labels):
        here = memory.rows_of(label)
        rows, vectors = np.arange(here.start, here.stop), memory.regions.vectors[here]
        left_out = memory.find(without_products, without_pictures)
        if len(left_out):
            allowed = np.isin(rows, left_out, invert=True)
            rows, vectors = rows[allowed], vectors[allowed]
        asked = np.array([place for place, name in enumerate(labels) if name == label])
        for part in np.array_split(asked, -(-len(asked) * len(rows) // CHUNK) or 1):
            for place, cosines in zip(part, queries[part] @ vectors.T, strict=True):
                best = _largest(cosines, count)
                found[place] = (rows[best], cosines[best])
    return found


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the places of the `count` largest values, largest first, ties by place."""
    if len(values) > count:
        least = np.partition(values, -count)[-count]
        places = np.flatnonzero(values >= least)
    else:
        places = np.arange(len(values))
    return places[np.argsort(-values[places], kind="stable")][:count]


def refine(
    memory: Memory,
    query: NDArray[np.float32],
    label: str,
    rows: NDArray[np.int64],
    similarities: NDArray[np.float32],
) -> Retrieved:
    """Blend what a phrase found, and gate it back to the text where nothing is near (SMR).

    f = norm((1 - g) norm(q + gap) + g v), v the regions blended by the softmax of their cosines
    over `TEMPERATURE`, g the logistic of `GATE_SLOPE` times how far the nearest cosine lies above
    what fitting words come to, in spreads. Where nothing was found, f = q.

    Args:
        memory: Where `rows` lie.
        query: q, (D,), unit length: the phrase's text embedding.
        label: The phrase's.
        rows: (k',), from `search`.
        similarities: (k',), their cosines, nearest first.
    """
    usual = memory.texts.get(LABEL_ID[label])
    if usual is None or not len(rows):
        # A gap measured on nothing but regions that shall not count would speak of them.
        return Retrieved(rows=rows, similarities=similarities, gate=0.0, vector=query, trusted=0)
    weights = np.exp((similarities - similarities[0]) / TEMPERATURE)
    blend = _unit((weights / weights.sum()) @ memory.regions.vectors[rows])
    distances = (similarities - usual.near) / usual.spread
    # The logistic, without overflow.
    gate = 0.5 + 0.5 * math.tanh(GATE_SLOPE * float(distances[0]) / 2)
    return Retrieved(
        rows=rows,
        similarities=similarities,
        gate=gate,
        vector=_unit((1 - gate) * bring_over(memory, query, label) + gate * blend),
        trusted=int((distances >= 0).sum()),
    )


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a vector at unit length; zeros stay."""
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / length if length else vector, dtype=np.float32)
