"""DeepFashion-MultiModal: In-shop pictures with parsing maps of 24 labels and keypoints by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalogpose.catalog.datasets.brought_poses import check_pose_folder, read_brought_pose
from catalogpose.catalog.datasets.collection import (
    Collection,
    Count,
    Licence,
    Missing,
    Shot,
    find_folder,
    picture_size,
    read_lines,
)
from catalogpose.catalog.datasets.inshop_names import InshopName, parse_inshop_name
from catalogpose.catalog.datasets.upright import check_axes, check_order
from catalogpose.errors import UsageError
from catalogpose.records import JOINTS, Pose

PICTURES = 44_096
"""Pictures that the owners' README counts."""

MAPS = 12_701
"""Parsing maps, those of whole-body pictures; the pairs are made of these."""

POINTS = 21
"""Keypoints a picture."""

HIDDEN, ABSENT = 1, 2
"""Values in `keypoints_vis.txt`, where 0 is visible: COCO counts the other way."""

HIDDEN_CONFIDENCE = 0.5
"""Confidence of a joint that is there but covered (ours; the data set has no confidences)."""

FACE = tuple(JOINTS.index(f"{name}") for name in ("nose", "right-eye", "left-eye"))
"""Joints that show a face: hidden ones are left out, else a back view would ask for a face."""

_NO_JOINTS = np.zeros((1, 3), dtype=np.float32)
"""The joints of a picture that has none."""

NEEDED = tuple(
    f"{side}-{name}"
    for side in ("right", "left")
    for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
)
"""Joints that an order of the 21 points must name."""

FRONT = ("front", "full")
"""Views that show most people from the front."""

LICENCE = Licence(
    name="DeepFashion-MultiModal licence",
    terms=(
        "Non-commercial research only; no part of the pictures or of derived data may be sold, "
        "and nothing may be published or passed on outside one site of one organisation."
    ),
    home="https://github.com/yumingj/DeepFashion-MultiModal",
)


def find_multimodal(
    root: Path, *, poses: Path | None, keypoint_order: Path | None, test_share: float
) -> Collection:
    """Look for the pictures that have a parsing map and pair those of one outfit; nothing written.

    The root holds `images/`, `segm/` (or `parsing/`) and `keypoints/`. Poses come from the owners'
    keypoints in the order that `keypoint_order` says, or from the folder `poses`; exactly one is
    given. `test_share` of the items, from 0 to 1, go to the test split. Raises `UsageError`.
    """
    images = find_folder(root, ("images", "image"), "pictures")
    maps_folder = find_folder(root, ("segm", "parsing"), "parsing maps")
    maps = sorted(maps_folder.glob("*_segm.png"))
    found = sum(1 for file in images.iterdir() if file.suffix.lower() in (".jpg", ".png"))
    order = None if keypoint_order is None else read_order(keypoint_order)
    points = None if order is None else _read_points(root, order)
    if poses is not None:
        check_pose_folder(poses)
    shots: dict[str, Shot] = {}
    missing: list[Missing] = []
    for file in maps:
        name = f"{file.name.removesuffix('_segm.png')}.jpg"
        shot = _find_shot(images / name, file, points, poses)
        if isinstance(shot, Shot):
            shots[name] = shot
        else:
            missing.append(shot)
    _check_joints(shots, root)
    return Collection(
        name="deepfashion-multimodal",
        licence=LICENCE,
        shots=shots,
        splits=_make_pairs(shots, test_share),
        counts=(
            # The pairs need the pictures with a map alone, so another number here stops nothing.
            Count(what="pictures", found=found, expected=PICTURES, binding=False),
            Count(what="parsing maps", found=len(maps), expected=MAPS),
            Count(what="whole pictures, map and pose included", found=len(shots)),
        ),
        missing=missing,
        label_set="deepfashion-multimodal",
        notes={
            "pairs": "Ours: every ordered pair of two pictures of one garment in one colour, "
            "both whole-body pictures with a parsing map.",
            "split": f"Ours: by the item's number, about {test_share:.0%} of the items to test, "
            "the same at every import; a person may wear items of both splits.",
            "poses": "A joint that is covered counts half, a covered nose or eye not at all; the "
            "neck is the middle of the shoulders where no point is one.",
        },
    )


def read_order(path: Path) -> list[int | None]:
    """Read which of `JOINTS` each of the 21 keypoints is; None where it is none of them.

    The file is a JSON list of 21 names or nulls. Raises `UsageError` where it is not.
    """
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--keypoint-order {path} cannot be read as JSON: {error}") from None
    if not isinstance(names, list) or len(names) != POINTS:
        raise UsageError(f"--keypoint-order {path} is not a list of {POINTS} names or nulls")
    given = [name for name in names if name is not None]
    for name in given:
        if name not in JOINTS or given.count(name) > 1:
            wrong = "is there twice" if name in JOINTS else f"is none of {', '.join(JOINTS)}"
            raise UsageError(f"--keypoint-order {path}: {name!r} {wrong}")
    absent = [name for name in NEEDED if name not in given]
    if absent:
        raise UsageError(f"--keypoint-order {path} does not name {', '.join(absent)}")
    return [None if name is None else JOINTS.index(name) for name in names]


