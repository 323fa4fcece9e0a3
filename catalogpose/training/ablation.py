"""The paper's ablation on the studio: arms that differ in one thing, trained alike and measured
alike (Table 2).
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler

from catalogpose.catalog.files import sha256_json, write_atomically
from catalogpose.catalog.labels import to_common
from catalogpose.errors import UsageError
from catalogpose.perception.parser import Parser
from catalogpose.quality.intervals import mean_interval
from catalogpose.training.held_out import HeldOut, paint, score
from catalogpose.training.loop import Progress, Schedule
from catalogpose.training.objective import Objective
from catalogpose.training.pairs import Pairs
from catalogpose.training.truepose import TruePoseNets, start_from, train_truepose
from catalogpose.training.vae import rebuild
from catalogpose.truepose.blocks import FUSIONS
from catalogpose.truepose.model import ModelCard
from catalogpose.truepose.pipeline import TruePosePipeline

VERSIONS = ("torch", "diffusers", "accelerate", "scikit-image", "numpy")
"""Distributions whose versions each result names."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to train, which differs from the others in what is written here alone."""

    fusion: str
    """One of `FUSIONS`."""
    objective: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the plan's objective."""
    warm: bool = False
    """Whether HPFA starts from each block's own self-attention instead of random projections."""

    def __post_init__(self) -> None:
        """Raise UsageError where the fusion is unknown."""
        if self.fusion not in FUSIONS:
            raise UsageError(f"unknown fusion {self.fusion!r}; known: {', '.join(FUSIONS)}")


@dataclass(frozen=True, kw_only=True)
class AblationPlan:
    """All arms, and what they have in common: nets, data, budget and first weights."""

    unet: Mapping[str, Any]
    """Options of both nets."""
    pose: Mapping[str, Any]
    """Options of the pose encoder."""
    scheduler: Mapping[str, Any]
    """Options of the scheduler, in training and in sampling."""
    pose_style: str
    """How poses are drawn."""
    objective: Mapping[str, Any]
    """What is minimised, where an arm says nothing else."""
    start: Mapping[str, Any]
    """The schedule of the net that sees the pose alone, from which every arm starts, as the paper
    starts from Stable Diffusion."""
    schedule: Mapping[str, Any]
    """The schedule of every arm."""
    steps: int
    """Denoising steps when measured."""
    guidance: float
    """Guidance scale when measured."""
    arms: Mapping[str, Arm]
    """By name."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where and with what arms are trained and measured."""

    plan: AblationPlan
    """What is done."""
    pairs: Pairs
    """To learn from."""
    held_out: HeldOut
    """To measure on."""
    vae: AutoencoderKL
    """Whose latents `pairs` holds."""
    parser: Parser
    """For the metrics that need a picture's map."""
    work: Path
    """Folder of the checkpoints."""
    results: Path
    """Folder of the results, a JSON file each arm and seed."""


def read_plan(path: Path) -> AblationPlan:
    """Read a plan from JSON.

    Raises:
        UsageError: If it is not one.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        arms = {name: Arm(**arm) for name, arm in values.pop("arms").items()}
        return AblationPlan(arms=arms, **values)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is not an ablation plan: {error}") from None


def make_nets(plan: AblationPlan, fusion: str, clip_width: int, seed: int) -> TruePoseNets:
    """Build an arm's nets; the seed decides what no start replaces."""
    torch.manual_seed(seed)
    return TruePoseNets(plan.unet, plan.pose, clip_width, fusion)


def train_start(bench: Bench, progress: Progress | None = None) -> TruePoseNets:
    """Train, or read again, the net that sees the pose alone; all arms and seeds share it."""
    plan = bench.plan
    nets = make_nets(plan, "none", bench.pairs.embeddings.shape[-1], seed=0)
    return train_truepose(
        bench.pairs,
        nets,
        DDIMScheduler(**plan.scheduler),
        plan.pose_style,
        Objective(**plan.objective),
        Schedule(**plan.start),
        bench.work / "start",
        device="cpu",
        progress=progress,
    )


def result_path(bench: Bench, name: str, seed: int) -> Path:
    """Return where an arm's result lies."""
    return bench.results / f"{name}-{seed}.json"


