"""The small VAE: photos to latents and back, trained for squared error with a light pull to the
normal.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from catalogpose.catalog.sheets import write_sheet
from catalogpose.pixels import to_bytes, to_floats
from catalogpose.training.loop import Progress, Schedule, fit
from catalogpose.training.start import open_path

KL_WEIGHT = 1e-4
"""Weight of the KL term, a mean over the latent's values; latents need only stay bounded."""


QUIET_LOGVAR = -8.0
"""Where the posterior's log variance starts: at 0 its noise would drown the young latents."""

CHROMA_WEIGHT = 3.0
"""Weight of the two colour axes against lightness; without it colour is learned last."""


def make_vae(widths: tuple[int, ...], latent_channels: int) -> AutoencoderKL:
    """Build an `AutoencoderKL` with random weights; each level behind the first halves the sides,
    so that three levels have factor 4, four 8.
    """
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
    open_path(vae)
    with torch.no_grad():
        vae.quant_conv.weight[latent_channels:].zero_()
        vae.quant_conv.bias[latent_channels:].fill_(QUIET_LOGVAR)
    return vae


def colour_error(rebuilt: Tensor, photos: Tensor) -> Tensor:
    """Return the mean squared error of (B, 3, H, W) in opponent colours, chroma weighted, as ()."""
    difference = rebuilt - photos
    red, green, blue = difference.unbind(dim=1)
    lightness = (red + green + blue).square().mean() / 3
    chroma = (red - green).square().mean() / 2 + (red + green - 2 * blue).square().mean() / 6
    return (lightness + CHROMA_WEIGHT * chroma) / 3


def train_vae(
    photos: NDArray[np.uint8],
    held_out: NDArray[np.uint8],
    vae: AutoencoderKL,
    schedule: Schedule,
    folder: Path,
    *,
    device: str,
    progress: Progress | None = None,
) -> AutoencoderKL:
    """Train the VAE and set its scaling factor so that latents have unit variance.

    Args:
        photos: (n, H, W, 3) to learn from.
        held_out: (m, H, W, 3) for the preview sheets.
        vae: Trained in place.
        schedule: Steps, batch and rates.
        folder: For the checkpoint, the losses and the sheets.
        device: Where to train.
        progress: Told the steps done; None: nobody is told.
    """
    vae.to(device)

    def load(indices: Tensor) -> Tensor:
        """Bring pictures to the device as floats in -1..1."""
        return torch.from_numpy(to_floats(photos[indices.numpy()])).to(device)

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Reconstruct a batch, half of it mirrored."""
        batch = load(torch.randint(len(photos), (schedule.batch,), generator=generator))
        flip = torch.rand(len(batch), generator=generator) < 0.5
        batch = torch.where(flip.to(device)[:, None, None, None], batch.flip(-1), batch)
        posterior = vae.encode(batch).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        rebuilt = vae.decode(posterior.mean + posterior.std * noise).sample.float()
        divergence = posterior.kl().float().mean() / posterior.mean[0].numel()
        loss = colour_error(rebuilt, batch) + KL_WEIGHT * divergence
        error = (rebuilt.detach() - batch).square().mean()
        return {"loss": loss, "psnr": -10 * torch.log10(error / 4)}

    def preview(step: int) -> None:
        """Show held-out pictures above their reconstructions."""
        write_sheet(folder / "preview.png", [held_out[:12], rebuild(vae, held_out[:12])])

    fit("vae", vae, loss_of, schedule, folder, device=device, preview=preview, progress=progress)
    with torch.no_grad():
        latents = vae.encode(load(torch.arange(min(512, len(photos))))).latent_dist.mean
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return vae


def train_decoder(
    photos: NDArray[np.uint8],
    latents: NDArray[np.float32],
    vae: AutoencoderKL,
    schedule: Schedule,
    folder: Path,
    *,
    device: str,
    progress: Progress | None = None,
) -> AutoencoderKL:
    """Train the decoder alone on what a denoiser makes of pictures, half of each batch, and on
    their own latents (ours: a denoiser's means lie beside the latents that the decoder knows, and
    come out in blocks). The encoder, and so every latent, stays.

    Args:
        photos: (n, H, W, 3), the truth.
        latents: (n, c, h, w), what a denoiser predicted of each.
        vae: Trained in place.
        schedule: Steps, batch and rates; the batch is even.
        folder: For the checkpoint, the losses and the sheets.
        device: Where to train.
        progress: Told the steps done; None: nobody is told.
    """
    vae.to(device).requires_grad_(False)
    for part in (vae.decoder, vae.post_quant_conv):
        part.requires_grad_(True)
    scale = vae.config.scaling_factor

    def decode(latent: Tensor) -> Tensor:
        """Decode scaled latents."""
        decoded: Tensor = vae.decode(latent / scale).sample.float()
        return decoded

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Decode what was predicted of a batch, and its own latents."""
        rows = torch.randint(len(photos), (schedule.batch // 2,), generator=generator).numpy()
        batch = torch.from_numpy(to_floats(photos[rows])).to(device)
        with torch.no_grad():
            own = vae.encode(batch).latent_dist.mean * scale
        predicted = torch.from_numpy(np.ascontiguousarray(latents[rows])).to(device)
        found = decode(torch.cat([predicted, own]))
        errors = [colour_error(half, batch) for half in found.chunk(2)]
        return {"loss": errors[0] + errors[1], "predicted": errors[0], "own": errors[1]}

    def preview(step: int) -> None:
        """Show the truth above what was predicted of it."""
        with torch.no_grad():
            shown = decode(torch.from_numpy(latents[:12].copy()).to(device))
        write_sheet(folder / "preview.png", [photos[:12], to_bytes(shown.cpu().numpy())])

    fit("finish", vae, loss_of, schedule, folder, device=device, preview=preview, progress=progress)
    return vae


@torch.no_grad()
def rebuild(vae: AutoencoderKL, photos: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pass photos (n, H, W, 3) through the VAE: what a perfect denoiser could reach."""
    batches = [
        vae.decode(
            vae.encode(torch.from_numpy(to_floats(part)).to(vae.device)).latent_dist.mean
        ).sample
        for part in np.array_split(photos, max(1, len(photos) // 16))
    ]
    return to_bytes(torch.cat(batches).float().cpu().numpy())
