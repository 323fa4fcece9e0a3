import json
from pathlib import Path

import numpy as np
import pytest

from catalogpose.catalog.poses import check_pose, read_pose, write_pose
from catalogpose.errors import RowError
from catalogpose.records import JOINTS, Pose

POINTS = [[10 + i, 20 + 2 * i, 0.5] for i in range(18)]
"""Eighteen different joints on a canvas of 100 x 100."""


def openpose(points: list[list[float]], **more: object) -> dict[str, object]:
    """Return OpenPose's JSON for one person."""
    numbers = [number for point in points for number in point]
    return {"version": 1.3, "people": [{"pose_keypoints_2d": numbers}], **more}


def save(tmp_path: Path, value: object) -> Path:
    """Write a value as a JSON file."""
    path = tmp_path / "pose.json"
    path.write_text(json.dumps(value))
    return path


def test_coco_18(tmp_path: Path) -> None:
    """54 numbers are the joints in order; the canvas is the fallback."""
    pose = read_pose(save(tmp_path, openpose(POINTS)), fallback=(100, 90))
    assert (pose.width, pose.height) == (100, 90)
    assert pose.joints.dtype == np.float32
    assert np.array_equal(pose.joints, np.array(POINTS, dtype=np.float32))


def test_body_25(tmp_path: Path) -> None:
    """75 numbers lose the middle hip and the feet."""
    names = [*JOINTS[:8], "middle-hip", *JOINTS[8:]]
    points = [[3.0 + i, 4.0, 1.0] for i in range(25)]
    pose = read_pose(save(tmp_path, openpose(points)), fallback=(100, 100))
    assert pose.joints[:, 0].tolist() == [3 + names.index(joint) for joint in JOINTS]


def test_the_canvas_is_the_manifests_then_the_files_then_the_sources(tmp_path: Path) -> None:
    """Three places can name it, in this order."""
    bare = save(tmp_path, openpose(POINTS))
    assert (read_pose(bare, fallback=(60, 70)).width) == 60
    full = save(tmp_path, openpose(POINTS, canvas_width=200, canvas_height=150))
    assert read_pose(full, fallback=(60, 70)).height == 150
    assert read_pose(full, size=(80, 90), fallback=(60, 70)).width == 80


def test_a_pose_without_any_canvas_fails_its_row(tmp_path: Path) -> None:
    """The remedy names the manifest's columns."""
    with pytest.raises(RowError, match="pose_width and pose_height") as caught:
        read_pose(save(tmp_path, openpose(POINTS)))
    assert (caught.value.stage, caught.value.error_class) == ("pose", "no-canvas")


def test_missing_joints(tmp_path: Path) -> None:
    """Zeros, no confidence, null and NaN are all missing: NaN, NaN, 0."""
    points: list[list[float | None]] = [list(point) for point in POINTS]
    points[0] = [0, 0, 0]
    points[1] = [30, 40, 0]
    points[2] = [None, None, None]
    points[3] = [float("nan"), 3, 1]
    points[4] = [30, 40, float("nan")]
    points[5] = [30, 40, -1]
    pose = read_pose(save(tmp_path, openpose(points)), fallback=(100, 100))
    assert np.isnan(pose.joints[:6, :2]).all()
    assert (pose.joints[:6, 2] == 0).all()
    assert np.isfinite(pose.joints[6:]).all()


def test_joints_outside_the_canvas_are_missing(tmp_path: Path) -> None:
    """Left, right, above and below count alike; the edge itself is inside."""
    points = [list(point) for point in POINTS]
    points[0], points[1], points[2] = [-1, 5, 1], [5, 101, 1], [100, 100, 1]
    pose = read_pose(save(tmp_path, openpose(points)), fallback=(100, 100))
    assert np.isnan(pose.joints[:2, :2]).all()
    assert pose.joints[2].tolist() == [100, 100, 1]


@pytest.mark.parametrize("point", [[0, 0, 0], [-10, 5, 1], [500, 500, 1]])
def test_a_pose_without_a_joint_inside_is_empty(tmp_path: Path, point: list[float]) -> None:
    """It fails its row, but it can be read, so a manifest's check lets it pass."""
    path = save(tmp_path, openpose([point] * 18))
    check_pose(path)
    with pytest.raises(RowError, match="no joint on its 100x90 canvas") as caught:
        read_pose(path, size=(100, 90))
    assert (caught.value.stage, caught.value.error_class) == ("pose", "empty")


