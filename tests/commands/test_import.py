import dataclasses
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from catalogpose import cli
from catalogpose.catalog.manifest import check_manifest, read_rows
from catalogpose.catalog.poses import read_pose
from catalogpose.cli import importing
from catalogpose.commands import import_dataset
from catalogpose.commands.import_dataset import write_dataset_manifests
from catalogpose.config import ImportOptions
from catalogpose.errors import UsageError

XS = [88, 88, 70, 65, 64, 106, 111, 112, 77, 76, 75, 98, 100, 101, 84, 92, -1, -1]
YS = [30, 55, 56, 85, 112, 56, 85, 112, 120, 170, 220, 120, 170, 220, 26, 26, -1, -1]
"""A standing person in 176 x 256 pixels."""

ITEMS = {
    "train": ("fashionWOMENDressesid00002629", "02"),
    "test": ("fashionMENTees_Tanksid00006029", "01"),
}
VIEWS = ("1front", "2side", "3back")


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """Return DeepFashion as CFLD's script leaves it: three pictures a split, six pairs."""
    root = tmp_path / "fashion"
    for split, (item, colour) in ITEMS.items():
        names = [f"{item}{colour}_{view}.jpg" for view in VIEWS]
        (root / f"{split}_highres").mkdir(parents=True)
        for name in names:
            Image.new("RGB", (75, 110)).save(root / f"{split}_highres" / name)
        pairs = [f"{a},{b}" for a in names for b in names if a != b]
        (root / f"fashion-resize-pairs-{split}.csv").write_text("\n".join(["from,to", *pairs]))
        lines = ["name:keypoints_y:keypoints_x", *(f"{name}: {YS}: {XS}" for name in names)]
        (root / f"fashion-resize-annotation-{split}.csv").write_text("\n".join(lines))
    return root


@pytest.fixture
def options(fashion: Path, tmp_path: Path) -> ImportOptions:
    """Return the options of an import that may be partial: the real set has 110,536 pairs."""
    return ImportOptions(
        dataset="deepfashion", root=fashion, out=tmp_path / "out", allow_partial=True
    )


def test_from_the_folder_to_rows(options: ImportOptions, tmp_path: Path) -> None:
    """End to end: the manifests pass the check and their rows lead to photos, poses, targets."""
    said: list[tuple[int, int]] = []
    summary = write_dataset_manifests(options, lambda *now: said.append(now))
    assert summary.rows == {"train": 6, "test": 6}
    assert said == [(done, 12) for done in range(1, 13)]
    for split, product in (("train", "id_00002629-02"), ("test", "id_00006029-01")):
        manifest = tmp_path / "out" / f"{split}.parquet"
        assert check_manifest(manifest) == 6
        rows = list(read_rows(manifest))
        first = f"{''.join(ITEMS[split])}_1front"
        second = f"{''.join(ITEMS[split])}_2side"
        assert rows[0].id == f"{first}_2_{second}"
        assert rows[0].source.samefile(options.root / f"{split}_highres" / f"{first}.jpg")
        assert rows[0].target is not None
        assert rows[0].target.samefile(options.root / f"{split}_highres" / f"{second}.jpg")
        assert {row.product for row in rows} == {product}
        assert rows[0].pose_size == (176, 256)
        pose = read_pose(rows[0].pose, size=rows[0].pose_size)
        assert pose.joints[:16].tolist() == [[x, y, 1] for x, y in zip(XS, YS, strict=True)][:16]
        assert pose.joints[16:, 2].tolist() == [0, 0]
    assert pq.read_schema(tmp_path / "out/train.parquet").names == [
        "id", "source", "pose", "pose_width", "pose_height", "target", "product",
    ]  # fmt: skip
    assert len(list((tmp_path / "out/poses").iterdir())) == 6


def test_manifests_move_with_their_data(options: ImportOptions, tmp_path: Path) -> None:
    """Paths are relative, so both folders can be carried elsewhere together."""
    write_dataset_manifests(options)
    elsewhere = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(elsewhere)
    assert check_manifest(elsewhere / "out" / "test.parquet") == 6


