"""Text-driven rows through the whole of `catalogpose generate`, beside rows that are re-posed."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from catalogpose.catalog.labels import write_parsing_map
from catalogpose.catalog.poses import write_pose
from catalogpose.catalog.provenance import read_provenance
from catalogpose.commands.generate import generate_pictures
from catalogpose.commands.memory_build import build_memory
from catalogpose.commands.report import write_report
from catalogpose.config import BuildMemoryOptions, GenerateOptions, ReportOptions
from catalogpose.errors import ManifestError, UsageError
from catalogpose.humandiffusion.alignment import Alignment
from catalogpose.records import LABEL_ID, Pose
from catalogpose.truepose.model import BUNDLED, read_card, write_card
from catalogpose.truepose.pipeline import TruePosePipeline

COLUMNS = ("id", "source", "pose", "parsing", "label_set", "product", "prompt", "pose_map", "keep",
           "exclude_products", "target")  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundled model with an alignment of random weights that all show."""
    folder = tmp_path_factory.mktemp("text") / "model"
    shutil.copytree(BUNDLED, folder)
    torch.manual_seed(0)
    pipe = TruePosePipeline.from_pretrained(BUNDLED)
    factor = pipe.pose_encoder.factor
    made = Alignment.over(pipe.unet, factor, width=32, per_region=2, adapter_depth=1)
    with torch.no_grad():
        for weight in made.parameters():
            if not weight.any():
                weight.normal_(std=0.1)
    made.save_pretrained(folder / "alignment")
    write_card(folder, read_card(folder))  # which lists the hash of every file of weights
    return folder


