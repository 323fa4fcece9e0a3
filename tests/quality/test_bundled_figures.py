"""The benchmark that prints the bundled model's figures."""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from catalogpose.catalog.labels import write_parsing_map


def test_pairs_lie_on_the_output_s_canvas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos twice as large as the output, and their maps, are fitted onto its canvas; rows that
    failed are left out. A sheet of heads is cut there too.
    """
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    script = importlib.import_module("bundled")
    run, photos = tmp_path / "run", tmp_path / "catalogue/photos"
    for folder in (run / "images", photos, photos.parent / "maps"):
        folder.mkdir(parents=True)
    left = np.zeros((32, 24, 3), np.uint8)
    left[:, :12] = 200
    labels = np.where(left[..., 0] > 0, 6, 0).astype(np.uint8)
    for name, picture in (("a", left), ("b", left[:, ::-1])):
        Image.fromarray(picture).save(photos / f"{name}.png")
    write_parsing_map(photos.parent / "maps/b.png", labels[:, ::-1])
    Image.fromarray(np.full((16, 12, 3), 7, np.uint8)).save(run / "images/x.png")
    row = {"source": "../catalogue/photos/a.png", "target": "../catalogue/photos/b.png"}
    done = row | {"status": "done", "output": "images/x.png"}
    pd.DataFrame([done, row | {"status": "failed", "output": None}]).to_parquet(
        run / "results.parquet"
    )
    (source,), (output,), (target,), (shown,) = script.read_pairs(run)
    assert (output == 7).all()
    for picture in (source, target[:, ::-1]):
        assert picture.shape == (16, 12, 3)
        assert (picture[:, :4] > 195).all()
        assert (picture[:, 8:] < 5).all()
    np.testing.assert_array_equal(shown, labels[::2, ::-2])
    write_parsing_map(photos.parent / "maps/a.png", labels)
    sheets = importlib.import_module("sheets")
    monkeypatch.setattr(sheets, "HEAD", (6,))
    heads = np.asarray(sheets.head_sheet(run, 1, 1))
    assert (heads[28:56] == 7).all()
    # What counts as a head, left or right half of the picture, fills the middle of its square.
    for square in (heads[:28], heads[56:]):
        assert (square[13, 12:16] > 180).all()
        assert (square[13, [4, 24]] < 5).any()
