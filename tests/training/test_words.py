"""The training of the alignment of words and picture, on a few studio products."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from catalogpose.commands.train import train_model
from catalogpose.config import TrainOptions
from catalogpose.errors import UsageError
from catalogpose.humandiffusion.alignment import Alignment
from catalogpose.humandiffusion.memory import TextStatistics, measure_texts
from catalogpose.humandiffusion.text_driven import load_alignment
from catalogpose.perception.clip import Clip
from catalogpose.records import GARMENTS, LABEL_ID, LABELS
from catalogpose.training.alignment import (
    AlignmentNets,
    AlignmentObjective,
    alignment_loss,
)
from catalogpose.training.kept import drawn_target, embed_kept
from catalogpose.training.pairs import Pairs
from catalogpose.training.pictures import Pictures, draw_pictures
from catalogpose.training.recipes import FOLDER
from catalogpose.training.truepose import studio_pairs
from catalogpose.training.wishes import Mix, draw_wishes
from catalogpose.training.wording import Wording, studio_wording
from catalogpose.truepose.matcher import Matcher
from catalogpose.truepose.model import BUNDLED, read_card
from catalogpose.truepose.pipeline import TruePosePipeline

PRODUCTS, VIEWS = 6, 3


def trust_all(regions: np.ndarray, texts: np.ndarray) -> TextStatistics:
    """Measure texts as ever, but take any region for near."""
    return replace(measure_texts(regions, texts), near=-2.0)


class Studio:
    """Six products seen three times, and what words and a memory say of them."""

    def __init__(self, folder: Path) -> None:
        """Draw and look once."""
        self.pipe = TruePosePipeline.from_pretrained(BUNDLED)
        clip = Clip.load(BUNDLED / "clip", "cpu")
        self.clip = clip
        self.pictures: Pictures = draw_pictures(
            folder / "pictures", "validation", PRODUCTS, VIEWS, (128, 88), workers=1
        )
        self.pairs: Pairs = studio_pairs(self.pictures, self.pipe.vae, clip, folder / "pairs")
        # Six products hold hardly anything that is near to another's words: here all counts as it.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("catalogpose.training.wording.measure_texts", trust_all)
            self.wording: Wording = studio_wording(
                self.pairs, self.pictures.captions, clip, folder / "wording"
            )

    @property
    def photos(self) -> np.ndarray:
        """The pictures, in one row."""
        return self.pictures.photos.reshape(-1, 128, 88, 3)

    def look(self, rows: np.ndarray, kept: np.ndarray) -> np.ndarray:
        """Embed what is kept of pictures."""
        return embed_kept(self.pairs, self.photos, self.clip, rows, kept)

    def alignment(self) -> Alignment:
        """Return a small untrained alignment."""
        torch.manual_seed(0)
        return Alignment.over(
            self.pipe.unet, factor=self.pipe.pose_encoder.factor, width=16, per_region=1,
            style_channels=2, adapter_depth=1,
        )  # fmt: skip


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """Return them, drawn once."""
    return Studio(tmp_path_factory.mktemp("studio"))


def generator(seed: int = 0) -> torch.Generator:
    """Return a generator."""
    return torch.Generator().manual_seed(seed)


def test_words_are_known_where_a_region_is(studio: Studio) -> None:
    """A phrase has its embedding, its retrieval and its shift, each of unit length; equal words
    have one number.
    """
    wording, said = studio.wording, studio.wording.phrase >= 0
    assert said.sum() > 50
    assert (said <= studio.pairs.known).all()
    for name in ("texts", "refined", "shifted"):
        lengths = np.linalg.norm(np.asarray(getattr(wording, name), dtype=np.float32), axis=2)
        np.testing.assert_allclose(lengths[said], 1, atol=2e-3)
        assert not lengths[~said].any()
    captions = [view for product in studio.pictures.captions for view in product]
    for name in ("hair", "pants"):
        texts = [view.get(name) for view in captions]
        for first, second in ((0, 1), (0, 4), (3, 9)):
            numbers = wording.phrase[[first, second], LABEL_ID[name]]
            if (numbers >= 0).all():
                assert (numbers[0] == numbers[1]) == (texts[first] == texts[second])


def test_a_product_never_retrieves_itself(studio: Studio) -> None:
    """The region that is to be painted would be its own answer; other products are found."""
    owners = [int(product) for product in _memory_products(studio)]
    for picture, label in np.argwhere(studio.wording.phrase >= 0):
        rows = [row for row in studio.wording.found[picture, label] if row >= 0]
        assert all(owners[row] != picture // VIEWS for row in rows)
    assert (studio.wording.found >= 0).any(axis=(0, 2))[LABEL_ID["pants"]]
    people = [i for i, name in enumerate(LABELS) if name not in GARMENTS]
    assert not (studio.wording.found[:, people] >= 0).any()


def _memory_products(studio: Studio) -> list[str]:
    """Return whose the remembered regions are."""
    from catalogpose.training.wording import studio_memory

    clip = Clip.load(BUNDLED / "clip", "cpu")
    memory = studio_memory(studio.pairs, clip, VIEWS)
    assert len(memory) == len(studio.wording.memory)
    return list(memory.regions.products)


def test_a_region_is_kept_or_worded_never_both(studio: Studio) -> None:
    """Persons are kept where there is a source; without one, words or nulls fill all."""
    places = list(range(24))
    wishes = draw_wishes(studio.pairs, studio.wording, places, Mix(), generator(), studio.look)
    kept = wishes.kept[wishes.pairs.source_of]
    worded = torch.zeros_like(kept).scatter_(1, wishes.worded.clamp(min=0), value=True)
    worded[:, 0] = False
    assert not (kept & worded).any()
    alone = ~wishes.has_source
    assert 0 < int(alone.sum()) < len(alone)
    assert not wishes.kept[alone].any()
    face = LABEL_ID["face"]
    there = torch.zeros_like(kept).scatter_(1, wishes.pairs.target_labels.flatten(1), value=True)
    assert kept[there[:, face] & ~alone[wishes.pairs.source_of], face].all()
    both = wishes.kept[:, [LABEL_ID["left-shoe"], LABEL_ID["right-shoe"]]]
    assert (both[:, 0] == both[:, 1]).all()
    # What fills nothing is zero, and only regions of the target's map are filled.
    valid = wishes.features.valid
    assert not (valid[:, :, 0] & ~there).any()
    assert not wishes.features.vectors[~valid].any()


def test_replaced_cloth_is_not_in_what_is_kept(studio: Studio) -> None:
    """Regions are cut out as rectangles: those of kept ones show nothing of the others."""
    row = np.array([0])
    kept = np.zeros((1, len(LABELS)), dtype=np.bool_)
    kept[0, [LABEL_ID["face"], LABEL_ID["hair"]]] = True
    before = studio.look(row, kept)
    assert before.any(axis=2).sum() == 2
    photos = studio.photos.copy()
    photos[0][~np.isin(studio.pairs.labels[0], [0, LABEL_ID["face"], LABEL_ID["hair"]])] = 9
    after = embed_kept(studio.pairs, photos, studio.clip, row, kept)
    np.testing.assert_array_equal(after, before)


def test_the_mix_decides_what_stands_for_words(studio: Studio) -> None:
    """Own embeddings, retrieval with what it found, phrases alone, and nothing."""
    places = list(range(12))
    rows = studio.pairs.pairs[places, 1]
    nothing = {"own": 0.0, "retrieved": 0.0, "text": 0.0, "sourceless": 1.0}

    def drawn(**more: float) -> torch.Tensor:
        mix = Mix(**{**nothing, **more})
        wishes = draw_wishes(studio.pairs, studio.wording, places, mix, generator(), studio.look)
        assert bool((wishes.worded >= 0).any()) == bool(more)
        return wishes.features

    own = drawn(own=1.0)
    truth = torch.from_numpy(np.asarray(studio.pairs.embeddings[rows], dtype=np.float32))
    torch.testing.assert_close(own.vectors[:, :, 0], truth * own.valid[:, :, :1])
    assert not own.valid[:, :, 1:].any()
    found = drawn(retrieved=1.0)
    refined = torch.from_numpy(np.asarray(studio.wording.refined[rows], dtype=np.float32))
    torch.testing.assert_close(found.vectors[:, :, 0], refined * found.valid[:, :, :1])
    assert found.valid[:, :, 1:].any()
    text = drawn(text=1.0)
    assert text.valid[:, :, 0].any()
    assert not text.valid[:, :, 1:].any()
    assert not drawn().valid.any()


def test_the_loss_reaches_the_alignment_alone(studio: Studio) -> None:
    """Every loss is finite, the frozen nets get no gradient, and the same draw gives the same."""
    wishes = draw_wishes(
        studio.pairs, studio.wording, list(range(6)), Mix(), generator(3), studio.look
    )
    sources = studio.photos[np.unique(studio.pairs.pairs[:6, 0])]
    nets = AlignmentNets(studio.alignment())
    for net in (studio.pipe.unet, studio.pipe.source_unet, studio.pipe.pose_encoder):
        net.requires_grad_(False)

    def losses(**more: object) -> dict[str, torch.Tensor]:
        objective = AlignmentObjective(**more)
        return alignment_loss(wishes, sources, studio.pipe, nets, objective, generator(), "cpu")

    found = losses()
    assert set(found) == {"loss", "denoising", "attention", "contrast"}
    assert all(bool(value.isfinite()) for value in found.values())
    found["loss"].backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in nets.alignment.parameters())
    assert all(p.grad is None for p in studio.pipe.unet.parameters())
    assert torch.equal(losses()["loss"], found["loss"])
    # A silent alignment leaves the frozen net's own loss, whatever level is there.
    plain = losses(routed=False, drawn=False)
    assert set(plain) == {"loss", "denoising"}
    torch.testing.assert_close(plain["denoising"], found["denoising"])


def test_an_alignment_learns_beside_a_matcher(studio: Studio) -> None:
    """Over a model with a matcher the blanked sources are carried in rows that have one, so that
    the loss is another, and finite.
    """
    wishes = draw_wishes(
        studio.pairs, studio.wording, list(range(6)), Mix(sourceless=0.0), generator(3), studio.look
    )
    assert wishes.has_source.all()
    sources = studio.photos[np.unique(studio.pairs.pairs[:6, 0])]
    pipe, unet = studio.pipe, copy.deepcopy(studio.pipe.unet)
    unet.add_carried(pipe.vae.config.latent_channels + 1)
    torch.nn.init.normal_(unet.conv_carried.weight, std=0.1, generator=generator())
    matcher = Matcher(pipe.pose_encoder.config.in_channels, channels=(8, 16), stride=4).eval()
    carrying = TruePosePipeline(**{**pipe.components, "unet": unet, "matcher": matcher})
    carrying.card = pipe.card
    nets = AlignmentNets(studio.alignment())
    plain, carried = (
        alignment_loss(wishes, sources, one, nets, AlignmentObjective(), generator(), "cpu")["loss"]
        for one in (pipe, carrying)
    )
    assert carried.isfinite()
    assert (carried - plain).abs() > 1e-4


def test_what_words_fill_is_learnt_from_the_truth(studio: Studio) -> None:
    """What is carried becomes the target of persons that keep their cloth, of no region of words,
    and by no weight of 0.
    """
    wishes = draw_wishes(studio.pairs, studio.wording, [0, 1], Mix(), generator(), studio.look)
    target = wishes.pairs.target
    carried = torch.cat([target + 0.1, torch.ones_like(target[:, :1])], dim=1)
    nowhere = torch.full_like(wishes.worded, -1)
    everywhere = torch.arange(len(LABELS)).expand_as(nowhere)
    kept = replace(wishes, worded=nowhere)
    moved = (drawn_target(kept, carried, 1.0) - target).flatten(1).abs().amax(dim=1)
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1), rtol=0.01, atol=0)
    for row, weight in [(replace(wishes, worded=everywhere), 1.0), (kept, 0.0)]:
        assert torch.equal(drawn_target(row, carried, weight), target)
    assert torch.equal(drawn_target(kept, None, 1.0), target)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_recipe_gives_a_model_an_alignment(tmp_path: Path) -> None:
    """The new folder is the old one but for its alignment and its CLIP; the same command has
    nothing left to do, and another start is refused.
    """
    values = json.loads((FOLDER / "bundled-text.json").read_text())
    values.update(products=2, views=2)
    values["alignment"].update(width=16)
    values["schedule"] = {"steps": 2, "batch": 2, "learning_rate": 0.001}
    values["clip"]["schedule"] = values["schedule"]
    recipe = tmp_path / "text.json"
    recipe.write_text(json.dumps(values))
    options = TrainOptions(recipe=str(recipe), out=tmp_path / "out", device="cpu")
    told: list[str] = []
    summary = train_model(options, lambda name, done, total: told.append(name))
    assert "alignment" in told
    before, after = read_card(BUNDLED), read_card(summary.model)
    assert after.training["alignment"]["recipe"] == "bundled-text"
    new = {name for name, value in after.weights.items() if before.weights.get(name) != value}
    assert new == {
        "alignment/diffusion_pytorch_model.safetensors", "clip/open_clip_model.safetensors"
    }  # fmt: skip
    load_alignment(summary.model)
    assert Clip.load(summary.model / "clip").size == (64, 64)
    told.clear()
    train_model(options, lambda name, done, total: told.append(name))
    assert told == []
    values["clip"]["objective"]["near"] = 0
    recipe.write_text(json.dumps(values))
    with pytest.raises(UsageError, match="clip: near must be above 0"):
        train_model(options)
    values["clip"]["objective"]["near"] = 3
    values["mix"]["own"] = 0.9
    recipe.write_text(json.dumps(values))
    with pytest.raises(UsageError, match="mix: own, retrieved and text together"):
        train_model(options)
    values["mix"]["own"] = 0.2
    recipe.write_text(json.dumps(values))
    with pytest.raises(UsageError, match="was begun with another recipe"):
        train_model(options)
    for flag, more in (("--only", {"only": "clip"}), ("--refine", {"refine": ("clip",)}),
                       ("--dry-run", {"dry_run": True})):  # fmt: skip
        wrong = TrainOptions(recipe=str(recipe), out=tmp_path / "other", **more)
        with pytest.raises(UsageError, match=f"{flag} goes with"):
            train_model(wrong)


@pytest.mark.parametrize("name", ["dropout", "carried_weight", "contrast_weight"])
def test_an_alignment_s_objective_out_of_range_is_refused(name: str) -> None:
    """The line names what is wrong."""
    with pytest.raises(UsageError, match=f"objective: .*{name}"):
        AlignmentObjective(**{name: -0.5})
