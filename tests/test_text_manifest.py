"""Text-driven rows on the bundled model: the sample manifest, as a user would run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from catalogpose.catalog.labels import read_parsing_map
from catalogpose.catalog.manifest import check_manifest
from catalogpose.catalog.sheets import fit_on
from catalogpose.records import LABEL_ID
from catalogpose.studio.palette import CLOTHS

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ROOT / "manifests" / "text.csv"
ROWS = 11


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `catalogpose` as a user would and return what it said."""
    command = [sys.executable, "-m", "catalogpose", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate the sample manifest with a memory of the sample catalogue; return the run folder."""
    folder = tmp_path_factory.mktemp("words")
    memory = folder / "memory.parquet"
    catalogue = ROOT / "manifests" / "studio.csv"
    built = run("memory", "build", "--manifest", catalogue, "--out", memory,
                "--cache", folder / "cache")  # fmt: skip
    assert built.returncode == 0, built.stderr
    words = ["--manifest", MANIFEST, "--cache", folder / "cache", "--out", folder / "run"]
    words += ["--memory", os.path.relpath(memory)]
    done = run("generate", *words)
    assert done.returncode == 0, done.stderr
    assert f"{ROWS} done" in done.stdout
    again = run("generate", *words)
    assert f"{ROWS} done ({ROWS} of them before)" in again.stdout
    return folder / "run"


def picture_of(folder: Path, id_: str) -> np.ndarray:
    """Return a row's picture on the model's canvas."""
    rows = pd.read_parquet(folder / "results.parquet").set_index("id")
    return fit_on((128, 88), np.asarray(Image.open(folder / rows.loc[id_, "output"])))


def map_of(name: str) -> np.ndarray:
    """Return a sample map on the model's canvas."""
    labels = read_parsing_map(ROOT / "manifests" / "text" / name, "common")
    return np.asarray(Image.fromarray(labels).resize((88, 128), Image.Resampling.NEAREST))


def distance(picture: np.ndarray, inside: np.ndarray, colour: str) -> float:
    """Return CIEDE2000 between the mean colour inside a mask and a colour of the studio."""
    named = rgb2lab(np.array([[CLOTHS[colour]]]) / 255)[0, 0]
    return float(deltaE_ciede2000(rgb2lab(picture)[inside].mean(axis=0), named))


def test_the_sample_manifest_is_sound() -> None:
    """Its photos, poses, maps and targets are there, and the maps hold what the words speak of."""
    assert check_manifest(MANIFEST) == ROWS


@pytest.mark.parametrize(
    ("label", "said", "other"),
    [("skirt", ("words-60", "turquoise"), ("other-words-60", "navy")),
     ("upper-clothes", ("words-60", "olive"), ("other-words-60", "white")),
     ("pants", ("words-58", "blue"), ("other-words-58", "brown"))],
)  # fmt: skip
def test_words_decide_a_region_s_colour(
    painted: Path, label: str, said: tuple[str, str], other: tuple[str, str]
) -> None:
    """Over one map, two sentences give a region two colours, each nearer to its own word's than the
    other sentence's picture is.
    """
    name = f"studio-20000{said[0][-2:]}-view{'0' if said[0].endswith('60') else '1'}-map.png"
    inside = map_of(name) == LABEL_ID[label]
    for (own, colour), (foreign, _) in ((said, other), (other, said)):
        here = distance(picture_of(painted, own), inside, colour)
        assert here < distance(picture_of(painted, foreign), inside, colour)


def test_an_edited_map_moves_the_cloth(painted: Path) -> None:
    """Where the edit drew skirt over legs, the picture is nearer to navy than without the edit."""
    before, after = (map_of(f"studio-2000060-view0-{name}.png") for name in ("map", "longer"))
    drawn = (after == LABEL_ID["skirt"]) & (before != LABEL_ID["skirt"])
    assert drawn.sum() > 100
    plain, longer = (picture_of(painted, name) for name in ("other-words-60", "longer-skirt-60"))
    assert distance(longer, drawn, "navy") < distance(plain, drawn, "navy") - 10


def test_what_no_word_speaks_of_is_kept(painted: Path) -> None:
    """The skirt turns red, the striped top stays as near to the truth as re-posing leaves it."""
    labels = map_of("studio-2000060-view1-map.png")
    skirt, top = (labels == LABEL_ID[name] for name in ("skirt", "upper-clothes"))
    worded, posed = (picture_of(painted, name) for name in ("red-skirt-60", "pose-60"))
    assert distance(worded, skirt, "red") < distance(posed, skirt, "red") - 10
    truth = np.asarray(Image.open(
        ROOT / "manifests/studio/photos/studio-2000060-view1.png"
    ).resize((88, 128)))  # fmt: skip
    kept, reposed = (
        deltaE_ciede2000(*(rgb2lab(p)[top].mean(axis=0) for p in (picture, truth)))
        for picture in (worded, posed)
    )
    assert kept < reposed + 5


def test_results_say_whose_cloth_informed_a_region(painted: Path) -> None:
    """Each worded region names its phrase, its gate and products, never the row's own; re-posed
    rows name none.
    """
    rows = pd.read_parquet(painted / "results.parquet").set_index("id")
    assert pd.isna(rows.loc["pose-60", "region_sources"])
    told = json.loads(rows.loc["words-60", "region_sources"])
    assert {"skirt", "upper-clothes"} <= set(told)
    assert "studio-2000060" not in rows.loc["words-60", "region_sources"]
    assert "studio-20000" in rows.loc["words-60", "region_sources"]


def test_a_run_names_its_memory_from_anywhere(painted: Path) -> None:
    """However it was typed, a report from another folder finds it."""
    named = Path(json.loads((painted / "run.json").read_text())["options"]["memory"])
    assert named.is_absolute()
    assert named.is_file()
