"""The main job on the bundled model: the sample catalogue, real files, and a run killed in the
middle.
"""

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import skimage.data
from PIL import Image

SAMPLES = Path(__file__).resolve().parent.parent / "manifests"
COMMAND = [sys.executable, "-m", "catalogpose"]

POSE = [(225, 120), (225, 230), (150, 240), (110, 340), (120, 430), (300, 240), (340, 340),
        (330, 430), (190, 440), (190, 505), (0, 0), (260, 440), (260, 505), (0, 0), (210, 105),
        (240, 105), (190, 115), (262, 115)]  # fmt: skip


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `catalogpose` as a user would and return what it said."""
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True)


def write_rows(folder: Path, count: int) -> Path:
    """Write a manifest of the sample catalogue's first rows."""
    rows = pd.read_csv(SAMPLES / "studio.csv", dtype=str).head(count)
    for column in ("source", "pose", "target"):
        rows[column] = [str(SAMPLES / path) for path in rows[column]]
    manifest = folder / "rows.csv"
    rows.to_csv(manifest, index=False)
    return manifest


def pictures(folder: Path) -> dict[str, bytes]:
    """Return every picture of a run by name."""
    return {path.name: path.read_bytes() for path in (folder / "images").rglob("*.png")}


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return one PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def write_16_bit_png(path: Path, photo: np.ndarray) -> None:
    """Write an RGB PNG of 16 bits a channel, which Pillow itself cannot write."""
    height, width = photo.shape[:2]
    wide = (photo.astype(np.uint16) * 257).astype(">u2")
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in wide))
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def write_real_files(folder: Path) -> Path:
    """Write the astronaut as users send photos, good and broken, and a hand-written pose."""
    photo = skimage.data.astronaut()
    image = Image.fromarray(photo)
    turned = Image.Exif()
    turned[0x0112] = 6
    image.rotate(90, expand=True).save(folder / "exif.jpg", exif=turned, quality=92)
    image.convert("CMYK").save(folder / "cmyk.jpg")
    write_16_bit_png(folder / "sixteen.png", photo)
    image.save(folder / "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(content[: len(content) // 2])
    (folder / "zero.jpg").write_bytes(b"")
    joints = [value for x, y in POSE for value in (x, y, 0.9 if x else 0)]
    (folder / "pose.json").write_text(json.dumps({"people": [{"pose_keypoints_2d": joints}]}))
    names = ("exif.jpg", "cmyk.jpg", "sixteen.png", "truncated.jpg", "zero.jpg")
    lines = "".join(f"{name},{name},pose.json,7\n" for name in names)
    (folder / "real.csv").write_text("id,source,pose,seed\n" + lines)
    return folder / "real.csv"


def test_real_files_give_pictures_or_reasons(tmp_path: Path) -> None:
    """Good photos that nothing here drew give pictures, broken ones failed rows: exit code 3."""
    manifest = write_real_files(tmp_path)
    done = run("generate", "--manifest", manifest, "--out", tmp_path / "run",
               "--cache", tmp_path / "cache", "--steps", 2)  # fmt: skip
    assert done.returncode == 3, done.stderr
    results = pd.read_parquet(tmp_path / "run/results.parquet").set_index("id")
    assert list(results.status) == ["done", "done", "done", "failed", "failed"]
    assert results.loc["truncated.jpg", "error_class"] == "truncated"
    assert results.loc["zero.jpg", "error_class"] == "empty"
    # Upright, in the right colours, at full depth: three files of one photo give one picture.
    found = [np.asarray(Image.open(tmp_path / "run" / p)) for p in results.output.dropna()]
    assert all(np.abs(f.astype(int) - found[0]).mean() < 12 for f in found[1:])


def test_a_killed_run_goes_on_to_the_same_pictures(tmp_path: Path) -> None:
    """After kill -9 the same command does every row once, as an uninterrupted run does, which
    started again does nothing.
    """
    manifest = write_rows(tmp_path, 4)
    shared = ["--manifest", manifest, "--cache", tmp_path / "cache", "--steps", 4]
    assert run("generate", *shared, "--out", tmp_path / "whole").returncode == 0
    again = run("generate", *shared, "--out", tmp_path / "whole")
    assert again.returncode == 0
    assert "4 of them before" in again.stdout
    command = [*COMMAND, "generate", *map(str, shared), "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    ledger = tmp_path / "killed/ledger.jsonl"
    deadline = time.monotonic() + 120
    while not (ledger.exists() and ledger.read_bytes().count(b"\n") >= 1):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert ledger.read_bytes().count(b"\n") < 4
    assert run("generate", *shared, "--out", tmp_path / "killed").returncode == 0
    assert pictures(tmp_path / "killed") == pictures(tmp_path / "whole")
    assert not list((tmp_path / "killed").rglob("*.tmp*"))
    ids = [json.loads(line)["id"] for line in ledger.read_text().splitlines()]
    assert sorted(ids) == sorted(set(ids))


def test_a_picture_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    """A row alone and the row last in a batch give the same picture within 2 of 255."""
    manifest = write_rows(tmp_path, 3)
    rows = pd.read_csv(manifest, dtype=str)
    rows.iloc[::-1].to_csv(manifest, index=False)
    rows.iloc[[0]].to_csv(tmp_path / "one.csv", index=False)
    shared = ["--cache", tmp_path / "cache", "--steps", 4]
    together = run(
        "generate", "--manifest", manifest, *shared, "--batch", 3, "--out", tmp_path / "b"
    )
    alone = run("generate", "--manifest", tmp_path / "one.csv", *shared, "--out", tmp_path / "a")
    assert together.returncode == alone.returncode == 0
    (name,) = pictures(tmp_path / "a")
    first, second = (
        np.asarray(Image.open(next((tmp_path / f / "images").rglob(name)))).astype(int)
        for f in ("a", "b")
    )
    assert np.abs(first - second).max() <= 2
