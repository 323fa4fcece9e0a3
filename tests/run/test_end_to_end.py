"""The whole of `catalogpose generate`, with a tiny random model and no stand-ins."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from catalogpose.catalog.labels import write_parsing_map
from catalogpose.catalog.poses import write_pose
from catalogpose.records import LABEL_ID, Pose
from catalogpose.truepose.model import read_card, write_card

TINY_CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}
"""Sizes of a CLIP that knows nothing; its embeddings are as wide as the tiny model wants."""


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny model with a tiny CLIP in its folder; maps come with the manifest."""
    from catalogpose.perception.clip import make_clip, save_clip

    folder = tmp_path_factory.mktemp("whole") / "model"
    shutil.copytree(tiny_model, folder)
    clip, _ = make_clip(TINY_CLIP, folder / "clip")
    save_clip(clip, folder / "clip")
    write_card(folder, read_card(folder))
    return folder


def draw_shop(folder: Path) -> Path:
    """Write two photos with maps and two poses; return the manifest of their pairs."""
    rng = np.random.default_rng(1)
    joints = np.stack([np.linspace(20, 60, 18), np.linspace(10, 110, 18), np.ones(18)], axis=1)
    legs = joints.copy()
    legs[:8] = (np.nan, np.nan, 0)
    for name, seen in (("all", joints), ("legs", legs)):
        pose = Pose(joints=seen.astype(np.float32), width=80, height=120)
        write_pose(folder / f"{name}.json", pose)
    labels = np.zeros((100, 60), dtype=np.uint8)
    for top, name in ((5, "hair"), (20, "coat"), (60, "pants")):
        labels[top:95, 15:45] = LABEL_ID[name]
    for name in ("one", "two"):
        picture = rng.integers(0, 255, size=(100, 60, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{name}.png")
        write_parsing_map(folder / f"{name}-map.png", labels)
    lines = ["id,source,pose,parsing,label_set"]
    for photo in ("one", "two"):
        for pose in ("all", "legs"):
            lines.append(f"{photo} {pose},{photo}.png,{pose}.json,{photo}-map.png,common")
    manifest = folder / "shop.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def generate(manifest: Path, model: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would."""
    script = "from catalogpose.cli import main; main()"
    words = ["generate", "--manifest", manifest, "--model", model, "--out", out, "--cache",
             manifest.parent / "cache", "--device", "cpu", "--steps", "2"]  # fmt: skip
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_manifest_becomes_pictures(tmp_path: Path, model: Path) -> None:
    """Every row gets its own picture of the model's size, and nothing but progress is on stderr."""
    manifest = draw_shop(tmp_path)
    done = generate(manifest, model, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4 rows: 4 done (0 of them before), 0 failed, 0 pending")
    assert all(" rows, " in line for line in done.stderr.splitlines()), done.stderr
    results = pq.read_table(tmp_path / "run" / "results.parquet").to_pylist()
    assert len({row["output_sha256"] for row in results}) == 4
    for row in results:
        assert np.array(Image.open(tmp_path / "run" / row["output"])).shape == (128, 88, 3)
