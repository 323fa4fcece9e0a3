"""The matcher: what it embeds and carries, and what a pipeline makes of it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from catalogpose.records import LABELS
from catalogpose.truepose.carrying import carry_pixels, smooth_places
from catalogpose.truepose.matcher import Keys, Matcher, SourcePhoto, embed_photo
from catalogpose.truepose.model import read_card
from catalogpose.truepose.pipeline import TruePosePipeline, load_pipeline

UPPER, PANTS = 6, 11
"""Labels of the test's person."""


def make_matcher(**options: float) -> Matcher:
    """Return a small matcher."""
    torch.manual_seed(0)
    return Matcher(channels=(8, 16), width=8, stride=4, groups=4, **options).eval()


@pytest.mark.parametrize("attends", [False, True])
def test_odd_sizes_are_embedded(attends: bool) -> None:
    """A canvas whose tokens cannot be halved evenly gives an embedding a token in both towers; what
    a pose sees of the source are all levels but the finest, if it looks.
    """
    matcher = make_matcher(attends=attends)
    with torch.no_grad():
        keys = matcher.keys(torch.rand(2, 3, 28, 20), torch.zeros(2, 28, 20, dtype=torch.long))
        queries = matcher.queries(torch.rand(2, 3, 28, 20), keys)
    assert keys.tokens.shape == queries.shape == (2, 8, 7, 5)
    assert [level.shape for level in keys.levels] == ([(2, 16, 4, 3)] if attends else [])


def test_a_pose_that_attends_looks_for_what_its_own_source_shows() -> None:
    """Untrained, attention adds nothing to the towers; then each row's queries follow its own
    source's levels, whatever their order, and no other row's.
    """
    plain, matcher = make_matcher(), make_matcher(attends=True)
    lacking = matcher.load_state_dict(plain.state_dict(), strict=False)
    assert lacking.missing_keys
    assert all(name.startswith("pose_tower.attentions") for name in lacking.missing_keys)
    draw = torch.Generator().manual_seed(1)
    photos = torch.rand(2, 3, 24, 20, generator=draw)
    pose = torch.rand(1, 3, 24, 20, generator=draw).expand(2, -1, -1, -1)
    labels = torch.ones(2, 24, 20, dtype=torch.long)
    with torch.no_grad():
        keys = matcher.keys(photos, labels)
        silent = matcher.queries(pose, keys)
        torch.testing.assert_close(silent, plain.queries(pose, plain.keys(photos, labels)))
        torch.nn.init.normal_(matcher.pose_tower.attentions[0].to_out[0].weight)
        first, second = matcher.queries(pose, keys)
        swapped = matcher.queries(pose, keys.taken(torch.tensor([1, 0])))
        assert (first - second).abs().max() > 1e-3
        torch.testing.assert_close(swapped, torch.stack([second, first]))
        # Attention counts no places: the same tokens in another order are seen alike.
        moved = Keys(keys.tokens, tuple(level.flip(3) for level in keys.levels))
        torch.testing.assert_close(matcher.queries(pose, moved), torch.stack([first, second]))


