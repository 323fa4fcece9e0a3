"""`catalogpose studio`: a procedural catalogue on disk, with its true pictures and a manifest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from catalogpose.catalog.files import write_atomically
from catalogpose.catalog.labels import write_parsing_map
from catalogpose.catalog.manifest import write_manifest
from catalogpose.catalog.poses import write_pose
from catalogpose.config import Progress, StudioOptions
from catalogpose.errors import UsageError
from catalogpose.records import GARMENTS, LABEL_ID, LABELS, Description, Pose, Row
from catalogpose.studio import SPLITS, Picture, draw_view, make_product, make_scene

SOURCE_YAW = 60.0
"""A source shows its clothes: the person is turned away by less than this, in degrees."""


@dataclass(frozen=True, kw_only=True)
class StudioSummary:
    """What `studio` drew."""

    products: int
    """Number of products."""
    rows: int
    """Rows of the manifest, one a target pose."""
    photos: int
    """Pictures drawn, sources and targets together."""
    manifest: Path
    """The manifest."""
    seconds: float
    """Time that it took."""

    def __str__(self) -> str:
        """Tell a person what is where."""
        return (
            f"{self.products} products, {self.rows} rows, {self.photos} photos; "
            f"{self.seconds:.1f} s; {self.manifest}"
        )


def write_studio(
    options: StudioOptions, progress: Progress | None = None, *, with_parsing: bool = False
) -> StudioSummary:
    """Draw a catalogue into a new or empty folder; the manifest is written last.

    The folder gets `photos/`, `poses/`, `maps/` (true parsing maps of all photos, label set
    `common`) and `manifest.parquet` with the columns id, source, pose, target and product, and for
    text-driven rows prompt, pose_map and label_set; `with_parsing` adds parsing and label_set to
    rows with a source. Raises `UsageError` where the folder is not empty.
    """
    start = time.monotonic()
    out = Path(options.out)
    _check_folder(out)
    for folder in ("photos", "poses", "maps"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for done, product_id in enumerate(_choose_products(options)):
        if progress is not None:
            progress(done, options.products)
        rows.extend(_write_product(options, product_id, len(rows), with_parsing=with_parsing))
    manifest = out / "manifest.parquet"
    write_manifest(manifest, rows)
    if progress is not None:
        progress(options.products, options.products)
    return StudioSummary(
        products=options.products,
        rows=len(rows),
        photos=options.products * (options.poses + 1),
        manifest=manifest,
        seconds=time.monotonic() - start,
    )


def _check_folder(out: Path) -> None:
    """Raise UsageError unless `out` is an empty folder or none yet."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: name a new folder")
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(
            f"--out {out} is not empty: name a new folder, or delete this one and draw again"
        )


def _choose_products(options: StudioOptions) -> Iterator[int]:
    """Yield product numbers: the seed's run of consecutive ones, around the end of the split."""
    numbers = SPLITS[options.split]
    first = options.seed * options.products % len(numbers)
    for step in range(options.products):
        yield numbers[(first + step) % len(numbers)]


def choose_views(product_id: int, poses: int) -> tuple[int, list[int]]:
    """Return the source's view, the first that shows the front, and the target views."""
    source = next(v for v in count() if abs(make_scene(product_id, v).yaw) < SOURCE_YAW)
    return source, list(islice((v for v in count() if v != source), poses))


def _write_product(
    options: StudioOptions, product_id: int, done: int, *, with_parsing: bool
) -> Iterator[Row]:
    """Write one product's files and yield its rows, the first of them number `done + 1`."""
    name = make_product(product_id).name
    source_view, target_views = choose_views(product_id, options.poses)
    source, _ = _write_view(options, product_id, source_view)
    for number, view in enumerate(target_views, start=1):
        target, picture = _write_view(options, product_id, view)
        kinds = ("pose", "text", "edit") if options.rows == "mixed" else (options.rows,)
        kind = kinds[(done + number - 1) % len(kinds)]
        asked = None if kind == "pose" else _describe(picture, target, whole=kind == "text")
        alone = asked is not None and kind == "text"
        ready = with_parsing and not alone
        yield Row(
            number=done + number,
            id=f"{name}-{number}",
            source=None if alone else source,
            pose=Path(options.out) / "poses" / f"{name}-view{view}.json",
            target=target,
            product=name,
            parsing=_map_path(source) if ready else None,
            label_set="common" if ready else None,
            description=asked,
        )


def _describe(picture: Picture, photo: Path, *, whole: bool) -> Description | None:
    """Return the words for a picture and its map: for the `whole` of it, or its largest garment;
    None where it shows none, as a portrait may.
    """
    worn = [name for name in GARMENTS if name in picture.region_captions]
    areas = np.bincount(picture.labels.ravel(), minlength=len(LABELS))
    worn.sort(key=lambda name: -int(areas[LABEL_ID[name]]))
    phrases = list(dict.fromkeys(picture.region_captions[name] for name in worn))
    if not phrases:
        return None
    if whole:
        clothes = " and ".join([", ".join(phrases[:-1]), phrases[-1]] if phrases[1:] else phrases)
        hair = picture.region_captions.get("hair")
        prompt = f"a person {f'with {hair} ' if hair else ''}wearing {clothes}"
    else:
        prompt = phrases[0]
    return Description(prompt=prompt, pose_map=_map_path(photo), label_set="common")


def _map_path(photo: Path) -> Path:
    return photo.parent.parent / "maps" / photo.name


def _write_view(options: StudioOptions, product_id: int, view: int) -> tuple[Path, Picture]:
    """Draw one view, write its photo, map and pose; return the photo's path and the picture."""
    picture = draw_view(product_id, view, height=options.height, width=options.width)
    name = f"{picture.product}-view{view}"
    photo = Path(options.out) / "photos" / f"{name}.png"
    _write_photo(photo, picture.photo)
    write_parsing_map(_map_path(photo), picture.labels)
    write_pose(Path(options.out) / "poses" / f"{name}.json", _pose_of(picture))
    return photo, picture


def _write_photo(path: Path, photo: NDArray[np.uint8]) -> None:
    image = Image.fromarray(photo)
    write_atomically(path, lambda file: image.save(file, format="PNG"))


def _pose_of(picture: Picture) -> Pose:
    """Return a picture's true joints as a pose."""
    height, width = picture.labels.shape
    return Pose(joints=picture.joints.astype(np.float32), width=width, height=height)
