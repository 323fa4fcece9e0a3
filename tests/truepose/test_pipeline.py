import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from catalogpose.errors import UsageError
from catalogpose.records import LABELS
from catalogpose.truepose.model import read_card, write_card
from catalogpose.truepose.pipeline import TruePosePipeline, load_pipeline
from catalogpose.truepose.prepared import KeptReference

UPPER, PANTS, HAIR, BAG = 6, 11, 2, 21
"""Labels of the test's people; none carries a bag."""


@pytest.fixture(scope="module")
def pipe(tiny_model) -> TruePosePipeline:
    """Return the tiny random pipeline."""
    return load_pipeline(tiny_model, "cpu")


def person(seed: int) -> dict[str, Any]:
    """Return a source: a photo of noise, a map of three bands and a background, its embeddings."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((128, 88), dtype=np.uint8)
    labels[8:32, 20:70] = HAIR
    labels[32:72, 16:74] = UPPER
    labels[72:120, 20:70] = PANTS
    blocks = rng.integers(0, 256, (16, 11, 3), dtype=np.uint8)
    return {
        "photo": blocks.repeat(8, axis=0).repeat(8, axis=1),
        "labels": labels,
        "embeddings": {
            label: (vector / np.linalg.norm(vector)).astype(np.float16)
            for label, vector in ((x, rng.standard_normal(12)) for x in (HAIR, UPPER, PANTS))
        },
    }


def poses(count: int, seed: int = 0) -> np.ndarray:
    """Return random poses (count, 18, 3) on the canvas."""
    rng = np.random.default_rng(seed)
    joints = rng.uniform((4, 4), (84, 124), (count, 18, 2))
    return np.concatenate([joints, np.ones((count, 18, 1))], axis=2).astype(np.float32)


@contextmanager
def counting(net: nn.Module) -> Iterator[list[int]]:
    """Collect the batch size of every call of a net."""
    sizes: list[int] = []
    hook = net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    yield sizes
    hook.remove()


def difference(left: np.ndarray, right: np.ndarray) -> int:
    """Return the largest difference between pictures of bytes."""
    return int(np.abs(left.astype(int) - right.astype(int)).max())


ALL = frozenset({HAIR, UPPER, PANTS})
"""The labels that a whole body shows."""


def test_pictures_have_something_to_compare(pipe):
    """The tiny model's pictures are not plain grey, so the comparisons below mean something."""
    pictures = pipe(**person(0), joints=poses(2), shown=[ALL, ALL], seeds=[1, 2])
    assert pictures.shape == (2, 128, 88, 3)
    assert pictures.dtype == np.uint8
    assert pictures.std(axis=(1, 2)).min() > 10


def test_everything_given_shows(pipe):
    """Photo, map, embeddings, pose, shown labels and seed each change the picture."""
    base = {**person(0), "joints": poses(1), "shown": [ALL], "seeds": [1]}
    other = person(1)
    half = np.where(base["labels"] == UPPER, PANTS, base["labels"])
    expected = pipe(**base)
    for changed in (
        {"photo": other["photo"]},
        {"labels": half.astype(np.uint8)},
        {"embeddings": other["embeddings"]},
        {"joints": poses(1, seed=5)},
        {"shown": [frozenset({HAIR})]},
        {"seeds": [2]},
    ):
        assert difference(pipe(**(base | changed)), expected) > 2, changed.keys()


def test_the_same_again(pipe):
    """The same inputs give the same bytes."""
    call = {**person(0), "joints": poses(2), "shown": [ALL, ALL], "seeds": [1, 2]}
    assert np.array_equal(pipe(**call), pipe(**call))


