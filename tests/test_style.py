"""Style transfer on the bundled model: a source's cloth on a reference whose truth is drawn."""

import importlib.util
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from catalogpose.catalog.labels import write_parsing_map
from catalogpose.catalog.manifest import check_manifest, write_manifest
from catalogpose.catalog.poses import write_pose
from catalogpose.catalog.provenance import read_provenance
from catalogpose.catalog.sheets import fit_on
from catalogpose.perception.clip import Clip
from catalogpose.records import Pose, Reference, Row
from catalogpose.truepose.model import BUNDLED
from catalogpose.truepose.pipeline import load_pipeline

ROOT = Path(__file__).resolve().parent.parent

CLEAR = 30.0
"""CIEDE2000 between both tops from which there is no doubt which of them a colour is nearer to."""


def load_benchmark() -> ModuleType:
    """Import `benchmarks/style.py`, which draws pairs and measures them."""
    spec = importlib.util.spec_from_file_location("style", ROOT / "benchmarks" / "style.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["style"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


style = load_benchmark()


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `catalogpose` as a user would and return what it said."""
    command = [sys.executable, "-m", "catalogpose", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def clear_pairs(count: int) -> list[Any]:
    """Draw the first pairs of the benchmark whose tops differ clearly in colour."""

    def differ(pair: Any) -> bool:
        inside = pair.reference.labels == style.UPPER
        return bool(style.colour(pair.truth.photo, pair.reference.photo, inside) > CLEAR)

    return list(islice(filter(differ, style.draw_pairs(128, 88)), count))


def write_pairs(folder: Path, pairs: list[Any]) -> Path:
    """Write the pairs with their true maps as a manifest."""
    rows = []
    for number, pair in enumerate(pairs, start=1):
        for name in ("source", "reference"):
            picture = getattr(pair, name)
            Image.fromarray(picture.photo).save(folder / f"{number}-{name}.png")
            write_parsing_map(folder / f"{number}-{name}-map.png", picture.labels)
        joints = pair.reference.joints.astype(np.float32)
        write_pose(folder / f"{number}.json", Pose(joints=joints, width=88, height=128))
        rows.append(
            Row(
                number=number,
                id=str(number),
                source=folder / f"{number}-source.png",
                pose=folder / f"{number}.json",
                parsing=folder / f"{number}-source-map.png",
                label_set="common",
                reference=Reference(
                    photo=folder / f"{number}-reference.png",
                    regions=("upper-clothes",),
                    parsing=folder / f"{number}-reference-map.png",
                    label_set="common",
                ),
            )
        )
    manifest = folder / "style.csv"
    write_manifest(manifest, rows)
    return manifest


@pytest.fixture(scope="module")
def transferred(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Generate the pairs with the bundled model; return the run folder and the pairs."""
    folder = tmp_path_factory.mktemp("style")
    pairs = clear_pairs(6)
    manifest = write_pairs(folder, pairs)
    words = ["--manifest", manifest, "--cache", folder / "cache", "--out", folder / "run"]
    words += ["--steps", 2]
    done = run("generate", *words)
    assert done.returncode == 0, done.stderr
    again = run("generate", *words)
    assert "6 done (6 of them before)" in again.stdout
    return folder / "run", pairs


def results_of(folder: Path) -> list[np.ndarray]:
    """Return the run's pictures on the model's canvas, in the manifest's order."""
    outputs = pd.read_parquet(folder / "results.parquet")["output"]
    return [fit_on((128, 88), np.asarray(Image.open(folder / output))) for output in outputs]


def test_the_cloth_takes_the_sources_colour(transferred: tuple[Path, list[Any]]) -> None:
    """Inside the mask the mean colour is nearer to the truth than to the reference as it was, for
    most pairs and in the mean.
    """
    folder, pairs = transferred
    errors = []
    for pair, result in zip(pairs, results_of(folder), strict=True):
        inside = pair.reference.labels == style.UPPER
        errors.append([style.colour(result, p.photo, inside) for p in (pair.truth, pair.reference)])
    to_truth, to_reference = np.transpose(errors)
    assert (to_truth < to_reference).mean() > 0.5
    assert to_truth.mean() < to_reference.mean()


def test_the_reference_stays(transferred: tuple[Path, list[Any]]) -> None:
    """Two latent cells and more from the mask the result is the reference's photo, enlarged to the
    pictures' size, and far nearer to it than the VAE's picture is.
    """
    folder, pairs = transferred
    pipe = load_pipeline(BUNDLED, "cpu")
    large = (128 * pipe.scale, 88 * pipe.scale)
    for pair, result in zip(pairs, results_of(folder), strict=True):
        far = style.far_from(pair.reference.labels == style.UPPER)
        assert far.mean() > 0.1
        photo = pair.reference.photo
        shown = fit_on((128, 88), fit_on(large, photo)).astype(int)
        assert np.abs(result - shown)[far].max() <= 3
        through = pipe.decode_latents(pipe.encode_photos(photo[None]))[0]
        assert style.psnr(result, photo, far) > style.psnr(through, photo, far) + 3


def test_the_benchmark_measures_what_a_run_makes() -> None:
    """One pair through its own functions: the reference stays nearer than the VAE has it, and the
    cloth comes nearer to the truth's colour than the reference was.
    """
    pipe, clip = load_pipeline(BUNDLED, "cpu"), Clip.load(BUNDLED / "clip", "cpu")
    (pair,) = clear_pairs(1)
    found = style.measure(pipe, pair, style.transfer(pipe, clip, pair, 0))
    outside, inside = (
        "far outside, PSNR to the reference, dB: ",
        "inside, colour error to the truth: ",
    )
    assert found[f"{outside}result"] > found[f"{outside}VAE alone"] + 3
    assert found[f"{inside}result"] < found[f"{inside}reference"]


def test_results_and_pictures_name_the_reference(transferred: tuple[Path, list[Any]]) -> None:
    """The table has the manifest's columns and the reference's hash, and so has the file's XMP."""
    folder, _ = transferred
    for row in pd.read_parquet(folder / "results.parquet").to_dict("records"):
        assert pd.isna(row["pose"])
        assert (folder / row["reference_pose"]).is_file()
        assert row["reference_regions"] == "upper-clothes"
        told = read_provenance(folder / row["output"])
        assert told["reference_sha256"] == row["reference_sha256"]
        assert told["reference_regions"] == "upper-clothes"


def test_the_sample_manifest_is_sound() -> None:
    """Its photos, poses, targets and its mask are there and fit each other."""
    assert check_manifest(ROOT / "manifests" / "style.csv") == 4
