"""From a manifest of photos to the arrays that training reads: once, resumable, row by row.

`plan_pictures` says what there is to do, `prepare_photos` does it, `open_photos` opens the result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from catalogpose.catalog.canvas import fit_joints, fit_map, fit_photo
from catalogpose.catalog.files import write_atomically
from catalogpose.catalog.labels import load_keypoint_table
from catalogpose.catalog.photos import Photo, read_photo
from catalogpose.catalog.poses import read_pose
from catalogpose.errors import RowError, UsageError
from catalogpose.pixels import to_floats
from catalogpose.records import LABELS, Letterbox
from catalogpose.training.loop import Progress
from catalogpose.training.pairs import Pairs, open_pairs
from catalogpose.training.photo_pairs import Picture, PicturePlan
from catalogpose.training.picture_arrays import DONE, FAILED, open_arrays, save_arrays
from catalogpose.truepose.regions import selected_labels

AT_ONCE = 8
"""Photos read in threads and encoded together."""

SAVE_PICTURES = 512
"""Pictures between two moments at which the arrays are surely on disk."""


class Seen(Protocol):
    """What `look` tells of a photo; `run.perceive.Seen` is one."""

    @property
    def labels(self) -> NDArray[np.uint8]:
        """(H, W) ids of the common vocabulary, the upright photo's size."""

    @property
    def embeddings(self) -> Mapping[int, NDArray[np.float16]]:
        """By label id, one for each region: (D,)."""


Look = Callable[[Photo, Path | None, str | None], Seen]
"""Tells what is in a photo, given its ready map and label set, if any; raises `RowError`."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What decides the arrays, beside the manifest."""

    height: int
    """Canvas height in pixels."""
    width: int
    """Canvas width in pixels."""
    clip_width: int
    """D, the width of an embedding."""
    photos: bool
    """Whether the photos on the canvas are kept too, for validation."""
    facts: Mapping[str, object]
    """Hashes of manifest, models and table; arrays made with others are refused."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A picture that cannot be used."""

    row: int
    """The first row that names it, counted from 1."""
    column: str
    """`source` or `target`."""
    path: str
    """The photo."""
    reason: str
    """Stage and reason, on one line."""


@dataclass(frozen=True, kw_only=True)
class PhotoPairs:
    """A prepared manifest."""

    pairs: Pairs
    """What training reads."""
    photos: NDArray[np.uint8] | None
    """(N, H, W, 3) on the canvas; None unless they were kept."""
    failures: tuple[Failure, ...]
    """The pictures that could not be used, with which their pairs were left out."""
    rows: int
    """Rows of the manifest."""
    bytes: int
    """Size of the arrays."""


def open_photos(folder: Path, setting: Setting) -> PhotoPairs | None:
    """Open what `prepare_photos` finished; None where it has not.

    Raises:
        UsageError: If the folder holds arrays that other facts decided.
    """
    _check_facts(folder, setting)
    if not (folder / "pairs.npy").exists():
        return None
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    kept = folder / "photos.npy"
    photos = np.load(kept, mmap_mode="r", allow_pickle=False) if setting.photos else None
    return PhotoPairs(
        pairs=open_pairs(folder),
        photos=photos,
        failures=tuple(Failure(**failure) for failure in report["failures"]),
        rows=report["rows"],
        bytes=sum(path.stat().st_size for path in folder.glob("*.npy")),
    )


def try_failed_again(folder: Path) -> None:
    """Have the next `prepare_photos` look again at the pictures that could not be used, if any."""
    report = folder / "report.json"
    if report.exists() and json.loads(report.read_text(encoding="utf-8"))["failures"]:
        (folder / "pairs.npy").unlink(missing_ok=True)