def test_the_record_beside_the_manifests(options: ImportOptions, tmp_path: Path) -> None:
    """Terms, counts found and expected, rows: as JSON for tools, the licence as text."""
    summary = write_dataset_manifests(options)
    record = json.loads((tmp_path / "out/dataset.json").read_text())
    assert record["name"] == "deepfashion"
    assert record["rows"] == {"train": 6, "test": 6}
    assert record["counts"][0] == {
        "what": "train pairs", "found": 6, "expected": 101_966, "binding": True,
    }  # fmt: skip
    assert record["licence"]["home"].startswith("http")
    licence = (tmp_path / "out/LICENCE.txt").read_text()
    for words in (licence, str(summary), record["licence"]["terms"]):
        assert "Non-commercial research only" in words
    assert "train pairs: 6 (expected 101,966)" in str(summary)
    assert not (tmp_path / "out/missing.txt").exists()


def test_other_counts_are_refused(options: ImportOptions, tmp_path: Path) -> None:
    """Found and expected are said, with the way on; no manifest is written."""
    with pytest.raises(UsageError) as caught:
        write_dataset_manifests(dataclasses.replace(options, allow_partial=False))
    assert str(caught.value) == (
        "deepfashion is not whole: train pairs: 6 (expected 101,966); test pairs: 6 (expected "
        "8,570); complete the folder, or pass --allow-partial to import what is there"
    )
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["LICENCE.txt"]


def test_missing_files_are_listed(options: ImportOptions, tmp_path: Path) -> None:
    """Refused or partial, the list is there; a partial import has the pairs that are whole."""
    gone = f"{''.join(ITEMS['train'])}_3back.jpg"
    (options.root / "train_highres" / gone).unlink()
    with pytest.raises(UsageError, match=r"missing: 1, listed in .*missing\.txt"):
        write_dataset_manifests(dataclasses.replace(options, allow_partial=False))
    listed = tmp_path / "out/missing.txt"
    assert listed.read_text() == f"picture\t{gone}\n"
    summary = write_dataset_manifests(options)
    assert (summary.rows, summary.left_out) == ({"train": 2, "test": 6}, {"train": 4, "test": 0})
    assert f"missing: 1 ({listed}); pairs left out: 4 train, 0 test" in str(summary)
    assert check_manifest(tmp_path / "out/train.parquet") == 2


def test_an_import_is_renewed(options: ImportOptions, tmp_path: Path) -> None:
    """The same folder again gives the same bytes; a split that went away leaves no manifest."""
    write_dataset_manifests(options)
    manifest = tmp_path / "out/test.parquet"
    before = manifest.read_bytes()
    (options.root / "fashion-resize-pairs-train.csv").unlink()
    assert write_dataset_manifests(options).rows == {"train": 0, "test": 6}
    assert manifest.read_bytes() == before
    assert not (tmp_path / "out/train.parquet").exists()


def test_repeated_pairs_keep_their_rows(options: ImportOptions, tmp_path: Path) -> None:
    """A list that says a pair twice gives two rows, whose ids differ."""
    pairs = options.root / "fashion-resize-pairs-test.csv"
    lines = pairs.read_text().splitlines()
    pairs.write_text("\n".join([*lines, lines[1]]))
    write_dataset_manifests(options)
    assert check_manifest(tmp_path / "out/test.parquet") == 7
    assert [row.id for row in read_rows(tmp_path / "out/test.parquet")][-1].endswith("2side#2")


def test_nothing_whole(options: ImportOptions) -> None:
    """Lists without any picture make no manifest, partial or not."""
    for picture in options.root.glob("*_highres/*.jpg"):
        picture.unlink()
    with pytest.raises(UsageError, match="no pair has all its files"):
        write_dataset_manifests(options)


