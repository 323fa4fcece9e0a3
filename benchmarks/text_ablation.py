"""Which parts of text-driven rows do what: every arm measured alike on held-out studio rows.

    python benchmarks/text_ablation.py --model MODEL --judge JUDGE --work work/text --seeds 0 1

trains what is missing (an alignment a kind and seed) and prints the table of
`benchmarks/text_ablation/*.json`, a file an arm and seed. Finished arms are not run again, a killed
training goes on from its checkpoint, `--table` only prints. MODEL is a model folder whose nets stay
as they are; JUDGE holds another `clip` and `parser`. `--own` trains nothing: it takes the alignment
that MODEL has, for the arms that leave out none of its levels, and wants `--results` of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from text_rows import (
    METRICS,
    HeldRow,
    Shop,
    hold_out_rows,
    measure_row,
    paint_row,
    repose_row,
    retrieval_precision,
)

from catalogpose.catalog.files import sha256_file, write_atomically
from catalogpose.commands.report_judge import open_judge
from catalogpose.humandiffusion.alignment import Alignment
from catalogpose.humandiffusion.text_driven import TextDriven, load_alignment
from catalogpose.perception.clip import Clip
from catalogpose.quality.intervals import difference_interval, mean_interval
from catalogpose.training.alignment import AlignmentNets, AlignmentObjective, train_alignment
from catalogpose.training.pairs import Pairs
from catalogpose.training.pictures import Pictures, draw_pictures
from catalogpose.training.recipes import TextRecipe, load_recipe
from catalogpose.training.schedule import Schedule
from catalogpose.training.truepose import studio_pairs
from catalogpose.training.wishes import Mix
from catalogpose.training.wording import studio_memory, studio_wording
from catalogpose.training.workshop import check_begun
from catalogpose.truepose.model import ModelCard, read_card, resolve_model
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


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What alignments are trained over, and how."""

    pipe: TruePosePipeline
    """The frozen model."""
    clip: Clip
    """Its CLIP."""
    pictures: Pictures
    """To learn from, and to remember."""
    pairs: Pairs
    """Of these pictures."""
    recipe: TextRecipe
    """How alignments are trained."""
    options: argparse.Namespace
    """What the command line said."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """All that the arms share."""

    lesson: Lesson
    """What gives an arm its alignment."""
    shop: Shop
    """What paints and judges."""
    rows: Sequence[HeldRow]
    """The held-out rows."""


def open_lesson(options: argparse.Namespace) -> Lesson:
    """Draw the pictures to learn from, look at them, and load the model."""
    folder = resolve_model(options.model)
    card = read_card(folder)
    recipe = load_recipe(options.recipe)
    assert isinstance(recipe, TextRecipe)
    if options.steps is not None:
        recipe = dataclasses.replace(recipe, schedule={**recipe.schedule, "steps": options.steps})
    if options.products is not None:
        recipe = dataclasses.replace(recipe, products=options.products)
    options.work.mkdir(parents=True, exist_ok=True)
    check_begun(options.work / "begun.json", known_of(card, recipe), options.work, "--work")
    pipe = TruePosePipeline.from_pretrained(folder, dtype=torch.float32)
    clip = Clip.load(folder / "clip")
    size = (card.height, card.width)
    pictures = draw_pictures(
        options.work / "pictures", "train", recipe.products, recipe.views, size, workers=1
    )
    pairs = studio_pairs(pictures, pipe.vae, clip, options.work / "pairs", tell)
    return Lesson(
        pipe=pipe, clip=clip, pictures=pictures, pairs=pairs, recipe=recipe, options=options
    )


def known_of(card: ModelCard, recipe: TextRecipe) -> dict[str, object]:
    """Return what decides the arrays that trainings and memory share."""
    return {
        "model": dict(card.weights), "products": recipe.products, "views": recipe.views
    }  # fmt: skip


def make_bench(lesson: Lesson) -> Bench:
    """Draw the held-out rows, remember the pictures and load the judge."""
    options, recipe, card = lesson.options, lesson.recipe, lesson.pipe.card
    # A try with fewer steps or rows must not pass for the real thing.
    facts = known_of(card, recipe) | {
        "recipe": dataclasses.asdict(recipe),
        "rows": options.rows,
        "own": options.own,
        "judge": [sha256_file(path) for path in sorted(options.judge.glob("*/*.safetensors"))],
    }
    options.results.mkdir(parents=True, exist_ok=True)
    check_begun(options.results / "begun.json", facts, options.results, "--results")
    shop = Shop(
        pipe=lesson.pipe, clip=lesson.clip, pictures=lesson.pictures,
        memory=studio_memory(lesson.pairs, lesson.clip, recipe.views),
        judge=open_judge(options.judge, resolve_model(options.model), "cpu"),
        judge_clip=Clip.load(options.judge / "clip"),
    )  # fmt: skip
    size = (card.height, card.width)
    held_out = draw_pictures(options.work / "pictures", "test", options.rows, 2, size, workers=1)
    return Bench(lesson=lesson, shop=shop, rows=hold_out_rows(held_out, lesson.clip))


def train(lesson: Lesson, kind: str, seed: int) -> Alignment:
    """Train a kind of alignment, or read it again."""
    recipe, options, pipe = lesson.recipe, lesson.options, lesson.pipe
    if options.own:
        return load_alignment(resolve_model(options.model))
    folder = options.work / f"{kind}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    check_begun(folder / "begun.json", {"recipe": dataclasses.asdict(recipe)}, folder)
    if (folder / "config.json").exists():
        found: Alignment = Alignment.from_pretrained(str(folder), use_safetensors=True)
        return found
    torch.manual_seed(seed)
    made = Alignment.over(pipe.unet, pipe.pose_encoder.factor, **recipe.alignment)
    if kind != "neither-level":
        pictures = lesson.pictures
        words = studio_wording(
            lesson.pairs, pictures.captions, lesson.clip, options.work / "wording", tell
        )
        photos = pictures.photos.reshape(-1, *pictures.photos.shape[2:])
        objective = AlignmentObjective(**{**recipe.objective, **TRAINED[kind]})
        train_alignment(
            lesson.pairs, words, photos, lesson.clip, pipe, AlignmentNets(made), Mix(**recipe.mix),
            objective, Schedule(**recipe.schedule, seed=seed), folder / "work", device="cpu",
            progress=tell,
        )  # fmt: skip
    made.save_pretrained(str(folder))
    return made


def run_arm(bench: Bench, arm: str, seed: int) -> None:
    """Paint and measure every held-out row with one arm, and write its file."""
    path = bench.lesson.options.results / f"{arm}-{seed}.json"
    if path.exists():
        return
    started = time.monotonic()
    kind, way = ARMS[arm]
    text = TextDriven(bench.shop.pipe, train(bench.lesson, kind, seed))
    rows = []
    for place, row in enumerate(bench.rows):
        picture = paint_row(bench.shop, row, text, way, seed)
        rows.append(measure_row(bench.shop, row, picture))
        tell(f"{arm}, seed {seed}", place + 1, len(bench.rows))
    write(path, bench, rows, arm, seed, started)


def measure_bounds(bench: Bench) -> None:
    """Measure the truth itself, another row's truth, and TruePose without words: ceiling, floor and
    what identity is without them; and what retrieval finds.
    """
    total = len(bench.rows)
    pictures: dict[str, Callable[[int], Any]] = {
        "truth": lambda place: bench.rows[place].target,
        "shuffled": lambda place: bench.rows[(place + 2) % total].target,
        "truepose": lambda place: repose_row(bench.shop, bench.rows[place], 0),
    }
    for name, picture_of in pictures.items():
        path = bench.lesson.options.results / f"{name}-0.json"
        if path.exists():
            continue
        started = time.monotonic()
        painted = [picture_of(place) for place in range(total)]
        rows = [
            {} if picture is None else measure_row(bench.shop, row, picture)
            for row, picture in zip(bench.rows, painted, strict=True)
        ]
        write(path, bench, rows, name, 0, started)
    path = bench.lesson.options.results / "retrieval.json"
    if path.exists():
        return
    found = retrieval_precision(bench.shop, bench.rows)
    facts = {name: [len(values), float(np.mean(values))] for name, values in found.items()}
    write_atomically(path, lambda file: file.write(json.dumps(facts, indent=1).encode()))


def write(
    path: Path, bench: Bench, rows: Sequence[Any], arm: str, seed: int, started: float
) -> None:
    """Write an arm's scores and how they came about."""
    facts = {
        "arm": arm, "seed": seed, "n": len(rows), "seconds": round(time.monotonic() - started),
        "recipe": dataclasses.asdict(bench.lesson.recipe), "model": bench.shop.pipe.card.name,
        "versions": {name: version(name) for name in ("torch", "diffusers", "open_clip_torch")},
        "scores": {name: [row.get(name) for row in rows] for name in METRICS},
    }  # fmt: skip
    write_atomically(path, lambda file: file.write(json.dumps(facts).encode()))


