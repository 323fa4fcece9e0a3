"""Training TruePose on pairs of pictures: the nets, what the studio gives them, and the call of the
loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from numpy.typing import NDArray
from torch import Tensor, nn

from catalogpose.catalog.labels import find_regions, load_keypoint_table
from catalogpose.perception.clip import Clip
from catalogpose.pixels import to_floats
from catalogpose.records import LABELS
from catalogpose.training.loop import LossOf, Progress, Schedule, fit
from catalogpose.training.objective import Objective, denoising_loss
from catalogpose.training.pairs import PairBatch, Pairs, open_pairs, pairs_of_views, write_pairs
from catalogpose.training.pictures import Pictures
from catalogpose.training.schedule import place_of, visited
from catalogpose.truepose.blocks import FUSIONS, SourceBlock
from catalogpose.truepose.conditions import Conditions, LayerConditions, SourceLayer
from catalogpose.truepose.pose_encoder import PoseEncoder
from catalogpose.truepose.regions import selected_labels
from catalogpose.truepose.siamese import SourceNet, TargetNet, choose_regions


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
    surface = pictures.surface
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
            surface=surface.reshape(-1, *surface.shape[2:]),
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


class TruePoseNets(nn.Module):
    """The trained part of the pipeline: both UNets and the pose encoder."""

    def __init__(
        self,
        unet: Mapping[str, Any],
        pose: Mapping[str, Any],
        clip_width: int,
        fusion: str = "hpfa+caa",
    ) -> None:
        """Build both UNets from the same random weights, as the paper does from one model."""
        super().__init__()
        self.unet = TargetNet(clip_width=clip_width, fusion=fusion, **unet)
        self.source_unet = SourceNet(**unet)
        self.source_unet.load_state_dict(self.unet.state_dict(), strict=False)
        self.pose_encoder = PoseEncoder(out_channels=unet["block_out_channels"][0], **pose)
        self._settle()

    @classmethod
    def joined(cls, unet: TargetNet, source_unet: SourceNet, pose_encoder: PoseEncoder) -> Self:
        """Join nets that exist."""
        nets = cls.__new__(cls)
        nn.Module.__init__(nets)
        nets.unet, nets.source_unet, nets.pose_encoder = unet, source_unet, pose_encoder
        nets._settle()
        return nets

    def _settle(self) -> None:
        """Lay weights out for training, and take from it what the fusion leaves unused: processes
        wait for every gradient.
        """
        # Convolutions and the tokens of attention then share one order in memory: measured 10 to
        # 15 % less time a step on CPUs.
        self.to(memory_format=torch.channels_last)
        fusion = FUSIONS[self.unet.config.fusion].source
        if fusion in ("clip-mlp", "none"):
            self.source_unet.requires_grad_(False)
        elif fusion == "concat":
            # TargetNet projects F' itself; of the last block nothing else is asked.
            for block in self.source_unet.modules():
                if isinstance(block, SourceBlock) and block.last:
                    block.attn1.requires_grad_(False)

    def forward(
        self,
        batch: PairBatch,
        noisy: Tensor,
        timestep: Tensor,
        pose: Tensor,
        keep: Tensor,
        watch: bool = False,
    ) -> tuple[Tensor, Sequence[tuple[int, Tensor]], Sequence[LayerConditions]]:
        """Predict for noisy latents (m * B, c, h, w) of a batch's B targets, m noises a pair, set
        after set.

        SourceNet looks at each source once; C is computed once a pair and dropped where `keep`
        (m * B,) is False. The other arguments: timesteps (m * B,), pose pictures (B, C, H, W), and
        whether HPFA's queries are wanted.

        Returns:
            The prediction; the queries with their block's index, none unless `watch`; and each
            block's conditions.
        """
        # Weights in bfloat16 take no float32 input; for float32 weights nothing happens here.
        dtype = self.unet.dtype
        sources, noisy, pose = batch.sources.to(dtype), noisy.to(dtype), pose.to(dtype)
        conditions = self._look(batch, self.source_unet(sources))
        times = len(noisy) // len(batch)
        features = self.pose_encoder(pose).repeat(times, 1, 1, 1)
        seen: list[tuple[int, Tensor]] = []
        shared = conditions.repeated(times).dropped(keep).watched(seen if watch else None)
        predicted: Tensor = self.unet(noisy, timestep, features, shared)
        return predicted, seen, shared.layers

    def _look(self, batch: PairBatch, layers: Sequence[SourceLayer]) -> Conditions:
        """Return C of a batch's B pairs from what SourceNet gave of its sources.

        Where pairs share sources, those that see the same regions of one share Eq. 6 to 9 too.
        """
        labels = batch.labels
        shown = batch.shown.gather(1, labels.flatten(1)).view_as(labels)
        # A pose that shows no region of the source sees the whole person, as in the pipeline.
        mask = shown | (~shown.flatten(1).any(dim=1)[:, None, None] & (labels > 0))
        shares = len(batch.sources) < len(batch)
        rows, look_of = _distinct(batch.source_of, mask) if shares else (batch.source_of,) * 2
        layers = [layer.taken(batch.source_of[rows]) for layer in layers] if shares else layers
        labels, mask, embeddings = labels[rows], mask[rows], batch.embeddings[rows]
        known = batch.known[rows].gather(1, labels.flatten(1)).view_as(labels)
        count = self.unet.config.region_count
        chosen = choose_regions(layers, labels * known, len(LABELS), count)
        conditions = self.unet.condition(layers, mask, embeddings, chosen)
        return conditions.taken(look_of) if shares else conditions


def _distinct(source_of: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first row of each distinct pair of source (B,) and mask (B, H, W), and which of
    these each row is like: (D,) and (B,), int64.
    """
    looks = torch.cat([source_of[:, None], mask.flatten(1).long()], dim=1)
    _, look_of = torch.unique(looks, dim=0, return_inverse=True)
    rows = torch.arange(len(look_of), device=look_of.device)
    first = torch.full_like(rows, len(rows)).scatter_reduce(0, look_of, rows, "amin")
    return first[: int(look_of.max()) + 1], look_of


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
        **options: Of `fit`.
    """
    nets.to(device)
    schedule = schedule.over(len(pairs))
    loss_of = loss_over(pairs, nets, scheduler, pose_style, objective, schedule, lanes, device)
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
) -> LossOf:
    """Return the loss of a micro-batch, whose pairs and noise its generator decides; arguments as
    for `train_truepose`, the schedule in steps.

    Raises:
        UsageError: If the batch cannot be split so, or the objective watches what is not there.
    """
    objective.check_fusion(nets.unet.config.fusion)
    share = schedule.share(lanes)

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Take the pairs of this step and lane, which resuming does not change."""
        step, lane = place_of(generator)
        first = step * schedule.batch + lane * share
        places = visited(first, share, len(pairs), schedule.seed, schedule.together)
        batch = pairs.take(places.tolist(), share=schedule.together > 1)
        return denoising_loss(batch, nets, scheduler, pose_style, objective, generator, device)

    return loss_of
