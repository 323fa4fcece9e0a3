"""Training a matcher: its loss against known answers, and what it learns of a few products."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from catalogpose.pixels import to_floats
from catalogpose.records import LABEL_ID
from catalogpose.studio.parts import PART_ID
from catalogpose.training.carrier import Carrier, draw_carried
from catalogpose.training.matcher import SPACING, matching_loss, step_points, train_matcher
from catalogpose.training.nets import TruePoseNets
from catalogpose.training.pairs import PairBatch
from catalogpose.training.pictures import SURFACE_CELL, Pictures, draw_pictures
from catalogpose.training.schedule import Schedule
from catalogpose.truepose.matcher import Matcher, carry_photos, embed_photo
from catalogpose.truepose.pose_encoder import draw_pose
from tests.training.test_sharing import UNET, make_batch

SURFACE = torch.tensor([[1, 10, 128], [1, 250, 128], [2, 10, 128], [0, 0, 0]], dtype=torch.uint8)
"""Four points that differ by more than the tolerance; the last is background."""


def test_right_embeddings_lose_little_and_wrong_ones_much() -> None:
    """Each point finds itself where embeddings agree; swapped ones cost a logit."""
    tokens = 20 * torch.eye(4)[None, :, None]
    surface = SURFACE[None, None]
    right = matching_loss(tokens, tokens, surface, surface)
    assert right["loss"] < 1e-3
    assert right["right"] == 1
    wrong = matching_loss(tokens, tokens[..., [1, 2, 0, 3]], surface, surface)
    # A logit of 20 * 20 / sqrt(4) lies on another point.
    assert wrong["loss"] == pytest.approx(200, abs=0.1)


def test_background_is_no_place_to_look_at() -> None:
    """A source's background draws no weight, however alike its embedding is."""
    keys = 20 * torch.eye(4)[None, :, None]
    queries = keys + 40 * torch.eye(4)[3][None, :, None, None]
    found = matching_loss(keys, queries, SURFACE[None, None], SURFACE[None, None])
    assert found["loss"] < 1e-3


def test_nothing_known_is_no_loss() -> None:
    """Where the source shows none of the target's points, loss and share are 0, not NaN."""
    tokens, other = torch.ones(1, 4, 1, 4), SURFACE.clone()
    other[:3, 0] = 9
    found = matching_loss(tokens, tokens, SURFACE[None, None], other[None, None])
    assert (found["loss"], found["right"]) == (0, 0)


def test_what_is_not_shown_is_learnt_to_be_nowhere() -> None:
    """Background and a point without a like count: sure of nowhere they lose little, else much."""
    tokens = 20 * torch.eye(4)[None, :, None]
    surface = SURFACE[None, None]
    other = SURFACE.clone()
    other[2, 0] = 9
    # The last two of the target: a part that the source lacks, and background.
    target = other[None, None]
    for logits, low, high in (((-99.0, -99.0, 399.0, 399.0), 0, 1e-3), ((-99.0,) * 4, 90, 400)):
        found = matching_loss(tokens, tokens, surface, target, torch.tensor(logits)[None, None])
        assert low <= found["loss"] <= high
        assert found["right"] == 1


@pytest.mark.parametrize("nowhere", [None, torch.full((1, 1, 4), -99.0)])
def test_points_of_a_head_count_as_often_as_asked(nowhere: torch.Tensor | None) -> None:
    """A wrong point of a head among three right ones has a quarter of the weight, or five eighths
    where it counts five times; without heads the weight changes nothing.
    """
    head = torch.tensor([PART_ID["hair bun"], 10, 128], dtype=torch.uint8)
    surface = torch.stack([SURFACE[0], SURFACE[1], SURFACE[2], head])[None, None]
    tokens = 20 * torch.eye(4)[None, :, None]
    wrong = tokens.clone()
    wrong[..., 3] = tokens[..., 0]
    plain, weighed = (
        matching_loss(tokens, wrong, surface, surface, nowhere, weight)["loss"]
        for weight in (1.0, 5.0)
    )
    assert plain == pytest.approx(200 / 4, abs=0.1)
    assert weighed == pytest.approx(200 * 5 / 8, abs=0.1)
    other = surface[:, :, :3]
    lost = [
        matching_loss(tokens[..., :3], wrong[..., [1, 0, 2]], other, other, None, weight)["loss"]
        for weight in (1.0, 5.0)
    ]
    assert lost[0] == pytest.approx(400 / 3, abs=0.1)
    assert lost[0] == lost[1]


def make_matcher(stride: int = 4, **options: int | bool) -> Matcher:
    """Return a small matcher for pictures of 64 x 48."""
    torch.manual_seed(0)
    return Matcher(channels=(16, 16), width=8, stride=stride, groups=4, **options)