def test_more_rounds_add_nothing_until_they_learn() -> None:
    """A matcher given more rounds embeds as before; each of its levels has them in both towers, and
    in a pose's tower those of all but the finest look at the source.
    """
    plain, deeper = make_matcher(attends=True), make_matcher(attends=True, rounds=3)
    lacking = deeper.load_state_dict(plain.state_dict(), strict=False)
    assert not lacking.unexpected_keys
    towers = {name.split(".further.")[0] for name in lacking.missing_keys}
    assert towers == {"source_tower", "pose_tower"}
    draw = torch.Generator().manual_seed(1)
    photos, pose = (torch.rand(2, 3, 24, 20, generator=draw) for _ in range(2))
    labels = torch.ones(2, 24, 20, dtype=torch.long)
    with torch.no_grad():
        keys, silent = (net.keys(photos, labels) for net in (plain, deeper))
        torch.testing.assert_close(silent, keys)
        torch.testing.assert_close(deeper.queries(pose, keys), plain.queries(pose, keys))
        for level, rounds in enumerate(deeper.pose_tower.further):
            assert [again.attention is not None for again in rounds] == [level == 0] * 2
        for again in deeper.source_tower.further[1]:
            torch.nn.init.normal_(again.block.conv2.weight)
        moved = deeper.keys(photos, labels)
        assert (moved.tokens - keys.tokens).abs().max() > 1e-3
        torch.testing.assert_close(moved.levels, keys.levels)
        seen = deeper.queries(pose, keys)
        torch.nn.init.normal_(deeper.pose_tower.further[0][1].attention.to_out[0].weight)
        assert (deeper.queries(pose, keys) - seen).abs().max() > 1e-3


def test_a_matcher_is_saved_and_read(tmp_path: Path) -> None:
    """A saved matcher embeds as before, and its number of labels is the vocabulary's."""
    matcher = make_matcher(attends=True, rounds=2)
    matcher.save_pretrained(str(tmp_path))
    again = Matcher.from_pretrained(str(tmp_path))
    assert again.config.labels == len(LABELS)
    pose, labels = torch.rand(1, 3, 32, 24), torch.ones(1, 32, 24, dtype=torch.long)
    with torch.no_grad():
        found = [net.queries(pose, net.keys(pose, labels)) for net in (again, matcher)]
    torch.testing.assert_close(*found)


def test_what_is_shown_nowhere_is_sure_of_nothing() -> None:
    """A pose's token that says it is shown nowhere is as little sure as it says so; its place
    stays, and a matcher that cannot say so is as sure as its weights are near one another.
    """
    plain, matcher = make_matcher(), make_matcher(nowhere=True)
    draw = torch.Generator().manual_seed(1)
    queries, keys = (torch.randn(1, 8, 6, 5, generator=draw) for _ in range(2))
    labels = torch.ones(1, 24, 20, dtype=torch.long)
    source = SourcePhoto(
        photo=torch.rand(1, 3, 24, 20, generator=draw), labels=labels, keys=Keys(keys)
    )
    with torch.no_grad():
        torch.testing.assert_close(matcher.nowhere_logits(queries), torch.zeros(1, 6, 5))
        # A logit so low that no token is shown nowhere, and one so high that all are.
        found = []
        for size in (-100.0, 100.0):
            matcher.nowhere_key.copy_(size * torch.ones(8))
            found.append(matcher.carry(source, queries.abs()))
        torch.testing.assert_close(found[0], plain.carry(source, queries.abs()))
    torch.testing.assert_close(found[0][:, :3], found[1][:, :3])
    assert found[1][:, 3].max() < 1e-6


def test_places_are_smoothed_where_a_matcher_says_so() -> None:
    """What is carried comes from places that their neighbours agree on, as sure as before; a
    matcher that says nothing of it smooths none, and less than none is refused.
    """
    plain, smooth = make_matcher(), make_matcher(smoothing=2)
    assert plain.config.smoothing == 0
    draw = torch.Generator().manual_seed(1)
    queries, keys = (torch.randn(1, 8, 6, 5, generator=draw) for _ in range(2))
    photo, labels = torch.rand(1, 3, 24, 20, generator=draw), torch.ones(1, 24, 20).long()
    source = SourcePhoto(photo=photo, labels=labels, keys=Keys(keys))
    places, sure = (part[None] for part in plain._find(keys[0], queries[0], labels[0]))
    torch.testing.assert_close(plain.carry(source, queries), carry_pixels(photo, places, sure))
    agreed = smooth_places(places, sure, labels, 2)
    assert (agreed - places).abs().max() > 0.1
    torch.testing.assert_close(smooth.carry(source, queries), carry_pixels(photo, agreed, sure))
    for wrong in (-1, 1.5):
        with pytest.raises(ValueError, match=f"a whole number, 0 or more, not {wrong}"):
            make_matcher(smoothing=wrong)