class Shop:
    """A small catalogue of three photos with maps, a memory of them, and a map to fill."""

    def __init__(self, folder: Path, model: Path) -> None:
        """Draw everything."""
        self.folder, self.model = folder, model
        labels = np.zeros((100, 60), dtype=np.uint8)
        for top, name in ((5, "hair"), (12, "face"), (25, "coat"), (60, "skirt")):
            labels[top:95, 15:45] = LABEL_ID[name]
        rng = np.random.default_rng(1)
        for name in ("one", "two", "three"):
            picture = rng.integers(0, 255, size=(100, 60, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / f"{name}.png")
            write_parsing_map(folder / f"{name}-map.png", labels)
        asked = np.zeros((256, 176), dtype=np.uint8)
        for top, name in ((20, "hair"), (40, "face"), (70, "coat"), (150, "skirt")):
            asked[top:230, 50:120] = LABEL_ID[name]
        write_parsing_map(folder / "asked.png", asked)
        joints = np.stack([np.linspace(20, 60, 18), np.linspace(10, 110, 18), np.ones(18)], axis=1)
        write_pose(
            folder / "pose.json", Pose(joints=joints.astype(np.float32), width=80, height=120)
        )
        self.memory = folder / "memory.parquet"
        stock = self.write("stock.csv", *(self.plain(name) for name in ("one", "two", "three")))
        build_memory(BuildMemoryOptions(
            manifest=stock, out=self.memory, model=str(model), cache=folder / "cache", device="cpu"
        ))  # fmt: skip

    def write(self, name: str, *rows: dict[str, str]) -> Path:
        """Write a manifest."""
        with (self.folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows(rows)
        return self.folder / name

    def plain(self, photo: str) -> dict[str, str]:
        """Return a row that is re-posed."""
        files = {"source": f"{photo}.png", "pose": "pose.json", "parsing": f"{photo}-map.png"}
        return {"id": f"plain {photo}", "label_set": "common", "product": f"p-{photo}", **files}

    def worded(self, id_: str, prompt: str = "a red coat", **more: str) -> dict[str, str]:
        """Return a text-driven row."""
        return {"id": id_, "prompt": prompt, "pose_map": "asked.png", "label_set": "common", **more}

    def options(self, manifest: Path, **more: Any) -> GenerateOptions:
        """Return the options of a run."""
        plain = {"manifest": manifest, "out": self.folder / "run", "model": str(self.model),
                 "cache": self.folder / "cache", "device": "cpu", "steps": 2}  # fmt: skip
        return GenerateOptions(**{**plain, **more})

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the results by id."""
        found = pq.read_table(self.folder / "run/results.parquet").to_pylist()
        return {row["id"]: row for row in found}

    def bytes_of(self, id_: str) -> bytes:
        """Return a row's picture, without its provenance."""
        with Image.open(self.folder / "run" / self.rows()[id_]["output"]) as image:
            return image.tobytes()


@pytest.fixture
def shop(tmp_path: Path, model: Path) -> Shop:
    """Return a catalogue of one's own."""
    return Shop(tmp_path, model)


def test_a_mixed_manifest_runs_in_one_go_and_goes_on(shop: Shop) -> None:
    """Rows of both kinds share a run: each has its status, and nothing is done twice; a row is done
    again once its words, its map or the memory change, and the others are not.
    """
    kept = shop.worded("kept", source="one.png", parsing="one-map.png", product="p-one")
    manifest = shop.write("m.csv", shop.plain("one"), shop.worded("alone"), kept, shop.plain("two"))
    options = shop.options(manifest, memory=shop.memory)
    assert generate_pictures(options).done == 4
    rows = shop.rows()
    assert [row["status"] for row in rows.values()] == ["done"] * 4
    assert (rows["alone"]["source_sha256"], rows["alone"]["source"]) == (None, None)
    assert rows["alone"]["memory_sha256"] == rows["kept"]["memory_sha256"] is not None
    assert rows["plain one"]["memory_sha256"] is None
    before = {id_: shop.bytes_of(id_) for id_ in rows}
    assert len(set(before.values())) == 4
    assert generate_pictures(options).already_done == 4
    report = write_report(ReportOptions(run=shop.folder / "run", device="cpu"))
    assert report.spreads["map_agreement"].n == 2
    page = report.page.read_text()
    assert page.count("<bdi>a red coat</bdi>") == 2
    assert "no source" in page

    changed = shop.worded("alone", "a blue coat")
    manifest = shop.write("m.csv", shop.plain("one"), changed, kept, shop.plain("two"))
    summary = generate_pictures(options)
    assert (summary.already_done, summary.changed) == (3, 1)
    assert shop.bytes_of("alone") != before["alone"]
    summary = generate_pictures(replace(options, memory=None))
    assert (summary.already_done, summary.changed) == (2, 2)
    assert shop.bytes_of("plain two") == before["plain two"]
    # Another alignment is another model for rows with words alone.
    other = shop.folder / "other"
    shutil.copytree(shop.model, other)
    path = other / "alignment/diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    save_file({**weights, "refiner.null": weights["refiner.null"] * 2}, path)
    write_card(other, read_card(other))
    summary = generate_pictures(replace(options, model=str(other)))
    assert (summary.already_done, summary.changed) == (2, 2)


def test_a_record_says_whose_cloth_informed_the_picture(shop: Shop) -> None:
    """Each region has its origin; a row's own product and excluded ones never inform it."""
    manifest = shop.write(
        "m.csv",
        shop.worded("alone", "a red coat and a tartan skirt"),
        shop.worded("own", source="one.png", parsing="one-map.png", product="p-one", keep="face"),
        shop.worded("less", exclude_products="p-one,p-two"),
        shop.worded("none", product="p-three", exclude_products="p-one,p-two"),
    )
    generate_pictures(shop.options(manifest, memory=shop.memory))
    regions = {id_: json.loads(row["region_sources"]) for id_, row in shop.rows().items()}
    alone = regions["alone"]
    assert (alone["face"], alone["hair"]) == ("null", "null")
    assert alone["coat"]["phrase"] == "a red coat"
    assert set(alone["coat"]["products"]) == {"p-one", "p-two", "p-three"}
    assert alone["coat"]["similarities"] == sorted(alone["coat"]["similarities"], reverse=True)
    assert 0 <= alone["skirt"]["gate"] <= 1
    assert (regions["own"]["face"], regions["own"]["skirt"]) == ("source", "null")
    assert set(regions["own"]["coat"]["products"]) == {"p-two", "p-three"}
    assert set(regions["less"]["coat"]["products"]) == {"p-three"}
    assert (regions["none"]["coat"]["products"], regions["none"]["coat"]["gate"]) == ([], 0)
    told = read_provenance(shop.folder / "run" / shop.rows()["own"]["output"])
    assert told["prompt"] == "a red coat"
    assert json.loads(told["region_sources"]) == regions["own"]
    assert len(told["pose_map_sha256"]) == 64
    # A row's product decides whose cloth may inform it, so it is done again where that changes.
    other = shop.worded("alone", "a red coat and a tartan skirt", product="p-two")
    again = shop.write("m.csv", shop.worded("less", exclude_products="p-one,p-two"), other)
    summary = generate_pictures(shop.options(again, memory=shop.memory))
    assert (summary.already_done, summary.changed) == (1, 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_judge_looks_at_what_words_made(shop: Shop, tmp_path: Path) -> None:
    """Rows with prompts are judged by a second CLIP and parser, never by those that made them; the
    true pictures' values stand beside.
    """
    wish = {"target": "one.png", "source": "two.png", "parsing": "two-map.png"}
    rows = [
        shop.worded("a", "a red coat and a blue tartan skirt") | {"target": "one.png"},
        shop.worded("b", "a red coat") | wish,
    ]
    manifest = shop.write("m.csv", *rows)
    generate_pictures(shop.options(manifest, memory=shop.memory))
    run = shop.folder / "run"
    with pytest.raises(UsageError, match="has the clip that made these pictures"):
        write_report(ReportOptions(run=run, device="cpu", judge=shop.model))
    other = tmp_path / "judge"
    with pytest.raises(UsageError, match="has no clip: name a folder with both"):
        write_report(ReportOptions(run=run, device="cpu", judge=other))
    for part, name in (("clip", "open_clip_model"), ("parser", "model")):
        shutil.copytree(shop.model / part, other / part)
        path = other / part / f"{name}.safetensors"
        weights = load_file(path)
        first = next(iter(weights))
        save_file({**weights, first: weights[first] * 1.01}, path)
    report = write_report(ReportOptions(run=run, device="cpu", judge=other))
    table = pd.read_parquet(report.metrics).set_index("id")
    scores = table.loc["a"]
    for name in ("region_text", "colour_accuracy", "pattern_accuracy", "binding_error"):
        assert 0 <= scores[name] <= 1
        assert 0 <= scores[f"real_{name}"] <= 1
    assert report.spreads["pattern_accuracy"].n == report.real["pattern_accuracy"].n == 1
    # Both rows looked into the memory, and only one kept something of a source.
    assert table["retrieval_precision"].between(0, 1).all()
    assert report.spreads["retrieval_precision"].n == 2
    assert pd.isna(scores["kept_identity"])
    # What the words looked into may be gone by then: the rest is judged all the same.
    kept = shop.memory.rename(tmp_path / "elsewhere.parquet")
    again = write_report(ReportOptions(run=run, device="cpu", judge=other))
    kept.rename(shop.memory)
    assert again.spreads["retrieval_precision"].n == 0
    assert again.spreads["region_text"] == report.spreads["region_text"]
    assert "Binding error" in str(report)
    assert "; true pictures" in str(report)


def test_one_picture_needs_no_manifest(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--prompt` and `--pose-map` make a run of one row, which goes on as any run does."""
    monkeypatch.chdir(shop.folder)
    options = replace(
        shop.options(Path("m.csv")), manifest=None, out=None, prompt="a red coat",
        pose_map=Path("asked.png"), pose=Path("pose.json"),
    )  # fmt: skip
    summary = generate_pictures(options)
    assert (summary.done, summary.run_folder.parent) == (1, Path("runs"))
    assert len(list((summary.run_folder / "images").iterdir())) == 1
    assert generate_pictures(options).already_done == 1
    other = replace(options, prompt="a blue coat")
    assert generate_pictures(other).run_folder != summary.run_folder
    with pytest.raises(ManifestError, match="column pose_map: missing file"):
        generate_pictures(replace(options, pose_map=Path("gone.png"), out=Path("new")))
    assert not Path("new").exists()
    with pytest.raises(ManifestError, match="column prompt: a red hat"):
        generate_pictures(replace(options, prompt="a red hat", out=Path("new")))
    assert not Path("new").exists()
    Path("mine").mkdir()
    Path("mine/prompt.csv").write_text("mine")
    with pytest.raises(UsageError, match=r"holds a prompt\.csv of another origin"):
        generate_pictures(replace(options, out=Path("mine")))
    assert Path("mine/prompt.csv").read_text() == "mine"
    with pytest.raises(UsageError, match="--out must be a folder"):
        generate_pictures(replace(options, out=Path("asked.png")))


def test_what_cannot_be_is_said_before_a_model_loads(shop: Shop) -> None:
    """A wish that the map cannot fulfil, a model without alignment and a foreign memory."""
    wrong = shop.write("m.csv", shop.plain("one"), shop.worded("a", "a red hat"))
    with pytest.raises(ManifestError) as caught:
        generate_pictures(shop.options(wrong))
    assert list(caught.value.faults) == [
        "row 2, column prompt: a red hat speaks of hat, which the map does not hold; draw it "
        "there, or leave the words out"
    ]
    right = shop.write("m.csv", shop.plain("one"), shop.worded("a"))
    bare = shop.folder / "bare"
    shutil.copytree(shop.model, bare)
    shutil.rmtree(bare / "alignment")
    write_card(bare, read_card(bare))
    with pytest.raises(UsageError, match=r"row 2 has a prompt, and the model .* has no alignment"):
        generate_pictures(shop.options(right, model=str(bare)))
    config = bare / "clip/open_clip_config.json"
    config.write_text(config.read_text().replace("squash", "longest"))
    with pytest.raises(UsageError, match=r"was made with the CLIP of .*, not with that of"):
        generate_pictures(shop.options(right, model=str(bare), memory=shop.memory))
    assert not (shop.folder / "run").exists()


def test_a_map_that_changes_under_a_run_fails_its_row_alone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a check has seen may be gone when the row's turn comes: the others go on."""
    other = np.full((64, 44), LABEL_ID["skirt"], dtype=np.uint8)
    write_parsing_map(shop.folder / "later.png", other)
    manifest = shop.write(
        "m.csv", shop.worded("a"), shop.worded("b") | {"pose_map": "later.png"}, shop.plain("one")
    )
    monkeypatch.setattr(
        "catalogpose.commands.generate.check_descriptions", lambda rows: (len(list(rows)), [])
    )
    summary = generate_pictures(shop.options(manifest))
    assert (summary.done, summary.failures) == (2, {"pose_map": 1})
    assert "does not hold" in shop.rows()["b"]["error_message"]
