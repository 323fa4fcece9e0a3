import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from catalogpose.errors import UsageError
from catalogpose.humandiffusion.alignment import Alignment, RegionFeatures
from catalogpose.humandiffusion.routing import region_masks
from catalogpose.humandiffusion.text_driven import Filling, TextDriven, load_alignment
from catalogpose.records import LABEL_ID, LABELS
from catalogpose.truepose.matcher import Matcher
from catalogpose.truepose.model import BUNDLED
from catalogpose.truepose.pipeline import TruePosePipeline
from catalogpose.truepose.prepared import PoseConditions
from catalogpose.truepose.siamese import TargetNet

FACE, COAT, PANTS = (LABEL_ID[name] for name in ("face", "coat", "pants"))


@pytest.fixture(scope="module")
def pipe() -> TruePosePipeline:
    """Return the bundled pipeline."""
    return TruePosePipeline.from_pretrained(BUNDLED)


def latent_size(pipe: TruePosePipeline) -> tuple[int, int]:
    """Return height and width of its latents."""
    return pipe.card.height // pipe.pose_encoder.factor, pipe.card.width // pipe.pose_encoder.factor


@pytest.fixture
def alignment(pipe: TruePosePipeline) -> Alignment:
    """Return an untrained alignment over it."""
    torch.manual_seed(0)
    factor = pipe.pose_encoder.factor
    return Alignment.over(pipe.unet, factor, width=32, per_region=2, style_channels=4)


@pytest.fixture
def woken(alignment: Alignment) -> Alignment:
    """Return an alignment in which nothing is zero any more."""
    wake(alignment)
    return alignment


def wake(net: nn.Module) -> None:
    """Make whatever starts at zero random."""
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for weight in net.parameters():
            if not weight.any():
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))


def pose_map() -> np.ndarray:
    """Return a map 128 x 88 of a face, a coat and trousers."""
    labels = np.zeros((128, 88), dtype=np.uint8)
    labels[10:30, 34:54], labels[30:75, 24:64], labels[75:120, 28:60] = FACE, COAT, PANTS
    return labels


def fill(seed: int, width: int, remembered: int = 0, *, by_words: bool = True) -> Filling:
    """Return a random filling."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(1 + remembered, width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Filling(vector=rows[0], remembered=rows[1:], by_words=by_words)


def paint(pipe: TruePosePipeline, *conditions: PoseConditions) -> np.ndarray:
    """Paint rows without a skeleton."""
    count = len(conditions)
    joints = np.zeros((count, 18, 3), dtype=np.float32)
    return pipe.generate(conditions, joints, list(range(count)), steps=2)


def see(pipe: TruePosePipeline, text: TextDriven, photo: np.ndarray, kept: frozenset[int]):
    """Return what is kept of a photo that shows what `pose_map` says."""
    width = pipe.unet.config.clip_width
    embeddings = {label: fill(label, width).vector for label in (FACE, COAT, PANTS)}
    return text.encode_source(photo, pose_map(), embeddings, kept)


def photo() -> np.ndarray:
    """Return a photo of noise."""
    return np.random.default_rng(1).integers(0, 255, (128, 88, 3), dtype=np.uint8)


def test_what_was_not_trained_adds_nothing(pipe: TruePosePipeline, alignment: Alignment) -> None:
    """It starts silent: where everything is kept, the picture is TruePose's to the bit."""
    text = TextDriven(pipe, alignment)
    everything = frozenset(range(1, len(LABELS)))
    source = see(pipe, text, photo(), everything)
    width = pipe.unet.config.clip_width
    kept = {label: fill(label, width, by_words=False) for label in (FACE, COAT, PANTS)}
    aligned = text.condition(pose_map(), kept, everything, source)
    plain = pipe.condition(source, frozenset({FACE, COAT, PANTS}))
    # TruePose's own conditions with all that the alignment adds: nothing, to the bit.
    layers = [
        replace(layer, addition=added.addition)
        for layer, added in zip(plain.conditions.layers, aligned.conditions.layers, strict=True)
    ]
    added = replace(plain.conditions, layers=layers, residuals=aligned.conditions.residuals)
    found = paint(pipe, replace(plain, conditions=added))
    np.testing.assert_array_equal(found, paint(pipe, plain))
    # As a text-driven row is painted, a mask that hides nothing may move a rounding.
    near = paint(pipe, aligned).astype(int) - paint(pipe, plain)
    assert np.abs(near).max() <= 1


