"""Held-out studio rows with words: what they are, how an arm paints them, and their scores.

The parts of `text_ablation.py` that know nothing of arms' files and tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from catalogpose.catalog.labels import find_regions
from catalogpose.catalog.sheets import fit_on
from catalogpose.humandiffusion.judging import Attributes, attributes_of
from catalogpose.humandiffusion.memory import TEMPERATURE, Memory, Retrieved, refine, search
from catalogpose.humandiffusion.text_driven import Filling, TextDriven, blank
from catalogpose.perception.clip import Clip
from catalogpose.quality.agreement import GROUPS, map_agreement
from catalogpose.quality.colour import garment_colour_error
from catalogpose.quality.metrics import psnr
from catalogpose.quality.scoring import Judge
from catalogpose.records import GARMENTS, GROUP_OF, LABEL_ID, LABELS
from catalogpose.training.pictures import Pictures
from catalogpose.training.truepose import embed_regions
from catalogpose.truepose.pipeline import TruePosePipeline
from catalogpose.truepose.prepared import PoseConditions

Photo = NDArray[np.uint8]

METRICS = {
    "map_agreement": 3, "region_text": 3, "region_text_pattern": 3, "colour_accuracy": 3,
    "pattern_accuracy": 3, "binding_error": 3, "colour_error": 1, "kept_psnr": 2, "psnr": 2,
    "copy": 3, "copy_at_random": 3,
}  # fmt: skip
"""What is measured of a row, and the digits shown; `copy`: the judge's cosine of a worded region to
the nearest region that informed it, `copy_at_random`: to one of the same label, colour and pattern
that did not."""


@dataclass(frozen=True, kw_only=True)
class HeldRow:
    """A held-out row: words alone, or one garment of words on what is kept of a source."""

    source: NDArray[np.uint8] | None
    """(H, W, 3); None: words alone."""
    source_labels: NDArray[np.uint8]
    """(H, W), the map of the product's other view."""
    source_embeddings: Mapping[int, NDArray[np.float16]]
    """Of that view's regions."""
    target: NDArray[np.uint8]
    """(H, W, 3), the truth."""
    labels: NDArray[np.uint8]
    """(H, W), the map asked for."""
    own: Mapping[int, NDArray[np.float16]]
    """Of the truth's regions, for the oracle."""
    joints: NDArray[np.float32]
    """(18, 3)."""
    phrases: Mapping[int, str]
    """By label id: what words say."""
    place: int
    """Its number, which with the seed decides its noise."""


@dataclass(frozen=True, kw_only=True)
class Shop:
    """All that paints and judges rows."""

    pipe: TruePosePipeline
    """The frozen model."""
    clip: Clip
    """Its CLIP."""
    memory: Memory
    """Of the pictures to learn from."""
    pictures: Pictures
    """Those pictures."""
    judge: Judge
    """Who scores."""
    judge_clip: Clip
    """The judge's CLIP."""
    found: dict[int, dict[int, Retrieved]] = field(default_factory=dict)
    """What the words of rows found, by their places: `retrieve` looks once."""

    def crop_of(self, row: int) -> tuple[Photo, tuple[int, int, int, int], str]:
        """Return a remembered region's picture, box and caption."""
        regions, views = self.memory.regions, self.pictures.photos.shape[1]
        product, view = divmod(int(regions.pictures[row]), views)
        left, top, right, bottom = (int(side) for side in regions.boxes[row])
        group = LABELS[regions.labels[row]]
        said = self.pictures.captions[product][view]
        caption = next(text for name, text in said.items() if GROUP_OF[name] == group)
        return self.pictures.photos[product, view], (left, top, right, bottom), caption


@cache
def said_of(phrase: str) -> Attributes:
    """Return a caption's colour and pattern; the same captions come again and again."""
    return attributes_of(phrase)


def hold_out_rows(pictures: Pictures, clip: Clip) -> list[HeldRow]:
    """Make a row of each product: even ones of words alone, odd ones of one garment."""
    rows = []
    for place in range(len(pictures.photos)):
        captions = pictures.captions[place][1]
        labels = pictures.labels[place, 1]
        seen = [
            embed_regions(clip, pictures.photos[place, v], pictures.labels[place, v])
            for v in (0, 1)
        ]
        tables = [{int(i): table[i] for i in np.flatnonzero(known)} for table, known in seen]
        areas = np.bincount(labels.ravel(), minlength=len(LABELS))
        worn = sorted((n for n in GARMENTS if n in captions), key=lambda n: -areas[LABEL_ID[n]])
        if not worn:
            continue
        alone = place % 2 == 0
        group = GROUP_OF[worn[0]]
        said = {
            LABEL_ID[name]: text
            for name, text in captions.items()
            if (name in GARMENTS or name == "hair" if alone else GROUP_OF[name] == group)
        }
        rows.append(HeldRow(
            source=None if alone else pictures.photos[place, 0],
            source_labels=pictures.labels[place, 0], source_embeddings=tables[0],
            target=pictures.photos[place, 1], labels=labels, own=tables[1],
            joints=pictures.joints[place, 1], phrases=said, place=len(rows),
        ))  # fmt: skip
    return rows


