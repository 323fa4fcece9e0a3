"""From a recipe to a model folder: pictures, VAE, CLIP, parser, matcher, TruePose and what is
trained after it, each stage resumable on its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler

from catalogpose.errors import UsageError
from catalogpose.training.card import make_card
from catalogpose.training.carrier import make_carrier
from catalogpose.training.clip import ClipObjective, train_clip
from catalogpose.training.continuing import check_start, take_over
from catalogpose.training.finishing import run_compositor, run_finish
from catalogpose.training.matcher import train_matcher
from catalogpose.training.nets import (
    PARTS,
    TruePoseNets,
    make_matcher,
    read_compositor,
    read_matcher,
    read_nets,
)
from catalogpose.training.objective import Objective
from catalogpose.training.parser import train_parser
from catalogpose.training.previews import make_preview
from catalogpose.training.processes import process_count
from catalogpose.training.schedule import Schedule
from catalogpose.training.start import take_weights
from catalogpose.training.studio_card import training_facts
from catalogpose.training.truepose import start_from, train_truepose
from catalogpose.training.vae import make_vae, train_vae
from catalogpose.training.workshop import (
    Workshop,
    check_begun,
    flat,
    load_eyes,
    make_pairs,
    parse_pictures,
)
from catalogpose.truepose.model import read_card
from catalogpose.truepose.model_page import write_model_page
from catalogpose.truepose.pose_encoder import STYLE_CHANNELS

STAGES = (
    "vae", "clip", "parser", "start", "matcher", "truepose", "finish", "compositor", "assemble",
)  # fmt: skip
"""In the order in which they run."""

TOGETHER = ("start", "matcher", "truepose")
"""Those that several processes train together, on several GPUs or cores."""

NEEDS = {
    "vae": (),
    "clip": (),
    "start": ("vae", "clip"),
    "matcher": ("parser",),
    "truepose": ("vae", "clip", "parser", "start", "matcher"),
    "finish": ("vae", "clip", "parser", "truepose"),
    "compositor": ("vae", "clip", "parser", "truepose", "finish"),
    "parser": (),
    "assemble": ("vae", "clip", "truepose", "finish", "compositor", "parser"),
}
"""The stages that a stage needs."""


def run_vae(shop: Workshop) -> None:
    """Train the VAE and write `vae/` in float16."""
    options = shop.recipe.vae
    schedule = shop.schedule(options)
    vae = make_vae(tuple(options["widths"]), options["latent_channels"])
    if (begin := shop.begin("vae")) is not None:
        take_weights(vae, begin)
    train_vae(
        flat(shop.pictures("train").photos),
        flat(shop.pictures("validation").photos),
        vae,
        schedule,
        shop.work / "vae",
        device=shop.device,
        progress=shop.progress,
    )
    vae.half().save_pretrained(str(shop.model / "vae"))


def run_clip(shop: Workshop) -> None:
    """Train CLIP and write `clip/` in float16."""
    options = shop.recipe.clip
    schedule = shop.schedule(options)
    train_clip(
        shop.pictures("train"),
        options["model"],
        ClipObjective(**options.get("objective", {})),
        schedule,
        shop.work / "clip",
        shop.model / "clip",
        begin=shop.begin("clip"),
        device=shop.device,
        progress=shop.progress,
    )


def run_parser(shop: Workshop) -> None:
    """Train the parser and write `parser/` in float16."""
    options = shop.recipe.parser
    schedule = shop.schedule(options)
    train_parser(
        shop.pictures("train"),
        options["model"],
        schedule,
        shop.work / "parser",
        shop.model / "parser",
        begin=shop.begin("parser"),
        device=shop.device,
        progress=shop.progress,
    )


def _make_nets(shop: Workshop, fusion: str, clip_width: int, carried: int = 0) -> TruePoseNets:
    """Build nets of the recipe with random weights that the seed decides."""
    recipe, options = shop.recipe, shop.recipe.truepose
    channels = recipe.vae["latent_channels"]
    unet = {
        **options["unet"],
        "in_channels": channels,
        "out_channels": channels,
        "sample_size": None,
    }
    torch.manual_seed(shop.seed)
    return TruePoseNets(unet, _pose_options(options), clip_width, fusion, carried)


def run_matcher(shop: Workshop) -> None:
    """Train the matcher and write `matcher/` in float16; nothing where the recipe has none."""
    options = shop.recipe.truepose
    if "matcher" not in options:
        return
    section = options["matcher"]
    schedule = shop.schedule(section)
    with shop.team.leader_first():
        pictures = shop.pictures("train")
    matcher = train_matcher(
        pictures,
        make_matcher(options),
        options["pose_style"],
        schedule,
        shop.work / "matcher",
        device=shop.device,
        parsed=parse_pictures(shop),
        head_weight=section.get("head_weight", 1.0),
        progress=shop.progress,
        **shop.team.options,
    )
    if shop.team.leads:
        matcher.half().save_pretrained(str(shop.model / "matcher"))


def run_start(shop: Workshop) -> TruePoseNets:
    """Train, or read again, the net that sees the pose alone, from which both nets start."""
    options = shop.recipe.truepose
    vae, clip = load_eyes(shop)
    return train_truepose(
        make_pairs(shop, "train", vae, clip),
        _make_nets(shop, "none", clip.width),
        DDIMScheduler(**options["scheduler"]),
        options["pose_style"],
        Objective(noises=options["objective"].get("noises", 1)),
        Schedule(**options["start"], seed=shop.seed),
        shop.work / "start",
        device=shop.device,
        progress=shop.progress,
        **shop.team.options,
    )


def _begin_nets(shop: Workshop, clip_width: int) -> TruePoseNets:
    """Return the nets with the weights that training goes on from: those of the model to start
    from, else those of the net that sees the pose alone.
    """
    options = shop.recipe.truepose
    carried = shop.recipe.vae["latent_channels"] + 1 if "matcher" in options else 0
    if shop.start is not None:
        nets = read_nets(shop.start)
        if nets.unet.config.carried_channels != carried:
            nets.unet.add_carried(carried)
        return nets
    nets = _make_nets(shop, options["fusion"], clip_width, carried)
    start_from(nets, run_start(shop))
    if options["warm"]:
        nets.unet.warm_fusion()
    return nets


def run_truepose(shop: Workshop) -> None:
    """Train both UNets and the pose encoder and write them, with the scheduler, in float16."""
    options = shop.recipe.truepose
    vae, clip = load_eyes(shop)
    nets = _begin_nets(shop, clip.width)
    scheduler = DDIMScheduler(**options["scheduler"])
    matcher = read_matcher(shop.model)
    pipe = nets.pipeline(vae, scheduler, matcher)
    pipe.card = make_card(shop.recipe, {})
    with shop.team.leader_first():
        held_out = shop.pictures("validation")
    folder = shop.work / "truepose"
    train_truepose(
        make_pairs(shop, "train", vae, clip, parsed=matcher is not None),
        nets,
        scheduler,
        options["pose_style"],
        Objective(**options["objective"]),
        Schedule(**options["schedule"], seed=shop.seed),
        folder,
        device=shop.device,
        carrier=make_carrier(matcher, vae, options["pose_style"]),
        preview=make_preview(folder, pipe, held_out, make_pairs(shop, "validation", vae, clip)),
        progress=shop.progress,
        **shop.team.options,
    )
    if not shop.team.leads:
        return
    for name in PARTS:
        getattr(nets, name).half().save_pretrained(str(shop.model / name))
    scheduler.save_pretrained(str(shop.model / "scheduler"))


def _pose_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pose encoder's options with the channels that the pose style has."""
    return {**options["pose"], "in_channels": STYLE_CHANNELS[options["pose_style"]]}


