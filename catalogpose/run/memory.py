"""What a worker remembers of recent photos: sources with their features, and references."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from catalogpose.catalog.canvas import fit_map, fit_photo
from catalogpose.catalog.photos import Photo, read_photo
from catalogpose.catalog.references import read_mask, size_reason
from catalogpose.errors import RowError
from catalogpose.records import LABEL_ID, LABELS, Letterbox, Reference
from catalogpose.run.plan import Job

if TYPE_CHECKING:  # torch takes seconds to import, and the parent process must not need it
    from torch import Tensor

    from catalogpose.humandiffusion.text_driven import TextDriven
    from catalogpose.run.perceive import Perception, Seen
    from catalogpose.truepose.pipeline import TruePosePipeline
    from catalogpose.truepose.prepared import PoseConditions, SourceFeatures

SOURCES_KEPT = 8
"""Sources whose features stay in memory; the rows of one source usually follow each other."""

CONDITIONS_KEPT = 16
"""Pairs of a source and a label set whose conditions stay in memory."""

REFERENCES_KEPT = 8
"""References whose latent and map stay in memory."""

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is kept of a source between its rows."""

    features: SourceFeatures
    """All that the model says of it."""
    size: tuple[int, int]
    """Width and height of the upright photo, in pixels."""
    sha256: str
    """Hash of the photo's file."""
    regions: frozenset[int]
    """Label ids of the regions found."""
    embeddings: Mapping[int, NDArray[np.float16]]
    """By label id, one for each region that has one: (D,), unit length."""


@dataclass(frozen=True, kw_only=True)
class SeenReference:
    """What is kept of a reference between its rows."""

    latent: Tensor
    """Its latent, (1, c, h, w)."""
    picture: NDArray[np.uint8]
    """Itself, (sH, sW, 3), as large as the model's pictures."""
    labels: NDArray[np.uint8] | None
    """Its parsing map on the canvas, (H, W); None where the rows' masks are files."""
    letterbox: Letterbox
    """From the upright photo to the canvas."""
    size: tuple[int, int]
    """Width and height of the upright photo, in pixels."""
    sha256: str
    """Hash of the photo's file."""

    def painted(self, reference: Reference) -> NDArray[np.float32]:
        """Return where a row wants the source's cloth: (H, W) on the canvas, 0 to 1.

        Raises `RowError` of stage `reference` where the mask does not fit, or nothing is marked.
        """
        if reference.mask is not None:
            mask = read_mask(reference.mask)
            size = (mask.shape[1], mask.shape[0])
            if size != self.size:
                raise RowError("reference", "size", size_reason(size, self.size))
            return fit_map(mask, self.letterbox).astype(np.float32) / np.float32(255)
        assert self.labels is not None  # whoever looked has seen that the row names regions
        marked = np.isin(self.labels, [LABEL_ID[name] for name in reference.regions])
        if not marked.any():
            found = ", ".join(LABELS[label] for label in np.unique(self.labels) if label) or "none"
            wanted = ", ".join(reference.regions)
            reason = f"the reference shows no {wanted}; its regions are: {found}"
            raise RowError("reference", "no-region", reason)
        return marked.astype(np.float32)


