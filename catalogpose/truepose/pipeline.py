"""TruePose as a diffusers pipeline: a source looked at once, then any number of poses painted from
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from torch import Tensor

from catalogpose.pixels import to_bytes, to_floats
from catalogpose.truepose.attention import without_autocast
from catalogpose.truepose.compositor import Compositor
from catalogpose.truepose.matcher import (
    Matcher,
    SourcePhoto,
    carried_latents,
    carry_photos,
    embed_photo,
    encode_floats,
)
from catalogpose.truepose.model import (
    ModelCard,
    check_weights,
    fitting,
    read_card,
    resolve_model,
    write_card,
)
from catalogpose.truepose.pose_encoder import PoseEncoder, draw_pose
from catalogpose.truepose.prediction import make_predictor
from catalogpose.truepose.prepared import (
    KeptReference,
    PoseConditions,
    SourceFeatures,
    embedding_table,
    fit_finer,
    lay_references,
    make_reference,
    stack_references,
    where_laid,
)
from catalogpose.truepose.regions import choose_regions, label_mask
from catalogpose.truepose.sampling import keep_known, make_noise, sample
from catalogpose.truepose.siamese import SourceNet, TargetNet


class TruePosePipeline(DiffusionPipeline):  # type: ignore[misc]  # diffusers ships no types
    """Human-parsing-guided attention diffusion over a model folder.

    `encode_source` runs once a source, `condition` once a source and label set, `generate` once a
    batch of poses; calling the pipeline does all three for one source.
    """

    card: ModelCard
    """What the checkpoint must be used with."""
    _optional_components = ["matcher", "compositor"]  # noqa: RUF012  # diffusers' own name

    def __init__(
        self,
        unet: TargetNet,
        source_unet: SourceNet,
        pose_encoder: PoseEncoder,
        vae: AutoencoderKL,
        scheduler: DDIMScheduler,
        matcher: Matcher | None = None,
        compositor: Compositor | None = None,
    ) -> None:
        """Take a model folder's components; whoever makes the pipeline sets `card`. Without a
        matcher no photo is carried over, without a compositor none is laid over what was painted.
        """
        super().__init__()
        self.register_modules(
            unet=unet,
            source_unet=source_unet,
            pose_encoder=pose_encoder,
            vae=vae,
            scheduler=scheduler,
            matcher=matcher,
            compositor=compositor,
        )
        self.set_progress_bar_config(disable=True)

    @classmethod
    def from_pretrained(cls, name: str | Path | None, **options: Any) -> Self:
        """Load a folder or hub id, None: the bundled model; weights are safetensors only.

        Raises:
            UsageError: If it is not a catalogpose model folder, or of another version's nets.
        """
        folder = resolve_model(None if name is None else str(name))
        card = read_card(folder)
        check_weights(folder, card)
        with fitting(folder):
            pipe: Self = super().from_pretrained(str(folder), use_safetensors=True, **options)
        pipe.card = card
        return pipe

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write a model folder: the components as safetensors, and the card with their hashes."""
        super().save_pretrained(str(folder), safe_serialization=True, **options)
        self.card = write_card(Path(folder), self.card)

    @property
    def scale(self) -> int:
        """s, how many times as high and wide as the canvas its pictures are."""
        return 1 if self.compositor is None else int(self.compositor.config.scale)

    @torch.no_grad()
    def encode_source(
        self,
        photo: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        embeddings: Mapping[int, NDArray[np.floating]],
        whole: NDArray[np.uint8] | None = None,
        finer: NDArray[np.uint8] | None = None,
    ) -> SourceFeatures:
        """Look at one source (Eq. 3, 4 and 9's choice).

        Args:
            photo: (H, W, 3), on the model's canvas.
            labels: (H, W), its parsing map in the common vocabulary.
            embeddings: One CLIP embedding (D,) a label id; CAA never chooses a region without.
            whole: The map by which the photo is carried, if not `labels`, which lack what was taken
                out of the photo; None: they are it.
            finer: (sH, sW, 3), the same photo, s times as high and wide, which is carried; s is
                `scale`, for pictures as fine as can be. None: `photo` is, enlarged.

        Raises:
            ValueError: If photo or map has another size than the canvas, or `finer` than s times.
        """
        shown = fit_finer(photo, labels, finer, (self.card.height, self.card.width), self.scale)
        device, dtype = self.device, self.unet.dtype
        table, known = embedding_table(embeddings, self.unet.config.clip_width)
        label_map = torch.from_numpy(labels.astype(np.int64))[None]
        layers = self.source_unet(self.encode_photos(photo[None]).to(dtype))
        embedded = (label_map * known[label_map]).to(device)
        chosen = choose_regions(layers, embedded, len(known), self.unet.config.region_count)
        carried = None
        if self.matcher is not None:
            # Where the maps differ nothing is sure.
            seen, kept = (labels, None) if whole is None else (whole, labels == whole)
            carried = embed_photo(self.matcher, photo, seen, kept, shown)
        return SourceFeatures(
            layers=layers,
            chosen=chosen,
            labels=label_map.to(device),
            embeddings=table.to(device, dtype),
            photo=carried,
        )

    def carry(self, photos: Sequence[SourcePhoto | None], drawn: Tensor) -> Tensor | None:
        """Return `carry_photos` of photos to pose pictures; None without matcher too."""
        return None if self.matcher is None else carry_photos(self.matcher, photos, drawn)

    def see_carried(self, carried: Tensor | None) -> Tensor | None:
        """Return `carried_latents` of what `carry` gave, on the canvas, by rows; None of None."""
        if carried is None:
            return None
        fitted = F.adaptive_avg_pool2d(carried, (self.card.height, self.card.width))
        return torch.cat([carried_latents(self._encode, row) for row in fitted[:, None]])

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
        return to_bytes(self._decode(latents).cpu().numpy())

    def _decode(self, latents: Tensor) -> Tensor:
        """Turn latents into pictures, float32 (B, 3, H, W) in -1..1."""
        scaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        with without_autocast(self.device):
            floats: Tensor = self.vae.decode(scaled).sample
        return floats.float().clamp(-1, 1)

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

    def keep_reference(
        self,
        latent: Tensor,
        painted: NDArray[np.floating],
        photo: NDArray[np.uint8] | None = None,
    ) -> KeptReference:
        """Prepare a reference photo for `generate`, which takes it with the reference's own pose.

        Args:
            latent: (1, c, h, w), from `encode_photos`.
            painted: (H, W), 0 to 1: 1 where the source's cloth shall appear.
            photo: (sH, sW, 3), which stays elsewhere; None: what the VAE gives back of it does.

        Raises:
            ValueError: If `painted` has another size than the canvas.
        """
        canvas = (self.card.height, self.card.width)
        if painted.shape != canvas:
            raise ValueError(f"painted must be {canvas} and lie on the model's canvas")
        return make_reference(latent, painted, photo)

    @torch.no_grad()
    def generate(
        self,
        conditions: Sequence[PoseConditions],
        joints: NDArray[np.float32],
        seeds: Sequence[int],
        *,
        references: Sequence[KeptReference | None] | None = None,
        **options: Any,
    ) -> NDArray[np.uint8]:
        """Paint a batch of poses, uint8 (B, sH, sW, 3), s being `scale`: `denoise`, whose arguments
        these are, decode, and with a compositor retouch and lay what is carried over it.
        """
        drawn = self.draw_poses(joints)
        carried = self.carry([c.photo for c in conditions], drawn)
        latent = self.denoise(
            conditions, joints, seeds, references=references, carried=carried, **options
        )
        painted = self._decode(latent)
        if self.compositor is not None:
            within = where_laid(conditions, stack_references(references or (), latent), painted)
            painted = self.compositor.compose(painted, carried, drawn, within)
        return to_bytes(lay_references(references or (), painted).cpu().numpy())

    @torch.no_grad()
    def denoise(
        self,
        conditions: Sequence[PoseConditions],
        joints: NDArray[np.float32],
        seeds: Sequence[int],
        *,
        references: Sequence[KeptReference | None] | None = None,
        carried: Tensor | None = None,
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
            carried: What `carry` gave of the conditions' photos; None: it is asked.
            steps: Denoising steps; None: the card's.
            guidance: Guidance scale; 1 runs the conditional half alone. None: the card's.
            on_step: Called with 1, 2, ... after each step; None: nobody is told.

        Returns:
            float32 (B, c, h, w).
        """
        scale = self.card.guidance if guidance is None else guidance
        drawn = self.draw_poses(joints)
        pose = self.pose_encoder(drawn)
        channels = self.vae.config.latent_channels
        # z_t stays float32: in bfloat16 the rounding of every step's small change adds up.
        noise = make_noise(seeds, (channels, *pose.shape[-2:])).to(self.device)
        if carried is None:
            carried = self.carry([c.photo for c in conditions], drawn)
        seen = self.see_carried(carried)
        predict = make_predictor(self.unet, [c.conditions for c in conditions], pose, seen, scale)
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

    def draw_poses(self, joints: NDArray[np.float32]) -> Tensor:
        """Draw poses (B, 18, 3) in canvas pixels: (B, C, H, W)."""
        points = torch.from_numpy(np.array(joints, dtype=np.float32)).to(self.device)
        drawn = draw_pose(points, self.card.height, self.card.width, self.card.pose_style)
        return drawn.to(self.unet.dtype)

    @torch.no_grad()
    def __call__(
        self,
        photo: NDArray[np.uint8],
        labels: NDArray[np.uint8],
        embeddings: Mapping[int, NDArray[np.floating]],
        joints: NDArray[np.float32],
        shown: Sequence[frozenset[int]],
        seeds: Sequence[int],
        *,
        finer: NDArray[np.uint8] | None = None,
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
            finer: As of `encode_source`.
            **options: Of `generate`.
        """
        features = self.encode_source(photo, labels, embeddings, finer=finer)
        variants = {labels: self.condition(features, labels) for labels in set(shown)}
        return self.generate([variants[s] for s in shown], joints, seeds, **options)


def load_pipeline(folder: Path, device: str) -> TruePosePipeline:
    """Load a model folder: float32 on the CPU; on a GPU bfloat16, the VAE float32."""
    diffusers_logging.disable_progress_bar()
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    pipe = TruePosePipeline.from_pretrained(folder, dtype={"default": dtype, "vae": torch.float32})
    pipe.to(device)
    return pipe
