import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from catalogpose.catalog.datasets.collection import Missing
from catalogpose.catalog.datasets.deepfashion import find_deepfashion
from catalogpose.catalog.datasets.inshop_names import parse_inshop_name
from catalogpose.catalog.datasets.upright import check_frame
from catalogpose.errors import UsageError

DRESS = "fashionWOMENDressesid0000262902_1front.jpg"
DRESS_SIDE = "fashionWOMENDressesid0000262902_2side.jpg"
TANK = "fashionMENTees_Tanksid0000602901_1front.jpg"
TANK_FULL = "fashionMENTees_Tanksid0000602901_4full.jpg"


@pytest.mark.parametrize(
    "name",
    [
        TANK,
        "MEN/Tees_Tanks/id_00006029/01_1_front.jpg",
        "img/MEN/Tees_Tanks/id_00006029/01_1_front.jpg",
        "MEN-Tees_Tanks-id_00006029-01_1_front.jpg",
    ],
)
def test_three_spellings_name_one_picture(name: str) -> None:
    """The lists', the archive's and DeepFashion-MultiModal's names say the same."""
    known = parse_inshop_name(name)
    assert known is not None
    assert known.flat == TANK
    assert known.tree == "MEN/Tees_Tanks/id_00006029/01_1_front.jpg"
    assert known.product == "id_00006029-01"


def test_another_name_is_no_inshop_name() -> None:
    """Nothing is guessed."""
    assert parse_inshop_name("fashion.jpg") is None


def test_the_archives_tree(archive: Path) -> None:
    """Lists beside the archive's tree: every pair, its pictures, joints and product."""
    found = find_deepfashion(archive)
    assert found.splits["train"] == [(DRESS, DRESS_SIDE), (DRESS_SIDE, DRESS)]
    assert found.splits["test"] == [(TANK, TANK_FULL), (TANK_FULL, TANK)]
    shot = found.shots[DRESS]
    assert shot.picture == archive / "img_highres/WOMEN/Dresses/id_00002629/02_1_front.jpg"
    assert shot.product == "id_00002629-02"
    assert (shot.pose.width, shot.pose.height) == (176, 256)
    assert shot.pose.joints[3].tolist() == [65, 85, 1]
    assert np.isnan(shot.pose.joints[17, :2]).all()
    assert shot.pose.joints[17, 2] == 0
    assert not found.missing
    counts = {count.what: (count.found, count.expected) for count in found.counts}
    assert counts["train pairs"] == (2, 101_966)
    assert counts["test pairs"] == (2, 8_570)
    assert counts["target poses without a joint"] == (0, None)


@pytest.mark.parametrize("folders", [("train_highres", "test_highres"), ("train", "test")])
def test_flat_folders(archive: Path, folders: tuple[str, str]) -> None:
    """CFLD's and MCLD's copies under the lists' names do as well as the tree."""
    for folder, names in zip(folders, ((DRESS, DRESS_SIDE), (TANK, TANK_FULL)), strict=True):
        (archive / folder).mkdir()
        for name in names:
            known = parse_inshop_name(name)
            assert known is not None
            shutil.copy(archive / "img_highres" / known.tree, archive / folder / name)
    shutil.rmtree(archive / "img_highres")
    found = find_deepfashion(archive)
    assert found.shots[TANK].picture == archive / folders[1] / TANK
    assert not found.missing


@pytest.mark.parametrize("spelling", ["fashion", "fasion"])
def test_both_spellings(tmp_path: Path, make_csv_lists: Callable[..., None], spelling: str) -> None:
    """READMEs say fashion-, code opens fasion-: the joints are the same."""
    make_csv_lists(tmp_path, spelling)
    found = find_deepfashion(tmp_path)
    assert [missing.kind for missing in found.missing] == ["picture"] * 4


def test_the_square_frame_loses_its_border(
    archive: Path, make_csv_lists: Callable[..., None]
) -> None:
    """Lists without -resize- count from 40 white columns further left."""
    standing = find_deepfashion(archive).shots[DRESS].pose.joints
    for file in archive.glob("*.csv"):
        file.unlink()
    shifted = [(x + 40, y) if seen else (-1, -1) for x, y, seen in standing.tolist()]
    make_csv_lists(archive, "fasion", "", shifted)
    assert np.array_equal(find_deepfashion(archive).shots[DRESS].pose.joints, standing, True)


def test_texts_as_in_nted(archive: Path) -> None:
    """Pairs name the target first, and each picture has 18 lines of x and y, border included."""
    standing = find_deepfashion(archive).shots[DRESS].pose.joints
    for file in archive.glob("*.csv"):
        file.unlink()
    (archive / "img_highres").rename(archive / "img")
    lines = [f"{x + 40:.1f} {y:.1f}" if seen else "-1 -1" for x, y, seen in standing.tolist()]
    for name in (DRESS, DRESS_SIDE, TANK):
        known = parse_inshop_name(name)
        assert known is not None
        file = archive / "pose" / Path(known.tree).with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(lines) + "\n")
    dress, side = "img/WOMEN/Dresses/id_00002629/02_1_front.jpg", "02_2_side.jpg"
    (archive / "train_pairs.txt").write_text(f"{dress},{Path(dress).parent / side}\n")
    (archive / "test_pairs.txt").write_text(f"{TANK},{TANK_FULL},{TANK_FULL}\n")
    found = find_deepfashion(archive)
    assert found.splits["train"] == [(DRESS_SIDE, DRESS)]
    assert found.splits["test"] == [(TANK_FULL, TANK)] * 2
    assert np.array_equal(found.shots[DRESS].pose.joints, standing, True)
    assert found.missing == [Missing(kind="keypoints", name=TANK_FULL)]


