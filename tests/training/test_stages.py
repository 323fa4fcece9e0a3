"""From a recipe to a model folder, in a few steps of tiny nets."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from catalogpose.catalog.sheets import fit_on
from catalogpose.commands.train import train_model
from catalogpose.config import TrainOptions
from catalogpose.errors import UsageError
from catalogpose.perception.clip import Clip
from catalogpose.perception.parser import Parser
from catalogpose.studio import draw_view
from catalogpose.training import continuing, finishing
from catalogpose.training.carrier import Carrier
from catalogpose.training.compositor import Layers, train_compositor
from catalogpose.training.origin import check_start
from catalogpose.training.pairs import Pairs
from catalogpose.training.recipes import load_recipe
from catalogpose.training.start import take_weights
from catalogpose.truepose.compositor import Compositor
from catalogpose.truepose.model import BUNDLED, ModelCard, read_card
from catalogpose.truepose.pipeline import TruePosePipeline


def write_tiny_recipe(path: Path, *, matcher: bool = False) -> None:
    """Write the bundled recipe with tiny nets and two steps of everything; with `matcher` what it
    carries is laid over the pictures too.
    """
    recipe = json.loads(json.dumps(dataclasses.asdict(load_recipe("bundled"))))
    recipe.update(name="tiny", height=64, width=48, products=2, views=2)
    schedule = {"steps": 2, "batch": 2, "learning_rate": 0.001}
    for section in ("vae", "clip", "parser", "truepose"):
        recipe[section]["schedule"] = schedule
    recipe["truepose"]["start"] = schedule
    recipe["vae"].update(widths=[8, 8, 8, 8], latent_channels=4)
    recipe["vae"]["finish"] = {"pool": 3, "schedule": schedule}
    recipe["clip"]["model"]["vision_cfg"].update(width=8, head_width=8)
    recipe["clip"]["model"]["text_cfg"].update(layers=1)
    recipe["parser"]["model"].update(hidden_sizes=[8, 8, 8, 8], num_attention_heads=[1, 1, 1, 1])
    recipe["truepose"]["unet"].update(
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        block_out_channels=[32, 32],
        attention_head_dim=[1, 1],
        cross_attention_dim=16,
    )
    recipe["truepose"].update(pose={"widths": [8, 8, 8]}, steps=2)
    recipe["truepose"]["objective"] = {"truth_weight": 0.1, "timesteps": "high"}
    del recipe["truepose"]["matcher"], recipe["truepose"]["compositor"]
    if matcher:
        model = {"channels": [8, 8], "width": 4, "stride": 4, "groups": 4, "nowhere": True}
        recipe["truepose"]["matcher"] = {"model": model, "schedule": schedule}
        model = {"channels": [8, 8], "groups": 4, "scale": 2, "last_channels": 4}
        section = {
            "model": model,
            "pool": 3,
            "schedule": schedule,
            "critic": {"schedule": schedule},
        }
        recipe["truepose"]["compositor"] = section
        recipe["truepose"]["objective"]["carried_weight"] = 1.0
    path.write_text(json.dumps(recipe), encoding="utf-8")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_recipe_becomes_a_model_folder_that_generates(tmp_path: Path) -> None:
    """Training every stage leaves a folder whose pipeline, parser and CLIP work together."""
    recipe = tmp_path / "tiny.json"
    write_tiny_recipe(recipe)
    seen: list[str] = []
    options = TrainOptions(recipe=str(recipe), out=tmp_path / "out", device="cpu")
    summary = train_model(options, lambda name, done, total: seen.append(name))
    card = read_card(summary.model)
    assert (card.name, card.height, card.width) == ("tiny", 64, 48)
    assert {"vae", "clip", "truepose", "parser"} <= set(seen)
    pipe = TruePosePipeline.from_pretrained(summary.model)
    photo = np.full((64, 48, 3), 200, dtype=np.uint8)
    labels = Parser.load(summary.model / "parser").parse(photo)
    embedding = Clip.load(summary.model / "clip").embed(photo, [(0, 0, 20, 30)])
    joints = np.full((1, 18, 3), 20, dtype=np.float32)
    pictures = pipe(photo, labels, {6: embedding[0]}, joints, [frozenset({6})], [7])
    assert pictures.shape == (1, 64, 48, 3)
    assert (tmp_path / "out/work/truepose/preview.png").is_file()
    # Photos are drawn as fine as the recipe says, and the card says so.
    drawn = tmp_path / "out/work/pictures"
    assert {path.name.rpartition("-")[2] for path in drawn.iterdir()} == {"fine2"}
    assert "drawn 2 times as fine as the canvas" in card.training["data"]

    again: list[str] = []
    train_model(options, lambda name, done, total: again.append(name))
    assert not {"vae", "clip", "truepose", "parser"} & set(again)

    # Another training goes on from that model: its eyes are taken over, its nets learn on, and the
    # decoder learns what these predict.
    from_model = dataclasses.replace(
        options, out=tmp_path / "more", model=str(summary.model), seed=1
    )
    trained: list[str] = []
    more = train_model(from_model, lambda name, done, total: trained.append(name))
    assert not {"vae", "clip", "start", "parser"} & set(trained)
    assert read_card(more.model).training["from"]["name"] == "tiny"
    before, after = (read_card(model).weights for model in (summary.model, more.model))
    kept = {name for name in before if name.split("/")[0] in ("clip", "parser")}
    assert kept
    first, last = (
        load_file(model / "vae/diffusion_pytorch_model.safetensors")
        for model in (summary.model, more.model)
    )
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert {name.split(".")[0] for name in moved} <= {"decoder", "post_quant_conv"}
    assert moved
    with pytest.raises(UsageError, match="was begun with another model"):
        train_model(dataclasses.replace(from_model, model=None))
    assert all((before[name] == after[name]) == (name in kept) for name in before)

    # What is to be refined learns on from that model's weights instead of being taken over.
    refined: list[str] = []
    finer = train_model(
        dataclasses.replace(from_model, out=tmp_path / "finer", refine=("vae", "parser")),
        lambda name, done, total: refined.append(name),
    )
    assert {"vae", "parser"} <= set(refined)
    assert "clip" not in refined
    stages = {"vae", "truepose", "finish", "parser"}
    assert set(read_card(finer.model).training["seconds"]) == stages
    started, learnt = (
        load_file(model / "vae/diffusion_pytorch_model.safetensors")
        for model in (summary.model, finer.model)
    )
    # Four steps of AdamW at a rate of 0.001 move no weight by much more than 0.004.
    assert all(bool(((learnt[k] - started[k]).abs() < 0.01).all()) for k in started)
    assert any(bool((learnt[k] != started[k]).any()) for k in started)


def test_weights_of_another_net_are_not_gone_on_from(tmp_path: Path) -> None:
    """A part that is no net of the recipe is refused in one line that names the remedy."""
    net = torch.nn.Linear(2, 3)
    save_file({"weight": torch.zeros(3, 4), "bias": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match=r"is not the net of this recipe .*: name another --model"):
        take_weights(net, tmp_path)


def watch_layers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Hold the finer photos that a compositor learns of against the pairs' own; note each time
    whether there were any.
    """
    carry, seen = finishing._carry, []

    def watched(carrier: Carrier, pairs: Pairs, places: np.ndarray, photos: Any) -> np.ndarray:
        """Compare what is carried with the sources."""
        assert pairs.photos is not None
        for place, photo in zip(places, () if photos is None else photos, strict=False):
            np.testing.assert_array_equal(
                fit_on((64, 48), photo), pairs.photos[pairs.pairs[place, 0]]
            )
        seen.append(photos is not None)
        targets.append(pairs.photos[pairs.pairs[places, 1]])
        return carry(carrier, pairs, places, photos)

    targets: list[np.ndarray] = []

    def train(layers: Layers, *others: Any, **options: Any) -> Compositor:
        """Compare the truth with the targets."""
        for truth, target in zip(layers.truth, targets[-1], strict=True):
            np.testing.assert_array_equal(fit_on((64, 48), truth), target)
        assert layers.truth.shape[1:3] == layers.labels.shape[1:] == layers.carried.shape[2:]
        assert layers.carried[:, 3].min() > 0
        return train_compositor(layers, *others, **options)

    monkeypatch.setattr(finishing, "_carry", watched)
    monkeypatch.setattr(finishing, "train_compositor", train)
    return seen


