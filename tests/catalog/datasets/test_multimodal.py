import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catalogpose.catalog.datasets.collection import Collection
from catalogpose.catalog.datasets.multimodal import convert_points, find_multimodal, read_order
from catalogpose.errors import UsageError
from catalogpose.records import JOINTS


def find(root: Path, order: Path | None, poses: Path | None = None, **more: Any) -> Collection:
    """Read a folder with no test split unless asked for."""
    return find_multimodal(
        root, poses=poses, keypoint_order=order, test_share=more.get("test_share", 0.0)
    )


def test_pictures_of_one_outfit_are_paired(multimodal: Path, order_file: Path) -> None:
    """Both ways within one colour of a garment, and never across colours."""
    pairs = find(multimodal, order_file).splits["train"]
    assert len(pairs) == len(set(pairs)) == 2 + 0 + 6
    for source, target in pairs:
        assert source != target
        assert source.rsplit("_", 2)[0] == target.rsplit("_", 2)[0]


def test_a_shot_has_map_pose_and_product(multimodal: Path, order_file: Path) -> None:
    """Keypoints become COCO-18 in the picture's pixels; the neck is between the shoulders."""
    found = find(multimodal, order_file)
    name = "WOMEN-Dresses-id_00002629-02_1_front.jpg"
    shot = found.shots[name]
    assert found.label_set == "deepfashion-multimodal"
    assert shot.picture == multimodal / "images" / name
    assert shot.parsing == multimodal / "segm" / "WOMEN-Dresses-id_00002629-02_1_front_segm.png"
    assert shot.product == "id_00002629-02"
    assert (shot.pose.width, shot.pose.height) == (176, 256)
    joints = dict(zip(JOINTS, shot.pose.joints.tolist(), strict=True))
    assert joints["right-elbow"] == [65, 85, 1]
    assert joints["neck"] == [88, 56, 1]
    assert joints["left-ear"][2] == 0


def test_counts_are_set_beside_the_owners(multimodal: Path, order_file: Path) -> None:
    """Maps must be all there; other numbers are said."""
    counts = {count.what: count for count in find(multimodal, order_file).counts}
    assert (counts["parsing maps"].found, counts["parsing maps"].expected) == (6, 12_701)
    assert counts["parsing maps"].binding
    assert (counts["pictures"].found, counts["pictures"].expected) == (7, 44_096)
    assert not counts["pictures"].binding


def test_visibility_counts_backwards() -> None:
    """0 is seen, 1 is covered and 2 is not there; a covered nose shows no face."""
    order = [0, 2, 3, 4, *[None] * 17]
    xy = np.arange(42, dtype=np.float32).reshape(21, 2)
    xy[3] = -1
    seen = np.array([1, 0, 1, 0, *[0] * 17], dtype=np.float32)
    joints = convert_points(xy, seen, order)
    assert joints[0, 2] == 0
    assert joints[2].tolist() == [2, 3, 1]
    assert joints[3].tolist() == [4, 5, 0.5]
    assert joints[4, 2] == 0
    absent = convert_points(xy, np.full(21, 2, np.float32), order)
    assert np.isnan(absent[:, :2]).all()


def test_items_keep_to_one_split(multimodal: Path, order_file: Path) -> None:
    """The item's number decides, always alike, and a share of 1 is all."""
    halves = [find(multimodal, order_file, test_share=0.5) for _ in range(2)]
    assert halves[0].splits == halves[1].splits
    items = {s: {a.split("-")[2] for a, _ in pairs} for s, pairs in halves[0].splits.items()}
    assert not items["train"] & items["test"]
    assert len(items["train"] | items["test"]) == 2
    assert not find(multimodal, order_file, test_share=1.0).splits["train"]


