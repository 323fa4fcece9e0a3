"""TruePose as a diffusers pipeline: a source looked at once, then any number of poses painted from
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from torch import Tensor

from catalogpose.pixels import to_bytes, to_floats
from catalogpose.records import LABELS
from catalogpose.truepose.attention import without_autocast
from catalogpose.truepose.conditions import Conditions
from catalogpose.truepose.matcher import Matcher, SourcePhoto, carried_latents, encode_floats
from catalogpose.truepose.model import (
    ModelCard,
    check_weights,
    read_card,
    resolve_model,
    write_card,
)
from catalogpose.truepose.pose_encoder import PoseEncoder, draw_pose
from catalogpose.truepose.prepared import (
    KeptReference,
    PoseConditions,
    SourceFeatures,
    stack_references,
)
from catalogpose.truepose.regions import choose_regions, label_mask
from catalogpose.truepose.sampling import (
    Predict,
    guide,
    keep_known,
    latent_mask,
    make_noise,
    sample,
)
from catalogpose.truepose.siamese import SourceNet, TargetNet


class TruePosePipeline(DiffusionPipeline):  # type: ignore[misc]  # diffusers ships no types
    """Human-parsing-guided attention diffusion over a model folder.

    `encode_source` runs once a source, `condition` once a source and label set, `generate` once a
    batch of
    poses; calling the pipeline does all three for one source.
    """

    card: ModelCard
    """What the checkpoint must be used with."""
    _optional_components = ["matcher"]  # noqa: RUF012  # diffusers' name for what may be missing

    def __init__(
        self,
        unet: TargetNet,
        source_unet: SourceNet,
        pose_encoder: PoseEncoder,
        vae: AutoencoderKL,
        scheduler: DDIMScheduler,
        matcher: Matcher | None = None,
    ) -> None:
        """Take a model folder's components; whoever makes the pipeline sets `card`. Without a
        matcher no photo is carried over.
        """
        super().__init__()
        self.register_modules(
            unet=unet,
            source_unet=source_unet,
            pose_encoder=pose_encoder,
            vae=vae,
            scheduler=scheduler,
            matcher=matcher,
        )
        self.set_progress_bar_config(disable=True)

    @classmethod
    def from_pretrained(cls, name: str | Path | None, **options: Any) -> Self:
        """Load a folder or hub id, None: the bundled model; weights are safetensors only.

        Raises:
            UsageError: If it is not a catalogpose model folder.
        """
        folder = resolve_model(None if name is None else str(name))
        card = read_card(folder)
        check_weights(folder, card)
        pipe: Self = super().from_pretrained(str(folder), use_safetensors=True, **options)
        pipe.card = card
        return pipe

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write a model folder: the components as safetensors, and the card with their hashes."""
        super().save_pretrained(str(folder), safe_serialization=True, **options)
        self.card = write_card(Path(folder), self.card)

    @torch.no_grad()
    def encode_source(
        self,
        photo: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        embeddings: Mapping[int, NDArray[np.floating]],
        whole: NDArray[np.uint8] | None = None,
    ) -> SourceFeatures:
        """Look at one source (Eq. 3, 4 and 9's choice).

        Args:
            photo: (H, W, 3), on the model's canvas.
            labels: (H, W), its parsing map in the common vocabulary.
            embeddings: One CLIP embedding (D,) a label id; CAA never chooses a region without.
            whole: The map by which the photo is carried, if not `labels`; None: they are it.

        Raises:
            ValueError: If photo or map has another size than the canvas.
        """
        canvas = (self.card.height, self.card.width)
        if photo.shape != (*canvas, 3) or labels.shape != canvas:
            raise ValueError(f"photo and labels must be {canvas} and lie on the model's canvas")
        device, dtype = self.device, self.unet.dtype
        table = torch.zeros(1, len(LABELS), self.unet.config.clip_width)
        for label, embedding in embeddings.items():
            table[0, label] = torch.from_numpy(np.array(embedding, dtype=np.float32))
        known = torch.tensor([index in embeddings for index in range(len(LABELS))])
        label_map = torch.from_numpy(labels.astype(np.int64))[None]
        layers = self.source_unet(self.encode_photos(photo[None]).to(dtype))
        embedded = (label_map * known[label_map]).to(device)
        chosen = choose_regions(layers, embedded, len(LABELS), self.unet.config.region_count)
        return SourceFeatures(
            layers=layers,
            chosen=chosen,
            labels=label_map.to(device),
            embeddings=table.to(device, dtype),
            photo=self.embed_photo(photo, labels if whole is None else whole),
        )

    @torch.no_grad()
    def embed_photo(
        self, photo: NDArray[np.uint8], labels: NDArray[np.uint8]
    ) -> SourcePhoto | None:
        """Embed a photo (H, W, 3) with its map (H, W), to be carried over; None without matcher."""
        if self.matcher is None:
            return None
        pixels = torch.from_numpy(to_floats(photo[None])).to(self.device, self.matcher.dtype)
        regions = torch.from_numpy(labels.astype(np.int64))[None].to(self.device)
        return SourcePhoto(photo=pixels, labels=regions, keys=self.matcher.keys(pixels, regions))

    @torch.no_grad()
    def carry(self, photos: Sequence[SourcePhoto | None], drawn: Tensor) -> Tensor | None:
        """Carry photos to pose pictures (B, C, H, W), each on its own: a batch changes nothing.

        Returns:
            `carried_latents` (B, c + 1, h, w), zero where a photo is None; None: all of them are.
        """
        if self.matcher is None or all(photo is None for photo in photos):
            return None
        found = [
            None if photo is None else carried_latents(self.matcher, self._encode, photo, pose)
            for photo, pose in zip(photos, drawn.to(self.matcher.dtype)[:, None], strict=True)
        ]
        nothing = torch.zeros_like(next(row for row in found if row is not None))
        return torch.cat([nothing if row is None else row for row in found])

    @torch.no_grad()
    def encode_photos(self, photos: NDArray[np.uint8]) -> Tensor:
        """Turn photos (B, H, W, 3) into latents z (B, c, h, w): the VAE's scaled mean.

        The VAE computes in its own type under autocast too, and so does `decode_latents`: it takes
        float32 to be as good as it is.
        """
        return self._encode(torch.from_numpy(to_floats(photos)).to(self.device))

    def _encode(self, floats: Tensor) -> Tensor:
        """Encode photos (B, 3, H, W) in -1..1."""
        with without_autocast(self.device):
            return encode_floats(self.vae, floats)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> NDArray[np.uint8]:
        """Turn latents z (B, c, h, w) into pictures (B, H, W, 3)."""
        scaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        with without_autocast(self.device):
            floats = self.vae.decode(scaled).sample
        return to_bytes(floats.float().cpu().numpy())

    @torch.no_grad()
    def condition(self, features: SourceFeatures, shown: frozenset[int]) -> PoseConditions:
        """Prepare a source for poses that show the labels `shown` (Eq. 6 to 8, once).

        Where the source has no region of those labels, the whole person takes their place.
        """
        mask = label_mask(features.labels, shown)
        fallback = not bool(mask.any())
        if fallback:
            mask = features.labels > 0
        conditions = self.unet.condition(
            features.layers, mask, features.embeddings, features.chosen
        )
        return PoseConditions(conditions=conditions, fallback=fallback, photo=features.photo)

    def keep_reference(self, latent: Tensor, painted: NDArray[np.floating]) -> KeptReference:
        """Prepare a reference photo for `generate`, which takes it with the reference's own pose.

        Args:
            latent: (1, c, h, w), from `encode_photos`.
            painted: (H, W), 0 to 1: 1 where the source's cloth shall appear.

        Raises:
            ValueError: If `painted` has another size than the canvas.
        """
        canvas = (self.card.height, self.card.width)
        if painted.shape != canvas:
            raise ValueError(f"painted must be {canvas} and lie on the model's canvas")
        mask = torch.from_numpy(np.array(painted, dtype=np.float32))[None].to(latent.device)
        size = (latent.shape[-2], latent.shape[-1])
        return KeptReference(latent=latent.float(), mask=latent_mask(mask, size))

    def generate(
        self,
        conditions: Sequence[PoseConditions],
        joints: NDArray[np.float32],
        seeds: Sequence[int],
        **options: Any,
    ) -> NDArray[np.uint8]:
        """Paint a batch of poses: `denoise`, whose arguments these are, and decode.

        Returns:
            uint8 (B, H, W, 3).
        """
        return self.decode_latents(self.denoise(conditions, joints, seeds, **options))

    @torch.no_grad()
    def denoise(
        self,
        conditions: Sequence[PoseConditions],
        joints: NDArray[np.float32],
        seeds: Sequence[int],
        *,
        references: Sequence[KeptReference | None] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Find the latents of a batch of poses, each from its own conditions and noise (Eq. 5 and
        11).

        Args:
            conditions: One a picture.
            joints: (B, 18, 3) in pixels of the model's canvas.
            seeds: One a picture; the noise is drawn on the CPU from it alone.
            references: One a picture, for style transfer; None, for one or for all: plain
                re-posing.
            steps: Denoising steps; None: the card's.
            guidance: Guidance scale; 1 runs the conditional half alone. None: the card's.
            on_step: Called with 1, 2, ... after each step; None: nobody is told.

        Returns:
            float32 (B, c, h, w).
        """
        scale = self.card.guidance if guidance is None else guidance
        drawn = self._draw_poses(joints)
        pose = self.pose_encoder(drawn)
        channels = self.vae.config.latent_channels
        # z_t stays float32: in bfloat16 the rounding of every step's small change adds up.
        noise = make_noise(seeds, (channels, *pose.shape[-2:])).to(self.device)
        carried = self.carry([c.photo for c in conditions], drawn)
        predict = self._predictor([c.conditions for c in conditions], pose, carried, scale)
        kept = stack_references(references or (), noise)
        if kept is not None:
            # Whatever the mask touches is the source's while it forms: the reference's own garment
            # in the cells on the border would colour those inside, the more the more steps.
            touched = (kept.mask > 0).float()
            predict = keep_known(predict, kept.latent, touched, self.scheduler)
        latent = sample(predict, noise, self.scheduler, steps or self.card.steps, on_step)
        if kept is not None:
            latent = kept.mask * latent + (1 - kept.mask) * kept.latent
        return latent

    def _draw_poses(self, joints: NDArray[np.float32]) -> Tensor:
        """Draw poses (B, 18, 3) in canvas pixels: (B, C, H, W)."""
        points = torch.from_numpy(np.array(joints, dtype=np.float32)).to(self.device)
        drawn = draw_pose(points, self.card.height, self.card.width, self.card.pose_style)
        return drawn.to(self.unet.dtype)

    def _predictor(
        self,
        conditions: Sequence[Conditions],
        pose: Tensor,
        carried: Tensor | None,
        scale: float,
    ) -> Predict:
        """Return the guided prediction of a batch; at scale 1 of its conditional half alone."""
        halves = 1 if scale == 1 else 2
        poses = pose.repeat(halves, 1, 1, 1)
        stacked = Conditions.stack(conditions, unconditional=len(pose) if halves == 2 else 0)
        stacked = replace(stacked, carried=carried)

        def predict(latent: Tensor, timestep: Tensor) -> Tensor:
            """Run both halves in one batch and guide (Eq. 11)."""
            both = latent.to(self.unet.dtype).repeat(halves, 1, 1, 1)
            output: Tensor = self.unet(both, timestep.to(self.device), poses, stacked).float()
            if halves == 1:
                return output
            unconditional, conditional = output.chunk(2)
            return guide(unconditional, conditional, scale)

        return predict

    @torch.no_grad()
    def __call__(
        self,
        photo: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        embeddings: Mapping[int, NDArray[np.floating]],
        joints: NDArray[np.float32],
        shown: Sequence[frozenset[int]],
        seeds: Sequence[int],
        **options: Any,
    ) -> NDArray[np.uint8]:
        """Re-pose one source: `encode_source`, `condition` and `generate` in one call.

        Args:
            photo: (H, W, 3), on the model's canvas.
            labels: (H, W), its parsing map.
            embeddings: One CLIP embedding a label id.
            joints: (B, 18, 3), the target poses in canvas pixels.
            shown: The labels that each pose shows, from `regions.selected_labels`.
            seeds: One a pose.
            **options: Of `generate`.
        """
        features = self.encode_source(photo, labels, embeddings)
        variants = {
            labels_shown: self.condition(features, labels_shown) for labels_shown in set(shown)
        }
        return self.generate([variants[s] for s in shown], joints, seeds, **options)


def load_pipeline(folder: Path, device: str) -> TruePosePipeline:
    """Load a model folder: float32 on the CPU; on a GPU bfloat16, the VAE float32."""
    diffusers_logging.disable_progress_bar()
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    pipe = TruePosePipeline.from_pretrained(folder, dtype={"default": dtype, "vae": torch.float32})
    pipe.to(device)
    return pipe