def test_a_matcher_is_added_to_a_model_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recipe with a matcher trains one over a model without; going on from there keeps it, and
    what lays its photos over the pictures learns anew from what TruePose then predicts, for
    pictures of the size that the recipe says.
    """
    plain, carrying = tmp_path / "plain.json", tmp_path / "carrying.json"
    write_tiny_recipe(plain)
    write_tiny_recipe(carrying, matcher=True)
    options = TrainOptions(recipe=str(plain), out=tmp_path / "first", device="cpu")
    model = train_model(options, lambda name, done, total: None).model
    found: list[ModelCard] = []
    told: list[str] = []
    finer = watch_layers(monkeypatch)
    for place, scale in (("second", 2), ("third", 1)):
        values = json.loads(carrying.read_text(encoding="utf-8"))
        values["truepose"]["compositor"]["model"]["scale"] = scale
        values["truepose"]["matcher"]["model"]["smoothing"] = scale - 1
        recipe = tmp_path / f"{place}.json"
        recipe.write_text(json.dumps(values), encoding="utf-8")
        again = dataclasses.replace(
            options, recipe=str(recipe), out=tmp_path / place, model=str(model)
        )
        told.clear()
        model = train_model(again, lambda name, done, total: told.append(name)).model
        # Several stages look at the parser's maps of both products, which are made once.
        assert told.count("parsing") == 2
        found.append(read_card(model))
        pipe = TruePosePipeline.from_pretrained(model)
        assert pipe.matcher is not None
        assert pipe.scale == scale
        # How places are smoothed is not learnt: it is the recipe's, whoever the matcher's.
        assert pipe.matcher.config.smoothing == scale - 1
        assert finer.pop() == (scale > 1)
        with Image.open(tmp_path / place / "work/critic/preview.png") as sheet:
            assert sheet.height == 4 * 64 * scale
        assert {"compositor", "critic"} <= set(found[-1].training["seconds"])
        assert found[-1].training["schedules"]["critic"]["steps"] == 2
        parsed = np.load(tmp_path / place / "work/parsed.npy")
        assert parsed.shape == (2, 2, 64, 48)
    assert "matcher" in found[0].training["seconds"]
    assert "matcher" not in found[1].training["seconds"]
    towers, later = (
        load_file(tmp_path / place / "model/matcher/diffusion_pytorch_model.safetensors")
        for place in ("second", "third")
    )
    assert all(torch.equal(towers[name], later[name]) for name in towers)
    other = json.loads(carrying.read_text(encoding="utf-8"))
    other["truepose"]["matcher"]["model"]["width"] = 8
    wider = tmp_path / "wider.json"
    wider.write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(UsageError, match="has matcher's width 4, recipe tiny 8"):
        train_model(dataclasses.replace(again, recipe=str(wider), out=tmp_path / "fifth"))
    with pytest.raises(UsageError, match="has a matcher, recipe tiny has none"):
        train_model(dataclasses.replace(options, out=tmp_path / "fourth", model=str(model)))
    other = json.loads(carrying.read_text(encoding="utf-8"))
    del other["truepose"]["compositor"]
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(UsageError, match="has a compositor, recipe tiny has none"):
        train_model(dataclasses.replace(again, recipe=str(bare), out=tmp_path / "sixth"))
    # A matcher that was made before `nowhere` was known has none.
    config = model / "matcher/config.json"
    made = json.loads(config.read_text(encoding="utf-8"))
    del made["nowhere"]
    config.write_text(json.dumps(made), encoding="utf-8")
    with pytest.raises(UsageError, match="has matcher's nowhere False, recipe tiny True"):
        train_model(dataclasses.replace(again, out=tmp_path / "seventh", model=str(model)))
    made["nowhere"] = True
    config.write_text(json.dumps(made), encoding="utf-8")
    with pytest.raises(UsageError, match="carries photos over by a matcher"):
        check_start(str(model), "rgb+joints")


def test_the_shipped_recipe_goes_on_from_the_shipped_model() -> None:
    """`train --recipe bundled --model` takes the bundled model's folder."""
    continuing.check_start(load_recipe("bundled"), BUNDLED)


