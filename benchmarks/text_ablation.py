"""Which parts of text-driven rows do what: every arm measured alike on held-out studio rows.

    python benchmarks/text_ablation.py --model MODEL --judge JUDGE --work work/text --seeds 0 1

trains what is missing (an alignment a kind and seed) and prints the table of
`benchmarks/text_ablation/*.json`, a file an arm and seed. Finished arms are not run again, a killed
training goes on from its checkpoint, `--table` only prints. MODEL is a model folder whose nets stay
as they are; JUDGE holds another `clip` and `parser`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from catalogpose.catalog.files import write_atomically
from catalogpose.commands.report_judge import open_judge
from catalogpose.humandiffusion.alignment import Alignment
from catalogpose.humandiffusion.judging import attributes_of
from catalogpose.humandiffusion.memory import Memory, refine, search
from catalogpose.humandiffusion.text_driven import Filling, TextDriven
from catalogpose.perception.clip import Clip
from catalogpose.quality.agreement import map_agreement
from catalogpose.quality.colour import garment_colour_error
from catalogpose.quality.intervals import difference_interval, mean_interval
from catalogpose.quality.metrics import psnr
from catalogpose.quality.scoring import Judge
from catalogpose.records import GARMENTS, GROUP_OF, LABEL_ID, LABELS
from catalogpose.training.alignment import AlignmentNets, AlignmentObjective, train_alignment
from catalogpose.training.pictures import Pictures, draw_pictures
from catalogpose.training.recipes import TextRecipe, load_recipe
from catalogpose.training.schedule import Schedule
from catalogpose.training.truepose import embed_regions, studio_pairs
from catalogpose.training.wishes import Mix
from catalogpose.training.wording import studio_memory, studio_wording
from catalogpose.truepose.model import read_card, resolve_model
from catalogpose.truepose.pipeline import TruePosePipeline

HERE = Path(__file__).parent

TRAINED: Mapping[str, Mapping[str, object]] = {
    "full": {},
    "no-feature-level": {"routed": False},
    "no-image-level": {"drawn": False},
    "neither-level": {"routed": False, "drawn": False},
}
"""What is trained, and what it leaves out of the objective; the last needs no training."""

ARMS: Mapping[str, tuple[str, str]] = {
    "full": ("full", "smr"),
    "without-smr": ("full", "raw"),
    "random-memory": ("full", "random"),
    "gate-open": ("full", "open"),
    "oracle": ("full", "own"),
    "no-feature-level": ("no-feature-level", "smr"),
    "no-image-level": ("no-image-level", "smr"),
    "neither-level": ("neither-level", "smr"),
}
"""Each arm's alignment, and what fills the regions of words."""

METRICS = {
    "map_agreement": 3, "region_text": 3, "region_text_pattern": 3, "colour_accuracy": 3,
    "pattern_accuracy": 3, "binding_error": 3, "colour_error": 1, "kept_psnr": 2, "psnr": 2,
}  # fmt: skip
"""Columns of the table and their digits."""

NEGATED = ("binding_error", "colour_error")
"""Of which less is better."""


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


@dataclass(frozen=True, kw_only=True)
class Bench:
    """All that the arms share."""

    pipe: TruePosePipeline
    clip: Clip
    memory: Memory
    rows: Sequence[HeldRow]
    judge: Judge
    recipe: TextRecipe
    pictures: Pictures
    options: argparse.Namespace


def hold_out(pictures: Pictures, clip: Clip) -> list[HeldRow]:
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
            joints=pictures.joints[place, 1], phrases=said,
        ))  # fmt: skip
    return rows


def make_bench(options: argparse.Namespace) -> Bench:
    """Draw the held-out rows and the pictures to learn from, and load model and judge."""
    folder = resolve_model(options.model)
    card = read_card(folder)
    size = (card.height, card.width)
    recipe = load_recipe(options.recipe)
    assert isinstance(recipe, TextRecipe)
    if options.steps is not None:
        recipe = dataclasses.replace(recipe, schedule={**recipe.schedule, "steps": options.steps})
    if options.products is not None:
        recipe = dataclasses.replace(recipe, products=options.products)
    pipe = TruePosePipeline.from_pretrained(folder, dtype=torch.float32)
    clip = Clip.load(folder / "clip")
    drawn = options.work / "pictures"
    pictures = draw_pictures(drawn, "train", recipe.products, recipe.views, size, workers=1)
    pairs = studio_pairs(pictures, pipe.vae, clip, options.work / "pairs", tell)
    return Bench(
        pipe=pipe, clip=clip, memory=studio_memory(pairs, clip, recipe.views),
        rows=hold_out(draw_pictures(drawn, "test", options.rows, 2, size, workers=1), clip),
        judge=open_judge(options.judge, folder, "cpu"), recipe=recipe, pictures=pictures,
        options=options,
    )  # fmt: skip