def test_what_is_missing(multimodal: Path, order_file: Path) -> None:
    """A picture, a map of another size and keypoints, each by its kind."""
    (multimodal / "images" / "WOMEN-Dresses-id_00002629-02_4_full.jpg").unlink()
    small = multimodal / "segm" / "WOMEN-Dresses-id_00002629-03_1_front_segm.png"
    Image.new("L", (88, 128)).save(small)
    loc = multimodal / "keypoints" / "keypoints_loc.txt"
    loc.write_text(
        "".join(line + "\n" for line in loc.read_text().splitlines() if "back" not in line)
    )
    missing = {(m.kind, m.name) for m in find(multimodal, order_file).missing}
    assert missing == {
        ("picture", "images/WOMEN-Dresses-id_00002629-02_4_full.jpg"),
        ("parsing map", f"segm/{small.name} (88 x 128; the picture is 176 x 256)"),
        ("keypoints", "MEN-Tees_Tanks-id_00006029-01_3_back.jpg"),
    }


def test_keypoints_that_are_all_absent_are_missing(multimodal: Path, order_file: Path) -> None:
    """A pose without a joint could show nothing."""
    name = "MEN-Tees_Tanks-id_00006029-01_1_front.jpg"
    vis = multimodal / "keypoints" / "keypoints_vis.txt"
    lines = vis.read_text().splitlines()
    vis.write_text("\n".join(f"{name}{' 2' * 21}" if name in line else line for line in lines))
    found = find(multimodal, order_file)
    assert [(missing.kind, missing.name) for missing in found.missing] == [("keypoints", name)]


def test_brought_poses_do_as_well(
    multimodal: Path, tmp_path: Path, save_openpose: Callable[..., None]
) -> None:
    """With a folder of OpenPose files the keypoints are not read at all."""
    for map_ in (multimodal / "segm").iterdir():
        save_openpose(tmp_path / "poses" / f"{map_.name.removesuffix('_segm.png')}.json")
    shutil.rmtree(multimodal / "keypoints")
    found = find(multimodal, None, tmp_path / "poses")
    assert len(found.shots) == 6
    assert not found.missing


def test_the_other_name_of_the_maps(multimodal: Path, order_file: Path) -> None:
    """The README says parsing, the archive segm."""
    (multimodal / "segm").rename(multimodal / "parsing")
    assert len(find(multimodal, order_file).shots) == 6


def swap(order: list[Any], one: str, other: str) -> list[Any]:
    """Return an order with two names in each other's place, by parts of their names."""
    return [
        name and name.replace(one, "*").replace(other, one).replace("*", other) for name in order
    ]


@pytest.mark.parametrize(
    ("one", "other", "fault"),
    [
        ("right", "left", "left and right shoulder seem swapped"),
        ("hip", "ankle", "does not fit the keypoints, hips lie below knees"),
        ("shoulder", "knee", "x and y seem swapped|shoulders lie below hips"),
    ],
)
def test_an_order_that_does_not_fit_is_refused(
    multimodal: Path, order_file: Path, one: str, other: str, fault: str
) -> None:
    """The people themselves tell: shoulders above hips, right to the left from the front."""
    order_file.write_text(json.dumps(swap(json.loads(order_file.read_text()), one, other)))
    with pytest.raises(UsageError, match=fault):
        find(multimodal, order_file)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("{", "cannot be read as JSON"),
        (json.dumps(["nose"] * 20), "not a list of 21 names or nulls"),
        (json.dumps(["nose"] * 21), "'nose' is there twice"),
        (json.dumps(["head", *[None] * 20]), "'head' is none of nose, neck"),
        (json.dumps([None] * 21), "does not name right-shoulder, right-elbow"),
    ],
)
def test_a_wrong_order_file(tmp_path: Path, value: str, fault: str) -> None:
    """Each fault is told before any picture is looked for."""
    path = tmp_path / "order.json"
    path.write_text(value)
    with pytest.raises(UsageError, match=fault):
        read_order(path)


def test_a_wrong_line_of_keypoints(multimodal: Path, order_file: Path) -> None:
    """The file and its line are named."""
    (multimodal / "keypoints" / "keypoints_loc.txt").write_text("a.jpg 1 2 3\n")
    with pytest.raises(UsageError, match=r"keypoints_loc\.txt: line 1 is not a name and 42 number"):
        find(multimodal, order_file)


def test_another_folder_is_refused(tmp_path: Path, order_file: Path) -> None:
    """The folders that were looked for are told."""
    with pytest.raises(UsageError, match="no folder of pictures; looked for images, image"):
        find(tmp_path, order_file)
