from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catalogpose.catalog.labels import read_parsing_map
from catalogpose.catalog.manifest import check_manifest, read_rows
from catalogpose.catalog.poses import read_pose
from catalogpose.commands import studio as command
from catalogpose.commands.studio import choose_views, write_studio
from catalogpose.config import SPLITS as SPLIT_NAMES
from catalogpose.config import StudioOptions
from catalogpose.errors import UsageError
from catalogpose.humandiffusion.wanted import check_descriptions
from catalogpose.studio import SPLITS, draw_view, make_scene


def options(out: Path, **more: object) -> StudioOptions:
    """Return the options of a tiny catalogue."""
    fields = {"products": 2, "poses": 2, "height": 64, "width": 44} | more
    return StudioOptions(out=out, **fields)  # type: ignore[arg-type]


def test_a_catalogue_is_a_manifest_that_generate_takes(tmp_path: Path) -> None:
    """Products times poses rows pass the check, and every file they name can be read."""
    summary = write_studio(options(tmp_path / "new"))
    assert check_manifest(summary.manifest) == summary.rows == 4
    rows = list(read_rows(summary.manifest))
    assert len({row.source for row in rows}) == 2
    for row in rows:
        assert row.parsing is None
        assert row.target is not None
        assert row.target != row.source
        assert np.array(Image.open(row.target)).shape == (64, 44, 3)
        pose = read_pose(row.pose)
        assert (pose.width, pose.height) == (44, 64)


def test_files_hold_the_true_picture(tmp_path: Path) -> None:
    """Photo, map and pose on disk are those that the studio draws."""
    write_studio(options(tmp_path, products=1, poses=1), with_parsing=True)
    row = next(read_rows(tmp_path / "manifest.parquet"))
    number = SPLITS["test"].start
    source, targets = choose_views(number, 1)
    picture = draw_view(number, source, height=64, width=44)
    assert row.parsing is not None
    assert row.label_set == "common"
    assert (read_parsing_map(row.parsing, "common") == picture.labels).all()
    assert (np.array(Image.open(row.source)) == picture.photo).all()
    target = draw_view(number, targets[0], height=64, width=44)
    np.testing.assert_allclose(read_pose(row.pose).joints, target.joints, atol=1e-3)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two catalogues of one seed are equal file by file; another seed shares no product."""
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_studio(options(tmp_path / name, seed=seed))
    files = [p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()]
    assert len(files) > 10
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    products = [{r.product for r in read_rows(tmp_path / n / "manifest.parquet")} for n in "ac"]
    assert not products[0] & products[1]


def test_text_driven_rows_ask_for_what_their_target_shows(tmp_path: Path) -> None:
    """Words and maps are those of the true picture, and every wish can be fulfilled."""
    wanted = options(tmp_path / "s", products=4, poses=3, rows="mixed")
    manifest = write_studio(wanted, with_parsing=True).manifest
    assert check_manifest(manifest) == 12
    assert check_descriptions(read_rows(manifest)) == (2, [])
    plain, text, edit = (list(read_rows(manifest))[kind::3] for kind in range(3))
    assert all(row.description is None and row.parsing is not None for row in plain)
    assert all(row.source is None and row.parsing is None for row in text)
    assert all(row.source is not None and row.parsing is not None for row in edit)
    for row in (*text, *edit):
        assert row.target is not None
        assert row.description is not None
        assert row.description.pose_map.name == row.target.name
    assert text[0].description is not None
    assert text[0].description.prompt.startswith("a person with ")


def test_a_source_shows_its_front() -> None:
    """The source is turned away by less than 60 degrees and is none of the targets."""
    for product in range(20):
        source, targets = choose_views(product, 3)
        assert abs(make_scene(product, source).yaw) < 60
        assert source not in targets
        assert len(set(targets)) == 3


def test_a_folder_with_files_is_refused(tmp_path: Path) -> None:
    """A folder that is not empty is left alone, and the message says what to do."""
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty: name a new folder"):
        write_studio(options(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_file_is_refused(tmp_path: Path) -> None:
    """A file in the folder's place is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        write_studio(options(tmp_path / "file"))


def test_an_interrupted_catalogue_has_no_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was stopped half way cannot be mistaken for a whole catalogue."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "write_pose", stop)
    with pytest.raises(KeyboardInterrupt):
        write_studio(options(tmp_path / "new"))
    assert not (tmp_path / "new" / "manifest.parquet").exists()


def test_progress_ends_with_all(tmp_path: Path) -> None:
    """Progress counts products up to their number."""
    calls: list[tuple[int, int]] = []
    write_studio(options(tmp_path / "new"), lambda done, total: calls.append((done, total)))
    assert calls == [(0, 2), (1, 2), (2, 2)]


def test_the_summary_is_one_line(tmp_path: Path) -> None:
    """The summary names products, rows, photos and the manifest."""
    text = str(write_studio(options(tmp_path / "new", products=1, poses=1)))
    assert "1 products, 1 rows, 2 photos" in text
    assert text.endswith("manifest.parquet")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("products", 0),
        ("poses", 0),
        ("seed", -1),
        ("height", 8),
        ("width", 9999),
        ("split", "all"),
        ("rows", "all"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, field: str, value: object) -> None:
    """The message names the flag."""
    with pytest.raises(UsageError, match=f"--{field}"):
        options(tmp_path, **{field: value})


def test_the_options_know_every_split() -> None:
    """The command's splits are the studio's."""
    assert tuple(SPLITS) == SPLIT_NAMES