def prepare_photos(
    folder: Path,
    plan: PicturePlan,
    setting: Setting,
    vae: AutoencoderKL,
    look: Look,
    progress: Progress | None = None,
) -> PhotoPairs:
    """Compute maps, embeddings, latents, joints and shown labels of every distinct picture.

    A picture that cannot be read, or has no person, is reported and its pairs are left out. What is
    computed is on disk every few hundred pictures, and a second call goes on from there.

    Args:
        folder: Where the arrays lie.
        plan: The pictures and their pairs.
        setting: What decides the arrays.
        vae: For the latents, on the device where it shall run.
        look: For maps and embeddings.
        progress: Told how many pictures are done; None: nobody is told.

    Raises:
        UsageError: If no pair is left, or the folder holds other arrays.
        EnvironmentFault: If the disk has no room for them.
    """
    found = open_photos(folder, setting)
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "facts.json", lambda file: file.write(_facts(setting).encode()))
    arrays = _arrays_of(folder, len(plan.pictures), setting, vae)
    state = np.array(arrays["state"])
    waiting = [index for index in range(len(state)) if state[index] != DONE]
    failures: list[Failure] = []
    done = len(state) - len(waiting)
    try:
        for group in _read_ahead(plan.pictures, waiting):
            failures += _fill(group, plan, setting, vae, look, arrays, state)
            before, done = done, done + len(group)
            if done // SAVE_PICTURES > before // SAVE_PICTURES:
                save_arrays(arrays, state)
            if progress is not None:
                progress(f"preparing {folder.name}", done, len(state))
    finally:
        save_arrays(arrays, state)
    _finish(folder, plan, state, failures)
    finished = open_photos(folder, setting)
    assert finished is not None  # just written
    return finished


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, photos: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Return the scaled means (n, c, h, w) of photos (n, H, W, 3)."""
    floats = torch.from_numpy(to_floats(photos)).to(vae.device, vae.dtype)
    means = vae.encode(floats).latent_dist.mean * vae.config.scaling_factor
    latents: NDArray[np.float16] = means.half().cpu().numpy()
    return latents


def _read_ahead(
    pictures: Sequence[Picture], indices: Sequence[int]
) -> Iterator[list[tuple[int, Photo | RowError]]]:
    """Yield groups of pictures with their photos, or why one cannot be read; the next group is read
    while this one is used.
    """

    def read(index: int) -> tuple[int, Photo | RowError]:
        """Read one photo."""
        try:
            return index, read_photo(pictures[index].photo)
        except RowError as error:
            return index, error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        ahead: list[Any] = []
        for start in range(0, len(indices), AT_ONCE):
            ahead.append([pool.submit(read, index) for index in indices[start : start + AT_ONCE]])
            if len(ahead) > 1:
                yield [task.result() for task in ahead.pop(0)]
        for group in ahead:
            yield [task.result() for task in group]


def _fill(
    group: Sequence[tuple[int, Photo | RowError]],
    plan: PicturePlan,
    setting: Setting,
    vae: AutoencoderKL,
    look: Look,
    arrays: Mapping[str, NDArray[Any]],
    state: NDArray[np.uint8],
) -> list[Failure]:
    """Fill the rows of a group of pictures and note their state; return those that failed."""
    table = load_keypoint_table()
    fitted, failures = [], []
    for index, photo in group:
        picture = plan.pictures[index]
        try:
            fitted.append((index, _fit(photo, picture, setting, look, arrays, index, table)))
        except RowError as error:
            state[index] = FAILED
            failures.append(_failure(picture, error))
    if fitted:
        indices, photos = zip(*fitted, strict=True)
        arrays["latents"][list(indices)] = encode_latents(vae, np.stack(photos))
        state[list(indices)] = DONE
    return failures


def _fit(
    photo: Photo | RowError,
    picture: Picture,
    setting: Setting,
    look: Look,
    arrays: Mapping[str, NDArray[Any]],
    index: int,
    table: Mapping[int, Any],
) -> NDArray[np.uint8]:
    """Fill a picture's rows, latents apart; return the photo on the canvas (H, W, 3)."""
    if isinstance(photo, RowError):
        raise photo
    seen = look(photo, picture.parsing, picture.label_set)
    if not seen.embeddings:
        raise RowError("parsing", "no-person", "its parsing map shows no person")
    letterbox = Letterbox.fit(photo.width, photo.height, setting.width, setting.height)
    if picture.pose is not None:
        pose = read_pose(picture.pose, size=picture.pose_size, fallback=(photo.width, photo.height))
        joints = fit_joints(pose, setting.width, setting.height)
        arrays["joints"][index] = joints
        shown = selected_labels(joints, table)
        arrays["shown"][index] = [label in shown for label in range(len(LABELS))]
    arrays["labels"][index] = fit_map(seen.labels, letterbox)
    for label, embedding in seen.embeddings.items():
        arrays["embeddings"][index, label] = embedding
        arrays["known"][index, label] = True
    fitted = fit_photo(photo.picture, letterbox)
    if setting.photos:
        arrays["photos"][index] = fitted
    return fitted


def _arrays_of(
    folder: Path, count: int, setting: Setting, vae: AutoencoderKL
) -> dict[str, np.memmap[Any, Any]]:
    """Open the arrays of `count` pictures, whose latents are this VAE's."""
    canvas = (setting.height, setting.width)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    latent = (vae.config.latent_channels, canvas[0] // factor, canvas[1] // factor)
    return open_arrays(folder, count, canvas, latent, setting.clip_width, setting.photos)


def _finish(
    folder: Path, plan: PicturePlan, state: NDArray[np.uint8], failures: Sequence[Failure]
) -> None:
    """Write which pairs are whole, and with it that the folder is complete."""
    whole = (state[plan.pairs] == DONE).all(axis=1)
    if not whole.any():
        first = failures[0]
        raise UsageError(
            f"no row of the manifest can be used; row {first.row}, column {first.column}: "
            f"{first.reason}"
        )
    report = {"rows": len(plan.pairs), "failures": [vars(failure) for failure in failures]}
    text = json.dumps(report, indent=2, ensure_ascii=False)
    write_atomically(folder / "report.json", lambda file: file.write(text.encode()))
    write_atomically(folder / "pairs.npy", lambda file: np.save(file, plan.pairs[whole]))


def _failure(picture: Picture, error: RowError) -> Failure:
    """Return why a picture cannot be used."""
    return Failure(
        row=picture.row,
        column=picture.column,
        path=str(picture.photo),
        reason=f"{error.stage}: {error.message}",
    )


def _facts(setting: Setting) -> str:
    """Return what decides the arrays, as JSON."""
    facts = {**setting.facts, "canvas": [setting.height, setting.width], "photos": setting.photos}
    return json.dumps(facts, indent=2, sort_keys=True)


def _check_facts(folder: Path, setting: Setting) -> None:
    """Raise UsageError if a folder was begun with other facts."""
    path = folder / "facts.json"
    if path.exists() and path.read_text(encoding="utf-8") != _facts(setting):
        raise UsageError(
            f"{folder} was prepared from another manifest, model or recipe: delete that folder, "
            "or name a new --out"
        )