def test_a_trained_one_changes_the_picture(pipe: TruePosePipeline, woken: Alignment) -> None:
    """The map, the words and what was remembered each matter, in rows without a source too."""
    text, width = TextDriven(pipe, woken), pipe.unet.config.clip_width
    fillings = {COAT: fill(1, width), PANTS: fill(2, width)}
    first = paint(pipe, text.condition(pose_map(), fillings, frozenset(), None))
    shorter = pose_map()
    shorter[90:] = 0
    others = [
        text.condition(shorter, fillings, frozenset(), None),
        text.condition(pose_map(), {**fillings, COAT: fill(3, width)}, frozenset(), None),
        text.condition(pose_map(), {**fillings, COAT: fill(1, width, 3)}, frozenset(), None),
        text.condition(pose_map(), {COAT: fill(1, width)}, frozenset(), None),
    ]
    for other in others:
        assert (paint(pipe, other) != first).any()
    again = paint(pipe, text.condition(pose_map(), fillings, frozenset(), None))
    np.testing.assert_array_equal(again, first)


def carrying(pipe: TruePosePipeline) -> TruePosePipeline:
    """Return the pipeline with a random matcher, whose carried photos show."""
    unet, generator = copy.deepcopy(pipe.unet), torch.Generator().manual_seed(9)
    unet.add_carried(pipe.vae.config.latent_channels + 1)
    torch.nn.init.normal_(unet.conv_carried.weight, std=0.1, generator=generator)
    matcher = Matcher(pipe.pose_encoder.config.in_channels, channels=(8, 16), stride=4).eval()
    made = TruePosePipeline(**{**pipe.components, "unet": unet, "matcher": matcher})
    made.card = pipe.card
    return made


@pytest.mark.parametrize("carries", [False, True])
def test_replaced_cloth_cannot_come_through(
    pipe: TruePosePipeline, woken: Alignment, carries: bool
) -> None:
    """What is not kept of the source changes no bit of the picture, by a matcher neither; what is
    kept does.
    """
    pipe = carrying(pipe) if carries else pipe
    text, width = TextDriven(pipe, woken), pipe.unet.config.clip_width
    kept, fillings = (
        frozenset({FACE}),
        {COAT: fill(1, width), FACE: fill(FACE, width, by_words=False)},
    )
    before, other = photo(), photo()
    other[30:120][pose_map()[30:120] > 0] = 7  # another coat and other trousers

    def show(picture: np.ndarray) -> np.ndarray:
        return paint(
            pipe, text.condition(pose_map(), fillings, kept, see(pipe, text, picture, kept))
        )

    first = show(before)
    np.testing.assert_array_equal(show(other), first)
    other[10:30, 34:54] = 200
    assert (show(other) != first).any()


def test_rows_share_a_batch(pipe: TruePosePipeline, woken: Alignment) -> None:
    """Rows with and without a source come out of one batch as they do alone."""
    text, width = TextDriven(pipe, woken), pipe.unet.config.clip_width
    fillings = {COAT: fill(1, width, 2)}
    kept = frozenset({FACE})
    rows = [
        text.condition(pose_map(), fillings, frozenset(), None),
        text.condition(pose_map(), fillings, kept, see(pipe, text, photo(), kept)),
    ]
    both = paint(pipe, *rows).astype(int)
    joints = np.zeros((1, 18, 3), dtype=np.float32)
    for place, row in enumerate(rows):
        alone = pipe.generate([row], joints, [place], steps=2)
        assert np.abs(both[place] - alone[0]).max() <= 1


def test_dropped_rows_see_the_map_alone(pipe: TruePosePipeline, woken: Alignment) -> None:
    """Without features both levels fall back to the nulls, as guidance's other half does."""
    masks = region_masks(torch.from_numpy(pose_map()[None].astype(np.int64)), len(LABELS))
    width = woken.config.clip_width
    vectors = torch.randn(1, len(LABELS), 3, width)
    features = RegionFeatures(
        vectors=vectors, valid=torch.ones(1, len(LABELS), 3, dtype=torch.bool)
    )
    nothing = features.dropped(torch.tensor([False]))
    other = RegionFeatures(vectors=-vectors, valid=nothing.valid)
    for found, expected in zip(woken.draw(nothing, masks), woken.draw(other, masks), strict=True):
        torch.testing.assert_close(found, expected)
    residuals = woken.residuals(features, masks)
    for found, expected in zip(residuals.without_c, woken.draw(nothing, masks), strict=True):
        torch.testing.assert_close(found, expected)
    assert not torch.allclose(residuals.with_c[0], residuals.without_c[0])
    size = latent_size(pipe)
    hidden = torch.randn(1, size[0] * size[1], woken.attentions[0].norm.normalized_shape[0])
    block = woken.align(features, masks, size)[0]
    assert block(hidden).any()
    assert not block.dropped(torch.tensor([False]))(hidden).any()


