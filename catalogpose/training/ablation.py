"""The paper's ablation on the studio: arms that differ in one thing, trained alike and measured
alike (Table 2).
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from catalogpose.training.carrier import make_carrier
from catalogpose.training.held_out import HeldOut, paint, score
from catalogpose.training.loop import Progress, Schedule
from catalogpose.training.matcher import train_matcher
from catalogpose.training.nets import TruePoseNets, make_matcher
from catalogpose.training.objective import Objective
from catalogpose.training.pairs import Pairs
from catalogpose.training.pictures import Pictures
from catalogpose.training.recipe_checks import STAGES_OF_POSE
from catalogpose.training.truepose import start_from, train_truepose
from catalogpose.training.vae import rebuild
from catalogpose.training.workshop import logged_seconds
from catalogpose.truepose.blocks import FUSIONS
from catalogpose.truepose.matcher import Matcher
from catalogpose.truepose.model import ModelCard

START_SEED = 1_000_003
"""Seed of the common start, which no arm has: an arm shall not meet the start's batches again."""

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
    matcher: Mapping[str, Any] | None = None
    """`model` and `schedule` of what carries the source's photo to the pose, as in a recipe; None:
    nothing does."""

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
    pictures: Pictures
    """What the pairs are of; matchers learn from them."""
    held_out: HeldOut
    """To measure on."""
    vae: AutoencoderKL
    """Whose latents `pairs` holds."""
    parser: Parser
    """For the metrics that need a picture's map."""
    facts: Mapping[str, object]
    """What the pairs and the scores stand on: data, numbers and hashes of the model's parts; part
    of every result."""
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


def fit_plan(plan: AblationPlan, vae: AutoencoderKL) -> AblationPlan:
    """Return a plan whose nets take a VAE's latents: their channels, and the pixels of a latent's
    side that the pose encoder's strides multiply to; one that fits is returned as it is.
    """
    channels, halvings = vae.config.latent_channels, len(vae.config.block_out_channels) - 1
    unet, pose = dict(plan.unet), dict(plan.pose)
    unet |= {"in_channels": channels, "out_channels": channels}
    strides = pose.get("strides", [2] * STAGES_OF_POSE)
    if math.prod(strides) != 2**halvings:
        pose["strides"] = [2] * halvings + [1] * (STAGES_OF_POSE - halvings)
    return replace(plan, unet=unet, pose=pose)


def make_nets(
    plan: AblationPlan, fusion: str, clip_width: int, seed: int, carried: int = 0
) -> TruePoseNets:
    """Build an arm's nets; the seed decides what no start replaces."""
    torch.manual_seed(seed)
    return TruePoseNets(plan.unet, plan.pose, clip_width, fusion, carried)


def train_start(bench: Bench, progress: Progress | None = None) -> TruePoseNets:
    """Train, or read again, the net that sees the pose alone; all arms and seeds share it."""
    plan = bench.plan
    nets = make_nets(plan, "none", bench.pairs.embeddings.shape[-1], START_SEED)
    return train_truepose(
        bench.pairs,
        nets,
        DDIMScheduler(**plan.scheduler),
        plan.pose_style,
        Objective(**plan.objective),
        Schedule(**plan.start, seed=START_SEED),
        bench.work / f"start-{_start_hash(bench)}",
        device="cpu",
        progress=progress,
    )


def train_arm_matcher(
    bench: Bench, section: Mapping[str, Any], progress: Progress | None = None
) -> tuple[Matcher, int]:
    """Train an arm's matcher, or read it again, and return how many seconds that took; all seeds
    share it.
    """
    style = bench.plan.pose_style
    described = {"matcher": section, "pose_style": style}
    torch.manual_seed(START_SEED)
    folder = bench.work / f"matcher-{sha256_json([described, bench.facts])[:12]}"
    matcher = train_matcher(
        bench.pictures,
        make_matcher(described),
        style,
        Schedule(**section["schedule"], seed=START_SEED),
        folder,
        device="cpu",
        head_weight=section.get("head_weight", 1.0),
        progress=progress,
    )
    return matcher, logged_seconds(folder / "loss.csv")


def result_path(bench: Bench, name: str, seed: int) -> Path:
    """Return where an arm's result lies."""
    return bench.results / f"{name}-{seed}.json"


def is_finished(bench: Bench, name: str, seed: int) -> bool:
    """Say whether an arm's result is there and is of this plan, this arm and this data."""
    path = result_path(bench, name, seed)
    if not path.is_file():
        return False
    found = json.loads(path.read_text(encoding="utf-8"))
    wanted = {"common": common_hash(bench), **_spec(bench, name)}
    return all(found.get(key) == value for key, value in wanted.items())