def train(bench: Bench, kind: str, seed: int) -> Alignment:
    """Train a kind of alignment, or read it again."""
    recipe, pipe, options = bench.recipe, bench.pipe, bench.options
    folder = options.work / f"{kind}-{seed}"
    if (folder / "config.json").exists():
        found: Alignment = Alignment.from_pretrained(str(folder), use_safetensors=True)
        return found
    torch.manual_seed(seed)
    factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    made = Alignment.over(pipe.unet, factor, **recipe.alignment)
    if kind != "neither-level":
        pairs = studio_pairs(bench.pictures, pipe.vae, bench.clip, options.work / "pairs", tell)
        words = studio_wording(
            pairs, bench.pictures.captions, bench.clip, options.work / "wording", tell
        )
        photos = bench.pictures.photos.reshape(-1, *bench.pictures.photos.shape[2:])
        objective = AlignmentObjective(**{**recipe.objective, **TRAINED[kind]})
        train_alignment(
            pairs, words, photos, pipe, AlignmentNets(made), Mix(**recipe.mix), objective,
            Schedule(**recipe.schedule, seed=seed), folder / "work", device="cpu", progress=tell,
        )  # fmt: skip
    made.save_pretrained(str(folder))
    return made


def fill(bench: Bench, row: HeldRow, way: str, draw: np.random.Generator) -> dict[int, Filling]:
    """Return what fills the regions of words, by one of the ways of `ARMS`."""
    nothing = np.zeros((0, bench.clip.width))
    ids = list(row.phrases)
    queries = bench.clip.embed_texts([row.phrases[label] for label in ids])
    labels = [GROUP_OF[LABELS[label]] for label in ids]
    hits = search(bench.memory, queries, labels)
    found = {}
    for label, name, query, (near, cosines) in zip(ids, labels, queries, hits, strict=True):
        if way == "own" and label in row.own:
            found[label] = Filling(vector=row.own[label].astype(np.float32), remembered=nothing)
            continue
        if way == "raw" or not len(near):
            found[label] = Filling(vector=query, remembered=nothing)
            continue
        answer = refine(bench.memory, query, name, near, cosines)
        if way == "random":
            here = bench.memory.rows_of(name)
            near = draw.integers(here.start, here.stop, len(near))
        vectors = bench.memory.regions.vectors[near]
        vector = answer.vector
        if way in ("random", "open"):
            weights = np.exp((cosines - cosines[0]) / 0.02) if way == "open" else np.ones(len(near))
            vector = (weights / weights.sum()) @ vectors
            vector = vector / np.linalg.norm(vector)
        found[label] = Filling(vector=vector.astype(np.float32), remembered=vectors)
    return found


def paint(bench: Bench, text: TextDriven, place: int, way: str, seed: int) -> NDArray[np.uint8]:
    """Paint one held-out row."""
    row = bench.rows[place]
    fillings = fill(bench, row, way, np.random.default_rng([seed, place]))
    there = {int(label) for label in np.unique(row.labels) if label}
    kept: frozenset[int] = frozenset()
    source = None
    if row.source is not None:
        groups = {GROUP_OF[LABELS[label]] for label in there - set(row.phrases)}
        kept = frozenset(i for i, name in enumerate(LABELS) if i and GROUP_OF[name] in groups)
        source = text.encode_source(row.source, row.source_labels, row.source_embeddings, kept)
        for label in there & kept & set(row.source_embeddings):
            vector = row.source_embeddings[label].astype(np.float32)
            fillings[label] = Filling(vector=vector, remembered=np.zeros((0, len(vector))))
    conditions = text.condition(row.labels, fillings, kept, source)
    picture: NDArray[np.uint8] = bench.pipe.generate(
        [conditions], row.joints[None], [seed * 100_000 + place]
    )[0]
    return picture


def measure(bench: Bench, row: HeldRow, picture: NDArray[np.uint8]) -> dict[str, float | None]:
    """Score a picture of a held-out row; `kept_psnr` inside what was kept of the source."""
    found = bench.judge.parse(picture)
    phrases = {LABELS[label]: text for label, text in row.phrases.items()}
    patterned = {name: text for name, text in phrases.items() if attributes_of(text).pattern}
    scores = {
        "map_agreement": map_agreement(found, row.labels),
        **bench.judge.score(picture, phrases),
    }
    scores["region_text_pattern"] = bench.judge.score(picture, patterned)["region_text"]
    scores["colour_error"] = garment_colour_error(picture, row.target, found, row.labels)
    scores["psnr"] = psnr(picture, row.target)
    scores["kept_psnr"] = None
    if row.source is not None:
        inside = (row.labels > 0) & ~np.isin(row.labels, list(row.phrases))
        if inside.any():
            error = float(((picture[inside].astype(float) - row.target[inside]) ** 2).mean())
            scores["kept_psnr"] = 10 * np.log10(255**2 / error) if error else None
    return scores


