"""The benchmark that says whether clothes and heads can be recognised."""

import importlib
from pathlib import Path

import numpy as np
import pytest


def test_a_picture_is_recognised_by_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """First comes whose regions are the nearest on the mean; ties share, a lacking label counts 0,
    labels of other kinds count nothing, and a picture without any is left out.
    """
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")
    script = importlib.import_module("recognition")
    east, north = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    sources = [{6: east, 2: north}, {6: north, 10: east}, {6: east}, {10: north}]
    pictures = [{6: east}, {6: 0.6 * east + 0.8 * north, 10: east}, {6: -east}, {2: north}]
    found = script.first_places(pictures, sources, [6, 10])
    np.testing.assert_array_equal(found, [0.5, 1.0, 0.0, np.nan])
    alone = script.first_places(script.all_alike(pictures), script.all_alike(sources), [6, 10])
    np.testing.assert_allclose(alone, [1 / 3, 1.0, 1 / 3, np.nan])