def retrieve(shop: Shop, row: HeldRow) -> dict[int, Retrieved]:
    """Return what the words of a row find, by label id."""
    if row.place in shop.found:
        return shop.found[row.place]
    ids = list(row.phrases)
    queries = shop.clip.embed_texts([row.phrases[label] for label in ids])
    labels = [GROUP_OF[LABELS[label]] for label in ids]
    hits = search(shop.memory, queries, labels)
    shop.found[row.place] = {
        label: refine(shop.memory, query, name, *hit)
        for label, query, name, hit in zip(ids, queries, labels, hits, strict=True)
    }
    return shop.found[row.place]


def fill(shop: Shop, row: HeldRow, way: str, draw: np.random.Generator) -> dict[int, Filling]:
    """Return what fills the regions of words.

    Args:
        shop: Where to look.
        row: The row.
        way: `smr`; `raw`, the text alone; `random`, any regions of the label; `open`, the gate at
            1; `own`, the truth's own embedding.
        draw: For `random`.
    """
    nothing = np.zeros((0, shop.clip.width))
    texts = shop.clip.embed_texts(list(row.phrases.values()))
    found = {}
    for (label, answer), query in zip(retrieve(shop, row).items(), texts, strict=True):
        rows = answer.rows
        if way == "own" and label in row.own:
            found[label] = Filling(vector=row.own[label].astype(np.float32), remembered=nothing)
            continue
        if way == "raw" or not len(rows):
            found[label] = Filling(vector=query, remembered=nothing)
            continue
        weights = np.exp((answer.similarities - answer.similarities[0]) / TEMPERATURE)
        if way == "random":
            here = shop.memory.rows_of(GROUP_OF[LABELS[label]])
            rows, weights = draw.integers(here.start, here.stop, len(rows)), np.ones(len(rows))
        vectors = shop.memory.regions.vectors[rows]
        vector, remembered = answer.vector, vectors[: answer.trusted]
        if way in ("random", "open"):
            vector = (weights / weights.sum()) @ vectors
            vector, remembered = vector / np.linalg.norm(vector), vectors
        found[label] = Filling(vector=vector.astype(np.float32), remembered=remembered)
    return found


def paint_row(shop: Shop, row: HeldRow, text: TextDriven, way: str, seed: int) -> Photo:
    """Paint a row; its place and `seed` decide its noise."""
    fillings = fill(shop, row, way, np.random.default_rng([seed, row.place]))
    there = {int(label) for label in np.unique(row.labels) if label}
    kept: frozenset[int] = frozenset()
    source = None
    if row.source is not None:
        groups = {GROUP_OF[LABELS[label]] for label in there - set(row.phrases)}
        kept = frozenset(i for i, name in enumerate(LABELS) if i and GROUP_OF[name] in groups)
        seen = blank(row.source, row.source_labels, kept)
        regions = [r for r in find_regions(row.source_labels) if r.label in kept]
        vectors = shop.clip.embed(seen, [region.box for region in regions])
        own = {r.label: v.astype(np.float32) for r, v in zip(regions, vectors, strict=True)}
        source = text.encode_source(row.source, row.source_labels, own, kept)
        for label in there & kept & set(own):
            nothing = np.zeros((0, len(own[label])))
            fillings[label] = Filling(vector=own[label], remembered=nothing, by_words=False)
    conditions = text.condition(row.labels, fillings, kept, source)
    return paint_on_canvas(shop, row, conditions, seed)


def repose_row(shop: Shop, row: HeldRow, seed: int) -> Photo | None:
    """Paint a row without its words, as TruePose does; None where it has no source."""
    if row.source is None:
        return None
    shown = frozenset(int(label) for label in np.unique(row.labels) if label)
    features = shop.pipe.encode_source(row.source, row.source_labels, row.source_embeddings)
    return paint_on_canvas(shop, row, shop.pipe.condition(features, shown), seed)