def test_a_picture_does_not_depend_on_its_batch(pipe):
    """Alone, in a batch with other sources and in another place a picture is the same."""
    sources = [pipe.encode_source(**person(seed)) for seed in range(3)]
    shown = [ALL, frozenset({UPPER}), frozenset({BAG})]
    conditions = [pipe.condition(*pair) for pair in zip(sources, shown, strict=True)]
    joints, seeds = poses(3), [7, 8, 9]
    together = pipe.generate(conditions, joints, seeds)
    for index in range(3):
        one = slice(index, index + 1)
        alone = pipe.generate(conditions[one], joints[one], seeds[one])
        assert difference(alone, together[one]) <= 2
    order = [2, 0, 1]
    permuted = pipe.generate(
        [conditions[i] for i in order], joints[order], [seeds[i] for i in order]
    )
    assert difference(permuted, together[order]) <= 2
    assert difference(together[0], together[1]) > 2


def test_the_source_is_looked_at_once(pipe):
    """However many poses and steps follow, SourceNet runs once, and once a step TargetNet."""
    count = 5
    with counting(pipe.source_unet) as looks, counting(pipe.unet) as steps:
        pipe(
            **person(0),
            joints=poses(count),
            shown=[ALL, frozenset({UPPER})] * 2 + [ALL],
            seeds=range(count),
            steps=4,
        )
    assert looks == [1]
    assert steps == [2 * count] * 4


def test_conditions_are_shared_by_shown_labels(pipe, monkeypatch):
    """Poses that show the same labels share their conditions: one `condition` a set of labels."""
    asked = []
    condition = TruePosePipeline.condition

    def note(self: TruePosePipeline, features: object, shown: frozenset[int]) -> object:
        asked.append(shown)
        return condition(self, features, shown)

    monkeypatch.setattr(TruePosePipeline, "condition", note)
    head = frozenset({HAIR})
    pipe(**person(0), joints=poses(4), shown=[ALL, head, ALL, head], seeds=range(4))
    assert sorted(asked, key=len) == [head, ALL]


def test_one_source_kept_for_later_poses(pipe):
    """Features and conditions that are kept paint further poses without another look."""
    conditions = pipe.condition(pipe.encode_source(**person(0)), ALL)
    with counting(pipe.source_unet) as looks:
        kept = [pipe.generate([conditions], poses(1, seed=s), [s]) for s in range(2)]
    assert looks == []
    anew = pipe(**person(0), joints=poses(1, seed=1), shown=[ALL], seeds=[1])
    assert difference(kept[1], anew) == 0


def test_a_pose_that_shows_nothing_takes_the_whole_person(pipe):
    """Where no shown label is in the source, the whole person is used, and it is on record."""
    features = pipe.encode_source(**person(0))
    whole, missing = pipe.condition(features, ALL), pipe.condition(features, frozenset({BAG}))
    assert (whole.fallback, missing.fallback) == (False, True)
    for a, b in zip(whole.conditions.layers, missing.conditions.layers, strict=True):
        assert torch.equal(a.key, b.key)
    part = pipe.condition(features, frozenset({BAG, HAIR}))
    assert not part.fallback
    assert not torch.equal(part.conditions.layers[0].key, whole.conditions.layers[0].key)


def test_a_source_of_background_alone(pipe):
    """A photo in which the parser found nobody still paints, from the photo alone."""
    nobody = {**person(0), "labels": np.zeros((128, 88), dtype=np.uint8), "embeddings": {}}
    picture = pipe(**nobody, joints=poses(1), shown=[ALL], seeds=[1])
    assert picture.std() > 5


def test_regions_without_embeddings_are_never_chosen(pipe):
    """CAA chooses among the regions that have an embedding, and may run out of them."""
    source = person(0)
    del source["embeddings"][UPPER]
    chosen = {int(label) for layer in pipe.encode_source(**source).chosen for label in layer[0]}
    assert chosen <= {HAIR, PANTS, -1}
    assert chosen & {HAIR, PANTS}


