"""Training TruePose on pairs of views of one product (Eq. 1, 2 and 10)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from numpy.typing import NDArray
from torch import Tensor, nn

from catalogpose.catalog.labels import find_regions, load_keypoint_table
from catalogpose.perception.clip import Clip
from catalogpose.pixels import to_floats
from catalogpose.records import LABELS
from catalogpose.training.loop import Progress, Schedule, fit
from catalogpose.training.pictures import Pictures
from catalogpose.truepose.pose_encoder import PoseEncoder, draw_pose
from catalogpose.truepose.regions import selected_labels
from catalogpose.truepose.siamese import SourceNet, TargetNet, choose_regions

CONDITION_DROPOUT = 0.3
"""Eta of Eq. 10: how often C is set to zero while the pose stays."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What training needs of P products seen V times, computed once."""

    latents: NDArray[np.float32]
    """(P, V, c, h, w): the VAE's mean times its scaling factor."""
    labels: NDArray[np.uint8]
    """(P, V, H, W)."""
    joints: NDArray[np.float32]
    """(P, V, 18, 3)."""
    shown: NDArray[np.bool_]
    """(P, V, L): the labels that a view's pose shows."""
    embeddings: NDArray[np.float16]
    """(P, V, L, D): one CLIP embedding a label, zero where there is none."""
    known: NDArray[np.bool_]
    """(P, V, L): whether there is an embedding."""


def prepare_pairs(
    pictures: Pictures, vae: AutoencoderKL, clip: Clip, path: Path, progress: Progress | None = None
) -> Pairs:
    """Compute (or read again) the latents, embeddings and label sets of all pictures."""
    products, views = pictures.photos.shape[:2]
    if not path.exists():
        table = load_keypoint_table()
        columns: dict[str, list[NDArray[Any]]] = {
            "latents": [],
            "shown": [],
            "embeddings": [],
            "known": [],
        }
        for product in range(products):
            columns["latents"].append(_latents(vae, pictures.photos[product]))
            seen = [
                _embed(clip, pictures.photos[product, v], pictures.labels[product, v])
                for v in range(views)
            ]
            columns["embeddings"].append(np.stack([embeddings for embeddings, _ in seen]))
            columns["known"].append(np.stack([known for _, known in seen]))
            shows = [selected_labels(pictures.joints[product, v], table) for v in range(views)]
            columns["shown"].append(
                np.array([[label in s for label in range(len(LABELS))] for s in shows])
            )
            if progress is not None:
                progress("latents and embeddings", product + 1, products)
        temporary = path.with_name(path.name + ".tmp.npz")
        joined: dict[str, Any] = {name: np.stack(column) for name, column in columns.items()}
        np.savez(temporary, **joined)
        temporary.replace(path)
    with np.load(path, allow_pickle=False) as saved:
        return Pairs(labels=pictures.labels, joints=pictures.joints, **saved)


