"""Small folders of exactly the layout in which the data sets' owners hand them out."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

STANDING = [
    (88, 30), (88, 55), (70, 56), (65, 85), (64, 112), (106, 56), (111, 85), (112, 112),
    (77, 120), (76, 170), (75, 220), (98, 120), (100, 170), (101, 220),
    (84, 26), (92, 26), (-1, -1), (-1, -1),
]  # fmt: skip
"""x, y of a person from the front in COCO-18's order, 176 x 256 pixels; -1 is missing."""

DRESS = "WOMEN/Dresses/id_00002629/02_1_front.jpg"
DRESS_SIDE = "WOMEN/Dresses/id_00002629/02_2_side.jpg"
TANK = "MEN/Tees_Tanks/id_00006029/01_1_front.jpg"
TANK_FULL = "MEN/Tees_Tanks/id_00006029/01_4_full.jpg"
FLAT = {
    DRESS: "fashionWOMENDressesid0000262902_1front.jpg",
    DRESS_SIDE: "fashionWOMENDressesid0000262902_2side.jpg",
    TANK: "fashionMENTees_Tanksid0000602901_1front.jpg",
    TANK_FULL: "fashionMENTees_Tanksid0000602901_4full.jpg",
}
"""Pictures of the archive and their names in the lists: dresses to train, tanks to test."""

Save = Callable[..., Path]


@pytest.fixture
def save_picture() -> Save:
    """Return a function that writes a small picture of any format that its name says."""

    def save(path: Path, size: tuple[int, int] = (75, 110), mode: str = "RGB") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size).save(path)
        return path

    return save


def csv_line(name: str, points: Sequence[tuple[float, float]]) -> str:
    """Return a line of the CSV of joints: y before x."""
    ys, xs = [y for _, y in points], [x for x, _ in points]
    return f"{name}: {ys}: {xs}"


@pytest.fixture
def make_csv_lists() -> Callable[..., None]:
    """Return a function that writes the four CSV lists, as DPTN gives them out."""

    def make(
        root: Path,
        spelling: str = "fashion",
        middle: str = "-resize",
        points: Sequence[tuple[float, float]] = STANDING,
        header: str = "name:keypoints_y:keypoints_x",
    ) -> None:
        for split, a, b in (("train", DRESS, DRESS_SIDE), ("test", TANK, TANK_FULL)):
            names = [FLAT[a], FLAT[b]]
            pairs = [f"{names[0]},{names[1]}", f"{names[1]},{names[0]}"]
            start = f"{spelling}{middle}"
            root.mkdir(parents=True, exist_ok=True)
            (root / f"{start}-pairs-{split}.csv").write_text("\n".join(["from,to", *pairs]) + "\n")
            lines = [header, *(csv_line(name, points) for name in names)]
            (root / f"{start}-annotation-{split}.csv").write_text("\n".join(lines) + "\n")

    return make


@pytest.fixture
def archive(tmp_path: Path, save_picture: Save, make_csv_lists: Callable[..., None]) -> Path:
    """Return a root with the archive's tree and the CSV lists beside it."""
    for name in FLAT:
        save_picture(tmp_path / "fashion" / "img_highres" / name)
    make_csv_lists(tmp_path / "fashion")
    return tmp_path / "fashion"


ORDER = [
    None, "nose", "right-eye", "left-eye", None, None, None,
    "right-shoulder", "right-elbow", "right-wrist", "left-shoulder", "left-elbow", "left-wrist",
    "right-hip", "right-knee", "right-ankle", "left-hip", "left-knee", "left-ankle", None, None,
]  # fmt: skip
"""An order of 21 points, invented for the tests: the owners' is published in a picture alone."""

STEMS = (
    "WOMEN-Dresses-id_00002629-02_1_front",
    "WOMEN-Dresses-id_00002629-02_4_full",
    "WOMEN-Dresses-id_00002629-03_1_front",
    "MEN-Tees_Tanks-id_00006029-01_1_front",
    "MEN-Tees_Tanks-id_00006029-01_3_back",
    "MEN-Tees_Tanks-id_00006029-01_4_full",
)
"""Whole-body pictures: two of one dress, one of its other colour, three of a tank top."""


def point_lines(mirrored: bool = False) -> tuple[str, str]:
    """Return positions and visibilities of 21 points as the owners write them."""
    from catalogpose.records import JOINTS

    xy: list[int] = []
    seen: list[int] = []
    for name in ORDER:
        x, y = (37, 8) if name is None else STANDING[JOINTS.index(name)]
        xy += [176 - x if mirrored else x, y]
        seen.append(0)
    return " ".join(map(str, xy)), " ".join(map(str, seen))


@pytest.fixture
def multimodal(tmp_path: Path, save_picture: Save) -> Path:
    """Return a root of DeepFashion-MultiModal: `images`, `segm`, `keypoints`."""
    root = tmp_path / "multimodal"
    (root / "keypoints").mkdir(parents=True)
    locations, sights = [], []
    for stem in STEMS:
        save_picture(root / "images" / f"{stem}.jpg", (176, 256))
        save_picture(root / "segm" / f"{stem}_segm.png", (176, 256), "L")
        xy, seen = point_lines(mirrored="back" in stem)
        locations.append(f"{stem}.jpg {xy}\n")
        sights.append(f"{stem}.jpg {seen}\n")
    save_picture(root / "images" / "WOMEN-Dresses-id_00002629-02_7_additional.jpg", (176, 256))
    (root / "keypoints" / "keypoints_loc.txt").write_text("".join(locations))
    (root / "keypoints" / "keypoints_vis.txt").write_text("".join(sights))
    return root


@pytest.fixture
def order_file(tmp_path: Path) -> Path:
    """Return the file of the invented order."""
    path = tmp_path / "order.json"
    path.write_text(json.dumps(ORDER))
    return path


@pytest.fixture
def save_openpose() -> Callable[..., None]:
    """Return a function that writes the standing person as OpenPose does."""

    def save(path: Path, scale: float = 1.0) -> None:
        numbers = np.array([[x * scale, y * scale, 0.9 if x >= 0 else 0] for x, y in STANDING])
        numbers[numbers[:, 2] == 0] = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        people = [{"pose_keypoints_2d": numbers.ravel().tolist()}]
        path.write_text(json.dumps({"version": 1.3, "people": people}))

    return save


@pytest.fixture
def wpose(tmp_path: Path, save_picture: Save, save_openpose: Callable[..., None]) -> Path:
    """Return a root of WPose after its owners' script, and poses in `wpose/../poses`."""
    root = tmp_path / "wpose"
    for name in ("1.png", "2.png", "3.png"):
        save_picture(root / "images" / name, (176, 256))
        save_picture(root / "parsing" / name, (176, 256), "P")
        save_picture(root / "densepose" / name, (176, 256))
        save_openpose(tmp_path / "poses" / f"{name[0]}_keypoints.json")
    (root / "test_pairs.txt").write_text("1.png 2.png\n2.png 1.png\n3.png 1.png\n")
    (root / "bbox.txt").write_text("".join(f"{n}.png 10 20 186 276\n" for n in (1, 2, 3)))
    (root / "image_urls.txt").write_text("".join(f"http://x/{n}\t{n}.png\n" for n in (1, 2, 3)))
    (root / "test_data.pkl").write_bytes(b"cos\nsystem\n(S'touch pickled'\ntR.")
    return root
