"""Training on photos: prepare, try, train, be killed, go on, generate; with tiny weights."""

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D

from catalogpose.catalog.manifest import read_rows, write_manifest
from catalogpose.commands.train import PrepareSummary, TrainSummary, train_model
from catalogpose.config import TrainOptions
from catalogpose.errors import CatalogposeError, EnvironmentFault, ManifestError, UsageError
from catalogpose.training.compiling import compile_parts
from catalogpose.training.origin import identify_start, read_origin
from catalogpose.training.pairs import PairBatch, open_pairs
from catalogpose.training.photo_pairs import pick_evenly, plan_pictures
from catalogpose.training.photos import TRIED_ROWS
from catalogpose.training.recipes import FOLDER
from catalogpose.training.trial import Trial
from catalogpose.truepose.model import CARD_NAME, read_card

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def _one_thread():
    """Compute on one thread: nets this small only wait for the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class KilledError(Exception):
    """Stands for kill -9."""


@pytest.fixture
def options(start, tmp_path: Path) -> TrainOptions:
    """Return the options of a training of six steps, 1.5 of them an epoch."""
    recipe = start.write_recipe(tmp_path / "tiny.json", "truepose-512", epochs=3, average=0.5)
    return TrainOptions(
        out=tmp_path / "out",
        recipe=recipe,
        manifest=start.manifest,
        validation=start.manifest,
        cache=tmp_path / "cache",
        device="cpu",
        precision="float32",
        licence="CC-BY-NC-4.0",
    )


def test_prepare_try_train_kill_and_go_on(options: TrainOptions, tmp_path: Path) -> None:
    """Each step leaves what the next one needs; a kill changes nothing; the folder generates."""
    prepared = train_model(dataclasses.replace(options, prepare=True))
    assert isinstance(prepared, PrepareSummary)
    assert (prepared.pairs, prepared.pictures, prepared.left_out) == (4, 6, 0)
    assert prepared.exit_code == 0
    folder = options.out / "prepared" / "train"
    assert prepared.bytes == sum(path.stat().st_size for path in folder.glob("*.npy"))
    pairs = open_pairs(folder)
    assert pairs.latents.shape == (6, 4, 8, 6)
    assert pairs.latents.any(axis=(1, 2, 3)).all()

    tried = train_model(dataclasses.replace(options, dry_run=True))
    assert isinstance(tried, Trial)
    assert tried.steps == 6
    assert tried.parameters == tried.trainable == tried.weights // 4
    assert tried.optimiser > 2 * tried.weights
    assert tried.activations > 0
    assert "gradients in every trainable parameter" in str(tried)

    def kill(name: str, done: int, total: int) -> None:
        """Stop once step 4 is done, of which there is a checkpoint of step 3."""
        if name == "truepose" and done == 4:
            raise KilledError

    with pytest.raises(KilledError):
        train_model(options, kill)
    state = torch.load(options.out / "work/truepose/checkpoint.pt", weights_only=True)
    assert state["step"] == 3
    summary = train_model(options)
    recipe = json.loads(Path(options.recipe).read_text(encoding="utf-8")) | {"save_minutes": 9}
    (tmp_path / "rarely.json").write_text(json.dumps(recipe), encoding="utf-8")
    whole = dataclasses.replace(options, out=tmp_path / "whole", validation=None,
                                recipe=str(tmp_path / "rarely.json"))  # fmt: skip
    train_model(whole)
    ends = [torch.load(out / "work/truepose/checkpoint.pt", weights_only=True)
            for out in (options.out, whole.out)]  # fmt: skip
    assert all(torch.equal(ends[0]["net"][k], ends[1]["net"][k]) for k in ends[0]["net"])
    assert all(map(torch.equal, ends[0]["average"], ends[1]["average"]))
    check_model(options, summary)


def check_model(options: TrainOptions, summary: object) -> None:
    """Check a finished training's logs, card and page, and let a worker generate with its model."""
    assert isinstance(summary, TrainSummary)
    with (options.out / "work/truepose/validation.csv").open() as file:
        checks = list(csv.DictReader(file))
    assert [row["step"] for row in checks] == ["2", "4", "6"]
    assert all(0 < float(row["psnr"]) < 60 for row in checks)
    assert (options.out / "work/truepose/sheets/00000006.png").is_file()
    card = read_card(summary.model)
    assert (card.name, card.licence) == ("truepose-512", "CC-BY-NC-4.0")
    assert card.training["data"] == "4 pairs of 6 photos, 0 of 4 rows left out"
    assert card.training["measured"]["psnr"] == pytest.approx(float(checks[-1]["psnr"]), abs=1e-3)
    assert "CC-BY-NC-4.0" in (summary.model / "README.md").read_text(encoding="utf-8")

    from catalogpose.run.plan import make_plan
    from catalogpose.run.process import WorkerSettings
    from catalogpose.run.worker import Worker

    run = options.out / "run"
    settings = WorkerSettings(
        model=summary.model, cache=options.out / "cache", device="cpu", threads=1, batch=1, steps=2,
        guidance=2.0, run_folder=run, fingerprint="f", keypoint_table=None,
    )  # fmt: skip
    rows = [dataclasses.replace(row, parsing=None, label_set=None)
            for row in read_rows(options.manifest)]  # fmt: skip
    plan = make_plan(rows[:1], {}, run_folder=run, fingerprint="f", seed=0)
    (outcome,) = Worker(settings).work(plan.jobs)
    assert outcome.status == "done", outcome.error_message


