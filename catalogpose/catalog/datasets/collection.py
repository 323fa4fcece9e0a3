"""What an import found in a data set's folder, and its manifests, poses and records on disk."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from PIL import Image

from catalogpose.catalog.files import output_name, write_atomically
from catalogpose.catalog.manifest import write_manifest
from catalogpose.catalog.poses import write_pose
from catalogpose.config import Progress
from catalogpose.errors import UsageError
from catalogpose.records import Pose, Row

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP")
"""Formats that a photo may have; the file's name does not count."""


@dataclass(frozen=True, kw_only=True)
class Licence:
    """Under what terms a data set may be used, in short; the owners' own text counts."""

    name: str
    """What the licence is called."""
    terms: str
    """Its substance in one sentence."""
    home: str
    """Address of the page where the owners give the data set out."""


@dataclass(frozen=True, kw_only=True)
class Count:
    """How many of something a data set's folder holds, and how many it should."""

    what: str
    """What was counted."""
    found: int
    """How many there are."""
    expected: int | None = None
    """How many are known to exist; None where no number is published."""
    binding: bool = True
    """Whether another number than the expected one is refused, or only said."""

    @property
    def differs(self) -> bool:
        """Whether another number was expected."""
        return self.expected not in (None, self.found)

    def __str__(self) -> str:
        """Say both numbers."""
        expected = f" (expected {self.expected:,})" if self.differs else ""
        return f"{self.what}: {self.found:,}{expected}"


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A file or an entry that a pair needs and that is not there."""

    kind: str
    """What it would be, such as `picture` or `keypoints`."""
    name: str
    """Where it was looked for, relative to its folder, and why it does not do if it is there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Shot:
    """One picture of a person and what the data set says of it."""

    picture: Path
    """The photo."""
    pose: Pose
    """The person's joints."""
    product: str | None = None
    """The item that is worn; None where the data set names none."""
    parsing: Path | None = None
    """The owners' parsing map; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class Collection:
    """What was found in a data set's folder; nothing is written yet."""

    name: str
    """The name that the command line uses."""
    licence: Licence
    """Its terms."""
    shots: Mapping[str, Shot]
    """Complete pictures by name."""
    splits: Mapping[str, Sequence[tuple[str, str]]]
    """Names of source and target of every pair, by split; a pair without its shots is left out."""
    counts: Sequence[Count]
    """What was counted."""
    missing: Sequence[Missing] = ()
    """What is not there."""
    label_set: str | None = None
    """Label set of the parsing maps; None where the data set has none."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """What else a user of the manifests should know, sentences by subject."""

    def complete(self, split: str) -> Iterator[tuple[str, str]]:
        """Yield the pairs of a split whose shots are both there."""
        shots = self.shots
        return ((a, b) for a, b in self.splits[split] if a in shots and b in shots)


def write_collection(
    collection: Collection, out: Path, *, allow_partial: bool, progress: Progress | None = None
) -> dict[str, int]:
    """Write a manifest a split, a pose a target picture and the data set's record; return the rows.

    The folder gets `LICENCE.txt`, `missing.txt` where anything is missing, `poses/`,
    `<split>.parquet` and, last, `dataset.json`. Raises `UsageError`, before any manifest is
    written, where files are missing or counts differ and that is not allowed.
    """
    out.mkdir(parents=True, exist_ok=True)
    _write_text(out / "LICENCE.txt", _licence_text(collection))
    if collection.missing:
        lines = [f"{missing.kind}\t{missing.name}\n" for missing in collection.missing]
        _write_text(out / "missing.txt", "".join(lines))
    else:
        (out / "missing.txt").unlink(missing_ok=True)
    rows = {split: sum(1 for _ in collection.complete(split)) for split in collection.splits}
    if not allow_partial:
        _refuse_partial(collection, out)
    if not any(rows.values()):
        raise UsageError(f"{collection.name}: no pair has all its files; see {out / 'missing.txt'}")
    done = 0
    for split, count in rows.items():
        manifest = out / f"{split}.parquet"
        if not count:
            manifest.unlink(missing_ok=True)  # of an earlier import; it would pass as this one's
            continue
        counted = _counting(_make_rows(collection, split, out), progress, done, sum(rows.values()))
        write_manifest(manifest, counted)
        done += count
    _write_text(out / "dataset.json", _record(collection, rows))
    return rows


def _refuse_partial(collection: Collection, out: Path) -> None:
    """Raise UsageError unless everything is there."""
    wrong = [str(count) for count in collection.counts if count.binding and count.differs]
    if collection.missing:
        wrong.append(f"missing: {len(collection.missing):,}, listed in {out / 'missing.txt'}")
    if wrong:
        raise UsageError(
            f"{collection.name} is not whole: {'; '.join(wrong)}; "
            "complete the folder, or pass --allow-partial to import what is there"
        )


def _make_rows(collection: Collection, split: str, out: Path) -> Iterator[Row]:
    """Yield the rows of a split; each target's pose is written when it is first needed.

    All poses are on the disk before the rows end, so before the manifest has its name.
    """
    written: set[str] = set()
    used: Counter[str] = Counter()
    for number, (source, target) in enumerate(collection.complete(split), start=1):
        shown, wanted = collection.shots[source], collection.shots[target]
        pose = out / "poses" / output_name(target, ".json")
        if target not in written:
            write_pose(pose, wanted.pose, synced=False)
            written.add(target)
        id_ = f"{Path(source).stem}_2_{Path(target).stem}"
        used[id_] += 1
        yield Row(
            number=number,
            # Lists that repeat a pair keep their length; ids must differ all the same.
            id=id_ if used[id_] == 1 else f"{id_}#{used[id_]}",
            source=shown.picture,
            pose=pose,
            pose_size=(wanted.pose.width, wanted.pose.height),
            target=wanted.picture,
            product=shown.product,
            parsing=shown.parsing,
            label_set=collection.label_set if shown.parsing is not None else None,
        )
    os.sync()  # once for all: syncing each of tens of thousands of files took 25 ms a file


def _counting(
    rows: Iterator[Row], progress: Progress | None, done: int, total: int
) -> Iterator[Row]:
    """Pass rows on and say how many have passed."""
    for number, row in enumerate(rows, start=done + 1):
        yield row
        if progress is not None:
            progress(number, total)


def _licence_text(collection: Collection) -> str:
    """Return what `LICENCE.txt` says."""
    licence = collection.licence
    return (
        f"Data set: {collection.name}\nLicence:  {licence.name}\nTerms:    {licence.terms}\n"
        f"From:     {licence.home}\n\n"
        "This is a summary; the owners' own text counts. The manifests in this folder point to the "
        "owners' files\nand hold poses taken from them: the terms cover them too, and what is "
        "trained on them.\n"
    )


def _record(collection: Collection, rows: Mapping[str, int]) -> str:
    """Return `dataset.json`."""
    record = {
        "schema": 1,
        "name": collection.name,
        "licence": asdict(collection.licence),
        "rows": dict(rows),
        "pairs_left_out": {split: len(collection.splits[split]) - n for split, n in rows.items()},
        "counts": [asdict(count) for count in collection.counts],
        "missing": dict(Counter(missing.kind for missing in collection.missing)),
        "label_set": collection.label_set,
        "notes": dict(collection.notes),
    }
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def _write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


def find_folder(root: Path, names: Sequence[str], what: str) -> Path:
    """Return the first of these folders that exists; `UsageError` names all where none does."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise UsageError(f"--root {root} has no folder of {what}; looked for {', '.join(names)}")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line of a text file that is not blank; `UsageError`."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.strip()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"cannot read {path}: it is not UTF-8 text") from None


def picture_size(path: Path) -> tuple[int, int] | None:
    """Return width and height out of a picture's header; None where it cannot be read."""
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
