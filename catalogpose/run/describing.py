"""Text-driven rows in a worker: words become cloth of the catalogue, and both what the pipeline
paints from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from catalogpose.catalog.canvas import fit_map
from catalogpose.catalog.labels import read_parsing_map
from catalogpose.catalog.region_table import read_region_facts, read_region_table
from catalogpose.errors import RowError, UsageError
from catalogpose.humandiffusion.memory import Memory, Retrieved, TextStatistics, refine, search
from catalogpose.humandiffusion.wanted import Wanted, WishError, find_wanted
from catalogpose.records import GROUP_OF, LABEL_ID, LABELS, SIDES_OF, Letterbox, Row
from catalogpose.run.perceive import clip_fingerprint
from catalogpose.run.plan import Job

if TYPE_CHECKING:  # torch takes seconds to import, and the parent process must not need it
    from catalogpose.humandiffusion.text_driven import Filling, TextDriven
    from catalogpose.run.memory import Source
    from catalogpose.run.perceive import Perception
    from catalogpose.truepose.prepared import PoseConditions


@dataclass(frozen=True, kw_only=True)
class Described:
    """A text-driven row, ready to be painted."""

    conditions: PoseConditions
    """What the pipeline paints from."""
    size: tuple[int, int]
    """Width and height of the row's map, in pixels."""
    regions: Mapping[str, object]
    """What each region of the map came from, by label: `source`, `null`, or for words a mapping:
    `phrase` and `gate`; of the regions found, nearest first, `products`, `pictures`, `boxes` and
    `similarities`; and `trusted`, how many of them, from the first, the alignment looked at."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A row's map on the model's canvas, and what its regions shall be."""

    labels: np.ndarray
    """(H, W), common label ids."""
    size: tuple[int, int]
    """Width and height of the map's file, in pixels."""
    wanted: Wanted
    """What the regions shall be."""


