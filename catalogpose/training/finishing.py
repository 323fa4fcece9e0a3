"""What is trained on the predictions of TruePose itself: the VAE's decoder and the compositor."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import torch
from diffusers import DDIMScheduler
from numpy.typing import NDArray

from catalogpose.pixels import to_floats
from catalogpose.training.card import make_card
from catalogpose.training.carrier import Carrier, draw_carried
from catalogpose.training.compositor import Layers, train_compositor
from catalogpose.training.critic import Criticism
from catalogpose.training.held_out import HeldOut, hold_out_pairs, predict
from catalogpose.training.nets import make_compositor, read_matcher, read_nets
from catalogpose.training.objective import Objective
from catalogpose.training.pairs import Pairs
from catalogpose.training.pictures import draw_large
from catalogpose.training.vae import train_decoder
from catalogpose.training.workshop import Workshop, flat, load_eyes, make_pairs
from catalogpose.truepose.pipeline import TruePosePipeline

AT_ONCE = 20
"""Pairs that are carried or decoded together."""

LEAST_SURE = 1e-6
"""What float16 does not round to zero, where something is carried."""


def run_finish(shop: Workshop) -> None:
    """Train the VAE's decoder on what TruePose predicts, and write `vae/` anew; nothing where the
    recipe does not ask for it.
    """
    options = shop.recipe.vae.get("finish")
    if options is None:
        return
    pipe, pairs = _open(shop)
    places = np.linspace(0, len(pairs) - 1, options["pool"]).round().astype(int)
    held = hold_out_pairs(pairs, flat(shop.pictures("train").photos), pairs.pairs[places])
    latents = _predict(shop, pipe, held)
    truth, weight = held.targets, Objective(**shop.recipe.truepose["objective"]).carried_weight
    if weight:
        # Else stripes that lie a little off would be decoded as their mean colour.
        truth = draw_carried(_carrier(shop, pipe), pairs, places.tolist(), truth, weight)
    train_decoder(
        truth,
        latents,
        pipe.vae,
        shop.schedule(options),
        shop.work / "finish",
        device=shop.device,
        progress=shop.progress,
    )
    pipe.vae.half().save_pretrained(str(shop.model / "vae"))


def run_compositor(shop: Workshop) -> None:
    """Train the compositor on what TruePose predicts and write `compositor/` in float16; nothing
    where the recipe has none.
    """
    options = shop.recipe.truepose.get("compositor")
    if options is None:
        return
    schedule = shop.schedule(options)
    compositor = make_compositor(shop.recipe.truepose)
    pipe, pairs = _open(shop)
    # Mostly other pairs than the decoder has learnt of.
    places = (np.arange(options["pool"]) + 0.5) * len(pairs) / options["pool"]
    layers = _make_layers(shop, pipe, pairs, places.astype(int), compositor.config.scale)
    style = shop.recipe.truepose["pose_style"]
    train = partial(
        train_compositor, layers, compositor, style, device=shop.device, progress=shop.progress
    )
    train(schedule, shop.work / "compositor")
    critic = options.get("critic")
    if critic is not None:
        criticism = Criticism(**critic.get("objective", {}))
        train(shop.schedule(critic), shop.work / "critic", criticism=criticism)
    compositor.half().save_pretrained(str(shop.model / "compositor"))


def _make_layers(
    shop: Workshop, pipe: TruePosePipeline, pairs: Pairs, places: NDArray[np.integer], scale: int
) -> Layers:
    """Paint pairs, from what is carried on the canvas, and carry their sources' photos, `scale`
    times as high and wide as that, as their truth is.
    """
    chosen = pairs.pairs[places]
    held = hold_out_pairs(pairs, flat(shop.pictures("train").photos), chosen)
    latents = np.array_split(_predict(shop, pipe, held), _batches(len(held)))
    painted = [pipe.decode_latents(torch.from_numpy(part).to(shop.device)) for part in latents]
    photos, truth, labels = None, held.targets, held.target_labels
    if scale > 1:
        photos, _ = _draw_finer(shop, chosen[:, 0], scale)
        truth, labels = _draw_finer(shop, chosen[:, 1], scale)
    assert labels is not None  # the studio knows them
    return Layers(
        painted=np.concatenate(painted),
        carried=_carry(_carrier(shop, pipe), pairs, places, photos),
        joints=held.joints,
        truth=truth,
        labels=labels,
    )


def _draw_finer(
    shop: Workshop, rows: NDArray[np.integer], scale: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw pictures to learn from once more, `scale` times as high and wide as the canvas: photos
    and maps. Where the recipe draws finer still, photos are fitted onto that size.
    """
    recipe = shop.recipe
    return draw_large(
        "train",
        [divmod(int(row), recipe.views) for row in rows],
        (recipe.height * scale, recipe.width * scale),
        fine=max(1, recipe.fine // scale),
        workers=os.cpu_count() or 1,
        progress=shop.progress,
    )


def _open(shop: Workshop) -> tuple[TruePosePipeline, Pairs]:
    """Return the pipeline of the stages before and the pairs to learn from."""
    vae, clip = load_eyes(shop)
    scheduler = DDIMScheduler.from_pretrained(str(shop.model / "scheduler"))
    pipe = read_nets(shop.model).pipeline(vae, scheduler, read_matcher(shop.model))
    pipe.card = make_card(shop.recipe, {})
    parsed = pipe.matcher is not None
    return pipe.to(shop.device), make_pairs(shop, "train", vae, clip, parsed=parsed)


def _carrier(shop: Workshop, pipe: TruePosePipeline) -> Carrier:
    """Return what carries photos as the pipeline does."""
    style = shop.recipe.truepose["pose_style"]
    return Carrier(matcher=pipe.matcher, vae=pipe.vae, pose_style=style).to(shop.device)


def _predict(shop: Workshop, pipe: TruePosePipeline, held: HeldOut) -> NDArray[np.float32]:
    """Return the latents (n, c, h, w) that the pipeline predicts of pairs."""
    parts: list[NDArray[np.float32]] = []
    for part in predict(pipe, held):
        parts.append(part.cpu().numpy())
        if shop.progress is not None:
            shop.progress("predictions", sum(map(len, parts)), len(held))
    return np.concatenate(parts)


def _carry(
    carrier: Carrier,
    pairs: Pairs,
    places: NDArray[np.integer],
    photos: NDArray[np.uint8] | None,
) -> NDArray[np.float16]:
    """Return what is carried in pairs, (n, 4, sH, sW), of their sources' finer photos
    (n, sH, sW, 3); None: of the pairs' own.
    """
    device, pool = carrier.vae.device, None
    for rows in np.array_split(np.arange(len(places)), _batches(len(places))):
        finer = None if photos is None else torch.from_numpy(to_floats(photos[rows])).to(device)
        found = carrier.carry_photos(pairs.take(places[rows].tolist()).to(device), finer)
        # Half the memory: a pool of finer pictures takes gigabytes. What is hardly sure stays so.
        found[:, 3] = found[:, 3].clamp(min=LEAST_SURE)
        if pool is None:
            pool = np.empty((len(places), *found.shape[1:]), np.float16)
        pool[rows] = found.half().cpu().numpy()
    assert pool is not None  # a recipe's pool is 1 or more
    return pool


def _batches(count: int) -> int:
    """Return how many batches of at most `AT_ONCE` so many pairs are."""
    return -(-count // AT_ONCE)