def as_table(results: Path) -> str:
    """Return the finished arms as a Markdown table: means, 95 % intervals, and `full` less each."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(results.glob("*-[0-9].json")):
        one = json.loads(path.read_text())
        found.setdefault(one["arm"], []).append(one)
    lines = ["| arm | seeds | " + " | ".join(METRICS) + " |", "|---" * (len(METRICS) + 2) + "|"]
    for arm in [name for name in (*ARMS, "truepose", "truth", "shuffled") if name in found]:
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
    if (results / "retrieval.json").exists():
        shares = json.loads((results / "retrieval.json").read_text())
        lines += ["", *(f"{name}: {mean:.3f}, n = {n}" for name, (n, mean) in shares.items())]
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
    parser.add_argument("--own", action="store_true", help="the model's own alignment, untrained")
    parser.add_argument("--arms", nargs="*", choices=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--train", action="store_true", help="train what the arms need and stop")
    parser.add_argument("--table", action="store_true", help="print the table and do nothing else")
    options = parser.parse_args()
    if options.arms is None:
        whole = [arm for arm, (kind, _) in ARMS.items() if kind == "full"]
        options.arms = whole if options.own else list(ARMS)
    if options.own and any(ARMS[arm][0] != "full" for arm in options.arms):
        parser.error("--own has no alignment for arms that leave out a level")
    if not options.table:
        lesson = open_lesson(options)
        if options.train:
            for seed, arm in product(options.seeds, options.arms):
                train(lesson, ARMS[arm][0], seed)
            return
        bench = make_bench(lesson)
        measure_bounds(bench)
        for seed, arm in product(options.seeds, options.arms):
            run_arm(bench, arm, seed)
    print(as_table(options.results))


if __name__ == "__main__":
    main()