@pytest.mark.slow
def test_two_processes_train_truepose_together(tmp_path: Path) -> None:
    """A launcher's processes share each batch and leave one model; other stages refuse it."""
    recipe = tmp_path / "tiny.json"
    write_tiny_recipe(recipe)
    words = ["-m", "catalogpose", "train", "--recipe", str(recipe), "--out", str(tmp_path / "out"),
             "--device", "cpu"]  # fmt: skip
    for stage in ("vae", "clip", "parser"):
        subprocess.run([sys.executable, *words, "--only", stage], check=True, capture_output=True)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    alone = subprocess.run([*launch, *words], capture_output=True, text=True, check=False)
    assert alone.returncode != 0
    assert "several processes train start, matcher, truepose of tiny alone" in alone.stderr
    for stage in ("start", "truepose"):
        subprocess.run([*launch, *words, "--only", stage], check=True, capture_output=True)
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    assert read_card(tmp_path / "out/model").name == "tiny"
    log = (tmp_path / "out/work/truepose/loss.csv").read_text()
    assert log.splitlines()[-1].startswith("2,")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_of_another_canvas_is_refused(tmp_path: Path) -> None:
    """A recipe goes on from models of its own canvas and pose pictures alone."""
    recipe = tmp_path / "tiny.json"
    write_tiny_recipe(recipe)
    options = TrainOptions(
        recipe=str(recipe), out=tmp_path / "out", device="cpu", model=str(BUNDLED)
    )
    with pytest.raises(UsageError, match=r"has canvas \[128, 88\], recipe tiny \[64, 48\]: name"):
        train_model(options)
    assert not options.out.exists()
    empty = dataclasses.replace(options, model=str(tmp_path))
    with pytest.raises(UsageError, match="has no unet, source_unet, pose_encoder"):
        train_model(empty)


