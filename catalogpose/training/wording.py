"""What words and a memory say of every region of studio pictures, computed once before a
text-driven training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from catalogpose.catalog.labels import find_regions
from catalogpose.catalog.region_table import RegionTable
from catalogpose.humandiffusion.lexicon import usual_texts
from catalogpose.humandiffusion.memory import (
    NEIGHBOURS,
    SMALLEST,
    Memory,
    bring_over,
    drop_near_copies,
    measure_texts,
    refine,
)
from catalogpose.perception.clip import Clip
from catalogpose.records import GARMENTS, GROUP_OF, LABEL_ID, LABELS, Region
from catalogpose.training.loop import Progress
from catalogpose.training.pairs import Pairs, save_array

QUERIES_AT_ONCE = 256
"""Regions that are compared with the memory in one product."""


@dataclass(frozen=True, kw_only=True)
class Wording:
    """By picture and label, N pictures; zeros and -1 where a picture lacks the region."""

    texts: NDArray[np.float16]
    """(N, L, D): embedding of the region's phrase."""
    refined: NDArray[np.float16]
    """(N, L, D): what retrieval makes of it, the region's own product left out (SMR)."""
    shifted: NDArray[np.float16]
    """(N, L, D): the phrase alone, brought over to where pictures lie: a closed gate."""
    found: NDArray[np.int32]
    """(N, L, k): rows of `memory` that were retrieved; -1 where there are fewer."""
    phrase: NDArray[np.int32]
    """(N, L): number of the phrase, equal where two are; -1 where there is none."""
    memory: NDArray[np.float16]
    """(M, D): the remembered regions."""


def studio_wording(
    pairs: Pairs,
    captions: Sequence[Sequence[dict[str, str]]],
    clip: Clip,
    folder: Path,
    progress: Progress | None = None,
) -> Wording:
    """Compute (or open again) the wording of studio pictures, whose memory they are themselves.

    Args:
        pairs: Of the pictures, P products seen V times.
        captions: P times V phrases by label name.
        clip: For the phrases.
        folder: Where the arrays lie; complete ones are opened as they are.
        progress: Told how many regions are done; None: nobody is told.
    """
    if (folder / "memory.npy").exists():
        return _open(folder)
    views = len(captions[0])
    phrase, unique = _number_phrases(pairs, captions)
    embedded = clip.embed_texts(unique)
    memory = studio_memory(pairs, clip, views)
    texts = np.where((phrase >= 0)[..., None], embedded[phrase.clip(0)], 0).astype(np.float16)
    made = Wording(
        texts=texts,
        refined=np.zeros_like(texts),
        shifted=np.zeros_like(texts),
        found=np.full((*phrase.shape, NEIGHBOURS), -1, dtype=np.int32),
        phrase=phrase,
        memory=memory.regions.vectors.astype(np.float16),
    )
    done, total = 0, int((phrase >= 0).sum())
    for label in np.flatnonzero((phrase >= 0).any(axis=0)):
        pictures = np.flatnonzero(phrase[:, label] >= 0)
        for part in np.array_split(pictures, -(-len(pictures) // QUERIES_AT_ONCE)):
            _retrieve(made, memory, embedded[phrase[part, label]], int(label), part, views)
            done += len(part)
            if progress is not None:
                progress("words and memory", done, total)
    folder.mkdir(parents=True, exist_ok=True)
    for field in fields(Wording):  # `memory` comes last: its presence says that all is there.
        save_array(folder / f"{field.name}.npy", getattr(made, field.name))
    return _open(folder)


def _retrieve(
    made: Wording,
    memory: Memory,
    queries: NDArray[np.float32],
    label: int,
    pictures: NDArray[np.int64],
    views: int,
) -> None:
    """Fill in what the phrases (n, D) of one label of n pictures retrieve, never from the picture's
    own product.
    """
    name = GROUP_OF[LABELS[label]]
    here = memory.rows_of(name)
    owners = np.array([int(product) for product in memory.regions.products[here]], dtype=np.int64)
    cosines = torch.from_numpy(queries @ memory.regions.vectors[here].T)
    cosines[torch.from_numpy(owners[None, :] == (pictures // views)[:, None])] = -torch.inf
    best, places = cosines.topk(min(NEIGHBOURS, cosines.shape[1]), dim=1)
    for picture, query, near, rows in zip(
        pictures, queries, best.numpy(), here.start + places.numpy(), strict=True
    ):
        there = np.isfinite(near)
        hit = refine(memory, query, name, rows[there], near[there])
        made.refined[picture, label] = hit.vector
        made.shifted[picture, label] = bring_over(memory, query, name)
        made.found[picture, label, : hit.trusted] = hit.rows[: hit.trusted]


def studio_memory(pairs: Pairs, clip: Clip, views: int) -> Memory:
    """Return a memory of the garments of studio pictures; a product's name is its number."""
    pixels = pairs.labels.shape[1] * pairs.labels.shape[2]
    garments = [LABEL_ID[name] for name in GARMENTS]
    rows: list[tuple[int, int, Region]] = []
    for picture, (labels, known) in enumerate(zip(pairs.labels, pairs.known, strict=True)):
        rows += [
            (LABEL_ID[GROUP_OF[LABELS[region.label]]], picture, region)
            for region in find_regions(labels)
            if known[region.label] and region.label in garments and region.area >= SMALLEST * pixels
        ]
    rows.sort(key=lambda row: row[0])
    labels_of, pictures = (np.array([row[place] for row in rows]) for place in (0, 1))
    regions = [region for _, _, region in rows]
    own = [region.label for region in regions]
    table = RegionTable(
        vectors=np.asarray(pairs.embeddings[pictures, own], dtype=np.float32),
        labels=labels_of.astype(np.uint8),
        areas=np.array([region.area / pixels for region in regions], dtype=np.float32),
        boxes=np.array([region.box for region in regions], dtype=np.int32),
        pictures=[str(picture) for picture in pictures],
        products=[str(picture // views) for picture in pictures],
        sources=[""] * len(rows),
    )
    table = table.taken(
        drop_near_copies(table.vectors, list(zip(table.products, labels_of, strict=True)))
    )
    texts = {
        int(label): measure_texts(
            table.vectors[table.labels == label], clip.embed_texts(usual_texts(LABELS[label]))
        )
        for label in np.unique(table.labels)
    }
    return Memory(regions=table, texts=texts)


def _number_phrases(
    pairs: Pairs, captions: Sequence[Sequence[dict[str, str]]]
) -> tuple[NDArray[np.int32], list[str]]:
    """Return each region's phrase as a number (N, L), -1 where there is none, and the phrases."""
    numbers: dict[str, int] = {}
    phrase = np.full(pairs.known.shape, -1, dtype=np.int32)
    flat = [view for product in captions for view in product]
    for picture, (said, known) in enumerate(zip(flat, pairs.known, strict=True)):
        for name, text in said.items():
            if known[LABEL_ID[name]]:
                phrase[picture, LABEL_ID[name]] = numbers.setdefault(text, len(numbers))
    return phrase, list(numbers)


def _open(folder: Path) -> Wording:
    """Map what was written into memory, read only."""
    return Wording(
        **{
            field.name: np.load(folder / f"{field.name}.npy", mmap_mode="r", allow_pickle=False)
            for field in fields(Wording)
        }
    )