def test_without_a_person_every_token_is_a_place() -> None:
    """A source whose map is all background is carried as if it were all person."""
    matcher, draw = make_matcher(), torch.Generator().manual_seed(1)
    queries, keys = (torch.randn(1, 8, 6, 5, generator=draw) for _ in range(2))
    photo = torch.rand(1, 3, 24, 20, generator=draw)
    found = [
        matcher.carry(SourcePhoto(photo=photo, labels=labels, keys=Keys(keys)), queries)
        for labels in (torch.zeros(1, 24, 20).long(), torch.ones(1, 24, 20).long())
    ]
    torch.testing.assert_close(found[0], found[1])


def test_what_was_taken_out_of_a_photo_spreads_nowhere() -> None:
    """A photo's person spreads into the wall beside it, but not what fills what was taken out: from
    around that the wall is carried, as before.
    """
    photo = np.full((24, 40, 3), 250, dtype=np.uint8)
    photo[:, 8:14], photo[:, 26:32] = 90, 128
    labels = np.zeros((24, 40), dtype=np.uint8)
    labels[:, 8:14], labels[:, 26:32] = UPPER, PANTS
    whole, part = (
        (embed_photo(make_matcher(), photo, labels, kept).photo[0, 0, 12] + 1) * 127.5
        for kept in (None, labels != PANTS)
    )
    torch.testing.assert_close(whole[14:18], torch.full((4,), 90.0))
    torch.testing.assert_close(whole[22:26], torch.full((4,), 128.0))
    torch.testing.assert_close(part[14:18], torch.full((4,), 90.0))
    torch.testing.assert_close(part[22:26], torch.full((4,), 250.0))


def test_a_finer_photo_is_carried_in_the_photos_place() -> None:
    """Places are found in the photo on the canvas, and what lies there is the finer one's: its
    person spread as far, what was taken out of it as little sure.
    """
    draw = np.random.default_rng(1)
    photo = draw.integers(0, 256, (24, 20, 3), dtype=np.uint8)
    finer = draw.integers(0, 256, (48, 40, 3), dtype=np.uint8)
    labels, kept = np.full((24, 20), UPPER, dtype=np.uint8), np.ones((24, 20), dtype=bool)
    labels[:, 14:], kept[:10] = 0, False
    matcher = make_matcher()
    plain, large = (embed_photo(matcher, photo, labels, kept, other) for other in (None, finer))
    torch.testing.assert_close(plain.keys.tokens, large.keys.tokens)
    pixels = torch.from_numpy(finer).movedim(-1, 0)[None] / 127.5 - 1
    torch.testing.assert_close(large.photo[..., 21:, :27], pixels[..., 21:, :27])
    moved = (large.photo != pixels).any(dim=1)[0]
    assert moved[24:, 27:36].all()
    assert not moved[:, 36:].any()
    queries = 8 * torch.eye(30).view(1, 30, 6, 5)
    small, found = (
        matcher.carry(dataclasses.replace(source, keys=Keys(queries)), queries)
        for source in (plain, large)
    )
    assert found.shape == (1, 4, 48, 40)
    assert found[:, 3, :16].max() == 0
    torch.testing.assert_close(
        F.avg_pool2d(found[:, 3:], 2)[:, :, 12:], small[:, 3:, 12:], atol=0.02, rtol=0
    )