def test_a_dry_run_needs_nothing_prepared(options: TrainOptions) -> None:
    """It prepares a few rows of its own and tells the steps of all of them."""
    tried = train_model(dataclasses.replace(options, dry_run=True, accumulate=2))
    assert (tried.steps, tried.batch, tried.micro_batch) == (6, 2, 1)
    assert not (options.out / "prepared").exists()
    assert TRIED_ROWS >= 4
    recipe = json.loads(Path(options.recipe).read_text(encoding="utf-8"))
    recipe["truepose"]["schedule"]["epochs"] = 5
    recipe["height"] = 48
    Path(options.recipe).write_text(json.dumps(recipe), encoding="utf-8")
    assert train_model(dataclasses.replace(options, dry_run=True)).steps == 10, "it binds nothing"


def test_a_model_of_ours_is_gone_on_from(options: TrainOptions, start, tmp_path: Path) -> None:
    """Its nets, scheduler, parser and CLIP are taken; the other shipped recipe trains too."""
    recipe = start.write_recipe(tmp_path / "b.json", "truepose-256", epochs=0, steps=1, average=0)
    values = json.loads(Path(recipe).read_text(encoding="utf-8"))
    values["parser"]["licence"] = "mine"
    del values["clip"]["licence"]
    Path(recipe).write_text(json.dumps(values), encoding="utf-8")
    manifest = tmp_path / "data" / "train.parquet"
    manifest.parent.mkdir()
    write_manifest(manifest, read_rows(options.manifest))
    terms = {"name": "Own terms", "terms": "Ask first.", "home": "https://example.org"}
    record = {"name": "drawn", "rows": {"train": 4}, "licence": terms}
    (manifest.parent / "dataset.json").write_text(json.dumps(record), encoding="utf-8")
    first = dataclasses.replace(options, recipe=recipe, manifest=manifest, validation=None,
                                precision="bf16", licence=None)  # fmt: skip
    model = train_model(first).model
    values = json.loads(Path(recipe).read_text(encoding="utf-8"))
    values["parser"]["name"] = values["clip"]["name"] = "nowhere/at-all"
    Path(recipe).write_text(json.dumps(values), encoding="utf-8")
    second = dataclasses.replace(first, out=tmp_path / "second", model=str(model))
    card = read_card(train_model(second).model)
    assert "base_model" not in card.training, "a folder is no hub id"
    started = card.training["started_from"]
    assert started["folder"] == "model"
    before = read_card(model)
    name = "unet/diffusion_pytorch_model.safetensors"
    assert started[name] == before.weights[name]
    notes = {"parser": {"origin": "parser", "licence": "mine"},
             "clip": {"origin": "clip", "licence": "not recorded"}}  # fmt: skip
    assert before.training["companions"] == card.training["companions"] == notes
    assert card.training["data"].startswith("drawn: 4 pairs of 6 photos, ")
    assert card.training["data_licence"] == "Own terms: Ask first. (https://example.org)"
    assert card.licence == "", "nobody stated one"
    for text in (model / CARD_NAME, second.out / "model" / "README.md"):
        assert str(tmp_path) not in text.read_text(encoding="utf-8")
    for out, other in ((first.out, second.out), (second.out, first.out)):
        weights = [torch.load(o / "work/truepose/checkpoint.pt", weights_only=True)["net"]
                   for o in (out, other)]  # fmt: skip
        name = "unet.conv_in.weight"
        assert not torch.equal(weights[0][name], weights[1][name])
        assert torch.allclose(weights[0][name], weights[1][name], atol=0.01)


