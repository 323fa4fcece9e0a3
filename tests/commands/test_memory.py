"""`memory build`, `query` and `stats` on the sample catalogue and the bundled CLIP."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from catalogpose.catalog.region_table import read_region_table
from catalogpose.commands.memory_build import BuildSummary, build_memory
from catalogpose.commands.memory_query import load_memory, memory_stats, query_memory
from catalogpose.config import BuildMemoryOptions, MemoryStatsOptions, QueryMemoryOptions
from catalogpose.errors import UsageError
from catalogpose.records import GARMENTS, LABELS
from catalogpose.truepose.model import BUNDLED

SAMPLES = Path(__file__).parents[2] / "manifests"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a manifest of four sample products and of a photo that is none."""
    folder = tmp_path_factory.mktemp("shop")
    rows = pd.read_csv(SAMPLES / "studio.csv", dtype=str).groupby("source").head(2).head(8)
    for column in ("source", "pose"):
        rows[column] = [str(SAMPLES / path) for path in rows[column]]
    (folder / "broken.png").write_bytes(b"no photo")
    broken = {"id": "broken", "source": "broken.png", "pose": rows["pose"].iloc[0]}
    rows = pd.concat([rows, pd.DataFrame([broken])])
    rows[["id", "source", "pose", "product"]].to_csv(folder / "shop.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def built(shop: Path) -> BuildSummary:
    """Build the memory of that manifest once."""
    return build_memory(
        BuildMemoryOptions(
            manifest=shop / "shop.csv", out=shop / "memory.parquet", cache=shop / "cache",
            device="cpu",
        )
    )  # fmt: skip


def test_every_photo_is_remembered_once_and_no_person(shop: Path, built: BuildSummary) -> None:
    """Two rows of one source are one picture; only garments are kept; a broken photo fails."""
    table, _ = read_region_table(built.memory)
    assert (built.rows, built.pictures) == (9, 4)
    assert [(row, stage) for row, stage, _ in built.failed] == [("broken", "photo")]
    assert built.exit_code == 3
    assert len(table) == built.regions > 8
    assert len(set(table.pictures)) == len(set(table.products)) == 4
    assert {LABELS[label] for label in table.labels} <= set(GARMENTS)
    assert (np.diff(table.labels.astype(int)) >= 0).all()
    assert (table.areas >= 0.005).all()


def test_a_second_build_opens_no_photo(
    shop: Path, built: BuildSummary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything comes from the cache, and the file is the same to the byte."""
    before = built.memory.read_bytes()
    monkeypatch.setattr("catalogpose.run.perceive.Perception.look", None)
    options = BuildMemoryOptions(
        manifest=shop / "shop.csv", out=shop / "again.parquet", cache=shop / "cache", device="cpu"
    )
    assert build_memory(options).regions == built.regions
    assert options.out.read_bytes() == before


def test_words_find_cloth(shop: Path, built: BuildSummary) -> None:
    """Each phrase has its own answers of its label, nearest first; a product can be left out."""
    options = QueryMemoryOptions(
        prompt="a striped top, black trousers and gloves with stars", memory=built.memory, count=3,
        sheet=shop / "sheet.png", device="cpu",
    )  # fmt: skip
    summary = query_memory(options)
    top, trousers, kilt = summary.phrases
    assert kilt.found == ()
    assert "no region of this label counts" in str(summary)
    assert (top.label, top.phrase) == ("upper-clothes", "a striped top")
    assert (trousers.label, trousers.phrase) == ("pants", "black trousers")
    similarities = [hit.similarity for hit in top.found]
    assert similarities == sorted(similarities, reverse=True)
    assert all(0 <= phrase.gate <= 1 for phrase in (top, trousers))
    assert Path(top.found[0].source).is_file()
    with Image.open(shop / "sheet.png") as sheet:
        assert sheet.size == (3 * 96, 3 * 128)
    without = QueryMemoryOptions(
        prompt="a striped top", memory=built.memory, without=(top.found[0].product,), device="cpu"
    )
    (again,) = query_memory(without).phrases
    assert top.found[0].product not in {hit.product for hit in again.found}


def test_what_cannot_be_asked_is_one_line(shop: Path, built: BuildSummary, tmp_path: Path) -> None:
    """Words without a garment, and a memory of another CLIP, are refused with the remedy."""
    with pytest.raises(UsageError, match="no garment found in 'something nice': name one"):
        query_memory(QueryMemoryOptions(prompt="something nice", memory=built.memory))
    with pytest.raises(UsageError, match="--without gone: "):
        query_memory(
            QueryMemoryOptions(prompt="a top", memory=built.memory, without=("gone",), device="cpu")
        )
    hair = query_memory(QueryMemoryOptions(prompt="long hair", memory=built.memory, device="cpu"))
    assert "hair is never remembered: only hat, scarf" in str(hair)
    other = tmp_path / "other"
    shutil.copytree(BUNDLED / "clip", other / "clip")
    config = other / "clip/open_clip_config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["preprocess_cfg"]["mean"] = [0.4, 0.5, 0.5]
    config.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(
        UsageError, match="made with the CLIP of the bundled model, not with that of"
    ):
        load_memory(built.memory, other)


def test_nothing_to_remember_is_said(tmp_path: Path) -> None:
    """A manifest whose photos show no garment makes no file."""
    Image.new("RGB", (64, 96), "white").save(tmp_path / "blank.png")
    pose = next((SAMPLES / "studio/poses").glob("*.json"))
    (tmp_path / "m.csv").write_text(f"id,source,pose\n1,blank.png,{pose}\n")
    options = BuildMemoryOptions(
        manifest=tmp_path / "m.csv", out=tmp_path / "none.parquet", cache=tmp_path, device="cpu"
    )
    with pytest.raises(UsageError, match="no photo of the manifest shows a garment"):
        build_memory(options)
    assert not options.out.exists()


def test_stats_count_by_label(built: BuildSummary) -> None:
    """The counts add up to the regions, and name whose CLIP it is."""
    stats = memory_stats(MemoryStatsOptions(memory=built.memory))
    assert sum(stats.regions.values()) == built.regions
    assert (stats.pictures, stats.products, stats.model) == (4, 4, "the bundled model")
    assert str(stats).splitlines()[0].startswith(f"{built.memory}: {built.regions} regions")