def run_arm(bench: Bench, name: str, seed: int, progress: Progress | None = None) -> None:
    """Train an arm from the common start, measure it and write its result.

    A killed training goes on from its checkpoint; a finished arm is not run again by the caller.
    """
    plan, arm = bench.plan, bench.plan.arms[name]
    nets = make_nets(plan, arm.fusion, bench.pairs.embeddings.shape[-1], seed)
    start_from(nets, train_start(bench))
    if arm.warm:
        nets.unet.warm_fusion()
    scheduler = DDIMScheduler(**plan.scheduler)
    begun = time.monotonic()
    train_truepose(
        bench.pairs,
        nets,
        scheduler,
        plan.pose_style,
        Objective(**{**plan.objective, **arm.objective}),
        Schedule(**plan.schedule, seed=seed),
        bench.work / f"{name}-{seed}",
        device="cpu",
        progress=progress,
    )
    seconds = round(time.monotonic() - begun)
    facts = {
        "fusion": arm.fusion,
        "warm": arm.warm,
        "objective": {**plan.objective, **arm.objective},
        "schedule": dict(plan.schedule),
        "start": dict(plan.start),
        "seconds": seconds,
    }
    _write_result(bench, name, seed, measure(bench, nets, scheduler), facts)


def measure_bounds(bench: Bench) -> None:
    """Measure what no arm can fall below or rise above: the source copied, and the target as the
    VAE gives it back; their results lie beside the arms' as `copy` and `vae`.
    """
    if not result_path(bench, "copy", 0).exists():
        _write_result(bench, "copy", 0, scores_of(bench, bench.held_out.sources), {})
    if not result_path(bench, "vae", 0).exists():
        _write_result(
            bench, "vae", 0, scores_of(bench, rebuild(bench.vae, bench.held_out.targets)), {}
        )


def _write_result(
    bench: Bench,
    name: str,
    seed: int,
    scores: Mapping[str, Sequence[float | None]],
    facts: Mapping[str, object],
) -> None:
    """Write what was measured, with all that one must know to compare it."""
    result = {
        "arm": name,
        "seed": seed,
        **facts,
        "plan": plan_hash(bench.plan),
        "n": len(bench.held_out),
        "hardware": f"CPU {platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {library: version(library) for library in VERSIONS},
        "scores": scores,
    }
    text = json.dumps(result) + "\n"
    write_atomically(result_path(bench, name, seed), lambda file: file.write(text.encode()))


def plan_hash(plan: AblationPlan) -> str:
    """Return the hash of all that the arms have in common, so that no table mixes two plans."""
    common = {name: value for name, value in vars(plan).items() if name != "arms"}
    return sha256_json(common)[:16]


def measure(
    bench: Bench, nets: TruePoseNets, scheduler: DDIMScheduler
) -> dict[str, list[float | None]]:
    """Paint the held-out pairs and return every metric's value a pair, and `mse`, of 8-bit RGB."""
    plan, held_out = bench.plan, bench.held_out
    nets.eval()
    pipe = TruePosePipeline(
        nets.unet, nets.source_unet, nets.pose_encoder, bench.vae.eval(), scheduler
    )
    height, width = held_out.labels.shape[1:]
    pipe.card = ModelCard(
        name="ablation",
        height=height,
        width=width,
        steps=plan.steps,
        guidance=plan.guidance,
        pose_style=plan.pose_style,
    )
    return scores_of(bench, paint(pipe, held_out))


def scores_of(bench: Bench, pictures: np.ndarray[Any, Any]) -> dict[str, list[float | None]]:
    """Return every metric's value of pictures (n, H, W, 3) against the held-out targets."""
    parser = bench.parser
    rows = score(
        pictures,
        bench.held_out,
        lambda picture: to_common(parser.parse(picture), parser.label_set),
    )
    error = (pictures.astype(np.float64) - bench.held_out.targets) ** 2
    columns: dict[str, list[float | None]] = {
        name: [None if row[name] is None else round(float(row[name] or 0), 5) for row in rows]
        for name in rows[0]
    }
    return {**columns, "mse": [round(float(e), 3) for e in error.mean(axis=(1, 2, 3))]}


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Read every finished arm's result, by name."""
    return [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*-*.json"))
    ]


def summarize(
    results: Sequence[Mapping[str, Any]], metrics: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return mean and interval of every metric an arm; its seeds' values of a pair are one group.

    Raises:
        UsageError: If the results are of different plans or different pairs.
    """
    kinds = {(result["plan"], result["n"]) for result in results}
    if len(kinds) > 1:
        raise UsageError("the results are of different plans; use one folder a plan")
    table: dict[str, dict[str, Any]] = {}
    for arm in dict.fromkeys(result["arm"] for result in results):
        runs = [result for result in results if result["arm"] == arm]
        groups = [str(pair) for _ in runs for pair in range(runs[0]["n"])]
        table[arm] = {"seeds": len(runs)}
        for metric in metrics:
            values = [value for run in runs for value in run["scores"][metric]]
            table[arm][metric] = mean_interval(np.array(values, dtype=np.float64), groups)
    return table