def test_a_start_is_known_by_its_weights(start, tmp_path: Path) -> None:
    """Changed weights make another start, a moved folder does not; other formats do not count."""
    moved = tmp_path / "moved"
    shutil.copytree(start.weights, moved)
    known = identify_start(str(start.weights))
    assert sorted(known) == [
        f"{net}/diffusion_pytorch_model.safetensors" for net in ("unet", "vae")
    ]
    assert identify_start(str(moved)) == known
    (moved / "vae" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"other")
    assert identify_start(str(moved)) == known
    (moved / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"other")
    assert identify_start(str(moved)) != known


def test_bad_rows_are_listed_and_left_out(options: TrainOptions, tmp_path: Path) -> None:
    """A photo that cannot be decoded costs its rows; what can be used is prepared."""
    rows = list(read_rows(options.manifest))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    rows[1] = dataclasses.replace(rows[1], target=broken)
    manifest = tmp_path / "some.parquet"
    write_manifest(manifest, rows)
    done = train_model(dataclasses.replace(options, manifest=manifest, prepare=True))
    assert (done.pairs, done.pictures, done.left_out, done.exit_code) == (3, 6, 1, 3)
    assert "row 2, column target: " in str(done)
    assert "broken.png: photo: " in str(done)
    again = train_model(dataclasses.replace(options, manifest=manifest, prepare=True))
    assert again == done
    assert "--prepare tries them again, until training begins" in str(done)
    broken.write_bytes(next(read_rows(options.manifest)).target.read_bytes())
    checkpoint = options.out / "work" / "truepose" / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    assert train_model(dataclasses.replace(options, manifest=manifest, prepare=True)) == done
    checkpoint.unlink()
    mended = train_model(dataclasses.replace(options, manifest=manifest, prepare=True))
    assert (mended.pairs, mended.pictures, mended.left_out, mended.exit_code) == (4, 6, 0, 0)
    assert "--prepare" not in str(mended)


def test_preparing_goes_on_where_it_was_stopped(options: TrainOptions) -> None:
    """Pictures that are done are not looked at again, and the arrays are the same in the end."""
    options = dataclasses.replace(options, validation=None, prepare=True)
    whole = train_model(dataclasses.replace(options, out=options.out.with_name("whole")))
    folder = options.out / "prepared" / "train"
    train_model(options)
    before = {name: np.load(folder / f"{name}.npy") for name in ("latents", "labels", "embeddings")}
    # As a kill leaves it: two pictures are still to do.
    (folder / "pairs.npy").unlink()
    for name, empty in (("state", 0), ("latents", 0), ("labels", 255)):
        array = np.lib.format.open_memmap(folder / f"{name}.npy", mode="r+")
        array[4:] = empty
        array.flush()
    seen: list[tuple[int, int]] = []
    done = train_model(options, lambda name, done, total: seen.append((done, total)))
    assert seen == [(6, 6)]
    assert done == dataclasses.replace(whole, folder=folder)
    for name, array in before.items():
        assert np.array_equal(np.load(folder / f"{name}.npy"), array)


