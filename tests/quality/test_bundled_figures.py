"""The benchmark that prints the bundled model's figures."""

import importlib
from pathlib import Path
from types import SimpleNamespace

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
    monkeypatch.setattr(sheets, "HEAD_SHARE", 28 / 16)
    heads = np.asarray(sheets.head_sheet(run, 1, 1))
    assert (heads[28:56] == 7).all()
    # What counts as a head, left or right half of the picture, fills the middle of its square.
    for square in (heads[:28], heads[56:]):
        assert (square[13, 12:16] > 180).all()
        assert (square[13, [4, 24]] < 5).any()


def test_outputs_finer_than_the_canvas_are_measured_on_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong pixel by pixel alone is wrong at the output's size and right on the canvas,
    onto which targets are fitted for the VAE; outputs of the canvas's size are measured once.
    """
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    script = importlib.import_module("bundled")
    rng = np.random.default_rng(0)
    smooth = [
        rng.integers(60, 190, (4, 3, 3)).repeat(16, 0).repeat(16, 1).astype(np.uint8)
        for _ in range(2)
    ]
    board = np.where(np.indices((64, 48)).sum(axis=0) % 2, 30, -30)[..., None]
    outputs = [(picture + board).astype(np.uint8) for picture in smooth]
    maps = [np.full((64, 48), 6, np.uint8)] * 2
    monkeypatch.setattr(script, "read_pairs", lambda run: (smooth, outputs, smooth, maps))
    seen: list[tuple[int, ...]] = []

    def encode(photos: np.ndarray) -> np.ndarray:
        """Note the size and leave the photos."""
        seen.append(photos.shape)
        return photos

    for height, width in ((32, 24), (64, 48)):
        pipe = SimpleNamespace(
            card=SimpleNamespace(height=height, width=width),
            encode_photos=encode,
            decode_latents=lambda latents: latents,
        )
        parser = SimpleNamespace(
            label_set="common", parse=lambda picture: np.full(picture.shape[:2], 6, np.uint8)
        )
        monkeypatch.setattr(script, "load_pipeline", lambda *_, made=pipe: made)
        monkeypatch.setattr(
            script, "Parser", SimpleNamespace(load=lambda folder, made=parser: made)
        )
        seen.clear()
        found = script.measure(tmp_path, tmp_path)
        assert set(seen) == {(1, height, width, 3)}
        assert found["means"]["output"]["psnr"] == pytest.approx(20 * np.log10(255 / 30), abs=0.01)
        assert ("on_canvas" in found) == (height < 64)
        if height < 64:
            assert found["on_canvas"]["output"]["psnr"] > 35
            assert found["on_canvas"]["true target"]["ssim"] == 1
