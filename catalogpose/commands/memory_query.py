"""`catalogpose memory query` and `stats`: what a catalogue has of what words ask for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalogpose.catalog.photos import read_photo
from catalogpose.catalog.region_table import read_region_table
from catalogpose.catalog.sheets import fit_on, write_sheet
from catalogpose.config import MemoryStatsOptions, QueryMemoryOptions
from catalogpose.errors import RowError, UsageError
from catalogpose.humandiffusion.memory import Memory, Retrieved, refine, search
from catalogpose.humandiffusion.phrases import Phrase, split_prompt
from catalogpose.records import GARMENTS, LABELS
from catalogpose.run.describing import load_memory
from catalogpose.run.perceive import load_clip
from catalogpose.truepose.model import resolve_model

SHEET_SIZE = (128, 96)
"""Height and width of a region on a sheet, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A region that a phrase found."""

    similarity: float
    """Cosine of the phrase's and the region's embedding."""
    product: str
    """The product; the picture's hash where none was named."""
    source: str
    """Where the picture lay."""
    box: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels of the upright picture."""


@dataclass(frozen=True, kw_only=True)
class PhraseFound:
    """What one phrase of a prompt found."""

    label: str
    """What the phrase speaks of."""
    phrase: str
    """Its words."""
    gate: float
    """How far the catalogue's cloth replaces the words, 0..1."""
    found: tuple[Found, ...]
    """Nearest first; empty where the memory has none of the label."""


@dataclass(frozen=True, kw_only=True)
class QuerySummary:
    """What `memory query` found."""

    phrases: tuple[PhraseFound, ...]
    """In the order of the prompt."""
    sheet: Path | None
    """The sheet written; None: none was asked for."""

    def __str__(self) -> str:
        """Tell a person, a line a region."""
        lines = []
        for one in self.phrases:
            lines.append(f"{one.label}: {one.phrase!r}, gate {one.gate:.2f}")
            lines += [
                f"  {hit.similarity:.3f}  {hit.product}  {hit.source}  {hit.box}"
                for hit in one.found
            ] or [_nothing(one.label)]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class StatsSummary:
    """What a memory holds."""

    memory: Path
    """The file."""
    model: str
    """The model whose CLIP made it: folder or hub id."""
    regions: dict[str, int]
    """Regions by label."""
    pictures: int
    """Pictures that they are of."""
    products: int
    """Products that they are of."""

    def __str__(self) -> str:
        """Tell a person, a line a label."""
        total = sum(self.regions.values())
        head = f"{self.memory}: {total} regions, {self.pictures} pictures, {self.products} products"
        return "\n".join(
            [f"{head}; CLIP of {self.model}", *(f"  {n:>8} {k}" for k, n in self.regions.items())]
        )


def query_memory(options: QueryMemoryOptions) -> QuerySummary:
    """Find the regions nearest to each phrase of a prompt.

    Raises:
        UsageError: If no garment of the lexicon is in the prompt, the memory was made by another
            CLIP than the model's, or lacks a product that shall not count.
    """
    split = split_prompt(options.prompt)
    if not split.phrases:
        raise UsageError(
            f"no garment found in {options.prompt!r}: name one, such as `a red tartan skirt`"
        )
    folder = resolve_model(options.model)
    memory = load_memory(options.memory, folder)
    strange = set(options.without) - set(memory.regions.products)
    if strange:
        raise UsageError(f"--without {min(strange)}: {options.memory} has no such product")
    clip = load_clip(folder, options.device)
    queries = clip.embed_texts([phrase.text for phrase in split.phrases])
    found = search(
        memory,
        queries,
        [phrase.label for phrase in split.phrases],
        count=options.count,
        without_products=options.without,
    )
    answers = [
        refine(memory, query, phrase.label, *hit)
        for phrase, query, hit in zip(split.phrases, queries, found, strict=True)
    ]
    if options.sheet is not None:
        write_sheet(options.sheet, [np.stack(list(_crops(memory, a))) for a in answers])
    return QuerySummary(
        phrases=tuple(
            _tell(memory, phrase, answer)
            for phrase, answer in zip(split.phrases, answers, strict=True)
        ),
        sheet=options.sheet,
    )


def memory_stats(options: MemoryStatsOptions) -> StatsSummary:
    """Count what a memory holds; `UsageError` where it is none."""
    table, facts = read_region_table(options.memory)
    counts = np.bincount(table.labels, minlength=len(LABELS))
    return StatsSummary(
        memory=options.memory,
        model=str(facts["model"]),
        regions={LABELS[label]: int(counts[label]) for label in np.flatnonzero(counts)},
        pictures=len(set(table.pictures)),
        products=len(set(table.products)),
    )


def _crops(memory: Memory, answer: Retrieved) -> Iterator[NDArray[np.uint8]]:
    """Yield the regions found, each on a canvas of one size; white where the photo is gone, or
    nothing was found.
    """
    if not len(answer.rows):
        yield np.full((*SHEET_SIZE, 3), 255, dtype=np.uint8)
    for row in answer.rows:
        left, top, right, bottom = memory.regions.boxes[row]
        try:
            photo = read_photo(Path(memory.regions.sources[row])).picture
        except RowError:
            photo = np.full((bottom, right, 3), 255, dtype=np.uint8)
        yield fit_on(SHEET_SIZE, photo[top:bottom, left:right])


def _nothing(label: str) -> str:
    """Say why a phrase found nothing."""
    if label in GARMENTS:
        return "  no region of this label counts"
    return f"  {label} is never remembered: only {', '.join(GARMENTS)} are"


def _tell(memory: Memory, phrase: Phrase, answer: Retrieved) -> PhraseFound:
    """Return what a phrase found, for people."""
    table = memory.regions
    return PhraseFound(
        label=phrase.label,
        phrase=phrase.text,
        gate=answer.gate,
        found=tuple(
            Found(
                similarity=float(similarity),
                product=table.products[row],
                source=table.sources[row],
                box=tuple(table.boxes[row].tolist()),
            )
            for row, similarity in zip(answer.rows, answer.similarities, strict=True)
        ),
    )
