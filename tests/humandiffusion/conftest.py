"""What the tests of text-driven rows share: TargetNets of any size."""

from collections.abc import Callable

import pytest
import torch

from catalogpose.truepose.siamese import TargetNet


@pytest.fixture(scope="session")
def make_target() -> Callable[..., TargetNet]:
    """Make TargetNets of Stable Diffusion 1.5's shape, small unless told otherwise."""

    def make(**options: object) -> TargetNet:
        settings = {
            "sample_size": None,
            "block_out_channels": (16, 32, 32, 32),
            "layers_per_block": 1,
            "cross_attention_dim": 24,
            "attention_head_dim": 2,
            "norm_num_groups": 8,
            "clip_width": 12,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            return TargetNet(**(settings | options))

    return make
