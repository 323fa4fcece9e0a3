"""The training of the small CLIP: its loss on known answers, and a few steps of tiny towers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from catalogpose.errors import UsageError
from catalogpose.perception.clip import Clip
from catalogpose.records import GARMENTS
from catalogpose.training.clip import (
    ClipObjective,
    _draw_regions,
    _exchange_words,
    matching_loss,
    train_clip,
)
from catalogpose.training.loop import Schedule
from catalogpose.training.pictures import Pictures, draw_pictures

FORMER = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}
"""A CLIP that sees patches."""

FINER = FORMER | {
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
}
"""One with another image tower, a residual net."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """Return four products seen twice."""
    folder = tmp_path_factory.mktemp("clip")
    return draw_pictures(folder, "validation", 4, 2, (128, 88), workers=1)


def generator(seed: int = 0) -> torch.Generator:
    """Return a generator."""
    return torch.Generator().manual_seed(seed)


def test_the_loss_of_two_pairs_is_known() -> None:
    """Two orthogonal pairs at scale 1: -log(e / (e + 1)); a wrong phrase that looks like the truth
    adds e to one direction's denominator, zeros add nothing.
    """
    one = torch.eye(2)
    same = torch.eye(2)
    scale = torch.tensor(1.0)
    e = float(np.e)
    plain = -np.log(e / (e + 1))
    assert matching_loss(one, one, same, scale).item() == pytest.approx(plain)
    nothing = torch.zeros(2, 3, 2)
    assert matching_loss(one, one, same, scale, nothing).item() == pytest.approx(plain)
    wrong = torch.cat([one[:, None], nothing], dim=1)
    harder = -np.log(e / (2 * e + 1))
    found = matching_loss(one, one, same, scale, wrong).item()
    assert found == pytest.approx((plain + harder) / 2)


def test_pairs_that_share_a_phrase_share_the_target() -> None:
    """Rows with equal words are no negatives of each other: the best loss is log 2."""
    text = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    loss = matching_loss(text, text, torch.ones(2, 2), torch.tensor(50.0))
    assert loss.item() == pytest.approx(np.log(2))


def test_words_are_exchanged_and_not_invented() -> None:
    """Each phrase gets other colours and other patterns of its own kind, or empty places."""
    phrases = ["a red shirt with white stripes", "a woman's face", "blue jeans"]
    first, second, third = _exchange_words(phrases, 2, generator())
    assert all(one.endswith("shirt with white stripes") and "red" not in one for one in first[:2])
    assert all(one.startswith("a red shirt with white") for one in first[2:])
    assert not any(one.endswith("stripes") for one in first[2:])
    assert second == ["", "", "", ""]
    assert all(one.endswith("jeans") and one != "blue jeans" for one in third[:2])
    assert third[2:] == ["", ""]
    assert _exchange_words(phrases, 2, generator()) == [first, second, third]
    assert _exchange_words(phrases, 0, generator()) == [[], [], []]


def test_garments_are_drawn_in_their_share(pictures: Pictures) -> None:
    """With a share of 1 every region is a garment, since every picture shows one."""
    said = {
        text
        for product in pictures.captions
        for view in product
        for name, text in view.items()
        if name in GARMENTS
    }
    cloth = _draw_regions(pictures, 40, 1.0, generator())
    assert set(cloth.phrases) <= said
    anything = _draw_regions(pictures, 40, 0.0, generator())
    assert not set(anything.phrases) <= said


def test_a_new_image_tower_stays_near_the_old_one(pictures: Pictures, tmp_path: Path) -> None:
    """It starts with the old words and random eyes, and learns to see as the old ones did."""
    schedule = Schedule(steps=1, batch=8, learning_rate=1e-3)
    words = ClipObjective(garments=0.5)
    train_clip(pictures, FORMER, words, schedule, tmp_path / "w0", tmp_path / "old", device="cpu")
    old = Clip.load(tmp_path / "old")

    def learn(name: str, near: float, steps: int) -> float:
        """Train a new tower; return its mean cosine to the old one."""
        train_clip(
            pictures, FINER, ClipObjective(exchanged=0, near=near),
            Schedule(steps=steps, batch=8, learning_rate=2e-3, warmup=1),
            tmp_path / f"w-{name}", tmp_path / name, begin=tmp_path / "old", device="cpu",
        )  # fmt: skip
        new = Clip.load(tmp_path / name)
        assert new.size == (64, 64)
        photo, boxes = pictures.photos[0, 0], [(10, 10, 50, 60), (20, 60, 70, 120)]
        seen = [eyes.embed(photo, boxes).astype(np.float32) for eyes in (old, new)]
        return float((seen[0] * seen[1]).sum(axis=1).mean())

    first = learn("first", 10.0, 1)
    assert learn("near", 10.0, 40) > max(0.8, first + 0.2)
    texts = [Clip.load(tmp_path / name).embed_texts(["a red shirt"]) for name in ("old", "first")]
    assert (texts[0] * texts[1]).sum() > 0.85  # one step away


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"garments": 1.5}, "garments must be 0 to 1"),
        ({"exchanged": 0.5}, "exchanged must be a whole number"),
        ({"exchanged": -1}, "exchanged and near must be 0 or more"),
        ({"near": float("nan")}, "exchanged and near must be 0 or more"),
    ],
)
def test_an_objective_out_of_range_is_refused(options: dict[str, object], message: str) -> None:
    """The error says what is wrong."""
    with pytest.raises(UsageError, match=message):
        ClipObjective(**options)


def test_near_needs_a_former_clip(pictures: Pictures, tmp_path: Path) -> None:
    """There is nothing to stay near."""
    with pytest.raises(UsageError, match="near needs a CLIP to go on from"):
        train_clip(
            pictures, FINER, ClipObjective(near=1.0),
            Schedule(steps=1, batch=2, learning_rate=1e-3), tmp_path / "work", tmp_path / "out",
            device="cpu",
        )  # fmt: skip


def test_a_clip_of_a_former_one_s_other_width_is_refused(
    pictures: Pictures, tmp_path: Path
) -> None:
    """Nets that read the embeddings could not read others."""
    schedule = Schedule(steps=1, batch=2, learning_rate=1e-3)
    train_clip(
        pictures, FORMER, ClipObjective(), schedule, tmp_path / "w", tmp_path / "old", device="cpu"
    )
    wider = json.loads(json.dumps(FINER)) | {"embed_dim": 16}
    with pytest.raises(UsageError, match="is not the net of this recipe"):
        train_clip(
            pictures, wider, ClipObjective(near=1.0), schedule, tmp_path / "w2", tmp_path / "new",
            begin=tmp_path / "old", device="cpu",
        )  # fmt: skip