def test_guidance_one_runs_one_half(pipe):
    """At scale 1 the conditional half alone runs, and gives what both halves would."""
    conditions = [pipe.condition(pipe.encode_source(**person(0)), ALL)]
    with counting(pipe.unet) as sizes:
        single = pipe.generate(conditions, poses(1), [1], guidance=1.0)
        double = pipe.generate(conditions, poses(1), [1], guidance=1.0 + 1e-6)
    assert sizes == [1] * 3 + [2] * 3
    assert difference(single, double) <= 1
    assert difference(single, pipe.generate(conditions, poses(1), [1], guidance=6.0)) > 2


def test_the_cards_settings_are_the_defaults(pipe):
    """Steps and guidance come from the card unless they are given, and steps are told."""
    conditions = [pipe.condition(pipe.encode_source(**person(0)), ALL)]
    told: list[int] = []
    default = pipe.generate(conditions, poses(1), [1], on_step=told.append)
    assert told == [1, 2, 3]
    said = pipe.generate(conditions, poses(1), [1], steps=3, guidance=3.5)
    assert np.array_equal(default, said)


def test_the_model_survives_the_disk(pipe, tmp_path):
    """A saved pipeline loads with its card and paints the same bytes."""
    pipe.save_pretrained(tmp_path / "again")
    again = TruePosePipeline.from_pretrained(tmp_path / "again")
    call = {**person(0), "joints": poses(2), "shown": [ALL, ALL], "seeds": [1, 2]}
    assert np.array_equal(again(**call), pipe(**call))
    card = read_card(tmp_path / "again")
    assert again.card == card == pipe.card
    weights = {path.as_posix() for path in (tmp_path / "again").rglob("*.safetensors")}
    assert len(card.weights) == len(weights) == 4
    assert not list((tmp_path / "again").rglob("*.bin"))


def test_a_folder_without_a_card_does_not_load(tmp_path):
    """A plain diffusers folder is not one of ours, and the error says what it lacks."""
    with pytest.raises(UsageError, match=r"catalogpose\.json"):
        TruePosePipeline.from_pretrained(tmp_path)


def test_pickled_weights_are_not_loaded(pipe, tiny_model, tmp_path):
    """A model folder whose weights are pickles is refused: a pickle can run anything."""
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_model, folder)
    for weights in (folder / "unet").glob("*.safetensors"):
        weights.unlink()
    pipe.unet.save_pretrained(folder / "unet", safe_serialization=False)
    write_card(folder, pipe.card)
    with pytest.raises(OSError, match="safetensors"):
        TruePosePipeline.from_pretrained(folder)


def test_damaged_weights_are_not_loaded(tiny_model, tmp_path):
    """A byte that differs from what the card was written for is an error that names the file."""
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_model, folder)
    weights = next((folder / "vae").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(UsageError, match="fetch the model folder again") as error:
        TruePosePipeline.from_pretrained(folder)
    assert str(weights) in str(error.value)


def test_weights_of_another_shape_are_one_clear_line(tiny_model, tmp_path):
    """A part that another version wrote names folder and remedy, and no option of diffusers."""
    folder = tmp_path / "other"
    shutil.copytree(tiny_model, folder)
    config = folder / "pose_encoder" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "in_channels": values["in_channels"] + 1}))
    with pytest.raises(UsageError, match="does not fit this version's nets; train it") as error:
        TruePosePipeline.from_pretrained(folder)
    assert str(folder) in str(error.value)
    assert "low_cpu_mem_usage" not in str(error.value)


@pytest.mark.parametrize("vae", [torch.float32, torch.bfloat16])
def test_bfloat16_nets(pipe, tiny_model, vae):
    """The types of a GPU run, with a VAE of either type, paint nearly what float32 paints."""
    types = {"default": torch.bfloat16, "vae": vae}
    half = TruePosePipeline.from_pretrained(tiny_model, dtype=types)
    assert (half.unet.dtype, half.vae.dtype) == (torch.bfloat16, vae)
    call = {**person(0), "joints": poses(2), "shown": [ALL, ALL], "seeds": [1, 2]}
    found, expected = half(**call).astype(float), pipe(**call)
    assert np.abs(found - expected).mean() < 3
    assert expected.std() > 30


