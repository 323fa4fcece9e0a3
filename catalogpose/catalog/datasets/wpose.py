"""WPose: 2,304 pairs of people in the wild, for tests only; its pictures are fetched by address."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from catalogpose.catalog.datasets.brought_poses import check_pose_folder, read_brought_pose
from catalogpose.catalog.datasets.collection import (
    PICTURE_FORMATS,
    Collection,
    Count,
    Licence,
    Missing,
    Shot,
    find_folder,
    picture_size,
    read_lines,
)
from catalogpose.catalog.files import write_atomically
from catalogpose.errors import UsageError

PAIRS = 2_304
"""Test pairs that the owners' README counts."""

LONGER_SIDE = 1024
"""Longest side of a picture once it is cut out, in pixels."""

LICENCE = Licence(
    name="Adobe Research License",
    terms=(
        "Non-commercial research and teaching only; the pictures belong to third parties whose "
        "own licences apply."
    ),
    home="https://github.com/adobe-research/UniHuman",
)


@dataclass(frozen=True, kw_only=True)
class _Folders:
    """Where the parts of a picture lie."""

    images: Path
    """Pictures that the owners' script has cut out; it need not exist."""
    parsing: Path
    """Parsing maps, LIP's 20 labels."""
    poses: Path
    """The user's poses."""
    raw: Path | None
    """Pictures as downloaded; None where there are only cut-out ones."""
    cut: Path
    """Where pictures that are cut out here go."""


def find_wpose(root: Path, out: Path, *, poses: Path, raw: Path | None) -> Collection:
    """Look for the pictures of every pair; nothing is written but what is cut out of `raw`.

    The root is the owners' `wpose/` with `test_pairs.txt`, `parsing/`, and `images/` or, for `raw`,
    `bbox.txt`. `poses` holds a JSON file a picture, since the data set has DensePose alone.
    `test_data.pkl` is never opened. Raises `UsageError`.
    """
    check_pose_folder(poses)
    pairs = list(_read_pairs(root / "test_pairs.txt"))
    folders = _Folders(
        images=root / "images",
        parsing=find_folder(root, ("parsing", "gt_parsing"), "parsing maps"),
        poses=poses,
        raw=raw,
        cut=out / "images",
    )
    if raw is None:
        find_folder(root, ("images",), "pictures (or give the downloaded ones with --raw)")
    elif not raw.is_dir():
        raise UsageError(f"--raw {raw} is no folder; give the one of the downloaded pictures")
    boxes = {} if raw is None else _read_boxes(root / "bbox.txt")
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    shots: dict[str, Shot] = {}
    missing: list[Missing] = []
    for name in names:
        shot = _find_shot(name, folders, boxes)
        if isinstance(shot, Shot):
            shots[name] = shot
        else:
            missing.append(shot)
    counts = [
        Count(what="test pairs", found=len(pairs), expected=PAIRS),
        Count(what="pictures in pairs", found=len(names)),
        Count(what="whole pictures, map and pose included", found=len(shots)),
    ]
    if (root / "image_urls.txt").is_file():
        addresses = sum(1 for _ in read_lines(root / "image_urls.txt"))
        counts.append(Count(what="addresses in image_urls.txt", found=addresses))
    return Collection(
        name="wpose",
        licence=LICENCE,
        shots=shots,
        splits={"test": pairs},
        counts=counts,
        missing=missing,
        label_set="lip",
        notes={
            "pairs": "As listed, source before target; addresses die, so compare figures only at "
            "the same number of rows.",
            "poses": f"From {poses.name}/, brought by the user: the data set has DensePose alone.",
        },
    )


def _read_pairs(path: Path) -> Iterator[tuple[str, str]]:
    """Yield source and target of each line, apart by white space or a comma."""
    for number, line in read_lines(path):
        names = line.replace(",", " ").split()
        if len(names) != 2 or any(Path(name).name != name for name in names):
            raise UsageError(f"{path}: line {number} is not the names of two pictures")
        yield names[0], names[1]


def _read_boxes(path: Path) -> dict[str, tuple[int, int, int, int]]:
    """Return left, top, right, bottom in pixels of the downloaded picture, by its name."""
    boxes = {}
    for number, line in read_lines(path):
        name, *sides = line.split()
        try:
            left, top, right, bottom = map(int, sides)
        except ValueError:
            left = top = right = bottom = 0
        if not (0 <= left < right and 0 <= top < bottom):
            raise UsageError(f"{path}: line {number} is not a name, left, top, right and bottom")
        boxes[name] = (left, top, right, bottom)
    return boxes


def _find_shot(
    name: str, folders: _Folders, boxes: dict[str, tuple[int, int, int, int]]
) -> Shot | Missing:
    """Return one picture with its map and pose, or what is missing of it."""
    parsing = folders.parsing / name
    map_size = picture_size(parsing)
    if map_size is None:
        return Missing(kind="parsing map", name=f"{folders.parsing.name}/{name}")
    picture = folders.images / name
    if not picture.is_file() and folders.raw is not None and name in boxes:
        picture = folders.cut / name
        if not picture.is_file():
            cut_out(folders.raw / name, boxes[name], picture)
    size = picture_size(picture)
    if size is None:
        return Missing(kind="picture", name=name)
    if size != map_size:
        sizes = f"{size[0]} x {size[1]}; its map is {map_size[0]} x {map_size[1]}"
        return Missing(kind="picture", name=f"{name} ({sizes}; it is not the one annotated)")
    pose = read_brought_pose(folders.poses, picture, size)
    return pose if isinstance(pose, Missing) else Shot(picture=picture, pose=pose, parsing=parsing)


def cut_out(raw: Path, box: tuple[int, int, int, int], path: Path) -> None:
    """Cut a person out of a downloaded picture as the owners do and write it as a PNG.

    The box is left, top, right, bottom; the longer side of what it holds is brought to
    `LONGER_SIDE` pixels where it is longer. A picture that is missing or damaged is not written:
    downloads fail, and an address may have come to give something else.
    """
    try:
        with Image.open(raw, formats=PICTURE_FORMATS) as image:
            right, bottom = min(box[2], image.width), min(box[3], image.height)
            if box[0] >= right or box[1] >= bottom:
                return
            person = image.convert("RGB").crop((box[0], box[1], right, bottom))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return
    longer = max(person.size)
    if longer > LONGER_SIDE:
        width, height = (round(side * (LONGER_SIDE / longer)) for side in person.size)
        person = person.resize((width, height), Image.Resampling.BICUBIC)
    write_atomically(path, lambda file: person.save(file, format="PNG"))