def test_what_was_taken_out_of_a_photo_is_sure_of_nothing() -> None:
    """What is carried from there has no weight, and the rest keeps its own."""
    matcher, draw = make_matcher(), torch.Generator().manual_seed(1)
    keys = 8 * torch.eye(30).view(1, 30, 6, 5)
    labels = torch.ones(1, 24, 20, dtype=torch.long)
    kept = torch.ones(1, 1, 24, 20)
    kept[:, :, :12] = 0
    photo = torch.rand(1, 3, 24, 20, generator=draw)
    source = SourcePhoto(photo=photo, labels=labels, keys=Keys(keys), kept=kept)
    whole = matcher.carry(dataclasses.replace(source, kept=None), keys)
    found = matcher.carry(source, keys)
    torch.testing.assert_close(found[:, :3], whole[:, :3])
    assert found[:, 3, :10].max() == 0
    torch.testing.assert_close(found[:, 3, 14:], whole[:, 3, 14:])


@pytest.fixture(scope="module")
def carrying(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the tiny model with a matcher beside its nets."""
    pipe = load_pipeline(tiny_model, "cpu")
    channels = pipe.pose_encoder.config.in_channels
    matcher = make_matcher(pose_channels=channels, attends=True)
    pipe.unet.add_carried(pipe.vae.config.latent_channels + 1)
    torch.nn.init.normal_(pipe.unet.conv_carried.weight)
    made = TruePosePipeline(**{**pipe.components, "matcher": matcher})
    made.card = pipe.card
    folder = tmp_path_factory.mktemp("carrying") / "model"
    made.save_pretrained(folder)
    return folder


def person() -> tuple[np.ndarray, np.ndarray]:
    """Return a photo of blocks and its map."""
    blocks = np.random.default_rng(3).integers(0, 256, (16, 11, 3), dtype=np.uint8)
    labels = np.zeros((128, 88), dtype=np.uint8)
    labels[20:70, 16:74], labels[70:120, 20:70] = UPPER, PANTS
    return blocks.repeat(8, axis=0).repeat(8, axis=1), labels


def poses() -> np.ndarray:
    """Return two random poses on the canvas."""
    joints = np.random.default_rng(1).uniform((4, 4), (84, 124), (2, 18, 2))
    return np.concatenate([joints, np.ones((2, 18, 1))], axis=2).astype(np.float32)


def test_a_model_folder_keeps_its_matcher(carrying: Path, tiny_model: Path) -> None:
    """The card names the matcher's weights; a folder without one loads without one."""
    assert any(name.startswith("matcher/") for name in read_card(carrying).weights)
    assert load_pipeline(carrying, "cpu").matcher is not None
    assert load_pipeline(tiny_model, "cpu").matcher is None


def test_the_carried_photo_shows_and_not_in_the_unconditional_half(carrying: Path) -> None:
    """With a matcher the picture is another; a pass that drops C sees nothing of the photo."""
    pipe = load_pipeline(carrying, "cpu")
    photo, labels = person()
    source = pipe.condition(pipe.encode_source(photo, labels, {}), frozenset({UPPER, PANTS}))
    plain = dataclasses.replace(source, photo=None)
    with_photo, without = (
        pipe.denoise([one, one], poses(), [1, 2], guidance=1.0) for one in (source, plain)
    )
    assert (with_photo - without).abs().max() > 0.01
    joints = poses()
    # At scale 0 the unconditional half alone is left.
    left, right = (
        pipe.denoise([one, one], joints, [1, 2], guidance=0.0) for one in (source, plain)
    )
    torch.testing.assert_close(left, right)


def test_carried_rows_do_not_depend_on_their_batch(carrying: Path) -> None:
    """Rows with and without a photo share a batch, and each is carried as if it were alone."""
    pipe = load_pipeline(carrying, "cpu")
    photo, labels = person()
    source = pipe.condition(pipe.encode_source(photo, labels, {}), frozenset({UPPER}))
    rows = [dataclasses.replace(source, photo=None), source]
    together = pipe.denoise(rows, poses(), [1, 2])
    for index, row in enumerate(rows):
        one = slice(index, index + 1)
        alone = pipe.denoise([row], poses()[one], [1 + index])
        torch.testing.assert_close(alone, together[one], atol=1e-3, rtol=1e-3)