def test_it_is_saved_and_loaded_as_safetensors(tmp_path: Path, woken: Alignment) -> None:
    """A model folder's part comes back with the same weights; a damaged one is named."""
    woken.save_pretrained(tmp_path / "alignment")
    assert (tmp_path / "alignment/diffusion_pytorch_model.safetensors").is_file()
    again = load_alignment(tmp_path)
    for name, weight in woken.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], weight)
    (tmp_path / "alignment/diffusion_pytorch_model.safetensors").write_bytes(b"none")
    with pytest.raises(UsageError, match=r"the alignment of .* cannot be loaded"):
        load_alignment(tmp_path)


def test_one_of_another_net_is_refused(
    pipe: TruePosePipeline, make_target: Callable[..., TargetNet]
) -> None:
    """Blocks of other sizes would fail in the middle of a run."""
    other = Alignment.over(make_target(), factor=8, width=32)
    with pytest.raises(UsageError, match="trained over another net"):
        TextDriven(pipe, other)


def test_stable_diffusions_sizes(make_target: Callable[..., TargetNet]) -> None:
    """Over Stable Diffusion 1.5's UNet at 512 x 352 every level has the size that its block has."""
    with torch.device("meta"):
        unet = make_target(
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            cross_attention_dim=768,
            attention_head_dim=8,
            norm_num_groups=32,
            clip_width=768,
        )
        made = Alignment.over(unet, factor=8)
        masks = torch.zeros(1, len(LABELS), 512, 352)
        vectors = torch.zeros(1, len(LABELS), 9, 768)
        valid = torch.zeros(1, len(LABELS), 9, dtype=torch.bool)
    features = RegionFeatures(vectors=vectors, valid=valid)
    drawn = [tuple(level.shape[1:]) for level in made.draw(features, masks)]
    assert drawn == [(320, 64, 44), (640, 32, 22), (1280, 16, 11), (1280, 8, 6)]
    blocks = made.align(features, masks, (64, 44))
    assert len(blocks) == 16
    tokens = {tuple(block.allowed.shape[1:]) for block in blocks}
    assert tokens == {(n, 4 * len(LABELS)) for n in (2816, 704, 176, 48)}
    adapter = sum(p.numel() for p in made.adapter.parameters())
    assert 80e6 < adapter < 90e6


def test_one_training_step_reaches_every_weight(
    alignment: Alignment, pipe: TruePosePipeline
) -> None:
    """After one step of what starts at zero, every weight has a gradient, and the net has none."""
    masks = region_masks(torch.from_numpy(pose_map()[None].astype(np.int64)), len(LABELS))
    width = pipe.unet.config.clip_width
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(1, len(LABELS), 3, width, generator=generator)
    valid = torch.ones(1, len(LABELS), 3, dtype=torch.bool)
    valid[:, ::2] = False
    features = RegionFeatures(vectors=vectors, valid=valid)
    optimiser = torch.optim.AdamW(alignment.parameters(), lr=1e-2)
    pipe.unet.requires_grad_(False)
    nobody, size = torch.full((1, 2), -1), latent_size(pipe)

    def loss() -> Tensor:
        found = pipe.unet.condition_alone(vectors[:, :, 0], nobody, size)
        blocks = alignment.align(features, masks, size)
        layers = [type(layer)(**{**vars(layer), "addition": block})
                  for layer, block in zip(found.layers, blocks, strict=True)]  # fmt: skip
        conditions = type(found)(layers=layers, residuals=alignment.residuals(features, masks))
        latent = torch.ones(1, pipe.unet.config.in_channels, *size)
        pose = torch.zeros(1, pipe.unet.config.block_out_channels[0], *size)
        out: Tensor = pipe.unet(latent, torch.tensor(500), pose, conditions)
        return out.square().mean()

    for _ in range(2):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    silent = [n for n, p in alignment.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert all(parameter.grad is None for parameter in pipe.unet.parameters())
