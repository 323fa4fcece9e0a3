"""Fixtures that more than one folder of tests uses."""

import os
from pathlib import Path

import pytest

MOST_WORKERS = 8
"""Processes that test at once: each holds torch and its like, more than a gigabyte."""

if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    # They share the cores: more threads would only wait for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_xdist_auto_num_workers() -> int:
    """Return how many processes test at once: as many as there are cores that this one may use."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), MOST_WORKERS)
    return min(os.cpu_count() or 1, MOST_WORKERS)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model folder of random weights, without parser and CLIP; treat it as read-only.

    Canvas 128 x 88, latent 4 x 16 x 11, CLIP width 12, 3 steps. What starts at zero in training
    is random here, so that every condition shows in the pictures.
    """
    # Imported here: most tests of other folders need neither torch nor diffusers.
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    from catalogpose.truepose.model import ModelCard
    from catalogpose.truepose.pipeline import TruePosePipeline
    from catalogpose.truepose.pose_encoder import PoseEncoder
    from catalogpose.truepose.siamese import SourceNet, TargetNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(16, 32, 32, 32),
            layers_per_block=1,
            cross_attention_dim=24,
            attention_head_dim=2,
            norm_num_groups=8,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            norm_num_groups=4,
            sample_size=128,
        )
        pipe = TruePosePipeline(
            TargetNet.start_from(unet, clip_width=12),
            SourceNet.start_from(unet),
            PoseEncoder(out_channels=16),
            vae,
            DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
            ),
        )
        with torch.no_grad():
            for net in (pipe.unet, pipe.pose_encoder):
                for weight in net.parameters():
                    if not weight.any():
                        weight.normal_(std=0.1)
            # A random decoder paints nearly plain grey, in which no difference could be seen.
            vae.decoder.conv_out.weight.mul_(8)
    pipe.card = ModelCard(name="tiny", height=128, width=88, steps=3)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    pipe.save_pretrained(folder)
    return folder
