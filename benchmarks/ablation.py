"""The paper's Table 2 on the studio: every arm trained alike, measured alike, side by side.

    python benchmarks/ablation.py --work work/ablation --workers 2

trains what is missing and prints the table of `benchmarks/ablation/*.json`, a file an arm and seed.
Finished arms are not run again, a killed one goes on from its checkpoint, `--table` only prints.
VAE, CLIP and parser are those of a model folder, the bundled one unless `--model` names another.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from catalogpose.catalog.files import sha256_json
from catalogpose.errors import CatalogposeError
from catalogpose.perception.clip import Clip
from catalogpose.perception.parser import Parser
from catalogpose.quality.intervals import Interval
from catalogpose.training import ablation, ablation_table
from catalogpose.training.held_out import hold_out
from catalogpose.training.pictures import draw_pictures
from catalogpose.training.truepose import studio_pairs
from catalogpose.truepose.model import read_card, resolve_model

HERE = Path(__file__).parent
PAPER = {
    "hpfa+caa": "full: 0.744, 17.63",
    "hpfa": "B3: 0.736, 17.43",
    "concat+caa": "B4: 0.715, 16.69",
    "concat": "B2: 0.706, 16.27",
    "clip-mlp": "B1: 0.690, 14.61",
}
"""Name, SSIM and PSNR in the paper's Table 2: DeepFashion, 512x352."""

BOUNDS = {"copy": "the source copied", "vae": "the target through the VAE"}
"""Rows that are no arms."""

METRICS = {
    "psnr": ("PSNR, dB", 2), "ssim": ("SSIM", 3), "garment_colour_error": ("colour", 1),
    "pattern_error": ("pattern", 3), "parsing_agreement": ("mean IoU", 3),
}  # fmt: skip
"""Columns of the table: their names and digits."""


def make_bench(options: argparse.Namespace) -> ablation.Bench:
    """Draw the pictures, look at them with the model's VAE and CLIP, and put all together."""
    folder = resolve_model(options.model)
    card = read_card(folder)
    size = (card.height, card.width)
    vae = AutoencoderKL.from_pretrained(str(folder / "vae"), dtype=torch.float32)
    clip = Clip.load(folder / "clip")
    drawn = options.work / "pictures"
    train = draw_pictures(drawn, "train", options.products, options.views, size, workers=1)
    test = draw_pictures(drawn, "test", options.pairs, 2, size, workers=1)
    facts = {
        "products": options.products,
        "views": options.views,
        "pairs": options.pairs,
        "parts": {
            name: digest[:16]
            for name, digest in card.weights.items()
            if name.split("/")[0] in ("vae", "clip", "parser")
        },
    }
    # Pairs hold a VAE's latents and a CLIP's embeddings, so each kind has its own folder.
    pairs = options.work / f"pairs-{sha256_json(facts)[:12]}"
    return ablation.Bench(
        plan=ablation.fit_plan(read_plan(options), vae),
        pairs=studio_pairs(train, vae, clip, pairs, tell),
        pictures=train,
        held_out=hold_out(test, clip, options.pairs),
        vae=vae,
        parser=Parser.load(folder / "parser"),
        facts=facts,
        work=options.work,
        results=options.results,
    )


def read_plan(options: argparse.Namespace) -> ablation.AblationPlan:
    """Read the plan, and give its arms another number of steps where one is asked for."""
    plan = ablation.read_plan(options.plan)
    if options.steps is None:
        return plan
    return dataclasses.replace(plan, schedule={**plan.schedule, "steps": options.steps})


def tell(name: str, done: int, total: int) -> None:
    """Tell how far something has come, on one line."""
    print(f"{name}: {done} of {total}", end="\r", flush=True)


_BENCH: list[ablation.Bench] = []
"""The bench of a worker process, made once for all arms that it trains."""


def open_worker(options: argparse.Namespace) -> None:
    """Make a worker's bench; the workers share the machine's cores."""
    torch.set_num_threads(max(1, torch.get_num_threads() // options.workers))
    _BENCH.append(make_bench(options))


def run_one(name: str, seed: int) -> str:
    """Train and measure one arm in a worker process."""
    ablation.run_arm(_BENCH[0], name, seed)
    return f"{name}, seed {seed}"


def cell(value: Interval, digits: int) -> str:
    """Write a mean and half its 95 % interval."""
    if value.mean is None:
        return "-"
    around = "" if value.low is None else f" ± {(value.high - value.low) / 2:.{digits}f}"
    return f"{value.mean:.{digits}f}{around}"


def as_table(options: argparse.Namespace) -> str:
    """Return the finished arms as a Markdown table, with the paper's figures beside them."""
    results = ablation_table.read_results(options.results)
    table = ablation_table.summarize(results, [*METRICS, "mse"])
    order = [name for name in (*read_plan(options).arms, *BOUNDS) if name in table]
    heads = ["arm", "seeds", *(name for name, _ in METRICS.values())]
    heads += ["PSNR over full", "error to ceiling", "paper: SSIM, PSNR"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    if "vae" not in table:
        raise CatalogposeError(f"{options.results} has no vae-0.json; run without --table first")
    above = {name: table[name]["mse"].mean - table["vae"]["mse"].mean for name in order}
    for name in order:
        over = ablation_table.compare(results, name, "hpfa+caa", "psnr")
        cells = [
            BOUNDS.get(name, name),
            str(table[name]["seeds"]),
            *(cell(table[name][metric], digits) for metric, (_, digits) in METRICS.items()),
            "-" if over is None or name == "hpfa+caa" else cell(over, 2),
            f"{above[name] / above['hpfa+caa']:.0%}" if "hpfa+caa" in above else "-",
            PAPER.get(name, "-"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([f"n = {results[0]['n']} held-out pairs a seed", "", *lines])


def main() -> None:
    """Train the missing arms, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/ablation"))
    parser.add_argument("--results", type=Path, default=HERE / "ablation")
    parser.add_argument("--plan", type=Path, default=HERE / "ablation.json")
    parser.add_argument("--steps", type=int, help="of every arm, with --results of their own")
    parser.add_argument("--model", default=None)
    parser.add_argument("--arms", nargs="*", default=None, help="all of the plan by default")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--pairs", type=int, default=500, help="held-out pairs")
    parser.add_argument("--products", type=int, default=2400, help="products to learn from")
    parser.add_argument("--views", type=int, default=8, help="views of each")
    parser.add_argument("--workers", type=int, default=2, help="arms trained side by side")
    parser.add_argument("--table", action="store_true", help="print the table and do nothing else")
    options = parser.parse_args()
    if not options.table:
        bench = make_bench(options)
        ablation.measure_bounds(bench)
        missing = [
            (name, seed)
            for seed in options.seeds
            for name in options.arms or bench.plan.arms
            if not ablation.is_finished(bench, name, seed)
        ]
        if missing:
            ablation.train_start(bench, tell)
        for section in (bench.plan.arms[name].matcher for name, _ in missing):
            if section is not None:
                ablation.train_arm_matcher(bench, section, tell)
        del bench
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(
            options.workers, mp_context=context, initializer=open_worker, initargs=(options,)
        )
        with pool:
            for task in [pool.submit(run_one, name, seed) for name, seed in missing]:
                print(f"finished {task.result()}", flush=True)
    print(as_table(options))


if __name__ == "__main__":
    main()
