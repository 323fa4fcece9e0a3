"""What the tests of the paper's nets share: a small plain UNet and a source to look at."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from catalogpose.truepose.conditions import Conditions
from catalogpose.truepose.regions import choose_regions
from catalogpose.truepose.siamese import SourceNet, TargetNet


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Random inputs for nets of a 16 x 11 latent, two pictures."""

    source: Tensor
    labels: Tensor
    embeddings: Tensor
    noisy: Tensor
    pose: Tensor

    def conditions(self, target: TargetNet, source: SourceNet, shown: int = 3) -> Conditions:
        """Condition the target on the source, showing the labels up to `shown`."""
        layers = source(self.source)
        mask = (self.labels > 0) & (self.labels <= shown)
        chosen = choose_regions(layers, self.labels, self.embeddings.shape[1])
        return target.condition(layers, mask, self.embeddings, chosen)


@pytest.fixture
def scene() -> Scene:
    """Two sources with five regions each and two noisy latents under their poses."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.arange(128)[:, None] // 22
    return Scene(
        source=torch.randn(2, 4, 16, 11, generator=generator),
        labels=rows.expand(128, 88).expand(2, 128, 88).contiguous(),
        embeddings=torch.randn(2, 6, 12, generator=generator),
        noisy=torch.randn(2, 4, 16, 11, generator=generator),
        pose=torch.randn(2, 16, 16, 11, generator=generator),
    )


@pytest.fixture(scope="session")
def wake() -> Callable[[nn.Module], None]:
    """Make whatever starts at zero random, so that tests see it."""

    def wake(net: nn.Module) -> None:
        generator = torch.Generator().manual_seed(8)
        with torch.no_grad():
            for weight in net.parameters():
                if not weight.any():
                    weight.copy_(0.2 * torch.randn(weight.shape, generator=generator))

    return wake


@pytest.fixture(scope="session")
def make_unet(wake: Callable[[nn.Module], None]) -> Callable[..., UNet2DConditionModel]:
    """Make small UNets of Stable Diffusion 1.5's shape, always with the same weights, none zero."""

    def make(**options: object) -> UNet2DConditionModel:
        settings = {
            "sample_size": 16,
            "block_out_channels": (16, 32, 32, 32),
            "layers_per_block": 1,
            "cross_attention_dim": 24,
            "attention_head_dim": 2,
            "norm_num_groups": 8,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            net = UNet2DConditionModel(**(settings | options)).eval()
        wake(net)
        return net

    return make


@pytest.fixture
def unet(make_unet: Callable[..., UNet2DConditionModel]) -> UNet2DConditionModel:
    """Return a small plain UNet."""
    return make_unet()
