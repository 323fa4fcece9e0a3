"""`catalogpose import`: a public data set, as its owners distribute it, becomes manifests."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from catalogpose.catalog.datasets.collection import (
    Collection,
    Count,
    Licence,
    write_collection,
)
from catalogpose.catalog.datasets.deepfashion import find_deepfashion
from catalogpose.catalog.datasets.multimodal import find_multimodal
from catalogpose.catalog.datasets.wpose import find_wpose
from catalogpose.config import ImportOptions, Progress
from catalogpose.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ImportSummary:
    """What an import found and wrote."""

    dataset: str
    """The data set."""
    rows: Mapping[str, int]
    """Rows of each manifest, by split."""
    left_out: Mapping[str, int]
    """Pairs of each split that lack a file."""
    missing: int
    """Files and entries that are not there; `missing.txt` lists them."""
    counts: Sequence[Count]
    """What was counted, beside what is known."""
    licence: Licence
    """The data set's terms."""
    out: Path
    """Folder of the manifests."""
    seconds: float
    """Time that it took."""

    def __str__(self) -> str:
        """Tell a person what there is, what is not, and under what terms."""
        rows = ", ".join(f"{n:,} {split} rows" for split, n in self.rows.items())
        lines = [f"{self.dataset}: {rows}; {self.seconds:.1f} s; {self.out}"]
        lines += [f"  {count}" for count in self.counts]
        if self.missing:
            pairs = ", ".join(f"{n:,} {split}" for split, n in self.left_out.items())
            listed = self.out / "missing.txt"
            lines.append(f"  missing: {self.missing:,} ({listed}); pairs left out: {pairs}")
        lines.append(f"  licence: {self.licence.name}. {self.licence.terms}")
        return "\n".join(lines)


def write_dataset_manifests(
    options: ImportOptions, progress: Progress | None = None
) -> ImportSummary:
    """Read a data set's folder and write a manifest a split into `options.out`.

    Nothing is downloaded and no picture is copied. Raises `UsageError` where the folder is not the
    data set's, keypoints are swapped, or files are missing and `allow_partial` is off.
    """
    start = time.monotonic()
    root, out = Path(options.root), Path(options.out)
    if not root.is_dir():
        raise UsageError(f"--root {root} is no folder")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: name a folder")
    collection = _find_collection(options, root, out)
    rows = write_collection(collection, out, allow_partial=options.allow_partial, progress=progress)
    return ImportSummary(
        dataset=collection.name,
        rows=rows,
        left_out={split: len(collection.splits[split]) - n for split, n in rows.items()},
        missing=len(collection.missing),
        counts=collection.counts,
        licence=collection.licence,
        out=out,
        seconds=time.monotonic() - start,
    )


def _find_collection(options: ImportOptions, root: Path, out: Path) -> Collection:
    """Read the folder as the data set that was named."""
    if options.dataset == "deepfashion":
        return find_deepfashion(root)
    if options.dataset == "deepfashion-multimodal":
        return find_multimodal(
            root,
            poses=options.poses,
            keypoint_order=options.keypoint_order,
            test_share=options.test_share,
        )
    assert options.poses is not None, "the options demand it"
    return find_wpose(root, out, poses=options.poses, raw=options.raw)