def paint_on_canvas(shop: Shop, row: HeldRow, conditions: PoseConditions, seed: int) -> Photo:
    """Paint a row; a picture finer than the canvas is fitted onto it, where the truth is."""
    noise = [seed * 100_000 + row.place]
    picture = shop.pipe.generate([conditions], row.joints[None], noise)[0]
    return fit_on(row.labels.shape, picture)


def measure_row(shop: Shop, row: HeldRow, picture: Photo) -> dict[str, float | None]:
    """Score a picture of a row; `kept_psnr` inside what was kept of the source."""
    judge = shop.judge
    found = judge.parse(picture)
    phrases = {LABELS[label]: text for label, text in row.phrases.items()}
    patterned = {name: text for name, text in phrases.items() if attributes_of(text).pattern}
    scores: dict[str, float | None] = {
        "map_agreement": map_agreement(found, row.labels),
        **judge.score(picture, phrases),
    }
    scores["region_text_pattern"] = judge.score(picture, patterned)["region_text"]
    scores["colour_error"] = garment_colour_error(picture, row.target, found, row.labels)
    whole = psnr(picture, row.target)
    scores["psnr"] = whole if np.isfinite(whole) else None  # the truth against itself
    scores["kept_psnr"] = None
    if row.source is not None:
        inside = (row.labels > 0) & ~np.isin(row.labels, list(row.phrases))
        if inside.any():
            error = float(((picture[inside].astype(float) - row.target[inside]) ** 2).mean())
            scores["kept_psnr"] = 10 * np.log10(255**2 / error) if error else None
    return scores | _measure_copies(shop, row, picture, found)


def _measure_copies(
    shop: Shop, row: HeldRow, picture: Photo, found: NDArray[np.uint8]
) -> dict[str, float | None]:
    """Return how near worded regions are to what informed them, and to their like."""
    boxes = {region.label: region.box for region in find_regions(GROUPS[found])}
    near, like = [], []
    for label, answer in retrieve(shop, row).items():
        box = boxes.get(int(GROUPS[label]))
        if box is None or not len(answer.rows):
            continue
        own = shop.judge_clip.embed(picture, [box])[0].astype(np.float32)
        near.append(max(own @ _embed(shop, int(each)) for each in answer.rows))
        others = _alike(shop, row.phrases[label], GROUP_OF[LABELS[label]], answer.rows)
        if others:
            like.append(max(own @ _embed(shop, each) for each in others))
    return {
        "copy": float(np.mean(near)) if near else None,
        "copy_at_random": float(np.mean(like)) if like else None,
    }


def _embed(shop: Shop, row: int) -> NDArray[np.float32]:
    """Return the judge's embedding of a remembered region."""
    photo, box, _ = shop.crop_of(row)
    return shop.judge_clip.embed(photo, [box])[0].astype(np.float32)


def _alike(shop: Shop, phrase: str, label: str, without: NDArray[np.int64]) -> list[int]:
    """Return as many regions of the same label, colour and pattern that were not retrieved, if
    there are.
    """
    asked, here = attributes_of(phrase), shop.memory.rows_of(label)
    order = np.random.default_rng(0).permutation(np.arange(here.start, here.stop))
    found = []
    for row in order[:2000]:
        said = said_of(shop.crop_of(int(row))[2])
        same = (said.colour, said.pattern) == (asked.colour, asked.pattern)
        if same and row not in without:
            found.append(int(row))
        if len(found) == len(without):
            break
    return found


def retrieval_precision(shop: Shop, rows: Sequence[HeldRow]) -> dict[str, list[float]]:
    """Return, a value a phrase, the shares of what it found that have its colour and its pattern,
    and the same of regions drawn at random from its label.
    """
    shares: dict[str, list[float]] = {}
    for place, row in enumerate(rows):
        draw = np.random.default_rng(place)
        for label, answer in retrieve(shop, row).items():
            asked, here = (
                attributes_of(row.phrases[label]),
                shop.memory.rows_of(GROUP_OF[LABELS[label]]),
            )
            if not len(answer.rows):
                continue
            random = draw.integers(here.start, here.stop, len(answer.rows))
            for name, chosen in (("found", answer.rows), ("at random", random)):
                said = [said_of(shop.crop_of(int(each))[2]) for each in chosen]
                for kind in ("colour", "pattern"):
                    wanted = getattr(asked, kind)
                    if wanted is not None:
                        right = [getattr(one, kind) == wanted for one in said]
                        shares.setdefault(f"{kind}, {name}", []).append(float(np.mean(right)))
    return shares
