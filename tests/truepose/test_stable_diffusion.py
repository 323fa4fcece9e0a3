"""What TruePose costs on Stable Diffusion 1.5, counted on the meta device: no weights, no time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from catalogpose.records import LABELS
from catalogpose.truepose.conditions import Conditions, SourceLayer
from catalogpose.truepose.pose_encoder import PoseEncoder
from catalogpose.truepose.regions import choose_regions
from catalogpose.truepose.siamese import SourceNet, TargetNet

WIDTHS = (320, 640, 1280, 1280)
"""Channels of Stable Diffusion 1.5's levels."""
BLOCKS = (320, 320, 640, 640, 1280, 1280, 1280, *(1280,) * 3, *(640,) * 3, *(320,) * 3)
"""Channels of its 16 transformer blocks in the order in which they run."""
TEXT = 768
"""Width of its text tokens, and of CLIP ViT-L/14's picture embeddings."""
STEPS = 35
"""Denoising steps of the paper."""


Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Nets:
    """The nets of Stable Diffusion 1.5's size, without storage."""

    plain: UNet2DConditionModel
    target: TargetNet
    source: SourceNet
    pose: PoseEncoder


@pytest.fixture(autouse=True)
def on_meta() -> Iterator[None]:
    """Make every tensor of these tests on the meta device, without gradients."""
    with torch.device("meta"), torch.no_grad():
        yield


@pytest.fixture(scope="module")
def nets() -> Nets:
    """Return the nets in Stable Diffusion 1.5's own configuration."""
    options = {
        "sample_size": 64,
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": (*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        "block_out_channels": WIDTHS,
        "layers_per_block": 2,
        "cross_attention_dim": TEXT,
        "attention_head_dim": 8,
        "norm_num_groups": 32,
    }
    with torch.device("meta"):
        made = Nets(
            plain=UNet2DConditionModel(**options),
            target=TargetNet(clip_width=TEXT, **options),
            source=SourceNet(**options),
            pose=PoseEncoder(out_channels=320),
        )
    for net in (made.plain, made.target, made.source, made.pose):
        # The counter hooks every module and trips over parameters that want gradients.
        net.requires_grad_(requires_grad=False)
    return made


def size_of(net: nn.Module) -> int:
    """Return the number of a net's parameters."""
    return sum(weight.numel() for weight in net.parameters())


def count(work: Callable[[], Result]) -> tuple[int, Result]:
    """Return some work's floating-point operations, two a multiplication, and its result."""
    with FlopCounterMode(display=False) as counter:
        result = work()
    return counter.get_total_flops(), result


def prepare(nets: Nets, latent: Tensor, labels: Tensor) -> Conditions:
    """Do all that TruePose does of one source for one set of shown labels."""
    layers = nets.source(latent)
    chosen = choose_regions(layers, labels, len(LABELS))
    embeddings = torch.empty(len(latent), len(LABELS), TEXT)
    return nets.target.condition(layers, labels > 0, embeddings, chosen)


def test_the_plain_unet_is_stable_diffusion(nets):
    """The configuration is the real one: 859.52 million parameters."""
    assert size_of(nets.plain) == 859_520_964


def test_what_target_adds(nets):
    """TargetNet adds to each block a norm and four square matrices, and one layer for regions."""
    hpfa = sum(2 * width + 4 * width**2 for width in BLOCKS)
    regions = TEXT * TEXT + TEXT
    assert size_of(nets.target) == size_of(nets.plain) + hpfa + regions == 909_698_116


def test_what_source_leaves_out(nets):
    """SourceNet drops every text attention but its bias, and all after the last projections."""
    norm = 2 * BLOCKS[0]
    text = sum(2 * width + 2 * width**2 + 2 * TEXT * width for width in BLOCKS)
    width = BLOCKS[-1]
    attention_out = width**2 + width
    feed_forward = 8 * width * (width + 1) + width * (4 * width + 1)
    last = attention_out + width + norm + feed_forward + attention_out
    output = norm + 4 * (9 * width + 1)
    assert size_of(nets.source) == size_of(nets.plain) - text - last - output == 814_095_680


@pytest.mark.parametrize(
    ("latent", "levels"),
    [
        ((64, 44), [(64, 44), (32, 22), (16, 11), (8, 6)]),
        ((32, 22), [(32, 22), (16, 11), (8, 6), (4, 3)]),
    ],
)
def test_layer_sizes(nets, latent, levels):
    """512 x 352 and 256 x 176 pixels give the sizes of the design, rounded up, in all 16 blocks."""
    layers: list[SourceLayer] = nets.source(torch.empty(1, 4, *latent))
    order = [0, 0, 1, 1, 2, 2, 3, 2, 2, 2, 1, 1, 1, 0, 0, 0]
    assert [layer.size for layer in layers] == [levels[level] for level in order]
    for layer, width in zip(layers, BLOCKS, strict=True):
        tokens = layer.size[0] * layer.size[1]
        assert layer.hidden.shape == (1, tokens, width)
        assert layer.query.shape == layer.key.shape == (1, 8, tokens, width // 8)


def test_the_counter_sees_attention(nets):
    """Attention is counted as its two products, so that the gates below mean something."""
    query = torch.empty(1, 8, 2816, 40)
    found, _ = count(lambda: nn.functional.scaled_dot_product_attention(query, query, query))
    assert found == 2 * 2 * 8 * 2816**2 * 40


def test_cost_gates(nets):
    """At 512 x 352, 35 steps with guidance: hoisted / plain <= 1.07 and naive / hoisted >= 2.0.

    Hoisted does the source once and leaves HPFA and CAA out of the unconditional half. Naive does,
    at every step and in both halves, SourceNet, Eq. 7, the keys and values, HPFA and CAA.
    """
    one, two = torch.empty(1, 4, 64, 44), torch.empty(2, 4, 64, 44)
    labels = torch.zeros(1, 512, 352, dtype=torch.long)
    pose, time = torch.empty(2, 320, 64, 44), torch.tensor(0)
    drawn, _ = count(lambda: nets.pose(torch.empty(1, 3, 512, 352)))
    prepared, conditions = count(lambda: prepare(nets, one, labels))
    hoisted = Conditions.stack([conditions], unconditional=1)
    again, naive = count(lambda: prepare(nets, two, labels.expand(2, 512, 352)))
    plain_step, _ = count(lambda: nets.plain(two, time, torch.empty(2, 77, TEXT)))
    hoisted_step, _ = count(lambda: nets.target(two, time, pose, hoisted))
    naive_step, _ = count(lambda: nets.target(two, time, pose, naive))
    plain = STEPS * plain_step
    hoisted_all = drawn + prepared + STEPS * hoisted_step
    naive_all = drawn + STEPS * (again + naive_step)

    assert plain == pytest.approx(37.05e12, rel=1e-3), "the design's own count"
    tera = f"{plain / 1e12:.2f}, {hoisted_all / 1e12:.2f}, {naive_all / 1e12:.2f} TFLOP"
    assert hoisted_all / plain <= 1.07, tera
    assert naive_all / hoisted_all >= 2.0, tera
    assert again == 2 * prepared < 1.2e12
