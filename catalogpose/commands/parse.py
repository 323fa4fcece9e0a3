"""`catalogpose parse`: the maps and embeddings of all sources, and the maps of all references,
made once and kept in the cache.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from catalogpose.catalog.cache import default_cache_folder
from catalogpose.catalog.files import sha256_file
from catalogpose.catalog.manifest import check_manifest, read_rows
from catalogpose.catalog.photos import read_photo
from catalogpose.catalog.references import read_mask
from catalogpose.config import ParseOptions, Progress
from catalogpose.errors import RowError
from catalogpose.records import Reference, Row
from catalogpose.run.perceive import Perception
from catalogpose.truepose.model import resolve_model

SHOWN_FAILURES = 10
"""Failed rows that the summary names; the number of all is beside them."""


@dataclass(frozen=True, kw_only=True)
class ParseSummary:
    """What `parse` did."""

    rows: int
    """Rows of the manifest."""
    sources: int
    """Different photos among them, by content; photos that cannot be read count by their paths."""
    references: int
    """Different reference photos, counted in the same way."""
    parsed: int
    """Maps that the parser made."""
    embedded: int
    """Photos whose regions CLIP embedded."""
    cached: int
    """Photos of which the cache held everything."""
    failed: tuple[tuple[str, str, str], ...]
    """Id, stage and reason of each row whose photo cannot be done."""
    cache: Path
    """The cache folder."""
    seconds: float
    """Time that it took."""

    @property
    def exit_code(self) -> int:
        """The shell's exit code: 0 if every row can be generated, 3 if some cannot."""
        return 3 if self.failed else 0

    def __str__(self) -> str:
        """Tell a person what was done and what failed."""
        if self.parsed or self.embedded:
            did = (
                f"{self.parsed} parsed, {self.embedded} embedded, {self.cached} in the cache before"
            )
        else:
            did = f"nothing to compute, {self.cached} in the cache before"
        photos = f"{self.sources} sources"
        if self.references:
            photos += f", {self.references} references"
        lines = [
            f"{self.rows} rows, {photos}: {did}, {len(self.failed)} rows failed; "
            f"{self.seconds:.1f} s; {self.cache}"
        ]
        for row_id, stage, reason in self.failed[:SHOWN_FAILURES]:
            lines.append(f"row {row_id!r}: {stage}: {reason}")
        if len(self.failed) > SHOWN_FAILURES:
            lines.append(f"and {len(self.failed) - SHOWN_FAILURES} more")
        return "\n".join(lines)


def parse_manifest(options: ParseOptions, progress: Progress | None = None) -> ParseSummary:
    """Fill the cache with what `generate` needs of the sources and references of a manifest.

    A photo that cannot be done fails its rows, not the command. A second call with the same photos
    and model computes nothing and loads no model; one that was killed goes on with what was not yet
    written. Raises `ManifestError`, `UsageError` and `EnvironmentFault`.
    """
    started = time.monotonic()
    rows = check_manifest(options.manifest)
    cache = options.cache or default_cache_folder()
    with Perception(resolve_model(options.model), cache, options.device) as eyes:
        sources = _Sources(eyes)
        failed = []
        for done, row in enumerate(read_rows(options.manifest), start=1):
            error = sources.see(row)
            if error is not None:
                failed.append((row.id, error.stage, error.message))
            if progress is not None:
                progress(done, rows)
    return ParseSummary(
        rows=rows,
        sources=len(sources.photos),
        references=len(sources.references),
        parsed=eyes.parsed,
        embedded=eyes.embedded,
        cached=eyes.recalled,
        failed=tuple(failed),
        cache=cache,
        seconds=time.monotonic() - started,
    )


class _Sources:
    """The sources and references met so far; each is seen once, however many rows it has."""

    def __init__(self, eyes: Perception) -> None:
        """Start before the first row."""
        self.photos: set[str] = set()
        self.references: set[str] = set()
        self._eyes = eyes
        self._outcomes: dict[tuple[str | None, ...], RowError | None] = {}
        self._hash = lru_cache(4096)(_hash_or_path)

    def see(self, row: Row) -> RowError | None:
        """Make sure that the cache has all of a row's photos; return why it cannot, else None."""
        error = None if row.source is None else self._see_source(row, row.source)
        if error is None and row.reference is not None:
            error = self._see_reference(row.reference)
        return error

    def _see_source(self, row: Row, source: Path) -> RowError | None:
        """See a row's source, unless it was met before."""
        sha256 = self._hash(source)
        self.photos.add(sha256)
        ready = None if row.parsing is None else self._hash(row.parsing)
        key = (sha256, ready, row.label_set)
        if key not in self._outcomes:
            self._outcomes[key] = self._look(row, source, sha256)
        return self._outcomes[key]

    def _see_reference(self, reference: Reference) -> RowError | None:
        """See a row's reference, unless it was met before."""
        sha256 = self._hash(reference.photo)
        self.references.add(sha256)
        files = (reference.mask, reference.parsing)
        mask, ready = (None if file is None else self._hash(file) for file in files)
        key = ("reference", sha256, mask, ready, reference.label_set)
        if key not in self._outcomes:
            self._outcomes[key] = self._look_at_reference(reference, sha256)
        return self._outcomes[key]

    def _look_at_reference(self, reference: Reference, sha256: str) -> RowError | None:
        """See one reference that was not met before; one with a mask file needs no map."""
        try:
            if reference.mask is not None:
                read_photo(reference.photo)
                read_mask(reference.mask)
            elif reference.parsing is not None or not self._eyes.recall_map(sha256):
                photo = read_photo(reference.photo)
                self._eyes.see_map(photo, reference.parsing, reference.label_set)
        except RowError as error:
            message = f"the reference: {error.message}"
            return RowError("reference", error.error_class, message)
        return None

    def _look(self, row: Row, source: Path, sha256: str) -> RowError | None:
        """See one source that was not met before."""
        try:
            if not self._eyes.recall(sha256, row.parsing, row.label_set):
                self._eyes.look(read_photo(source), row.parsing, row.label_set)
        except RowError as error:
            return error
        return None


def _hash_or_path(path: Path) -> str:
    """Return a file's hash; its path where it cannot be read, which whoever decodes it will say."""
    try:
        return sha256_file(path)
    except OSError:
        return str(path)
