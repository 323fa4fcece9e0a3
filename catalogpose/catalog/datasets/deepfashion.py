"""DeepFashion's In-shop pictures in high resolution, with the pairs of pose transfer's papers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalogpose.catalog.datasets.collection import Collection, Count, Licence, Missing, Shot
from catalogpose.catalog.datasets.inshop_lists import (
    SIZE,
    Keypoints,
    pair_list_names,
    read_keypoints,
    read_pair_list,
)
from catalogpose.catalog.datasets.inshop_names import parse_inshop_name
from catalogpose.errors import UsageError
from catalogpose.records import Pose

PAIRS = {"train": 101_966, "test": 8_570}
"""Pairs of each split, as in CFLD and MCLD."""

LISTED = {"train": 48_674, "test": 4_038}
"""Pictures in `train.lst` and `test.lst`, of which the pairs use a part."""

TREES = ("img_highres", "Img/img_highres", "img", ".")
"""Where the archive's `WOMEN/` and `MEN/` may lie."""

LICENCE = Licence(
    name="DeepFashion terms of use",
    terms=(
        "Non-commercial research only; the pictures may not be copied on, published or sold, and "
        "their archive's password comes with a signed agreement."
    ),
    home="http://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
)


def find_deepfashion(root: Path) -> Collection:
    """Read the lists of pairs and joints and look for every picture; nothing is written.

    The root holds the lists and the pictures, either the archive's tree (`img_highres/WOMEN/...`)
    or flat folders (`train_highres/fashionWOMEN...jpg`, as CFLD makes them; `train/`, as MCLD
    does). Raises `UsageError` where there is no list or one is wrong.
    """
    shots: dict[str, Shot] = {}
    splits: dict[str, list[tuple[str, str]]] = {}
    counts: list[Count] = []
    missing: list[Missing] = []
    jointless = 0
    for split, expected in PAIRS.items():
        listed = read_pair_list(root, split)
        pairs = listed.pairs if listed else []
        splits[split] = pairs
        counts.append(Count(what=f"{split} pairs", found=len(pairs), expected=expected))
        counts.extend(_count_list(root, split))
        if listed is None:
            continue
        names = list(dict.fromkeys(name for pair in pairs for name in pair))
        counts.append(Count(what=f"{split} pictures in pairs", found=len(names)))
        text = listed.file.suffix == ".txt"
        keypoints, lacking = read_keypoints(root, split, names, text=text)
        missing.extend(lacking)
        missing.extend(_add_shots(shots, root, split, names, keypoints))
        targets = {target for _, target in pairs} & keypoints.keys()
        jointless += sum(not _any_seen(keypoints[name]) for name in targets)
    if not any(splits.values()):
        looked = ", ".join(name for split in PAIRS for name in pair_list_names(split))
        raise UsageError(f"--root {root} has no list of pairs; looked for {looked}")
    counts.append(Count(what="target poses without a joint", found=jointless))
    return Collection(
        name="deepfashion",
        licence=LICENCE,
        shots=shots,
        splits=splits,
        counts=counts,
        missing=missing,
        notes={
            "pairs": "As listed: two pictures of one person in one outfit.",
            "poses": "OpenPose's 18 joints as listed, in 176 x 256 pixels; -1 is missing.",
            "jointless": "A target pose without a joint fails its own row and no other.",
        },
    )


def _any_seen(joints: NDArray[np.float32]) -> bool:
    """Say whether any joint (18, 3) lies on the frame; NaN lies nowhere."""
    xy = joints[:, :2]
    return bool(((xy >= 0) & (xy <= SIZE)).all(axis=1).any())


def _count_list(root: Path, split: str) -> Iterator[Count]:
    """Yield the number of pictures in `<split>.lst`, where it is there."""
    file = root / f"{split}.lst"
    if file.is_file():
        with file.open("rb") as lines:
            found = sum(line.strip().endswith(b".jpg") for line in lines)
        # The pairs alone decide the rows, so another number here stops nothing.
        yield Count(what=file.name, found=found, expected=LISTED[split], binding=False)


def _add_shots(
    shots: dict[str, Shot], root: Path, split: str, names: list[str], keypoints: Keypoints
) -> Iterator[Missing]:
    """Add the complete pictures to `shots`; yield those that are nowhere."""
    flat = [root / name for name in (f"{split}_highres", split) if (root / name).is_dir()]
    trees = [root / name for name in TREES if _holds_tree(root / name)]
    for name in names:
        known = parse_inshop_name(name)
        places = [folder / name for folder in flat]
        if known is not None:
            places += [tree / known.tree for tree in trees]
        picture = next((place for place in places if place.is_file()), None)
        if picture is None:
            yield Missing(kind="picture", name=known.tree if known and not flat else name)
        elif name in keypoints:
            shots[name] = Shot(
                picture=picture,
                pose=Pose(joints=keypoints[name], width=SIZE[0], height=SIZE[1]),
                product=known.product if known else None,
            )


def _holds_tree(folder: Path) -> bool:
    """Say whether a folder is the archive's tree."""
    return (folder / "WOMEN").is_dir() or (folder / "MEN").is_dir()