def test_another_manifest_or_recipe_is_refused(options: TrainOptions, tmp_path: Path) -> None:
    """A folder that was begun goes on with what it was begun with, and says what differs."""
    train_model(dataclasses.replace(options, prepare=True))
    rows = list(read_rows(options.manifest))
    write_manifest(tmp_path / "fewer.parquet", rows[:3])
    with pytest.raises(UsageError, match="begun with another manifest: name a new --out"):
        train_model(dataclasses.replace(options, manifest=tmp_path / "fewer.parquet"))
    recipe = json.loads(Path(options.recipe).read_text(encoding="utf-8"))
    recipe["truepose"]["schedule"]["learning_rate"] = 0.5
    Path(options.recipe).write_text(json.dumps(recipe), encoding="utf-8")
    with pytest.raises(UsageError, match="begun with another recipe: name a new --out"):
        train_model(options)


def test_what_decides_no_weight_may_change(options: TrainOptions) -> None:
    """How often it is saved and validated, and the card's words, are free; which rows validate is
    what their arrays were made of.
    """
    options = dataclasses.replace(options, prepare=True)
    done = train_model(options)
    recipe = json.loads(Path(options.recipe).read_text(encoding="utf-8"))
    recipe["save_minutes"], recipe["validation"]["every"] = 7, 3
    recipe["truepose"]["guidance"], recipe["parser"]["licence"] = 2.0, "another"
    Path(options.recipe).write_text(json.dumps(recipe), encoding="utf-8")
    assert train_model(options) == done
    recipe["validation"]["pairs"] = 3
    Path(options.recipe).write_text(json.dumps(recipe), encoding="utf-8")
    with pytest.raises(UsageError, match="validation was prepared from another manifest"):
        train_model(options)


def test_a_start_of_many_blocks_is_refused(options: TrainOptions, start, tmp_path: Path) -> None:
    """Stable Diffusion XL's UNet is told by its configuration, before a photo is looked at."""
    large = tmp_path / "xl"
    shutil.copytree(start.weights, large)
    config = json.loads((large / "unet" / "config.json").read_text(encoding="utf-8"))
    config["transformer_layers_per_block"] = [1, 2, 10, 10]
    (large / "unet" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UsageError, match="several blocks a transformer, as Stable Diffusion XL"):
        train_model(dataclasses.replace(options, model=str(large), prepare=True))
    assert not options.out.exists()


def test_a_training_that_breaks_says_so(options: TrainOptions) -> None:
    """A rate that is far too high ends in one plain line; the checkpoint before it stays."""
    recipe = json.loads(Path(options.recipe).read_text(encoding="utf-8"))
    recipe["truepose"]["schedule"]["learning_rate"] = 1e30
    Path(options.recipe).write_text(json.dumps(recipe), encoding="utf-8")
    with pytest.raises(CatalogposeError, match=r"truepose: .* at step ") as error:
        train_model(dataclasses.replace(options, validation=None))
    assert "\n" not in str(error.value)
    assert "checkpoint.pt" in str(error.value)


def test_flags_that_do_not_fit_are_refused(options: TrainOptions, start, tmp_path: Path) -> None:
    """Each error is one line that names the flag and the remedy."""
    wrong = start.write_recipe(tmp_path / "wrong.json", "truepose-512", rate=1.0)
    cases = [
        ({"manifest": None}, "--manifest FILE is needed"),
        ({"only": "vae"}, "--only goes with studio recipes"),
        ({"recipe": "bundled"}, "--manifest goes with recipes for photos"),
        ({"precision": "fp16"}, "--precision fp16 needs a GPU"),
        ({"accumulate": 3}, "a batch of 2 cannot be split evenly into 3"),
        ({"model": str(tmp_path)}, f"no unet could be loaded from {tmp_path}"),
        ({"recipe": wrong}, "recipe truepose-512, schedule: "),
    ]
    for change, words in cases:
        changed = dataclasses.replace(options, out=tmp_path / words[:9], **change)
        with pytest.raises(UsageError) as error:
            train_model(changed)
        assert words in str(error.value)
        assert "\n" not in str(error.value)
        assert not changed.out.exists(), "nothing is prepared before the flags are known to fit"


