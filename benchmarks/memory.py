"""The memory of cloth: how fast it answers, and whether it finds what words ask for; prints JSON.

    python benchmarks/memory.py --work work/memory

Speed: random regions of one label, as many as asked for, on this machine's cores. Finding: studio
products with true maps, the bundled model's CLIP, phrases of products that are not in the memory;
the share of the found regions whose own caption has the colour, and the pattern, that was asked
for, beside regions of the label drawn at random. Gate: of phrases whose nearest region has the
colour asked for against those whose has not, in memories of all products and of few. Reading: the
share of held-out regions whose own phrase comes before itself with other words.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from catalogpose.catalog.labels import find_regions
from catalogpose.catalog.region_table import RegionTable
from catalogpose.humandiffusion.judging import judge, make_trials
from catalogpose.humandiffusion.lexicon import usual_texts
from catalogpose.humandiffusion.memory import (
    NEIGHBOURS,
    Memory,
    measure_texts,
    refine,
    search,
)
from catalogpose.perception.clip import Clip
from catalogpose.quality.intervals import mean_interval
from catalogpose.records import GARMENTS, GROUP_OF, LABEL_ID, LABELS
from catalogpose.studio.palette import CLOTHS
from catalogpose.training.pictures import Pictures, draw_pictures
from catalogpose.training.truepose import embed_regions
from catalogpose.truepose.model import BUNDLED

PATTERNS = ("stripes", "checks", "dots", "flowers", "stars", "hearts", "tartan", "houndstooth")
"""Words of captions that name a pattern."""

FEW = (8, 40)
"""Products of small memories, whose gate is looked at too."""


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows at unit length."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_table(vectors: NDArray[np.float32], labels: Sequence[str], products: Sequence[str]) -> Any:
    """Return a table of regions in the order of their labels, and that order."""
    ids = np.array([LABEL_ID[label] for label in labels], dtype=np.uint8)
    order = np.argsort(ids, kind="stable")
    count = len(ids)
    table = RegionTable(
        vectors=vectors[order],
        labels=ids[order],
        areas=np.ones(count, dtype=np.float32),
        boxes=np.zeros((count, 4), dtype=np.int32),
        pictures=[products[i] for i in order],
        products=[products[i] for i in order],
        sources=[""] * count,
    )
    return table, order


def measure_speed(regions: int, width: int) -> dict[str, object]:
    """Time one query and a batch of 64 against random regions of one label."""
    draw = np.random.default_rng(0)
    vectors = unit(draw.normal(size=(regions, width)).astype(np.float32))
    table, _ = make_table(vectors, ["skirt"] * regions, ["p"] * regions)
    memory = Memory(regions=table, texts={})
    queries = unit(draw.normal(size=(64, width)).astype(np.float32))
    seconds = {}
    for count in (1, 64):
        search(memory, queries[:count], ["skirt"] * count)
        runs = []
        for _ in range(5):
            started = time.perf_counter()
            search(memory, queries[:count], ["skirt"] * count)
            runs.append(time.perf_counter() - started)
        seconds[count] = float(np.median(runs))
    return {
        "regions": regions,
        "width": width,
        "seconds_of_one_query": round(seconds[1], 4),
        "seconds_of_64_queries": round(seconds[64], 4),
        "one_query_over_a_64th_of_64": round(seconds[1] * 64 / seconds[64], 2),
    }


def gather(pictures: Pictures, clip: Clip, view: int) -> list[tuple[str, str, int, Any]]:
    """Return label of phrases, caption, product and embedding of each garment in one view."""
    found = []
    for product in range(len(pictures.photos)):
        vectors, known = embed_regions(
            clip, pictures.photos[product, view], pictures.labels[product, view]
        )
        captions = pictures.captions[product][view]
        found += [
            (GROUP_OF[LABELS[i]], captions[LABELS[i]], product, vectors[i].astype(np.float32))
            for i in np.flatnonzero(known)
            if LABELS[i] in GARMENTS and LABELS[i] in captions
        ]
    return found


def words_of(caption: str) -> tuple[str | None, str | None]:
    """Return a caption's first colour and its pattern; None where it names none."""
    plain = f" {caption} ".replace(",", " ")
    colours = [(plain.find(f" {name} "), -len(name), name) for name in CLOTHS]
    named = sorted(colour for colour in colours if colour[0] >= 0)
    pattern = next((word for word in PATTERNS if f" {word} " in plain), None)
    return (named[0][2] if named else None), pattern


def remember(rows: Sequence[tuple[str, str, int, Any]], clip: Clip) -> tuple[Memory, list[str]]:
    """Return a memory of these regions, and their captions in its order."""
    labels, captions, products, vectors = (list(column) for column in zip(*rows, strict=True))
    table, order = make_table(unit(np.stack(vectors)), labels, [str(p) for p in products])
    texts = {}
    for label in np.unique(table.labels):
        usual = clip.embed_texts(usual_texts(LABELS[label]))
        texts[int(label)] = measure_texts(table.vectors[table.labels == label], usual)
    return Memory(regions=table, texts=texts), [captions[i] for i in order]