def test_a_step_looks_at_queries_where_its_points_are() -> None:
    """Finer tokens than points take turns, each with its own point; of coarser tokens one point is
    looked at where the background counts, and else as many as ever.
    """
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(12), indexing="ij")
    surface = torch.stack([rows, columns, rows], dim=-1)[None]
    draw = torch.Generator().manual_seed(0)
    for stride, nowhere, shown, asked in (
        (2, True, (16, 12), (8, 6)), (4, True, (8, 6), (8, 6)), (8, True, (4, 3), (4, 3)),
        (8, False, (8, 6), (8, 6)),
    ):  # fmt: skip
        every = stride // SURFACE_CELL
        queries = surface[:, ::every, ::every, :2].movedim(-1, 1)
        matcher = make_matcher(stride, nowhere=nowhere)
        found = step_points(matcher, surface, queries, draw)
        assert [tuple(part.shape[1:3]) for part in found[:2]] == [shown, asked]
        if stride <= SPACING:
            away = found[1][..., :2].movedim(-1, 1) - found[2]
            assert 0 <= away.min() <= away.max() < every
            assert away[0].flatten(1).unique(dim=1).shape[1] == 1


def loss_between(matcher: Matcher, pictures: Pictures) -> float:
    """Return the loss of the second view of each product, looked for in the first."""
    first, second = pictures.photos[:, 0], pictures.joints[:, 1]
    labels = torch.from_numpy(pictures.labels[:, 0].astype(np.int64))
    # One point a token.
    cells = slice(None, None, matcher.config.stride // SURFACE_CELL)
    with torch.no_grad():
        keys = matcher.keys(torch.from_numpy(to_floats(first)), labels)
        queries = matcher.queries(draw_pose(torch.from_numpy(second), 64, 48, "rgb"), keys)
        found = matching_loss(
            keys.tokens,
            queries,
            torch.from_numpy(pictures.surface[:, 0, cells, cells]),
            torch.from_numpy(pictures.surface[:, 1, cells, cells]),
            matcher.nowhere_logits(queries),
        )
    return float(found["loss"])


@pytest.mark.parametrize(("stride", "attends"), [(2, False), (4, False), (4, True)])
def test_a_matcher_learns_where_to_look(tmp_path: Path, stride: int, attends: bool) -> None:
    """Some steps on two products find their views in one another, by true maps and by those of a
    parser that knows no hair, and both towers learn, however fine the tokens are.
    """
    pictures = draw_pictures(tmp_path / "pictures", "train", 2, 3, (64, 48), workers=1)
    matcher = make_matcher(stride, nowhere=True, attends=attends)
    before = {name: weight.clone() for name, weight in matcher.named_parameters()}
    untrained = loss_between(matcher, pictures)
    schedule = Schedule(epochs=40, batch=2, learning_rate=0.005, warmup=1)
    maps = pictures.labels * (pictures.labels != LABEL_ID["hair"])
    work = tmp_path / "work"
    train_matcher(pictures, matcher, "rgb", schedule, work, device="cpu", parsed=maps)
    assert loss_between(matcher, pictures) < 0.7 * untrained
    moved = {name for name, weight in matcher.named_parameters() if (weight != before[name]).any()}
    assert {name.split(".")[0] for name in moved} == {"source_tower", "pose_tower", "nowhere_key"}
    assert any(name.startswith("pose_tower.attentions") for name in moved) == attends


class Shrinking:
    """Stands for a VAE: a photo's latent is the photo, made smaller."""

    dtype = torch.float32
    config = SimpleNamespace(scaling_factor=2.0)

    def encode(self, floats: torch.Tensor) -> SimpleNamespace:
        """Return the means of cells of 8 pixels."""
        mean = torch.nn.functional.avg_pool2d(floats, 8)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean))


def test_a_batch_carries_each_source_once() -> None:
    """Pairs that share sources get what pairs with their own would; latents are scaled, and how
    sure they are stands behind them.
    """
    draw = torch.Generator().manual_seed(0)
    matcher = make_matcher(attends=True).eval()
    for attention in matcher.pose_tower.attentions:
        torch.nn.init.normal_(attention.to_out[0].weight)
    carrier = Carrier(matcher=matcher, vae=Shrinking(), pose_style="rgb")  # type: ignore[arg-type]
    shared = make_batch(draw)
    photos = torch.rand(2, 3, 32, 24, generator=draw)
    apart = {"source_of": torch.arange(4), "photos": photos[shared.source_of]}
    found = [
        carrier.carry(dataclasses.replace(shared, **changes)).carried
        for changes in ({"photos": photos}, apart)
    ]
    assert found[0] is not None
    assert found[0].shape == (4, 4, 4, 3)
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)
    assert 1 < found[0][:, :3].max() <= 2
    assert 0 < found[0][:, 3].min() <= found[0][:, 3].max() <= 1
    with pytest.raises(ValueError, match="needs pairs with photos"):
        carrier.carry(shared)