def test_a_launcher_needs_what_one_process_made(
    options: TrainOptions, tmp_path: Path, monkeypatch
) -> None:
    """Several processes neither prepare, each split counts, nor a whole studio recipe."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = options.out / "prepared" / "train" / "pairs.npy"
    with pytest.raises(UsageError, match="train and validation not prepared in"):
        train_model(options)
    made.parent.mkdir(parents=True)
    made.touch()
    with pytest.raises(UsageError, match=r"^validation not prepared in .* with --prepare"):
        train_model(options)
    with pytest.raises(
        UsageError, match=r"several processes train start, matcher, truepose of .*small"
    ):
        train_model(TrainOptions(out=tmp_path / "studio", device="cpu"))
    assert not (tmp_path / "studio").exists()


@pytest.mark.parametrize("part", ["model", "parser", "clip"])
def test_what_it_starts_from_is_not_written_over(options: TrainOptions, start, part: str) -> None:
    """A start, parser or CLIP inside the model folder is refused, and stays as it is."""
    model = options.out / "model"
    recipe = json.loads(Path(options.recipe).read_text(encoding="utf-8"))
    if part == "model":
        shutil.copytree(start.weights, model)
        options = dataclasses.replace(options, model=str(model))
    else:
        shutil.copytree(getattr(start, part), model / part)
        recipe[part]["name"] = str(model / part)
        Path(options.recipe).write_text(json.dumps(recipe), encoding="utf-8")
    before = sorted(path for path in model.rglob("*") if path.is_file())
    with pytest.raises(UsageError, match="which this training writes: name a new --out"):
        train_model(dataclasses.replace(options, prepare=True))
    assert sorted(path for path in model.rglob("*") if path.is_file()) == before


def test_a_model_that_was_not_begun_here_stays(options: TrainOptions, start) -> None:
    """A folder with somebody's parser is no place to train in."""
    parser = options.out / "model" / "parser"
    shutil.copytree(start.parser, parser)
    with pytest.raises(UsageError, match="was not begun here: name a new --out"):
        train_model(dataclasses.replace(options, prepare=True))
    assert sorted(path.name for path in options.out.rglob("*")) == sorted(
        ["model", "parser", *(path.name for path in parser.iterdir())]
    )


def test_a_full_disk_is_said_before(options: TrainOptions, monkeypatch) -> None:
    """Where the arrays do not fit, nothing is begun."""
    monkeypatch.setattr("shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(EnvironmentFault, match=r"train needs 0\.0 GB more, the disk has 0\.0 GB"):
        train_model(dataclasses.replace(options, prepare=True))


def test_checkpointing_changes_no_gradient(start) -> None:
    """Blocks that are computed again in the backward pass give the gradients of those kept."""
    options = json.loads((FOLDER / "truepose-512.json").read_text(encoding="utf-8"))["truepose"]
    options["pose"] = {"widths": [8, 8, 8]}
    nets = read_origin(str(start.weights), options, 12, 0).nets
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in nets.parameters():
            if not weight.any():
                weight.copy_(0.2 * torch.randn(weight.shape, generator=draw))
    latents = torch.randn(2, 4, 8, 6, generator=draw)
    labels = torch.randint(28, (2, 64, 48), generator=draw)
    everything = torch.ones(2, 28, dtype=torch.bool)
    batch = PairBatch(
        sources=latents,
        source_of=torch.arange(2),
        target=latents,
        labels=labels,
        target_labels=labels,
        known=everything,
        embeddings=torch.randn(2, 28, 12, generator=draw),
        shown=everything,
        joints=torch.zeros(2, 18, 3),
        source_surface=None,
        target_surface=None,
    )
    found = []
    for again in (False, True):
        if again:
            nets.unet.enable_gradient_checkpointing()
            nets.source_unet.enable_gradient_checkpointing()
        nets.train().zero_grad(set_to_none=True)
        predicted = nets(batch, latents, torch.tensor([10, 700]), torch.ones(2, 3, 64, 48),
                         torch.tensor([True, True]))[0]  # fmt: skip
        predicted.square().mean().backward()
        found.append({name: weight.grad.clone() for name, weight in nets.named_parameters()})
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], atol=1e-6), name
    # One token, as the middle has here, leaves attention no choice and its queries no gradient.
    moved = sum(bool(gradient.any()) for gradient in found[0].values())
    assert moved > 0.9 * len(found[0])