def measure_finding(
    memory: Memory, captions: Sequence[str], wanted: Sequence[tuple[str, str]], clip: Clip
) -> dict[str, list[float]]:
    """Ask for garments of held-out products and look at what is found."""
    queries = clip.embed_texts([caption for _, caption in wanted])
    found = search(memory, queries, [label for label, _ in wanted])
    draw = np.random.default_rng(0)
    scores: dict[str, list[float]] = {}
    for (label, caption), hit in zip(wanted, found, strict=True):
        here = memory.rows_of(label)
        if here.stop - here.start < NEIGHBOURS:
            continue
        drawn = draw.choice(np.arange(here.start, here.stop), NEIGHBOURS, replace=False)
        for place, kind in enumerate(("colour", "pattern")):
            word = words_of(caption)[place]
            if word is None:
                continue
            for way, places in (("found", hit[0]), ("random", drawn)):
                same = [words_of(captions[row])[place] == word for row in places]
                scores.setdefault(f"{kind}, {way}", []).append(float(np.mean(same)))
    return scores


def measure_gate(
    memory: Memory, captions: Sequence[str], wanted: Sequence[tuple[str, str]], clip: Clip
) -> dict[str, list[float]]:
    """Return the gates of phrases, apart by whether their nearest region has the colour."""
    queries = clip.embed_texts([caption for _, caption in wanted])
    found = search(memory, queries, [label for label, _ in wanted])
    scores: dict[str, list[float]] = {"right": [], "wrong": []}
    for (label, caption), query, hit in zip(wanted, queries, found, strict=True):
        if len(hit[0]):
            right = words_of(captions[hit[0][0]])[0] == words_of(caption)[0]
            gate = refine(memory, query, label, *hit).gate
            scores["right" if right else "wrong"].append(gate)
    return scores


def measure_reading(pictures: Pictures, clip: Clip) -> dict[str, list[float]]:
    """Judge the garments of held-out pictures, cut out by their true maps, by their phrases."""
    scores: dict[str, list[float]] = {}
    for product, photo in enumerate(pictures.photos[:, 0]):
        regions = find_regions(pictures.labels[product, 0])
        said = pictures.captions[product][0]
        phrases = {
            region.label: said[LABELS[region.label]]
            for region in regions
            if LABELS[region.label] in GARMENTS and LABELS[region.label] in said
        }
        boxes = {region.label: region.box for region in regions}
        for trial in make_trials(phrases):
            texts = [trial.phrase, *trial.colours, *trial.patterns, *trial.swaps]
            known = dict(zip(texts, clip.embed_texts(texts), strict=True))
            seen = clip.embed(photo, [boxes[trial.label]])[0].astype(np.float32)
            verdict = judge(trial, seen, known)
            for name in ("hit", "colour", "pattern"):
                if getattr(verdict, name) is not None:
                    scores.setdefault(name, []).append(float(getattr(verdict, name)))
    return scores


def measure_words(options: argparse.Namespace) -> dict[str, object]:
    """Measure all that has to do with words, on one CLIP."""
    clip = Clip.load(options.clip)
    folder, size = options.work / "pictures", (128, 88)
    shop = draw_pictures(folder, "train", options.products, 1, size, workers=1)
    asked = draw_pictures(folder, "test", options.queries, 1, size, workers=1)
    rows = gather(shop, clip, 0)
    wanted = [(label, caption) for label, caption, *_ in gather(asked, clip, 0)]
    memory, captions = remember(rows, clip)
    scores = measure_finding(memory, captions, wanted, clip)
    for count in (*FEW, options.products):
        few = remember([row for row in rows if row[2] < count], clip)
        gates = measure_gate(*few, wanted, clip)
        scores |= {f"gate of {count} products, {k}": values for k, values in gates.items()}
    reading = measure_reading(asked, clip)
    scores |= {f"reading, {name}": values for name, values in reading.items()}
    return {
        "regions": len(memory),
        "phrases": len(wanted),
        "k": NEIGHBOURS,
        **{
            name: {
                "n": len(values),
                **vars(mean_interval(np.array(values), [str(i) for i in range(len(values))])),
            }
            for name, values in scores.items()
        },
    }


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/memory"))
    parser.add_argument("--regions", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--products", type=int, default=600, help="products in the memory")
    parser.add_argument("--queries", type=int, default=100, help="products asked for")
    parser.add_argument("--clip", type=Path, default=BUNDLED / "clip", help="an open_clip folder")
    options = parser.parse_args()
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("numpy", "torch", "open_clip_torch")},
        "speed": measure_speed(options.regions, options.width),
        "words": measure_words(options),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
