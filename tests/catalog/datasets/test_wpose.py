from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catalogpose.catalog.datasets.collection import Collection, Missing
from catalogpose.catalog.datasets.wpose import cut_out, find_wpose
from catalogpose.errors import UsageError


def find(root: Path, raw: Path | None = None) -> Collection:
    """Read a folder with the poses beside it."""
    return find_wpose(root, root.parent / "out", poses=root.parent / "poses", raw=raw)


def test_pairs_maps_and_brought_poses(wpose: Path) -> None:
    """After the owners' script all is there but the poses, which the user brings."""
    found = find(wpose)
    assert found.splits == {"test": [("1.png", "2.png"), ("2.png", "1.png"), ("3.png", "1.png")]}
    assert found.label_set == "lip"
    assert not found.missing
    shot = found.shots["2.png"]
    assert (shot.picture, shot.parsing) == (wpose / "images/2.png", wpose / "parsing/2.png")
    assert (shot.pose.width, shot.pose.height) == (176, 256)
    assert shot.pose.joints[4, :2].tolist() == [64, 112]
    counts = {count.what: (count.found, count.expected) for count in found.counts}
    assert counts["test pairs"] == (3, 2_304)
    assert counts["addresses in image_urls.txt"] == (3, None)


def test_the_pickle_is_never_opened(wpose: Path) -> None:
    """It holds what unpickling would run; neither that nor its absence matters."""
    before = find(wpose)
    assert not Path("pickled").exists()
    (wpose / "test_data.pkl").unlink()
    assert find(wpose).splits == before.splits


def test_dead_addresses_shrink_the_set(wpose: Path) -> None:
    """Pictures that could not be fetched are named, and their pairs left out."""
    (wpose / "images/3.png").unlink()
    found = find(wpose)
    assert found.missing == [Missing(kind="picture", name="3.png")]
    assert len(list(found.complete("test"))) == 2


def test_missing_and_unreadable_poses(wpose: Path) -> None:
    """Each is told with the name of the file that is wanted."""
    (wpose.parent / "poses/1_keypoints.json").unlink()
    (wpose.parent / "poses/2_keypoints.json").write_text("{")
    assert [missing.name for missing in find(wpose).missing] == [
        "1.json", "2_keypoints.json (the pose is not JSON)",
    ]  # fmt: skip


def test_a_picture_of_another_size_is_not_the_one_annotated(wpose: Path) -> None:
    """An address may have come to give another picture: its map would not fit."""
    Image.new("RGB", (100, 100)).save(wpose / "images/1.png")
    (missing,) = find(wpose).missing
    assert missing.kind == "picture"
    assert "100 x 100; its map is 176 x 256" in missing.name


def test_downloaded_pictures_are_cut_out(wpose: Path, tmp_path: Path) -> None:
    """Without the owners' script, boxes and maps suffice; a download that failed is missing."""
    raw = tmp_path / "downloaded_data"
    raw.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(raw / "1.png")
    (raw / "2.png").write_text("<html>404</html>")
    for name in ("1.png", "2.png", "3.png"):
        (wpose / "images" / name).unlink()
    found = find(wpose, raw)
    assert [missing.name for missing in found.missing] == ["2.png", "3.png"]
    cut = tmp_path / "out/images/1.png"
    assert found.shots["1.png"].picture == cut
    with Image.open(cut) as image:
        assert np.array_equal(np.asarray(image), pixels[20:276, 10:186])


@pytest.mark.parametrize(
    ("box", "size"),
    [((0, 0, 700, 1400), (512, 1024)), ((0, 0, 2000, 300), (1024, 210)), ((900, 0, 999, 9), None)],
)
def test_the_longer_side_is_at_most_1024(
    tmp_path: Path, box: tuple[int, int, int, int], size: tuple[int, int] | None
) -> None:
    """Rounded as the owners do; a box beside the picture gives nothing."""
    Image.new("RGB", (700, 1400) if box[3] != 300 else (1463, 300)).save(tmp_path / "raw.jpg")
    cut_out(tmp_path / "raw.jpg", box, tmp_path / "cut.png")
    if size is None:
        assert not (tmp_path / "cut.png").exists()
    else:
        with Image.open(tmp_path / "cut.png") as image:
            assert image.size == size


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("test_pairs.txt", "1.png 2.png\n1.png\n", "line 2 is not the names of two pictures"),
        ("test_pairs.txt", "../1.png 2.png\n", "line 1 is not the names of two pictures"),
        ("bbox.txt", "1.png 1 2 3\n", "line 1 is not a name, left, top, right and bottom"),
    ],
)
def test_a_wrong_line_is_named(wpose: Path, file: str, text: str, fault: str) -> None:
    """Files and lines are told."""
    (wpose / file).write_text(text)
    with pytest.raises(UsageError, match=fault):
        find(wpose, wpose / "images")


def test_folders_that_are_not_there(wpose: Path) -> None:
    """The poses', the pictures' and the downloads' are each told by their flag."""
    with pytest.raises(UsageError, match=r"--raw .* is no folder"):
        find(wpose, wpose / "gone")
    (wpose / "images").rename(wpose / "pictures")
    with pytest.raises(UsageError, match=r"no folder of pictures \(or give the downloaded ones"):
        find(wpose)
    (wpose.parent / "poses").rename(wpose.parent / "elsewhere")
    with pytest.raises(UsageError, match=r"--poses .* is no folder"):
        find(wpose)