def test_parsing_maps_reach_the_rows(tmp_path: Path) -> None:
    """WPose: the source's map with its label set, and the poses that the user brought."""
    root = tmp_path / "wpose"
    for folder in ("images", "parsing"):
        (root / folder).mkdir(parents=True)
        for name in ("1.png", "2.png"):
            Image.new("RGB" if folder == "images" else "L", (176, 256)).save(root / folder / name)
    (root / "test_pairs.txt").write_text("1.png 2.png\n")
    numbers = [n for x, y in zip(XS, YS, strict=True) for n in (x, y, float(x >= 0))]
    (tmp_path / "poses").mkdir()
    for name in ("1.json", "2.json"):
        value = {"people": [{"pose_keypoints_2d": numbers}]}
        (tmp_path / "poses" / name).write_text(json.dumps(value))
    summary = write_dataset_manifests(
        ImportOptions(
            dataset="wpose",
            root=root,
            out=tmp_path / "out",
            poses=tmp_path / "poses",
            allow_partial=True,
        )
    )
    assert summary.rows == {"test": 1}
    check_manifest(tmp_path / "out/test.parquet")
    (row,) = read_rows(tmp_path / "out/test.parquet")
    assert row.parsing is not None
    assert row.parsing.samefile(root / "parsing/1.png")
    assert row.label_set == "lip"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"dataset": "market"}, "DATASET must be one of deepfashion, deepfashion-multimodal"),
        ({"poses": Path("p")}, "--poses does not go with deepfashion"),
        ({"dataset": "wpose"}, "wpose ships DensePose and no keypoints: give --poses FOLDER"),
        ({"dataset": "deepfashion-multimodal"}, r"give --keypoint-order FILE.* or give --poses"),
        (
            {"dataset": "deepfashion-multimodal", "poses": Path("p"), "keypoint_order": Path("o")},
            "--poses and --keypoint-order: give one of them",
        ),
        ({"raw": Path("r")}, "--raw goes with wpose alone"),
        ({"keypoint_order": Path("o")}, "--keypoint-order goes with deepfashion-multimodal alone"),
        ({"test_share": 1.5}, "--test-share must be 0 to 1, not 1.5"),
    ],
)
def test_options_that_do_not_go_together(changes: dict[str, Any], fault: str) -> None:
    """Each is refused with its remedy before anything is read."""
    given: dict[str, Any] = {"dataset": "deepfashion", "root": Path("a"), "out": Path("b")}
    with pytest.raises(UsageError, match=fault):
        ImportOptions(**{**given, **changes})


def test_folders_that_are_wrong(options: ImportOptions, tmp_path: Path) -> None:
    """A root that is not there and an output that is a file are named by their flags."""
    with pytest.raises(UsageError, match=r"--root .*gone is no folder"):
        write_dataset_manifests(dataclasses.replace(options, root=tmp_path / "gone"))
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match=r"--out .* is a file: name a folder"):
        write_dataset_manifests(options)


@pytest.mark.parametrize("name", ["deepfashion", "multimodal", "wpose"])
def test_defaults_of_the_command_line(name: str) -> None:
    """Every word of a command is a field of the options with the same default."""
    fields = {field.name: field.default for field in dataclasses.fields(ImportOptions)}
    words = dict(inspect.signature(getattr(importing, name)).parameters)
    assert words.pop("as_json").default is False
    for word, parameter in words.items():
        required = parameter.default is inspect.Parameter.empty
        assert fields[word] == (dataclasses.MISSING if required else parameter.default)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("deepfashion --allow-partial", {"dataset": "deepfashion", "allow_partial": True}),
        (
            "deepfashion-multimodal --keypoint-order o.json --test-share 0.2",
            {
                "dataset": "deepfashion-multimodal",
                "keypoint_order": Path("o.json"),
                "test_share": 0.2,
            },
        ),
        (
            "wpose --poses p --raw d",
            {"dataset": "wpose", "poses": Path("p"), "raw": Path("d")},
        ),
    ],
)
def test_the_one_call(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: ImportOptions,
    words: str,
    expected: dict[str, Any],
) -> None:
    """Words become options, one call follows, and its summary is all that stdout gets."""
    calls: list[ImportOptions] = []
    summary = write_dataset_manifests(options)

    def answer(given: ImportOptions, progress: Any) -> object:
        calls.append(given)
        return summary

    monkeypatch.setattr(import_dataset, "write_dataset_manifests", answer)
    line = ["catalogpose", "import", *words.split(), "--root", "a", "--out", "b"]
    for more, said in (([], f"{summary}\n"), (["--json"], None)):
        monkeypatch.setattr(sys, "argv", [*line, *more])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == 0
        out = capsys.readouterr().out
        assert out == said if said else json.loads(out)["rows"] == {"train": 6, "test": 6}
    assert calls == [ImportOptions(root=Path("a"), out=Path("b"), **expected)] * 2