def _read_points(root: Path, order: Sequence[int | None]) -> Mapping[str, NDArray[np.float32]]:
    """Return the owners' keypoints as COCO-18 (18, 3) by the picture's name."""
    folder = root / "keypoints" if (root / "keypoints").is_dir() else root
    seen = dict(_number_lines(folder / "keypoints_vis.txt", POINTS))
    points: dict[str, NDArray[np.float32]] = {}
    for name, numbers in _number_lines(folder / "keypoints_loc.txt", 2 * POINTS):
        if name not in seen:
            raise UsageError(f"{folder / 'keypoints_vis.txt'} does not have {name}")
        points[name] = convert_points(numbers.reshape(POINTS, 2), seen[name], order)
    return points


def _number_lines(path: Path, count: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the picture's name and the numbers of each line."""
    for number, line in read_lines(path):
        name, *cells = line.split()
        try:
            values = np.array([float(cell) for cell in cells], dtype=np.float32)
        except ValueError:
            values = np.empty(0, dtype=np.float32)
        if len(values) != count:
            raise UsageError(f"{path}: line {number} is not a name and {count} numbers")
        yield name if Path(name).suffix else f"{name}.jpg", values


def convert_points(
    xy: NDArray[np.float32], seen: NDArray[np.float32], order: Sequence[int | None]
) -> NDArray[np.float32]:
    """Turn 21 keypoints (21, 2) and their visibilities (21,) into COCO-18 (18, 3)."""
    joints = np.full((len(JOINTS), 3), np.nan, dtype=np.float32)
    joints[:, 2] = 0
    for point, joint in enumerate(order):
        covered = seen[point] == HIDDEN
        absent = seen[point] == ABSENT or bool((xy[point] == -1).any())
        if joint is None or absent or (covered and joint in FACE):
            continue
        joints[joint] = (*xy[point], HIDDEN_CONFIDENCE if covered else 1)
    neck = JOINTS.index("neck")
    if neck not in order:
        sides = joints[[JOINTS.index("right-shoulder"), JOINTS.index("left-shoulder")]]
        if (sides[:, 2] > 0).all():
            joints[neck] = (*sides[:, :2].mean(axis=0), sides[:, 2].min())
    return joints


def _find_shot(
    picture: Path,
    parsing: Path,
    points: Mapping[str, NDArray[np.float32]] | None,
    poses: Path | None,
) -> Shot | Missing:
    """Return one picture with its map and pose, or what is missing of it."""
    size = picture_size(picture)
    if size is None:
        return Missing(kind="picture", name=f"{picture.parent.name}/{picture.name}")
    map_size = picture_size(parsing)
    if map_size != size:
        found = "unreadable" if map_size is None else f"{map_size[0]} x {map_size[1]}"
        where = f"{parsing.parent.name}/{parsing.name}"
        return Missing(
            kind="parsing map", name=f"{where} ({found}; the picture is {size[0]} x {size[1]})"
        )
    if poses is not None:
        pose = read_brought_pose(poses, picture, size)
        if isinstance(pose, Missing):
            return pose
    elif points is not None and points.get(picture.name, _NO_JOINTS)[:, 2].any():
        pose = Pose(joints=points[picture.name], width=size[0], height=size[1])
    else:
        return Missing(kind="keypoints", name=picture.name)
    known = parse_inshop_name(picture.name)
    product = known.product if known else None
    return Shot(picture=picture, pose=pose, product=product, parsing=parsing)


def _check_joints(shots: Mapping[str, Shot], root: Path) -> None:
    """Raise UsageError where the joints of all pictures together cannot be right."""
    if not shots:
        return
    where = f"the keypoints of {root}"
    joints = np.stack([shot.pose.joints for shot in shots.values()])
    known = [parse_inshop_name(name) for name in shots]
    front = np.array([name is not None and name.view in FRONT for name in known])
    check_axes(joints, where, "give the files as the owners ship them, x before y")
    check_order(joints, front, where)


def _make_pairs(shots: Mapping[str, Shot], test_share: float) -> dict[str, list[tuple[str, str]]]:
    """Pair the pictures of each outfit in both directions; an item is in one split alone."""
    outfits: dict[InshopName, list[str]] = {}
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for name in sorted(shots):
        known = parse_inshop_name(name)
        if known is not None:
            outfits.setdefault(_outfit(known), []).append(name)
    for outfit, names in outfits.items():
        split = "test" if _draw(outfit.item) < test_share else "train"
        splits[split].extend(permutations(names, 2))
    return splits


def _outfit(name: InshopName) -> InshopName:
    """Return a name without what tells pictures of one outfit apart."""
    return InshopName(
        gender=name.gender, category=name.category, item=name.item, colour=name.colour,
        shot="", view="",
    )  # fmt: skip


def _draw(item: str) -> float:
    """Return a number from 0 to 1, below 1, that the item alone decides."""
    digest = hashlib.sha256(item.encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