def run_assemble(shop: Workshop) -> None:
    """Write `model_index.json`, the card and the page: the folder is then a model."""
    pipe = read_nets(shop.model, torch.float16).pipeline(
        AutoencoderKL.from_pretrained(str(shop.model / "vae"), dtype=torch.float16),
        DDIMScheduler.from_pretrained(str(shop.model / "scheduler")),
        read_matcher(shop.model, torch.float16),
        read_compositor(shop.model, torch.float16),
    )
    licence = {} if shop.start is None else {"licence": read_card(shop.start).licence}
    pipe.card = make_card(shop.recipe, training_facts(shop, STAGES), **licence)
    pipe.save_pretrained(shop.model)
    write_model_page(shop.model, pipe.card)


def run_stages(shop: Workshop, stages: Sequence[str]) -> None:
    """Run stages in order; a finished one is not run again, a killed one goes on."""
    runners: dict[str, Callable[[Workshop], object]] = {
        "vae": run_vae,
        "clip": run_clip,
        "start": run_start,
        "matcher": run_matcher,
        "truepose": run_truepose,
        "finish": run_finish,
        "compositor": run_compositor,
        "parser": run_parser,
    }
    facts: dict[str, object] = {"recipe": shop.recipe.facts, "seed": shop.seed, "model": None}
    if shop.refine:
        facts["refine"] = sorted(shop.refine)
    options = shop.recipe.truepose
    together = [options["start"], options["schedule"]]
    together += [options["matcher"]["schedule"]] if "matcher" in options else []
    for schedule in together:
        Schedule(**schedule).share(process_count())
    if shop.start is not None:
        check_start(shop.recipe, shop.start)
        facts["model"] = dict(read_card(shop.start).weights)
    with shop.team.leader_first():
        shop.work.mkdir(parents=True, exist_ok=True)
        check_begun(shop.work / "recipe.json", facts, shop.folder)
        if shop.start is not None and shop.team.leads:
            take_over(shop, shop.start)
    for stage in stages:
        # A recipe without one of these sections has nothing to do there.
        asked = {*shop.recipe.vae, *shop.recipe.truepose}
        spare = {"finish", "matcher", "compositor"} - asked
        if "matcher" in spare and stage != "assemble":
            spare.add("parser")
        needed = set(NEEDS[stage]) - spare
        missing = [name for name in NEEDS[stage] if name in needed - set(shop.times)]
        if missing:
            raise UsageError(f"--only {stage}: train {', '.join(missing)} first")
        if stage == "assemble":
            run_assemble(shop)
        elif stage not in shop.times:
            started = time.monotonic()
            runners[stage](shop)
            shop.note_time(stage, time.monotonic() - started)