def common_hash(bench: Bench) -> str:
    """Return the hash of all that the arms have in common, so that no table mixes two plans."""
    plan = {name: value for name, value in vars(bench.plan).items() if name != "arms"}
    return sha256_json({"plan": plan, "facts": bench.facts})[:12]


def _start_hash(bench: Bench) -> str:
    """Return the hash of all that decides the common start, which longer arms share."""
    names = ("unet", "pose", "scheduler", "pose_style", "objective", "start")
    plan = {name: getattr(bench.plan, name) for name in names}
    return sha256_json({"plan": plan, "facts": bench.facts})[:12]


def _spec(bench: Bench, name: str) -> dict[str, object]:
    """Return what an arm is; nothing for a bound."""
    arm = bench.plan.arms.get(name)
    if arm is None:
        return {}
    objective = {**bench.plan.objective, **arm.objective}
    spec = {"fusion": arm.fusion, "warm": arm.warm, "objective": objective}
    return spec if arm.matcher is None else {**spec, "matcher": dict(arm.matcher)}


def run_arm(bench: Bench, name: str, seed: int, progress: Progress | None = None) -> None:
    """Train an arm from the common start, measure it and write its result.

    A killed training goes on from its checkpoint, which belongs to this very plan, arm and data.
    """
    plan, arm = bench.plan, bench.plan.arms[name]
    matcher, spent, pairs, carried = None, {}, bench.pairs, 0
    if arm.matcher is not None:
        matcher, seconds = train_arm_matcher(bench, arm.matcher)
        spent = {"matcher_seconds": seconds}
        photos = bench.pictures.photos
        pairs = replace(pairs, photos=photos.reshape(-1, *photos.shape[2:]))
        carried = pairs.latents.shape[1] + 1
    nets = make_nets(plan, arm.fusion, pairs.embeddings.shape[-1], seed, carried)
    start_from(nets, train_start(bench))
    if arm.warm:
        nets.unet.warm_fusion()
    scheduler = DDIMScheduler(**plan.scheduler)
    spec = _spec(bench, name)
    folder = bench.work / f"{name}-{seed}-{sha256_json([common_hash(bench), spec])[:12]}"
    train_truepose(
        pairs,
        nets,
        scheduler,
        plan.pose_style,
        Objective(**{**plan.objective, **arm.objective}),
        Schedule(**plan.schedule, seed=seed),
        folder,
        device="cpu",
        carrier=make_carrier(matcher, bench.vae, plan.pose_style),
        progress=progress,
    )
    facts = {**spec, **spent, "seconds": logged_seconds(folder / "loss.csv")}
    _write_result(bench, name, seed, measure(bench, nets, scheduler, matcher), facts)


def measure_bounds(bench: Bench) -> None:
    """Measure what no arm can fall below or rise above: the source copied, and the target as the
    VAE gives it back; their results lie beside the arms' as `copy` and `vae`.
    """
    if not is_finished(bench, "copy", 0):
        _write_result(bench, "copy", 0, scores_of(bench, bench.held_out.sources), {})
    if not is_finished(bench, "vae", 0):
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
        "common": common_hash(bench),
        "plan": {k: v for k, v in vars(bench.plan).items() if k in ("start", "schedule")},
        "facts": dict(bench.facts),
        "n": len(bench.held_out),
        "hardware": f"CPU {platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {library: version(library) for library in VERSIONS},
        "scores": scores,
    }
    text = json.dumps(result) + "\n"
    write_atomically(result_path(bench, name, seed), lambda file: file.write(text.encode()))


def measure(
    bench: Bench, nets: TruePoseNets, scheduler: DDIMScheduler, matcher: Matcher | None
) -> dict[str, list[float | None]]:
    """Paint the held-out pairs and return every metric's value a pair, and `mse`, of 8-bit RGB."""
    plan, held_out = bench.plan, bench.held_out
    nets.eval()
    pipe = nets.pipeline(bench.vae.eval(), scheduler, matcher)
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
        name: [_rounded(row[name]) for row in rows] for name in rows[0]
    }
    return {**columns, "mse": [round(float(e), 3) for e in error.mean(axis=(1, 2, 3))]}


def _rounded(value: float | None) -> float | None:
    """Return a value for JSON: None where there is none or, as of identical pictures, no number."""
    return None if value is None or not math.isfinite(value) else round(float(value), 5)