def test_inputs_are_left_alone(pipe):
    """Arrays that the caller keeps may be read-only, and nothing is written into them."""
    source, joints = person(0), poses(1)
    source["embeddings"] = {k: v.astype(np.float32) for k, v in source["embeddings"].items()}
    for array in (joints, source["photo"], source["labels"], *source["embeddings"].values()):
        array.setflags(write=False)
    pipe(**source, joints=joints, shown=[ALL], seeds=[1])


@pytest.mark.parametrize("name", ["photo", "labels"])
def test_another_size_than_the_canvas_is_refused(pipe, name):
    """A photo or map off the model's canvas would shift regions silently, so it is an error."""
    source = person(0)
    source[name] = source[name][:-8]
    with pytest.raises(ValueError, match=r"\(128, 88\)"):
        pipe.encode_source(**source)


def test_latents_go_through_one_scale(pipe):
    """Encoding multiplies by the VAE's scaling factor and decoding divides by it."""
    photo = person(0)["photo"][None]
    latents = pipe.encode_photos(photo)
    assert latents.shape == (1, 4, 16, 11)
    floats = torch.from_numpy(photo.astype(np.float32) / 127.5 - 1).movedim(-1, 1)
    with torch.no_grad():
        mean = pipe.vae.encode(floats).latent_dist.mean
        direct = pipe.vae.decode(mean).sample
    torch.testing.assert_close(latents, mean * pipe.vae.config.scaling_factor)
    expected = ((direct.movedim(1, -1) + 1) * 127.5).clamp(0, 255).round().numpy()
    assert difference(pipe.decode_latents(latents), expected) <= 1


def test_the_vae_is_as_exact_under_autocast(pipe):
    """Both its ways give the same to the bit, however the nets around it compute."""
    photo = person(0)["photo"][None]
    latents = pipe.encode_photos(photo)
    pictures = pipe.decode_latents(latents)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(pipe.encode_photos(photo), latents)
        assert np.array_equal(pipe.decode_latents(latents), pictures)


def test_labels_are_the_common_vocabulary(pipe):
    """The table of embeddings has a row a label of the common vocabulary, zero where none came."""
    features = pipe.encode_source(**person(0))
    assert features.embeddings.shape == (1, len(LABELS), 12)
    filled = {int(label) for label in features.embeddings[0].any(dim=1).nonzero()}
    assert filled == {HAIR, UPPER, PANTS}


def reference(pipe: TruePosePipeline, seed: int, painted: np.ndarray) -> KeptReference:
    """Return a photo of noise as a reference with this mask."""
    return pipe.keep_reference(pipe.encode_photos(person(seed)["photo"][None]), painted)


def test_a_mask_of_ones_is_plain_reposing(pipe):
    """Where the source's cloth shall appear everywhere, nothing of the reference shows."""
    conditions = [pipe.condition(pipe.encode_source(**person(0)), ALL)]
    whole = reference(pipe, 1, np.ones((128, 88)))
    found = pipe.generate(conditions, poses(1), [1], references=[whole])
    assert np.array_equal(found, pipe.generate(conditions, poses(1), [1]))


def test_a_mask_of_zeros_is_the_vaes_reference(pipe):
    """Where it shall appear nowhere, the picture is the reference through the VAE."""
    conditions = [pipe.condition(pipe.encode_source(**person(0)), ALL)]
    none = reference(pipe, 1, np.zeros((128, 88)))
    found = pipe.generate(conditions, poses(1), [1], references=[none])
    expected = pipe.decode_latents(pipe.encode_photos(person(1)["photo"][None]))
    assert difference(found, expected) <= 1


