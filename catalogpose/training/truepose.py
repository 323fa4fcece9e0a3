"""Training TruePose on pairs of pictures: the nets, what the studio gives them, and the call of the
loop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from numpy.typing import NDArray
from torch import Tensor

from catalogpose.catalog.labels import find_regions, load_keypoint_table
from catalogpose.perception.clip import Clip
from catalogpose.pixels import to_floats
from catalogpose.records import LABELS
from catalogpose.training.carrier import Carrier
from catalogpose.training.loop import LossOf, Progress, Schedule, fit
from catalogpose.training.nets import TruePoseNets
from catalogpose.training.objective import Objective, denoising_loss
from catalogpose.training.pairs import Pairs, open_pairs, pairs_of_views, write_pairs
from catalogpose.training.pictures import Pictures
from catalogpose.training.schedule import place_of, visited
from catalogpose.truepose.regions import selected_labels


def studio_pairs(
    pictures: Pictures,
    vae: AutoencoderKL,
    clip: Clip,
    folder: Path,
    progress: Progress | None = None,
) -> Pairs:
    """Compute (or open again) what training needs of studio pictures, and pair all their views.

    Args:
        pictures: P products seen V times.
        vae: For the latents.
        clip: For the embeddings of regions.
        folder: Where the arrays lie; complete ones are opened as they are.
        progress: Told how many products are done; None: nobody is told.
    """
    if (folder / "pairs.npy").exists():
        return open_pairs(folder)
    table = load_keypoint_table()
    products, views = pictures.photos.shape[:2]
    latents, known, embeddings, shown = [], [], [], []
    for product in range(products):
        latents.append(_latents(vae, pictures.photos[product]))
        for view in range(views):
            vectors, there = embed_regions(
                clip, pictures.photos[product, view], pictures.labels[product, view]
            )
            embeddings.append(vectors)
            known.append(there)
            labels = selected_labels(pictures.joints[product, view], table)
            shown.append([label in labels for label in range(len(LABELS))])
        if progress is not None:
            progress("latents and embeddings", product + 1, products)
    write_pairs(
        folder,
        Pairs(
            latents=np.concatenate(latents),
            labels=pictures.labels.reshape(-1, *pictures.labels.shape[2:]),
            joints=pictures.joints.reshape(-1, 18, 3),
            shown=np.array(shown),
            known=np.stack(known),
            embeddings=np.stack(embeddings),
            pairs=pairs_of_views(products, views),
            surface=pictures.coarse_surface,
        ),
    )
    return open_pairs(folder)


@torch.no_grad()
def _latents(vae: AutoencoderKL, photos: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Encode photos (V, H, W, 3)."""
    batch = torch.from_numpy(to_floats(photos)).to(vae.device)
    latents: NDArray[np.float32] = (
        (vae.encode(batch).latent_dist.mean * vae.config.scaling_factor).cpu().numpy()
    )
    return latents


def embed_regions(
    clip: Clip, photo: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    """Embed every region of a picture: (L, D) and which of the L labels have one."""
    table = np.zeros((len(LABELS), clip.width), dtype=np.float16)
    known = np.zeros(len(LABELS), dtype=np.bool_)
    regions = find_regions(labels)
    found = clip.embed(photo, [region.box for region in regions])
    for region, embedding in zip(regions, found, strict=True):
        table[region.label], known[region.label] = embedding, True
    return table, known


def start_from(nets: TruePoseNets, start: TruePoseNets) -> None:
    """Give both UNets and the pose encoder the weights of a net that sees the pose alone (fusion
    `none`), as the paper gives both those of Stable Diffusion; what the source adds starts silent.
    """
    weights = start.unet.state_dict()
    nets.unet.load_state_dict(weights, strict=False)
    nets.source_unet.load_state_dict(weights, strict=False)
    nets.pose_encoder.load_state_dict(start.pose_encoder.state_dict())
    nets.unet.silence_regions()


def train_truepose(
    pairs: Pairs,
    nets: TruePoseNets,
    scheduler: DDIMScheduler,
    pose_style: str,
    objective: Objective,
    schedule: Schedule,
    folder: Path,
    *,
    device: str,
    lanes: int = 1,
    carrier: Carrier | None = None,
    **options: Any,
) -> TruePoseNets:
    """Train the nets on pairs, every one of which is met once an epoch; see `fit` for what is
    written.

    Args:
        pairs: To learn from.
        nets: Trained in place.
        scheduler: Whose noise and kind of prediction count.
        pose_style: How poses are drawn.
        objective: What is minimised.
        schedule: Steps or epochs, batch and rates.
        folder: For checkpoint and losses.
        device: Where to train.
        lanes: Micro-batches of a step, over all processes.
        carrier: Carries the pairs' photos over; None: nothing is carried.
        **options: Of `fit`.
    """
    nets.to(device)
    if carrier is not None:
        carrier.to(device)
    schedule = schedule.over(len(pairs))
    loss_of = loss_over(
        pairs, nets, scheduler, pose_style, objective, schedule, lanes, device, carrier
    )
    fit("truepose", nets, loss_of, schedule, folder, device=device, **options)
    return nets


def loss_over(
    pairs: Pairs,
    nets: TruePoseNets,
    scheduler: DDIMScheduler,
    pose_style: str,
    objective: Objective,
    schedule: Schedule,
    lanes: int,
    device: str,
    carrier: Carrier | None = None,
) -> LossOf:
    """Return the loss of a micro-batch, whose pairs and noise its generator decides; arguments as
    for `train_truepose`, the schedule in steps.

    Raises:
        UsageError: If the batch cannot be split so, or the objective watches what is not there.
    """
    objective.check_parts(nets.unet.config.fusion, matched=carrier is not None)
    share = schedule.share(lanes)

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Take the pairs of this step and lane, which resuming does not change."""
        step, lane = place_of(generator)
        first = step * schedule.batch + lane * share
        places = visited(first, share, len(pairs), schedule.seed, schedule.together)
        batch = pairs.take(places.tolist(), share=schedule.together > 1)
        if carrier is not None:
            batch = carrier.carry(batch.to(device))
        return denoising_loss(batch, nets, scheduler, pose_style, objective, generator, device)

    return loss_of