class Memory:
    """Looks at photos with eyes and pipeline, and remembers what it saw of the recent ones."""

    def __init__(self, pipe: TruePosePipeline, eyes: Perception) -> None:
        """Start knowing nothing."""
        self._pipe, self._eyes = pipe, eyes
        self._sources: OrderedDict[str, Source] = OrderedDict()
        self._conditions: OrderedDict[tuple[str, frozenset[int]], PoseConditions] = OrderedDict()
        self._references: OrderedDict[str, SeenReference] = OrderedDict()

    def source(self, job: Job) -> Source:
        """Return a job's source: its regions, and SourceNet run on it."""
        return _remember(
            self._sources,
            job.source_key,
            SOURCES_KEPT,
            lambda: self._look(job),
        )

    def kept_source(self, job: Job, kept: frozenset[int], text: TextDriven) -> Source:
        """Return what a text-driven job keeps of its source, all else blanked."""
        key = f"{job.source_key} {sorted(kept)}"
        return _remember(self._sources, key, SOURCES_KEPT, lambda: self._keep(job, kept, text))

    def conditions(self, job: Job, source: Source, shown: frozenset[int]) -> PoseConditions:
        """Return a job's source as a pose that shows these labels sees it."""
        return _remember(
            self._conditions,
            (job.source_key, shown & source.regions),
            CONDITIONS_KEPT,
            lambda: self._pipe.condition(source.features, shown),
        )

    def reference(self, job: Job, reference: Reference) -> SeenReference:
        """Return a job's reference; `RowError` of stage `reference` where it cannot be used."""
        assert job.reference_key is not None  # a job with a reference has one
        try:
            return _remember(
                self._references,
                job.reference_key,
                REFERENCES_KEPT,
                lambda: self._see(reference),
            )
        except RowError as error:
            message = f"the reference: {error.message}"
            raise RowError("reference", error.error_class, message) from None

    def clear(self) -> None:
        """Forget everything, and so free the device's memory."""
        self._sources.clear()
        self._conditions.clear()
        self._references.clear()

    def _look(self, job: Job) -> Source:
        """Read a source, see its regions and run SourceNet on it."""
        photo, seen = self._open(job)
        letterbox = self._letterbox(photo)
        labels = fit_map(seen.labels, letterbox)
        features = self._pipe.encode_source(
            fit_photo(photo.picture, letterbox),
            labels,
            seen.embeddings,
            finer=self._finer(photo.picture, letterbox),
        )
        return _make_source(features, photo, labels, seen.embeddings)

    def _keep(self, job: Job, kept: frozenset[int], text: TextDriven) -> Source:
        """Read a source and look at no more of it than what is kept: regions are cut out as
        rectangles, so those are embedded anew.
        """
        from catalogpose.humandiffusion.text_driven import blank

        photo, seen = self._open(job)
        letterbox = self._letterbox(photo)
        labels = fit_map(seen.labels, letterbox)
        blanked = blank(photo.picture, seen.labels, kept)
        left = [region for region in seen.regions if region.label in kept]
        embeddings = self._eyes.embed(blanked, left)
        features = text.encode_source(
            fit_photo(blanked, letterbox),
            labels,
            embeddings,
            kept,
            self._finer(blanked, letterbox),
        )
        return _make_source(features, photo, labels, embeddings)

    def _open(self, job: Job) -> tuple[Photo, Seen]:
        """Read a source and see its map and regions."""
        row = job.row
        assert row.source is not None  # whoever calls has looked
        photo = read_photo(row.source)
        return photo, self._eyes.look(photo, row.parsing, row.label_set)

    def _see(self, reference: Reference) -> SeenReference:
        """Read a reference, encode it and, where regions are named, see its map."""
        photo = read_photo(reference.photo)
        letterbox = self._letterbox(photo)
        labels = None
        if reference.mask is None:
            whole = self._eyes.see_map(photo, reference.parsing, reference.label_set)
            labels = fit_map(whole, letterbox)
        return SeenReference(
            picture=fit_photo(photo.picture, letterbox.times(self._pipe.scale)),
            latent=self._pipe.encode_photos(fit_photo(photo.picture, letterbox)[None]),
            labels=labels,
            letterbox=letterbox,
            size=(photo.width, photo.height),
            sha256=photo.sha256,
        )

    def _finer(self, picture: NDArray[np.uint8], letterbox: Letterbox) -> NDArray[np.uint8] | None:
        """Return a picture as large as those that the model makes; None: that is its canvas."""
        scale = self._pipe.scale
        return None if scale == 1 else fit_photo(picture, letterbox.times(scale))

    def _letterbox(self, photo: Photo) -> Letterbox:
        """Return the way of a photo to the model's canvas."""
        card = self._pipe.card
        return Letterbox.fit(photo.width, photo.height, card.width, card.height)


def _make_source(
    features: SourceFeatures,
    photo: Photo,
    labels: NDArray[np.uint8],
    embeddings: Mapping[int, NDArray[np.float16]],
) -> Source:
    """Put together what is kept of a source between its rows."""
    return Source(
        features=features,
        size=(photo.width, photo.height),
        sha256=photo.sha256,
        regions=frozenset(int(label) for label in np.unique(labels)),
        embeddings=embeddings,
    )


def _remember(
    memory: OrderedDict[Key, Value], key: Key, most: int, make: Callable[[], Value]
) -> Value:
    """Return what `memory` keeps under a key, else make it; the longest unused one leaves."""
    if key not in memory:
        made = make()
        while len(memory) >= most:
            memory.popitem(last=False)
        memory[key] = made
    memory.move_to_end(key)
    return memory[key]
