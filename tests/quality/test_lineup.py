"""The line-ups by which a person says what an output was made of."""

import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from catalogpose.records import LABEL_ID

COAT = LABEL_ID["coat"]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the benchmark as a module."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    return importlib.import_module("lineup")


def test_a_part_fills_its_tile_on_white(script: ModuleType) -> None:
    """What is wanted is as large as the tile allows, on white; a tile of nothing is white."""
    picture = np.full((20, 10, 3), 50, np.uint8)
    labels = np.zeros((20, 10), np.uint8)
    labels[4:8, 2:4] = COAT
    tile = np.asarray(script.show_part(picture, labels, [COAT]))
    dark = tile[..., 0] < 100
    assert tile.shape == (*script.TILE, 3)
    assert dark[:, 60:160].mean() == 1
    assert not dark[:, :30].any()
    assert not dark[:, 190:].any()
    assert (np.asarray(script.show_part(picture, labels, [COAT + 1])) == 255).all()


def test_the_likest_sources_stand_beside_the_own(script: ModuleType) -> None:
    """The five nearest by cosine over the own labels, without the own; one without such a label is
    as unlike as can be, and those of another size come after all others.
    """
    angles = np.radians([0, 80, 10, 20, 70, 30, 40, 5])
    vectors = [{COAT: np.array([np.cos(a), np.sin(a)])} for a in angles]
    areas = [100] * 8
    assert script.choose_others(vectors, areas, [COAT], 0) == [7, 2, 3, 5, 6]
    areas[2], areas[3] = 40, 200
    assert script.choose_others(vectors, areas, [COAT], 0) == [7, 5, 6, 4, 1]
    areas[2:4] = 60, 170
    vectors[7] = {COAT + 1: vectors[7][COAT]}
    assert script.choose_others(vectors, areas, [COAT], 0) == [2, 3, 5, 6, 4]


def test_the_key_alone_says_which_source_it_is(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line shows the output and six sources, its own at the number of the key; a reader who
    reads the key is right, one who says 1 of every row about as often as chance.
    """
    count = 12
    maps = [np.full((20, 14), COAT, np.uint8)] * count
    for place in range(0, count, 3):
        maps[place] = np.where(np.arange(20)[:, None] < 5, script.FACE, maps[place])
    greys = [np.full((20, 14, 3), 20 * place, np.uint8) for place in range(count)]
    outputs = [picture + np.uint8(5) for picture in greys]
    wearing = [np.full((20, 14), COAT, np.uint8)] * count
    monkeypatch.setattr(script, "read_pairs", lambda run: (greys, outputs, greys, wearing))
    rows = pd.DataFrame({"source": [str(n) for n in range(count)], "status": "done"})
    monkeypatch.setattr(script, "pd", SimpleNamespace(read_parquet=lambda path: rows))
    # Of the last row's picture the parser sees nothing worn.
    parser = SimpleNamespace(
        label_set="common",
        parse=lambda picture: np.where(picture[..., 0] < 20 * (count - 1), COAT, 0).astype(
            np.uint8
        ),
    )
    monkeypatch.setattr(script, "Parser", SimpleNamespace(load=lambda folder: parser))
    monkeypatch.setattr(script, "fit_true_map", lambda path, made: maps[int(path.name)])
    monkeypatch.setattr(script, "Clip", SimpleNamespace(load=lambda folder: None))
    seen = [{COAT: np.array([np.cos(n / 9), np.sin(n / 9)])} for n in range(count)]
    monkeypatch.setattr(script, "embed_parts", lambda clip, pictures, labels: seen)
    options = {"kind": "clothes", "picture": "output", "count": count}
    script.draw(tmp_path, tmp_path / "a", tmp_path, seed=3, **options)
    key = json.loads((tmp_path / "a/key.json").read_text())["answers"]
    wide, high = script.TILE[1] + script.MARGIN, script.TILE[0] + 2 * script.MARGIN
    sheets = sorted((tmp_path / "a").glob("sheet-*.png"))
    lines = np.vstack([np.asarray(Image.open(sheet).convert("L")) for sheet in sheets])
    assert lines.shape == ((count - 1) * high, 8 * wide)
    assert [answer["row"] for answer in key] == list(range(count - 1))
    middles = lines[high // 2 :: high, wide // 2 :: wide]
    for row, answer in enumerate(key):
        choices = middles[row, 2:].tolist()
        assert len(set(choices)) == 6
        assert middles[row, 0] == 20 * row + 5
        assert choices[answer["number"] - 1] == 20 * row
        assert answer["groups"] == (["turned"] if row % 3 == 0 else [])
    answers = tmp_path / "answers.csv"
    answers.write_text("".join(f"{a['row']},{a['number']}\n" for a in key))
    found = script.count_right(tmp_path / "a/key.json", answers)
    assert [text.split(" (")[0] for text in found.values()] == ["11 of 11", "4 of 4"]
    answers.write_text("".join(f"{row},1\n" for row in range(1, count)))
    found = script.count_right(tmp_path / "a/key.json", answers)
    ones = sum(a["number"] == 1 for a in key[1:])
    assert found["all"].startswith(f"{ones} of 11 ")
    assert ones < 6
    rows.loc[3, "source"] = "2"
    with pytest.raises(SystemExit, match="needs 6 rows or more, each of a source of its own"):
        script.draw(tmp_path, tmp_path / "b", tmp_path, seed=3, **options)
