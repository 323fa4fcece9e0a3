"""The sheets by which rows are counted by eye."""

import importlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image


def write_run(folder: Path, level: int, names: list[str]) -> Path:
    """Write a run whose outputs have one grey level."""
    (folder / "images").mkdir(parents=True)
    for name, grey in (("source", 10), ("output", level), ("target", 20)):
        Image.new("RGB", (4, 6), (grey,) * 3).save(folder / "images" / f"{name}.png")
    rows = [
        {"id": name, "status": "done", "source_sha256": "abc"}
        | {part: f"images/{part}.png" for part in ("source", "output", "target")}
        for name in names
    ]
    pd.DataFrame(rows).to_parquet(folder / "results.parquet")
    return folder


def test_the_key_alone_says_which_run_lies_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each column has source, two outputs and target, either run lies above about as often, and
    runs of other rows, or of too few, are refused.
    """
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    script = importlib.import_module("sheets")
    names = [str(number) for number in range(40)]
    runs = write_run(tmp_path / "a", 100, names), write_run(tmp_path / "b", 200, names)
    sheets, upper = script.blind_sheets(runs, 40, 8, 1)
    assert [sheet.size for sheet in sheets] == [(8 * 4, 4 * 6)] * 5
    seen = np.hstack([np.asarray(sheet)[::6, ::4, 0] for sheet in sheets])
    above = [100 if run == 0 else 200 for run in upper]
    below = [200 if run == 0 else 100 for run in upper]
    np.testing.assert_array_equal(seen, [[10] * 40, above, below, [20] * 40])
    assert 10 < sum(upper) < 30
    with pytest.raises(SystemExit, match="have not the same first 41 rows done"):
        script.blind_sheets(runs, 41, 8, 1)
    other = write_run(tmp_path / "c", 100, names[::-1])
    with pytest.raises(SystemExit, match="have not the same first 40 rows done"):
        script.blind_sheets((runs[0], other), 40, 8, 1)
