import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from catalogpose.catalog.labels import write_parsing_map
from catalogpose.catalog.photos import read_photo
from catalogpose.commands.parse import ParseSummary, parse_manifest
from catalogpose.config import ParseOptions
from catalogpose.errors import EnvironmentFault, ManifestError, RowError
from catalogpose.run.perceive import Perception


class FakeModels:
    """Stands for both perception modules: a parser of two ATR labels and a CLIP of four numbers."""

    def __init__(self) -> None:
        """Start without anything loaded."""
        self.loaded: list[str] = []
        self.calls: list[str] = []
        self.settings: dict[str, object] = {"weights": "1"}
        self.spoil: Callable[[NDArray[np.uint8]], None] = lambda picture: None

    def load(self, name: str) -> Callable[[Path, str], Any]:
        """Return what loads one of the models."""

        def load_one(folder: Path, device: str) -> SimpleNamespace:
            assert folder.name == name
            assert device == "cpu"
            self.loaded.append(name)
            return SimpleNamespace(label_set="atr", parse=self.parse, embed=self.embed)

        return load_one

    def parse(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return hair in the upper half and pants in the lower, as ATR has them."""
        self.calls.append("parse")
        self.spoil(picture)
        labels = np.full(picture.shape[:2], 2, np.uint8)
        labels[len(labels) // 2 :] = 6
        return labels

    def embed(
        self, picture: NDArray[np.uint8], boxes: list[tuple[int, ...]]
    ) -> NDArray[np.float16]:
        """Return the boxes, plus the picture's mean, as if they were embeddings."""
        self.calls.append("embed")
        return (np.array(boxes) + picture.mean()).astype(np.float16)

    def read_settings(self, folder: Path) -> Mapping[str, object]:
        """Return what enters a fingerprint."""
        return {**self.settings, "folder": folder.name}


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> FakeModels:
    """Put the fakes in the place of the modules that import torch."""
    fake = FakeModels()
    for name in ("parser", "clip"):
        module = SimpleNamespace(
            **{name.capitalize(): SimpleNamespace(load=fake.load(name))},
            **{f"{name}_settings": fake.read_settings},
        )
        monkeypatch.setitem(sys.modules, f"catalogpose.perception.{name}", module)
    return fake


def picture_file(grey: int) -> bytes:
    """Return a small PNG of one grey."""
    buffer = io.BytesIO()
    Image.new("RGB", (6, 8), (grey, grey, grey)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a model, a pose and photos: a and b, b once more as c, and broken."""
    (tmp_path / "model").mkdir()
    numbers = [5, 6, 1] * 18
    (tmp_path / "p.json").write_text(json.dumps({"people": [{"pose_keypoints_2d": numbers}]}))
    (tmp_path / "a.png").write_bytes(picture_file(10))
    (tmp_path / "b.png").write_bytes(picture_file(20))
    (tmp_path / "c.png").write_bytes(picture_file(20))
    (tmp_path / "broken.png").write_bytes(b"")
    return tmp_path


def parse(folder: Path, *lines: str, header: str = "id,source,pose", **more: Any) -> ParseSummary:
    """Write a manifest of these lines and parse it."""
    (folder / "m.csv").write_text("\n".join([header, *lines]) + "\n")
    options = ParseOptions(
        manifest=folder / "m.csv", model=str(folder / "model"), cache=folder / "cache", device="cpu"
    )
    return parse_manifest(options, **more)


ROWS = ("1,a.png,p.json", "2,b.png,p.json", "3,a.png,p.json", "4,c.png,p.json")


def test_each_photo_is_done_once(folder: Path, models: FakeModels) -> None:
    """Rows share photos, and two files of the same bytes are one photo."""
    steps: list[tuple[int, int]] = []
    summary = parse(folder, *ROWS, progress=lambda done, of: steps.append((done, of)))
    assert models.loaded == ["parser", "clip"]
    assert models.calls == ["parse", "embed"] * 2
    assert (summary.rows, summary.sources) == (4, 2)
    assert (summary.parsed, summary.embedded, summary.cached) == (2, 2, 0)
    assert (summary.failed, summary.exit_code) == ((), 0)
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert str(summary).startswith("4 rows, 2 sources: 2 parsed, 2 embedded, 0 in the cache before")


def test_the_second_run_computes_nothing_and_loads_nothing(
    folder: Path, models: FakeModels
) -> None:
    """Everything comes from the cache, and the summary says so; no part is added."""
    parse(folder, *ROWS)
    models.loaded.clear()
    before = sorted((folder / "cache").rglob("*"))
    summary = parse(folder, *ROWS)
    assert models.loaded == []
    assert (summary.parsed, summary.embedded, summary.cached) == (0, 0, 2)
    assert "nothing to compute, 2 in the cache before" in str(summary)
    assert sorted((folder / "cache").rglob("*")) == before


def test_only_new_photos_are_computed(folder: Path, models: FakeModels) -> None:
    """A longer manifest costs its new photos; changed bytes under an old name are a new photo."""
    parse(folder, "1,a.png,p.json")
    assert parse(folder, *ROWS).parsed == 1
    (folder / "a.png").write_bytes(picture_file(30))
    summary = parse(folder, *ROWS)
    assert (summary.parsed, summary.cached) == (1, 1)


def test_another_model_has_another_cache(folder: Path, models: FakeModels) -> None:
    """Other weights mean other maps and, since they rest on them, other embeddings."""
    parse(folder, "1,a.png,p.json")
    models.settings = {"weights": "2"}
    summary = parse(folder, "1,a.png,p.json")
    assert (summary.parsed, summary.embedded, summary.cached) == (1, 1, 0)


def test_the_cache_holds_common_labels_and_unit_embeddings(
    folder: Path, models: FakeModels
) -> None:
    """Hair is 2 and pants 11 in the common vocabulary, with their boxes; one row each."""
    parse(folder, "1,a.png,p.json")
    (part,) = (folder / "cache").glob("v1/clip/*/part-*.parquet")
    table = pq.read_table(part)
    assert table.column("label_name").to_pylist() == ["hair", "pants"]
    assert table.column("bottom").to_pylist() == [4, 8]
    lengths = np.linalg.norm(np.array(table.column("embedding").to_pylist()), axis=1)
    assert np.allclose(lengths, 1, atol=2e-3)
    (part,) = (folder / "cache").glob("v1/parse/*/part-*.parquet")
    assert pq.read_table(part).column("present").to_pylist() == [[2, 11]]


def test_a_failed_photo_fails_its_rows_only(folder: Path, models: FakeModels) -> None:
    """The others are done; each failed row is named with stage and reason."""
    summary = parse(folder, "x,broken.png,p.json", "1,a.png,p.json", "y,broken.png,p.json")
    reason = "the photo's file is empty"
    assert summary.failed == (("x", "photo", reason), ("y", "photo", reason))
    assert (summary.parsed, summary.sources, summary.exit_code) == (1, 2, 3)
    assert "2 rows failed" in str(summary)
    assert f"row 'x': photo: {reason}" in str(summary)


def test_a_failure_of_a_model_is_remembered(folder: Path, models: FakeModels) -> None:
    """A photo that the parser cannot do is not tried again, and still fails its row."""

    def spoil(picture: NDArray[np.uint8]) -> None:
        if picture[0, 0, 0] == 10:
            raise RowError("parsing", "odd", "no parser can do this one")

    models.spoil = spoil
    first = parse(folder, *ROWS)
    models.loaded.clear()
    assert first.failed == parse(folder, *ROWS).failed
    assert [row_id for row_id, _, _ in first.failed] == ["1", "3"]
    assert models.loaded == []


def test_numbers_that_are_not_finite_fail_the_row(
    folder: Path, models: FakeModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An embedding of NaN is never cached as one."""
    monkeypatch.setattr(models, "embed", lambda picture, boxes: np.full((2, 4), np.nan, np.float16))
    summary = parse(folder, "1,a.png,p.json")
    assert summary.failed == (("1", "embedding", "CLIP gave numbers that are not finite"),)
    assert (parse(folder, "1,a.png,p.json").failed, models.loaded) == (
        summary.failed,
        ["parser", "clip"],
    )


WITH_MAP = "id,source,pose,parsing,label_set"


def test_a_ready_map_replaces_the_parser(folder: Path, models: FakeModels) -> None:
    """No parser is loaded; another map for the same photo is embedded anew, the same one is not."""
    labels = np.zeros((8, 6), np.uint8)
    labels[2:5, 1:4] = 4
    write_parsing_map(folder / "map.png", labels)
    line = "1,a.png,p.json,map.png,atr"
    summary = parse(folder, line, header=WITH_MAP)
    assert models.loaded == ["clip"]
    assert (summary.parsed, summary.embedded) == (0, 1)
    (part,) = (folder / "cache").glob("v1/clip/*/part-*.parquet")
    assert pq.read_table(part).column("label_name").to_pylist() == ["upper-clothes"]
    assert parse(folder, line, header=WITH_MAP).cached == 1
    assert parse(folder, "1,a.png,p.json,map.png,lip", header=WITH_MAP).embedded == 1
    write_parsing_map(folder / "map.png", labels[::-1])
    assert parse(folder, line, header=WITH_MAP).embedded == 1
    assert parse(folder, "1,a.png,p.json").parsed == 1


def test_a_ready_map_of_the_wrong_size_fails_the_row(folder: Path, models: FakeModels) -> None:
    """A map that does not lie on its photo, or holds strange ids, is not used or remembered."""
    write_parsing_map(folder / "small.png", np.zeros((4, 4), np.uint8))
    write_parsing_map(folder / "odd.png", np.full((8, 6), 27, np.uint8))
    lines = ("1,a.png,p.json,small.png,atr", "2,a.png,p.json,odd.png,atr")
    summary = parse(folder, *lines, header=WITH_MAP)
    assert summary.failed == (
        ("1", "parsing", "the parsing map has 4x4 pixels, the upright photo 6x8"),
        ("2", "parsing", "the parsing map holds id 27; label set atr ends at 17"),
    )
    assert not (folder / "cache").exists()
    write_parsing_map(folder / "small.png", np.zeros((8, 6), np.uint8))
    assert parse(folder, lines[0], header=WITH_MAP).embedded == 1


def test_a_photo_without_a_person_is_done(folder: Path, models: FakeModels) -> None:
    """A map of background has no regions, CLIP is not asked, and it is remembered."""
    write_parsing_map(folder / "map.png", np.zeros((8, 6), np.uint8))
    line = "1,a.png,p.json,map.png,common"
    assert parse(folder, line, header=WITH_MAP).failed == ()
    assert models.loaded == []
    assert parse(folder, line, header=WITH_MAP).cached == 1


def test_a_wrong_manifest_stops_before_any_model(folder: Path, models: FakeModels) -> None:
    """All faults are raised at once and nothing is written."""
    with pytest.raises(ManifestError, match=r"row 1, column source: missing file gone\.png"):
        parse(folder, "1,gone.png,p.json", "1,a.png,p.json")
    assert models.loaded == []
    assert not (folder / "cache").exists()


def test_what_was_done_before_an_error_is_kept(folder: Path, models: FakeModels) -> None:
    """A bug or Ctrl-C in the middle loses nothing that was computed."""

    def spoil(picture: NDArray[np.uint8]) -> None:
        if picture[0, 0, 0] == 20:
            raise KeyboardInterrupt

    models.spoil = spoil
    with pytest.raises(KeyboardInterrupt):
        parse(folder, *ROWS)
    models.spoil = lambda picture: None
    summary = parse(folder, *ROWS)
    assert (summary.parsed, summary.cached) == (1, 1)


def test_the_same_numbers_from_models_and_cache(folder: Path, models: FakeModels) -> None:
    """What a row sees does not depend on whether its source was in the cache."""
    photo = read_photo(folder / "a.png")
    with Perception(folder / "model", folder / "cache", "cpu") as eyes:
        first = eyes.look(photo, None, None)
    again = Perception(folder / "model", folder / "cache", "cpu")
    second = again.look(photo, None, None)
    assert (eyes.recalled, again.recalled) == (0, 1)
    assert first.regions == second.regions
    assert np.array_equal(first.labels, second.labels)
    assert first.labels.shape == (8, 6)
    for label, vector in first.embeddings.items():
        assert vector.dtype == np.float16
        assert np.array_equal(vector, second.embeddings[label])


def test_a_gpu_that_is_not_there(
    folder: Path, models: FakeModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking for one on a machine without is the machine's fault, with the remedy."""
    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "torch", torch)
    eyes = Perception(folder / "model", folder / "cache", "cuda")
    with pytest.raises(EnvironmentFault, match="--device cpu"):
        eyes.look(read_photo(folder / "a.png"), None, None)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_parse
from catalogpose.catalog.cache import Cache

fake = test_parse.FakeModels()
for name in ("parser", "clip"):
    sys.modules[f"catalogpose.perception.{name}"] = test_parse.SimpleNamespace(
        **{name.capitalize(): test_parse.SimpleNamespace(load=fake.load(name))},
        **{f"{name}_settings": fake.read_settings},
    )
Cache.__init__.__kwdefaults__["flush_count"] = 3
seen = []

def spoil(picture):
    seen.append(picture)
    if len(seen) == 8:
        os.kill(os.getpid(), signal.SIGKILL)

fake.spoil = spoil
test_parse.parse(Path(sys.argv[2]), *sys.argv[3:])
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_run_loses_at_most_a_part(folder: Path, models: FakeModels) -> None:
    """Killed at the eighth photo with parts of three, six are there, and the next run goes on."""
    lines = []
    for number in range(10):
        (folder / f"{number}.png").write_bytes(picture_file(number))
        lines.append(f"{number},{number}.png,p.json")
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", KILLED, here, str(folder), *lines]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    summary = parse(folder, *lines)
    assert (summary.parsed, summary.cached) == (4, 6)
    assert parse(folder, *lines).cached == 10


STYLE = "id,source,reference,reference_pose,reference_regions,reference_parsing,reference_label_set"


def test_of_a_reference_the_map_alone_is_made(folder: Path, models: FakeModels) -> None:
    """Each reference is parsed once, never embedded; one that is a source too shares its map."""
    rows = [
        "1,a.png,b.png,p.json,pants,,",
        "2,a.png,c.png,p.json,hair,,",
        "3,a.png,a.png,p.json,hair,,",
    ]
    summary = parse(folder, *rows, header=STYLE)
    assert models.calls == ["parse", "embed", "parse"]
    assert (summary.sources, summary.references, summary.parsed, summary.embedded) == (1, 2, 2, 1)
    assert str(summary).startswith("3 rows, 1 sources, 2 references: 2 parsed, 1 embedded")
    models.loaded.clear()
    again = parse(folder, *rows, header=STYLE)
    assert (models.loaded, again.parsed, again.embedded, again.cached) == ([], 0, 0, 3)


def test_references_that_need_no_parser(folder: Path, models: FakeModels) -> None:
    """A mask file and a ready map are checked against the photo; a wrong one fails its row."""
    Image.new("L", (6, 8), 255).save(folder / "mask.png")
    write_parsing_map(folder / "map.png", np.zeros((8, 6), np.uint8))
    write_parsing_map(folder / "odd.png", np.zeros((9, 6), np.uint8))
    rows = [
        "1,a.png,b.png,p.json,mask.png,,",
        "2,a.png,b.png,p.json,hair,map.png,common",
        "3,a.png,b.png,p.json,hair,odd.png,common",
        "4,a.png,broken.png,p.json,hair,,",
    ]
    summary = parse(folder, *rows, header=STYLE)
    assert models.calls == ["parse", "embed"]
    assert [(row, stage) for row, stage, _ in summary.failed] == [
        ("3", "reference"),
        ("4", "reference"),
    ]
    reasons = [reason for *_, reason in summary.failed]
    assert reasons[0].startswith("the reference: the parsing map has 6x9 pixels")
    assert reasons[1] == "the reference: the photo's file is empty"