def run_arm(bench: Bench, arm: str, seed: int) -> None:
    """Paint and measure every held-out row with one arm, and write its file."""
    path = bench.options.results / f"{arm}-{seed}.json"
    if path.exists():
        return
    started = time.monotonic()
    kind, way = ARMS[arm]
    text = TextDriven(bench.pipe, train(bench, kind, seed))
    rows = []
    for place, row in enumerate(bench.rows):
        rows.append(measure(bench, row, paint(bench, text, place, way, seed)))
        tell(f"{arm}, seed {seed}", place + 1, len(bench.rows))
    write(path, bench, rows, arm, seed, started)


def measure_bounds(bench: Bench) -> None:
    """Measure the truth itself, and another row's truth: ceiling and floor."""
    total = len(bench.rows)
    for name, shift in (("truth", 0), ("shuffled", 2)):
        path = bench.options.results / f"{name}-0.json"
        if not path.exists():
            started = time.monotonic()
            rows = [
                measure(bench, row, bench.rows[(place + shift) % total].target)
                for place, row in enumerate(bench.rows)
            ]
            write(path, bench, rows, name, 0, started)


def write(
    path: Path, bench: Bench, rows: Sequence[Any], arm: str, seed: int, started: float
) -> None:
    """Write an arm's scores and how they came about."""
    facts = {
        "arm": arm, "seed": seed, "n": len(rows), "seconds": round(time.monotonic() - started),
        "recipe": dataclasses.asdict(bench.recipe), "model": bench.pipe.card.name,
        "versions": {name: version(name) for name in ("torch", "diffusers", "open_clip_torch")},
        "scores": {name: [row.get(name) for row in rows] for name in METRICS},
    }  # fmt: skip
    write_atomically(path, lambda file: file.write(json.dumps(facts).encode()))


def as_table(results: Path) -> str:
    """Return the finished arms as a Markdown table: means, 95 % intervals, and `full` less each."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(results.glob("*.json")):
        one = json.loads(path.read_text())
        found.setdefault(one["arm"], []).append(one)
    lines = ["| arm | seeds | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 2) + "|"]
    for arm in [name for name in (*ARMS, "truth", "shuffled") if name in found]:
        cells = [arm, str(len(found[arm]))]
        for name, digits in METRICS.items():
            values, groups = flat(found[arm], name)
            one = mean_interval(values, groups)
            text = "-" if one.mean is None else f"{one.mean:.{digits}f}"
            if arm in ARMS and arm != "full" and "full" in found:
                both = {r["seed"] for r in found["full"]} & {r["seed"] for r in found[arm]}
                pair = [[r for r in found[k] if r["seed"] in both] for k in ("full", arm)]
                first, groups = flat(pair[0], name)
                gap = difference_interval(first, flat(pair[1], name)[0], groups)
                if gap.low is not None and gap.high is not None:
                    text += f" ({gap.low:+.{digits}f}..{gap.high:+.{digits}f})"
            cells.append(text)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def flat(results: Sequence[Mapping[str, Any]], name: str) -> tuple[NDArray[np.float64], list[str]]:
    """Return a metric of all seeds, and which row each value is of."""
    rows = [(str(i), v) for one in results for i, v in enumerate(one["scores"][name])]
    return np.array([np.nan if v is None else v for _, v in rows]), [i for i, _ in rows]


def tell(name: str, done: int, total: int) -> None:
    """Tell how far something has come, on one line."""
    print(f"{name}: {done} of {total}", end="\r", flush=True)


def main() -> None:
    """Run the missing arms, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None)
    parser.add_argument("--judge", type=Path, default=Path("work/judge/model"))
    parser.add_argument("--work", type=Path, default=Path("work/text"))
    parser.add_argument("--results", type=Path, default=HERE / "text_ablation")
    parser.add_argument("--recipe", default="bundled-text")
    parser.add_argument("--steps", type=int, help="of every training")
    parser.add_argument("--products", type=int, help="to learn from")
    parser.add_argument("--rows", type=int, default=200, help="held-out products, a row each")
    parser.add_argument("--arms", nargs="*", default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--table", action="store_true", help="print the table and do nothing else")
    options = parser.parse_args()
    if not options.table:
        bench = make_bench(options)
        measure_bounds(bench)
        for seed in options.seeds:
            for arm in options.arms:
                run_arm(bench, arm, seed)
    print(as_table(options.results))


if __name__ == "__main__":
    main()