def test_rows_without_target_are_refused(start) -> None:
    """All of them are named."""
    rows = [dataclasses.replace(row, target=None) for row in read_rows(start.manifest)]
    with pytest.raises(ManifestError) as error:
        plan_pictures(rows)
    assert len(error.value.faults) == 4
    assert error.value.faults[2].startswith("row 3, column target: empty;")


def test_pictures_are_found_once(start) -> None:
    """A photo that is source here and target there is one picture, with that pose and that map; two
    poses make it two.
    """
    rows = list(read_rows(start.manifest))
    turned = dataclasses.replace(rows[0], source=rows[0].target, target=rows[0].source,
                                 parsing=rows[1].parsing)  # fmt: skip
    other = dataclasses.replace(rows[0], pose=rows[1].pose)
    plan = plan_pictures([*rows, turned, other])
    assert len(plan.pictures) == 7
    source, target = plan.pairs[4]
    assert (target, source) == tuple(plan.pairs[0])
    assert plan.pictures[source].pose == rows[0].pose
    assert plan.pictures[source].parsing == rows[1].parsing
    assert plan.pictures[target].label_set == "common"
    assert plan.pairs[5, 0] == plan.pairs[0, 0]
    assert plan.pairs[5, 1] != plan.pairs[0, 1]


def test_validation_rows_are_spread_and_fixed(start) -> None:
    """Few rows of many, evenly; all of few."""
    rows = list(read_rows(start.manifest))
    assert [row.number for row in pick_evenly(rows * 25, 3)] == [1, 3, 4]
    assert pick_evenly(rows, 9) == rows


def test_compiling_keeps_the_names(start) -> None:
    """Blocks of both UNets are marked, and what a checkpoint holds is called the same."""
    options = json.loads((FOLDER / "truepose-512.json").read_text(encoding="utf-8"))["truepose"]
    nets = read_origin(str(start.weights), options, 12, 0).nets
    names = list(nets.state_dict())
    blocks = [sum(isinstance(part, ResnetBlock2D) for part in net.modules())
              for net in (nets.unet, nets.source_unet)]  # fmt: skip
    assert compile_parts(nets) > sum(blocks) > blocks[0] > 0
    assert list(nets.state_dict()) == names


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_what_is_compiled_computes_the_same() -> None:
    """A compiled residual block has the outputs and gradients of a plain one."""
    block = ResnetBlock2D(in_channels=16, out_channels=16, temb_channels=8, groups=4)
    holder = torch.nn.ModuleList([block])
    inputs = torch.randn(2, 16, 4, 3), torch.randn(2, 8)
    found = []
    for compiled in (False, True):
        if compiled:
            assert compile_parts(holder) == 1
        block.zero_grad(set_to_none=True)
        output = block(*inputs)
        output.square().mean().backward()
        found.append([output.detach(), *(weight.grad for weight in block.parameters())])
    for plain, other in zip(*found, strict=True):
        assert torch.allclose(plain, other, atol=1e-5)


@pytest.mark.slow
def test_two_processes_train_as_one_command(options: TrainOptions) -> None:
    """Both learn, the first one speaks, and what comes out is what one process makes, nearly."""
    words = ["train", "--recipe", options.recipe, "--manifest", options.manifest, "--validation",
             options.manifest, "--cache", options.cache, "--device", "cpu", "--precision",
             "float32"]  # fmt: skip
    alone = dataclasses.replace(options, out=options.out.with_name("alone"))
    train_model(alone)
    train_model(dataclasses.replace(options, prepare=True))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    done = subprocess.run(
        [*map(str, [*launch, 2, "-m", "catalogpose", *words, "--out", options.out])],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done: prepare, truepose") == 1
    together, single = (
        torch.load(out / "work/truepose/checkpoint.pt", weights_only=True)
        for out in (options.out, alone.out)
    )
    assert together["step"] == single["step"] == 6
    assert read_card(options.out / "model").training["hardware"].startswith("2 x ")
    # Noise is drawn a micro-batch, so the two are alike and not equal.
    name = "unet.conv_in.weight"
    assert torch.allclose(together["net"][name], single["net"][name], atol=0.02)