def test_training_carries_what_a_run_carries() -> None:
    """A batch's photos come over as the pipeline's do, each from a photo that spreads."""
    draw = torch.Generator().manual_seed(0)
    matcher = make_matcher(attends=True).eval()
    carrier = Carrier(matcher=matcher, vae=Shrinking(), pose_style="rgb")  # type: ignore[arg-type]
    photos = np.random.default_rng(0).integers(0, 256, (4, 32, 24, 3), dtype=np.uint8)
    batch = dataclasses.replace(
        make_batch(draw), source_of=torch.arange(4), photos=torch.from_numpy(to_floats(photos))
    )
    batch.labels[:, :, 8:] = 0
    maps = batch.labels.numpy().astype(np.uint8)
    seen = [embed_photo(matcher, *row, None) for row in zip(photos, maps, strict=True)]
    assert all((one.photo[0] != wide).any() for one, wide in zip(seen, batch.photos, strict=True))
    expected = carry_photos(matcher, seen, draw_pose(batch.joints, 32, 24, "rgb"))
    torch.testing.assert_close(carrier.carry_photos(batch), expected, atol=1e-4, rtol=1e-4)


def test_training_carries_finer_photos_too() -> None:
    """A finer photo a pair comes over in its source's place, though pairs share a source."""
    draw = torch.Generator().manual_seed(0)
    matcher = make_matcher(attends=True).eval()
    carrier = Carrier(matcher=matcher, vae=Shrinking(), pose_style="rgb")  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    photos, finer = (
        rng.integers(0, 256, (2, 32 * scale, 24 * scale, 3), dtype=np.uint8) for scale in (1, 2)
    )
    source_of = torch.tensor([0, 1, 0, 1])
    batch = dataclasses.replace(
        make_batch(draw), source_of=source_of, photos=torch.from_numpy(to_floats(photos))
    )
    batch.labels[:, :, 8:] = 0
    batch.labels[:] = batch.labels[:2][source_of]
    maps = batch.labels.numpy().astype(np.uint8)
    seen = [
        embed_photo(matcher, photos[own], labels, finer=finer[own])
        for own, labels in zip(source_of.tolist(), maps, strict=True)
    ]
    expected = carry_photos(matcher, seen, draw_pose(batch.joints, 32, 24, "rgb"))
    found = carrier.carry_photos(batch, torch.from_numpy(to_floats(finer))[source_of])
    assert found.shape == (4, 4, 64, 48)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


class Sure:
    """Stands for a carrier: it carries a grey of 0.5, sure of every place; latents are the mean of
    8 x 8 pixels.
    """

    vae = SimpleNamespace(
        device=torch.device("cpu"),
        config=SimpleNamespace(scaling_factor=2.0),
        decode=lambda z: SimpleNamespace(sample=torch.nn.functional.interpolate(z, scale_factor=8)),
    )

    def carry(self, batch: PairBatch) -> PairBatch:
        """Return the batch with scaled latents of grey."""
        carried = torch.ones(len(batch), 4, *batch.target.shape[2:])
        return dataclasses.replace(batch, carried=carried)


def test_the_decoder_learns_what_was_to_be_drawn() -> None:
    """On the person, where colours agree, the truth becomes what is carried, as far as weighed;
    beside the person, and without weight, it stays to the byte.
    """
    draw = torch.Generator().manual_seed(0)
    batch = dataclasses.replace(make_batch(draw), target=torch.ones(4, 3, 4, 3))
    person = torch.zeros(4, 32, 24, dtype=torch.long)
    person[:, :, :16] = LABEL_ID["dress"]
    pairs = SimpleNamespace(take=lambda places: dataclasses.replace(batch, target_labels=person))
    photos = np.full((4, 32, 24, 3), 20, dtype=np.uint8)

    def drawn(weight: float) -> np.ndarray:
        return draw_carried(Sure(), pairs, [0, 1, 2, 3], photos, weight)  # type: ignore[arg-type]

    assert (drawn(1.0)[:, :, :12] == 191).all()
    assert (drawn(1.0)[:, :, 20:] == 20).all()
    assert np.abs(drawn(0.5)[:, :, :12].astype(int) - (20 + 191) / 2).max() <= 1
    np.testing.assert_array_equal(drawn(0.0), photos)


def test_what_is_carried_is_learnt_and_dropped_with_the_source() -> None:
    """Zero at first, it changes nothing; then it shows in the rows that keep C and in no other."""
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    nets = TruePoseNets(UNET, {"widths": [4, 4, 4], "in_channels": 3}, 6, carried=5)
    plain = make_batch(draw)
    batch = dataclasses.replace(plain, carried=torch.rand(4, 5, 4, 3, generator=draw))
    noisy, pose = torch.randn(4, 4, 4, 3, generator=draw), torch.rand(4, 3, 32, 24, generator=draw)
    timestep, keep = torch.tensor([10, 500, 900, 999]), torch.tensor([True, True, True, False])
    without = nets(plain, noisy, timestep, pose, keep)[0]
    silent = nets(batch, noisy, timestep, pose, keep)[0]
    torch.testing.assert_close(silent, without)
    silent.square().mean().backward()
    assert nets.unet.conv_carried.weight.grad.abs().max() > 0
    torch.nn.init.normal_(nets.unet.conv_carried.weight)
    loud = nets(batch, noisy, timestep, pose, keep)[0]
    assert ((loud - without).abs().amax(dim=(1, 2, 3)) > 1e-3).tolist() == keep.tolist()