def test_the_reference_stays_outside_the_mask(pipe):
    """Latents outside are the reference's to the bit, though this schedule ends with a little noise
    left; those inside come from the source, and see what stays around them; on the border are both.
    """
    ended = []
    painted = np.zeros((128, 88))
    painted[32:72, 16:76] = 1
    conditions = [pipe.condition(pipe.encode_source(**person(0)), ALL)]
    for seed in (1, 2):
        kept = reference(pipe, seed, painted)
        ended.append(pipe.denoise(conditions, poses(1), [1], references=[kept]))
        outside = (kept.mask == 0).expand_as(kept.latent)
        assert torch.equal(ended[-1][outside], kept.latent[outside])
        assert set(kept.mask.unique().tolist()) == {0.0, 0.5, 1.0}
    wide = dataclasses.replace(kept, mask=(kept.mask > 0).float())
    ended.append(pipe.denoise(conditions, poses(1), [1], references=[wide]))
    border = (kept.mask == 0.5).expand_as(kept.latent)
    torch.testing.assert_close(ended[1][border], (ended[2][border] + kept.latent[border]) / 2)
    inside = (kept.mask == 1).expand_as(kept.latent)
    assert (ended[1][inside] - kept.latent[inside]).abs().mean() > 0.1
    assert (ended[1][inside] - ended[0][inside]).abs().mean() > 1e-3


def test_the_photo_itself_stays_outside_the_mask(pipe):
    """To the byte where nothing is painted, not as the VAE gives it back; inside, the picture is
    what it is without; and between both lies their mixture. A row beside it stays as it is.
    """
    painted = np.zeros((128, 88))
    painted[32:72], painted[72:80] = 1, 0.5
    photo = person(1)["photo"]
    latent = pipe.encode_photos(photo[None])
    kept = [pipe.keep_reference(latent, painted, shown) for shown in (photo, None)]
    conditions = [pipe.condition(pipe.encode_source(**person(0)), ALL)] * 2
    found, plain = (
        pipe.generate(conditions, poses(2), [1, 2], references=[one, None]).astype(int)
        for one in kept
    )
    for rows in (slice(0, 32), slice(80, 128)):
        assert np.array_equal(found[0, rows], photo[rows])
        assert np.abs(plain[0, rows] - photo[rows]).mean() > 5
    assert np.array_equal(found[0, 32:72], plain[0, 32:72])
    mixture = (plain[0, 72:80] + photo[72:80].astype(int)) / 2
    assert np.abs(found[0, 72:80] - mixture).max() <= 1
    assert np.array_equal(found[1], plain[1])
    small = pipe.keep_reference(latent, painted, photo[::2, ::2])
    with pytest.raises(ValueError, match=r"photo must be \(128, 88\)"):
        pipe.generate(conditions[:1], poses(1), [1], references=[small])


def test_rows_with_and_without_a_reference_share_a_batch(pipe):
    """In any company and place each picture is what it is alone."""
    painted = np.zeros((128, 88))
    painted[:64] = 1
    conditions = [pipe.condition(pipe.encode_source(**person(s)), ALL) for s in range(3)]
    kept = [None, reference(pipe, 3, painted), reference(pipe, 4, 1 - painted)]
    joints, seeds = poses(3), [7, 8, 9]
    together = pipe.generate(conditions, joints, seeds, references=kept)
    for i in range(3):
        one = slice(i, i + 1)
        alone = pipe.generate(conditions[one], joints[one], seeds[one], references=kept[one])
        assert difference(alone, together[one]) <= 2
    plain = pipe.generate(conditions, joints, seeds)
    assert np.array_equal(plain[0], together[0])
    assert difference(plain[1], together[1]) > 2


def test_a_mask_off_the_canvas_is_refused(pipe):
    """It would mark other cells than meant, so it is an error."""
    with pytest.raises(ValueError, match=r"\(128, 88\)"):
        reference(pipe, 1, np.ones((64, 44)))