@torch.no_grad()
def _latents(vae: AutoencoderKL, photos: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Encode photos (V, H, W, 3)."""
    batch = torch.from_numpy(to_floats(photos)).to(vae.device)
    latents: NDArray[np.float32] = (
        (vae.encode(batch).latent_dist.mean * vae.config.scaling_factor).cpu().numpy()
    )
    return latents


def _embed(
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


class TruePoseNets(nn.Module):
    """The trained part of the pipeline: both UNets and the pose encoder."""

    def __init__(
        self,
        unet: Mapping[str, Any],
        pose: Mapping[str, Any],
        clip_width: int,
        hpfa_residual: bool = True,
    ) -> None:
        """Build both UNets from the same random weights, as the paper does from one model."""
        super().__init__()
        self.unet = TargetNet(clip_width=clip_width, hpfa_residual=hpfa_residual, **unet)
        self.source_unet = SourceNet(**unet)
        self.source_unet.load_state_dict(self.unet.state_dict(), strict=False)
        self.pose_encoder = PoseEncoder(out_channels=unet["block_out_channels"][0], **pose)

    def forward(
        self,
        source: Tensor,
        labels: Tensor,
        shown: Tensor,
        known: Tensor,
        embeddings: Tensor,
        noisy: Tensor,
        timestep: Tensor,
        pose: Tensor,
        keep: Tensor,
    ) -> Tensor:
        """Predict for noisy target latents (m * B, c, h, w), m noises a pair, set after set.

        C is computed once a pair and dropped where `keep` (m * B,) is False.
        The other arguments: source latents (B, c, h, w), its map (B, H, W), the labels that the
        pose shows and
        those with an embedding, both bool (B, L), embeddings (B, L, D), timesteps (B,), pose
        pictures (B, C, H, W).
        """
        layers = self.source_unet(source)
        known_here = known.gather(1, labels.flatten(1)).view_as(labels)
        count = self.unet.config.region_count
        chosen = choose_regions(layers, labels * known_here, len(LABELS), count)
        mask = shown.gather(1, labels.flatten(1)).view_as(labels)
        # A pose that shows no region of the source sees the whole person, as in the pipeline.
        mask = mask | (~mask.flatten(1).any(dim=1)[:, None, None] & (labels > 0))
        conditions = self.unet.condition(layers, mask, embeddings, chosen)
        times = len(noisy) // len(source)
        features = torch.cat([self.pose_encoder(pose)] * times)
        shared = conditions.repeated(times).dropped(keep)
        predicted: Tensor = self.unet(noisy, timestep, features, shared)
        return predicted


def target_of(scheduler: DDIMScheduler, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Return what the net must predict: the noise (Eq. 2), or the velocity."""
    if scheduler.config.prediction_type == "v_prediction":
        velocity: Tensor = scheduler.get_velocity(clean, noise, timestep)
        return velocity
    return noise


def pair_loss(
    pairs: Pairs,
    nets: TruePoseNets,
    scheduler: DDIMScheduler,
    pose_style: str,
    batch: int,
    noises: int,
    generator: torch.Generator,
    device: str,
) -> dict[str, Tensor]:
    """Denoise a batch of target views, each given another view of its product (Eq. 2 and 10).

    Each pair is met with `noises` noises and timesteps, which share what the source gives.
    Everything random is drawn from `generator`, a CPU generator. Returns `loss`, the mean over the
    batch, and `with_c`, the mean over the rows that kept their conditions.
    """
    products, views = pairs.shown.shape[:2]
    height, width = pairs.labels.shape[2:]

    def load(array: NDArray[Any], p: NDArray[Any], v: NDArray[Any]) -> Tensor:
        """Gather views of products onto the device."""
        return torch.from_numpy(array[p, v]).to(device)

    def draw(high: int) -> Tensor:
        """Draw a whole number below `high` for each row."""
        return torch.randint(high, (batch,), generator=generator)

    p, v = draw(products).numpy(), draw(views).numpy()
    w = (v + 1 + draw(views - 1).numpy()) % views
    clean = torch.cat([load(pairs.latents, p, w)] * noises)
    noise = torch.randn(clean.shape, generator=generator).to(device)
    count = scheduler.config.num_train_timesteps
    timestep = torch.cat([draw(count) for _ in range(noises)]).to(device)
    keep = (torch.rand(batch * noises, generator=generator) >= CONDITION_DROPOUT).to(device)
    predicted = nets(
        load(pairs.latents, p, v),
        load(pairs.labels, p, v).long(),
        load(pairs.shown, p, w),
        load(pairs.known, p, v),
        load(pairs.embeddings, p, v).float(),
        scheduler.add_noise(clean, noise, timestep),
        timestep,
        draw_pose(load(pairs.joints, p, w), height, width, pose_style),
        keep,
    )
    truth = target_of(scheduler, clean, noise, timestep)
    error = (predicted.float() - truth).square().mean(dim=(1, 2, 3))
    return {"loss": error.mean(), "with_c": error[keep].mean().detach()}


def train_truepose(
    pairs: Pairs,
    nets: TruePoseNets,
    scheduler: DDIMScheduler,
    pose_style: str,
    noises: int,
    schedule: Schedule,
    folder: Path,
    *,
    device: str,
    preview: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> TruePoseNets:
    """Train the nets on random pairs of views of one product; see `fit` for what is written."""
    nets.to(device)

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Bind everything but the generator."""
        size = schedule.batch
        return pair_loss(pairs, nets, scheduler, pose_style, size, noises, generator, device)

    fit(
        "truepose",
        nets,
        loss_of,
        schedule,
        folder,
        device=device,
        preview=preview,
        progress=progress,
    )
    return nets