def test_an_unknown_stage_or_recipe_is_refused(tmp_path: Path) -> None:
    """A wrong name is answered with the known ones."""
    with pytest.raises(UsageError, match="known: bundled"):
        train_model(TrainOptions(recipe="nothing", out=tmp_path))
    with pytest.raises(UsageError, match="known: vae, clip"):
        train_model(TrainOptions(out=tmp_path, only="nothing"))
    with pytest.raises(UsageError, match="--refine unet: no such part; known: vae, clip, parser"):
        train_model(TrainOptions(out=tmp_path, model=str(BUNDLED), refine=("unet",)))
    with pytest.raises(UsageError, match="--refine goes with --model"):
        train_model(TrainOptions(out=tmp_path, refine=("vae",)))
    with pytest.raises(UsageError, match="--refine goes with studio recipes"):
        train_model(TrainOptions(out=tmp_path, recipe="truepose-256", refine=("vae",)))


def test_pictures_are_parsed_at_once_as_one_by_one() -> None:
    """The maps of several pictures are those of each, of whatever size they are."""
    parser = Parser.load(BUNDLED / "parser")
    for size in ((128, 88), (70, 48)):
        seen = [draw_view(3, view, height=size[0], width=size[1]).photo for view in range(3)]
        found = parser.parse_all(np.stack(seen))
        assert found.shape == (3, *size)
        assert len(np.unique(found)) > 3
        for photo, labels in zip(seen, found, strict=True):
            assert (parser.parse(photo) == labels).mean() > 0.999