def test_a_missing_picture_is_named(archive: Path) -> None:
    """By its place in the archive, for that is where it comes from."""
    (archive / "img_highres/WOMEN/Dresses/id_00002629/02_2_side.jpg").unlink()
    found = find_deepfashion(archive)
    wanted = "WOMEN/Dresses/id_00002629/02_2_side.jpg"
    assert found.missing == [Missing(kind="picture", name=wanted)]
    assert list(found.complete("train")) == []
    assert len(list(found.complete("test"))) == 2


def test_a_target_without_a_joint_is_counted(
    archive: Path, make_csv_lists: Callable[..., None]
) -> None:
    """Its row stays, as in the papers, and is said to be one that cannot be generated."""
    make_csv_lists(archive, points=[(-1, -1)] * 18)
    counts = {count.what: count.found for count in find_deepfashion(archive).counts}
    assert counts["target poses without a joint"] == 4


def test_the_lists_of_pictures_are_counted_where_they_are(archive: Path) -> None:
    """Their number is said; it decides nothing."""
    (archive / "train.lst").write_text(f"{DRESS}\n{DRESS_SIDE}\n")
    counts = [count for count in find_deepfashion(archive).counts if count.what == "train.lst"]
    assert [(c.found, c.expected, c.binding) for c in counts] == [(2, 48_674, False)]


def test_columns_are_read_by_their_names(
    archive: Path, make_csv_lists: Callable[..., None]
) -> None:
    """Swapped names over swapped columns are right again."""
    standing = find_deepfashion(archive).shots[DRESS].pose.joints
    swapped = [(y, x) for x, y, _ in standing.tolist() if x == x] + [(-1, -1)] * 2
    make_csv_lists(archive, points=swapped, header="name:keypoints_x:keypoints_y")
    assert np.array_equal(find_deepfashion(archive).shots[DRESS].pose.joints, standing, True)


def test_swapped_axes_are_refused(archive: Path, make_csv_lists: Callable[..., None]) -> None:
    """Bodies that lie on their side tell, and the message says what to do."""
    make_csv_lists(archive, header="name:keypoints_x:keypoints_y")
    with pytest.raises(UsageError, match=r"upright in 0 of 2 poses; swap the names keypoints_y"):
        find_deepfashion(archive)


def test_joints_outside_the_frame_are_refused(
    archive: Path, make_csv_lists: Callable[..., None]
) -> None:
    """Coordinates of larger pictures are not those of the lists."""
    make_csv_lists(archive, points=[(x * 4, y * 4) for x, y in [(80, 40), (80, 20)] * 9])
    with pytest.raises(UsageError, match="36 of 36 joints lie outside the frame of 176 x 256"):
        find_deepfashion(archive)


@pytest.mark.parametrize(("shift", "fault"), [(40, "x = 128"), (-40, "x = 48"), (0, None)])
def test_a_frame_with_other_borders_is_refused(shift: int, fault: str | None) -> None:
    """Hardly a joint lies outside, yet many people together are off the middle."""
    joints = np.full((50, 18, 3), np.nan, dtype=np.float32)
    joints[:, 1] = (88 + shift, 50, 1)
    if fault is None:
        check_frame(joints, (176, 256), "a.csv", "rename it")
    else:
        with pytest.raises(UsageError, match=f"a.csv: the necks lie about {fault}.*; rename it"):
            check_frame(joints, (176, 256), "a.csv", "rename it")
        check_frame(joints[:49], (176, 256), "a.csv", "too few to tell")


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("fashion-resize-pairs-train.csv", "source,target\na,b\n", "line 1 is not the header"),
        ("fashion-resize-pairs-train.csv", "from,to\na,b\n\nc\n", "line 4 is not a pair"),
        ("fashion-resize-annotation-test.csv", "name,x\n", "line 1 is not the header"),
        (
            "fashion-resize-annotation-test.csv",
            f"name:keypoints_y:keypoints_x\n{TANK}: [1, 2]: [3, 4]\n",
            "line 2 does not hold two lists of 18 numbers",
        ),
    ],
)
def test_a_wrong_line_is_named(archive: Path, file: str, text: str, fault: str) -> None:
    """A list that is not what it should be is refused with its line."""
    (archive / file).write_text(text)
    with pytest.raises(UsageError, match=fault) as caught:
        find_deepfashion(archive)
    assert file in str(caught.value)


def test_no_list_at_all(tmp_path: Path) -> None:
    """Every name that was looked for is told."""
    with pytest.raises(UsageError, match=r"no list of pairs; .*fasion-resize-pairs-test\.csv"):
        find_deepfashion(tmp_path)


def test_no_keypoints(archive: Path) -> None:
    """Pairs alone are not enough."""
    (archive / "fashion-resize-annotation-train.csv").unlink()
    with pytest.raises(UsageError, match="no keypoints of the train split"):
        find_deepfashion(archive)