def test_shares_of_the_canvas(tmp_path: Path) -> None:
    """sd-webui's list of pictures with coordinates from 0 to 1 becomes pixels."""
    points = [[0.1 + i / 100, i / 17, 1.0] for i in range(18)]
    points[17] = [0.5, 1.2, 1]
    value = [openpose(points, canvas_width=200, canvas_height=400), {"people": []}]
    pose = read_pose(save(tmp_path, value), fallback=(5, 5))
    assert pose.joints[0].tolist() == [20, 0, 1]
    assert pose.joints[16, 1] == pytest.approx(400 * 16 / 17)
    assert np.isnan(pose.joints[17, 0])


def test_our_own_format_is_always_pixels(tmp_path: Path) -> None:
    """A tiny pose in our format stays where it is."""
    joints = [[1.0, 0.5, 0.9]] + [None] * 17
    value = {
        "format": "catalogpose-pose",
        "version": 1,
        "width": 50,
        "height": 60,
        "joints": joints,
    }
    pose = read_pose(save(tmp_path, value))
    assert (pose.width, pose.height) == (50, 60)
    assert pose.joints[0].tolist() == [1, 0.5, pytest.approx(0.9)]


def test_our_own_format_comes_back(tmp_path: Path) -> None:
    """What is written is read again, missing joints included."""
    joints = np.array(POINTS, dtype=np.float32)
    joints[4] = (np.nan, np.nan, 0)
    write_pose(tmp_path / "p.json", Pose(joints=joints, width=352, height=512))
    pose = read_pose(tmp_path / "p.json", fallback=(1, 1))
    assert (pose.width, pose.height) == (352, 512)
    assert np.array_equal(pose.joints, joints, equal_nan=True)


def test_of_several_people_the_surest_counts(tmp_path: Path) -> None:
    """The person with the largest sum of confidences is the one meant."""
    bystander = [[90, 90, 0.3]] * 18
    value = openpose(bystander)
    value["people"] += openpose(POINTS)["people"]  # type: ignore[operator]
    assert read_pose(save(tmp_path, value), fallback=(100, 100)).joints[0, 0] == 10


def test_confidence_stays_within_one(tmp_path: Path) -> None:
    """Scores of other scales are cut."""
    points = [[5, 5, 7.0], *POINTS[1:]]
    assert read_pose(save(tmp_path, openpose(points)), fallback=(100, 100)).joints[0, 2] == 1


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "null",
        "[]",
        "[3]",
        '"text"',
        "{}",
        '{"people": []}',
        '{"people": [{}]}',
        '{"people": [7]}',
        '{"people": [{"pose_keypoints_2d": [1, 2, 3]}]}',
        '{"people": [{"pose_keypoints_2d": null}]}',
        json.dumps(openpose([["a", 1, 1]] * 18)),
        json.dumps(openpose([[True, 1, 1]] * 18)),
        json.dumps(openpose([[float("inf"), 1, 1]] * 18)),
        json.dumps(openpose([[1, 1, 1]] * 17)),
        json.dumps(openpose(POINTS, canvas_width=0, canvas_height=5)),
        json.dumps(openpose(POINTS, canvas_width=5)),
        json.dumps(openpose(POINTS, canvas_width=5.5, canvas_height=5)),
        json.dumps(openpose(POINTS, canvas_width=1e9, canvas_height=5)),
        json.dumps({"format": "catalogpose-pose", "version": 2}),
        json.dumps({"format": "catalogpose-pose", "version": 1, "joints": [None] * 17}),
        json.dumps({"format": "catalogpose-pose", "version": 1, "joints": [[1, 2]] * 18}),
        json.dumps({"format": "catalogpose-pose", "version": 1, "joints": [None] * 18}),
        "[" * 100_000,
        '{"people": [{"pose_keypoints_2d": [' + "9" * 5000 + ", 1" * 53 + "]}]}",
        '{"people": [{"pose_keypoints_2d": [' + "9" * 400 + ", 1" * 53 + "]}]}",
        '{"people": "' + "x" * 4_000_000 + '"}',
    ],
    ids=lambda content: content[:40],
)
def test_an_unreadable_pose_fails_its_row(tmp_path: Path, content: str) -> None:
    """Whatever the file holds, the reason is one line and both readers agree on it."""
    (tmp_path / "p.json").write_text(content)
    for read in (check_pose, lambda path: read_pose(path, fallback=(100, 100))):
        with pytest.raises(RowError) as caught:
            read(tmp_path / "p.json")
        assert (caught.value.stage, caught.value.error_class) == ("pose", "unreadable")
        assert "\n" not in caught.value.message


def test_bytes_that_are_no_text_are_unreadable(tmp_path: Path) -> None:
    """A picture under a pose's name is refused plainly; a missing file has its own class."""
    (tmp_path / "p.json").write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    with pytest.raises(RowError, match="not JSON"):
        check_pose(tmp_path / "p.json")
    with pytest.raises(RowError) as caught:
        check_pose(tmp_path / "gone.json")
    assert caught.value.error_class == "missing"
