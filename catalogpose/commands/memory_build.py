"""`catalogpose memory build`: the cloth of a catalogue, remembered from what `parse` saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from catalogpose.catalog.cache import ClipRecord, default_cache_folder
from catalogpose.catalog.files import sha256_file
from catalogpose.catalog.manifest import check_manifest, read_rows
from catalogpose.catalog.photos import read_photo, read_size
from catalogpose.catalog.region_table import RegionTable, write_region_table
from catalogpose.config import BuildMemoryOptions, Progress
from catalogpose.errors import RowError, UsageError
from catalogpose.humandiffusion.lexicon import usual_texts
from catalogpose.humandiffusion.memory import (
    SMALLEST,
    TextStatistics,
    drop_near_copies,
    measure_texts,
)
from catalogpose.records import GARMENTS, GROUP_OF, LABEL_ID, LABELS, Row
from catalogpose.run.perceive import Perception, clip_fingerprint, load_clip
from catalogpose.truepose.model import resolve_model

SHOWN_FAILURES = 10
"""Failed rows that the summary names."""


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """What `memory build` did."""

    memory: Path
    """The file written."""
    rows: int
    """Rows of the manifest."""
    pictures: int
    """Different source photos, by content."""
    regions: int
    """Regions remembered."""
    left_out: int
    """Regions that are too small, or near copies of another of their product."""
    failed: tuple[tuple[str, str, str], ...]
    """Id, stage and reason of each row whose photo cannot be used."""

    @property
    def exit_code(self) -> int:
        """The shell's exit code: 0, or 3 where rows failed."""
        return 3 if self.failed else 0

    def __str__(self) -> str:
        """Tell a person what was remembered."""
        lines = [
            f"{self.memory}: {self.regions} regions of {self.pictures} pictures; {self.left_out} "
            f"small ones and near copies left out, {len(self.failed)} of {self.rows} rows failed"
        ]
        lines += [f"row {i!r}: {stage}: {why}" for i, stage, why in self.failed[:SHOWN_FAILURES]]
        if len(self.failed) > SHOWN_FAILURES:
            lines.append(f"and {len(self.failed) - SHOWN_FAILURES} more")
        return "\n".join(lines)


def build_memory(options: BuildMemoryOptions, progress: Progress | None = None) -> BuildSummary:
    """Remember the garments of a manifest's sources; photos not yet parsed are, as `parse` would.

    A photo that cannot be used fails its rows, not the command. Raises `ManifestError`,
    `UsageError` and `EnvironmentFault`.
    """
    rows = check_manifest(options.manifest)
    folder = resolve_model(options.model)
    gathered = _Gathered()
    failed = []
    with Perception(folder, options.cache or default_cache_folder(), options.device) as eyes:
        for done, row in enumerate(read_rows(options.manifest), start=1):
            try:
                gathered.add(row, eyes)
            except RowError as error:
                failed.append((row.id, error.stage, error.message))
            if progress is not None:
                progress(done, rows)
    table = gathered.table()
    texts = _measure(table, folder, options.device)
    facts = {
        "clip": clip_fingerprint(folder),
        "model": "the bundled model" if options.model is None else _lasting(options.model),
        "texts": {LABELS[label]: found.to_json() for label, found in texts.items()},
    }
    write_region_table(options.out, table, facts)
    return BuildSummary(
        memory=options.out,
        rows=rows,
        pictures=len(gathered.seen),
        regions=len(table),
        left_out=gathered.small + gathered.copies,
        failed=tuple(failed),
    )


class _Gathered:
    """The regions met so far; each photo counts once, with the product of its first row."""

    def __init__(self) -> None:
        """Start before the first row."""
        self.seen: set[str] = set()
        self.small = self.copies = 0
        self._cells: list[dict[str, Any]] = []

    def add(self, row: Row, eyes: Perception) -> None:
        """Take what a row's source has, if it has one; `RowError` where it cannot be used."""
        source = row.source
        if source is None:
            return
        try:
            sha256 = sha256_file(source)
        except OSError:
            sha256 = read_photo(source).sha256  # which says why it cannot be read
        if sha256 in self.seen:
            return
        record, pixels = _regions_of(row, source, sha256, eyes)
        self.seen.add(sha256)
        for region in record.regions:
            if LABELS[region.label] not in GARMENTS:
                continue  # Faces, hair and skin are people: nobody shall be given another's.
            area = region.area / pixels
            if area < SMALLEST:
                self.small += 1
                continue
            self._cells.append(
                {
                    "vectors": record.embeddings[region.label].astype(np.float32),
                    "labels": LABEL_ID[GROUP_OF[LABELS[region.label]]],
                    "areas": area,
                    "boxes": region.box,
                    "pictures": sha256,
                    "products": row.product or sha256,
                    "sources": str(source.resolve()),
                }
            )

    def table(self) -> RegionTable:
        """Return them by label, near copies of one product left out; `UsageError` if none is."""
        if not self._cells:
            raise UsageError("no photo of the manifest shows a garment: nothing to remember")
        cells = sorted(self._cells, key=lambda cell: cell["labels"])
        columns = {name: [cell[name] for cell in cells] for name in cells[0]}
        whole = RegionTable(
            vectors=np.stack(columns["vectors"]),
            labels=np.array(columns["labels"], dtype=np.uint8),
            areas=np.array(columns["areas"], dtype=np.float32),
            boxes=np.array(columns["boxes"], dtype=np.int32),
            pictures=columns["pictures"],
            products=columns["products"],
            sources=columns["sources"],
        )
        groups = list(zip(whole.products, whole.labels.tolist(), strict=True))
        kept = drop_near_copies(whole.vectors, groups)
        self.copies = len(whole) - len(kept)
        return whole.taken(kept)


def _regions_of(row: Row, source: Path, sha256: str, eyes: Perception) -> tuple[ClipRecord, int]:
    """Return a source's regions and its pixels, opening the photo only where the cache lacks it."""
    record = eyes.recall_regions(sha256, row.parsing, row.label_set)
    size = read_size(source)
    if record is None or size is None:
        photo = read_photo(source)
        seen = eyes.look(photo, row.parsing, row.label_set)
        record = ClipRecord(regions=seen.regions, embeddings=seen.embeddings)
        size = (photo.width, photo.height)
    return record, size[0] * size[1]


def _measure(table: RegionTable, folder: Path, device: str) -> dict[int, TextStatistics]:
    """Measure how texts lie beside the regions of each label, with a model folder's CLIP."""
    clip, found = load_clip(folder, device), {}
    for label in np.unique(table.labels):
        texts = clip.embed_texts(usual_texts(LABELS[label]))
        found[int(label)] = measure_texts(table.vectors[table.labels == label], texts)
    return found


def _lasting(model: str) -> str:
    """Return a model's hub id, or its folder's absolute path."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model