class Describer:
    """Turns what rows ask for into what the pipeline paints from."""

    def __init__(self, text: TextDriven, eyes: Perception, memory: Memory | None) -> None:
        """Take the model's parts, and the memory to look into; None: words stand for themselves."""
        self._text, self._eyes, self._memory = text, eyes, memory

    def read(self, row: Row, width: int, height: int) -> Asked:
        """Read a row's map onto a canvas of this size and decide what its regions shall be.

        Raises `RowError` of stage `pose_map`.
        """
        asked = row.description
        assert asked is not None  # whoever calls has looked
        try:
            labels = read_parsing_map(asked.pose_map, asked.label_set)
        except RowError as error:
            raise RowError("pose_map", error.error_class, error.message) from None
        size = (labels.shape[1], labels.shape[0])
        there = {LABELS[label] for label in np.unique(labels) if label}
        try:
            wanted = find_wanted(asked, there, has_source=row.source is not None)
        except WishError as error:
            # The manifest was checked: the map has changed since.
            raise RowError("pose_map", "changed", f"{error.column}: {error.reason}") from None
        fitted = fit_map(labels, Letterbox.fit(*size, width, height))
        return Asked(labels=fitted, size=size, wanted=wanted)

    def describe(self, job: Job, asked: Asked, source: Source | None) -> Described:
        """Prepare a job's row with what is kept of its source; None where it has none."""
        from catalogpose.humandiffusion.text_driven import Filling

        there = [int(label) for label in np.unique(asked.labels) if label]
        fillings: dict[int, Filling] = {}
        regions: dict[str, object] = {}
        for label in there:
            found = None if source is None else _own_vector(label, asked.wanted, source)
            if found is not None:
                nothing = np.zeros((0, len(found)))
                fillings[label] = Filling(vector=found, remembered=nothing, by_words=False)
                regions[LABELS[label]] = "source"
            elif label not in asked.wanted.phrases:
                regions[LABELS[label]] = "null"
        worded = [label for label in there if LABELS[label] not in regions]
        for label, answer in zip(worded, self._retrieve(job, asked, worded, source), strict=True):
            fillings[label], regions[LABELS[label]] = self._fill(asked, label, answer)
        conditions = self._text.condition(
            asked.labels,
            fillings,
            asked.wanted.kept,
            None if source is None else source.features,
        )
        return Described(conditions=conditions, size=asked.size, regions=regions)

    def _retrieve(
        self, job: Job, asked: Asked, worded: list[int], source: Source | None
    ) -> list[Retrieved]:
        """Return what each region's words found; the row's own product and pictures never count."""
        if not worded:
            return []
        queries = self._eyes.embed_texts([asked.wanted.phrases[label] for label in worded])
        if self._memory is None:
            nothing = np.zeros(0, dtype=np.int64)
            return [
                Retrieved(
                    rows=nothing,
                    similarities=nothing.astype(np.float32),
                    gate=0.0,
                    vector=q,
                    trusted=0,
                )
                for q in queries
            ]
        row = job.row
        labels = [GROUP_OF[LABELS[label]] for label in worded]
        assert row.description is not None  # whoever calls has looked
        own = () if row.product is None else (row.product,)
        pictures = {None if source is None else source.sha256, job.target_sha256}
        hits = search(
            self._memory, queries, labels,
            without_products={*row.description.exclude_products, *own},
            without_pictures={one for one in pictures if one is not None},
        )  # fmt: skip
        return [
            refine(self._memory, query, label, *hit)
            for query, label, hit in zip(queries, labels, hits, strict=True)
        ]

    def _fill(self, asked: Asked, label: int, answer: Retrieved) -> tuple[Filling, object]:
        """Return what fills a region of words, and what is recorded of it."""
        from catalogpose.humandiffusion.text_driven import Filling

        table = None if self._memory is None else self._memory.regions
        near = answer.rows[: answer.trusted]
        remembered = np.zeros((0, len(answer.vector))) if table is None else table.vectors[near]
        told = {
            "phrase": asked.wanted.phrases[label],
            "gate": round(answer.gate, 4),
            "trusted": answer.trusted,
            "products": [] if table is None else [table.products[row] for row in answer.rows],
            "pictures": [] if table is None else [table.pictures[row] for row in answer.rows],
            "boxes": [] if table is None else table.boxes[answer.rows].tolist(),
            "similarities": [round(float(one), 4) for one in answer.similarities],
        }
        return Filling(vector=answer.vector, remembered=remembered), told


def check_memory(path: Path, folder: Path) -> None:
    """Raise UsageError unless the CLIP of a model folder made a memory; reads its head alone."""
    facts = read_region_facts(path)
    if facts["clip"] != clip_fingerprint(folder):
        raise UsageError(
            f"{path} was made with the CLIP of {facts['model']}, not with that of {folder}: name "
            "that --model, or build it again"
        )


def load_memory(path: Path, folder: Path) -> Memory:
    """Read a memory that the CLIP of a model folder made; `UsageError` where another one did."""
    check_memory(path, folder)
    table, facts = read_region_table(path)
    texts = {
        LABEL_ID[name]: TextStatistics.from_json(values) for name, values in facts["texts"].items()
    }
    return Memory(regions=table, texts=texts)


def _own_vector(label: int, wanted: Wanted, source: Source) -> np.ndarray | None:
    """Return the source's embedding for a kept region of the map: of the same label, else of
    another side of the same part, and where one map tells no parts of skin apart of any; None
    where there is none, or words go first.
    """
    if label in wanted.phrases and label not in wanted.kept:
        return None
    name = LABELS[label]
    parts = [other for other in LABELS if _part_of(other) == _part_of(name)]
    skin = SIDES_OF["skin"] if name == "skin" else ("skin",) if GROUP_OF[name] == "skin" else ()
    for one in (LABEL_ID[other] for other in (name, *parts, *skin)):
        if one in wanted.kept and one in source.embeddings:
            return np.asarray(source.embeddings[one], dtype=np.float32)
    return None


def _part_of(name: str) -> str:
    """Return a label without its side."""
    return name.removeprefix("left-").removeprefix("right-")
