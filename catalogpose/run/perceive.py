"""What there is to see in a source: its map, regions and embeddings, through the caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from catalogpose.catalog import labels as maps
from catalogpose.catalog.cache import Cache, ClipRecord, FailureRecord, ParseRecord
from catalogpose.catalog.files import sha256_file, sha256_json
from catalogpose.catalog.photos import Photo
from catalogpose.errors import EnvironmentFault, RowError
from catalogpose.records import Region

if TYPE_CHECKING:
    from catalogpose.perception.clip import Clip
    from catalogpose.perception.parser import Parser

LOOK_VERSION = 1
"""Part of both fingerprints; it grows when this module or our decoding changes a result."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen in a source."""

    labels: NDArray[np.uint8]
    """(H, W) ids of the common vocabulary, the upright photo's size."""
    regions: tuple[Region, ...]
    """The regions of that map, by label; empty where it shows no person."""
    embeddings: Mapping[int, NDArray[np.float16]]
    """By label id, one for each region: (D,), unit length."""


class Perception:
    """A parser and a CLIP behind their caches; each model is loaded only once something is missing.

    Counts what it did: `parsed` maps made, `embedded` photos embedded, `recalled` looks that the
    caches answered.
    """

    def __init__(self, model_folder: Path, cache_root: Path, device: str) -> None:
        """Prepare to look with the models in `model_folder`, `parser` and `clip`, loading neither.

        `device` is torch's name of one, or `auto`: a GPU if there is one.
        """
        self.parsed = self.embedded = self.recalled = 0
        self._parser_folder, self._clip_folder = model_folder / "parser", model_folder / "clip"
        self._parser_name = f"{model_folder.name}/parser"
        self._cache_root, self._device = cache_root, device
        self._clip_caches: dict[bool, Cache] = {}

    def look(self, photo: Photo, parsing: Path | None, label_set: str | None) -> Seen:
        """Return what is in a photo.

        `parsing`, a ready map with ids of `label_set`, replaces the parser where it is given.
        Raises `RowError` of stage `parsing` or `embedding` where this photo cannot be done;
        failures of the models on it are remembered.
        """
        done_before = self.parsed + self.embedded
        labels = self._map_of(photo, parsing, label_set)
        clips = self._clips(ready=parsing is not None)
        key = self._clip_key(photo.sha256, parsing, label_set)
        record = clips.get(key)
        if record is None:
            record = self._embed(photo, labels, clips, key)
        if isinstance(record, FailureRecord):
            raise RowError(record.stage, record.error_class, record.message)
        assert isinstance(record, ClipRecord)
        self.recalled += self.parsed + self.embedded == done_before
        return Seen(labels=labels, regions=record.regions, embeddings=record.embeddings)

    def embed(
        self, picture: NDArray[np.uint8], regions: Sequence[Region]
    ) -> dict[int, NDArray[np.float16]]:
        """Return CLIP's embeddings of regions of a picture (H, W, 3), by label id; not cached."""
        vectors = self._clip.embed(picture, [region.box for region in regions])
        return {region.label: v for region, v in zip(regions, vectors, strict=True)}

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return CLIP's embeddings of texts, (len(texts), D), unit length."""
        return self._clip.embed_texts(texts)

    def see_map(
        self, photo: Photo, parsing: Path | None, label_set: str | None
    ) -> NDArray[np.uint8]:
        """Return a photo's map (H, W) in common ids, without embeddings: all a reference needs.

        The arguments and errors are those of `look`.
        """
        done_before = self.parsed
        labels = self._map_of(photo, parsing, label_set)
        self.recalled += self.parsed == done_before
        return labels

    def recall_map(self, sha256: str) -> bool:
        """Say whether the cache holds the parser's map of the photo with this hash."""
        known = isinstance(self._maps.get(sha256), ParseRecord)
        self.recalled += known
        return known

    def recall(self, sha256: str, parsing: Path | None, label_set: str | None) -> bool:
        """Say whether the caches hold all that `look` needs for the photo with this hash.

        Opens no photo. False for failures too: `look` then tells which one it was.
        """
        return self.recall_regions(sha256, parsing, label_set) is not None

    def recall_regions(
        self, sha256: str, parsing: Path | None, label_set: str | None
    ) -> ClipRecord | None:
        """Return what the caches hold of a photo's regions, without opening it; None where `look`
        is needed.
        """
        if parsing is None and sha256 not in self._maps:
            return None
        clips = self._clips(ready=parsing is not None)
        try:
            record = clips.get(self._clip_key(sha256, parsing, label_set))
        except RowError:
            return None
        if not isinstance(record, ClipRecord):
            return None
        self.recalled += 1
        return record

    def flush(self) -> None:
        """Write to disk what is still in memory only; `EnvironmentFault` where that fails."""
        if "_maps" in self.__dict__:
            self._maps.flush()
        for cache in self._clip_caches.values():
            cache.flush()

    def __enter__(self) -> Perception:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Also after an error: what is computed is computed.
        self.flush()

    def _map_of(
        self, photo: Photo, parsing: Path | None, label_set: str | None
    ) -> NDArray[np.uint8]:
        """Return a photo's map (H, W) in common ids: the ready one, else the parser's."""
        if parsing is None:
            return self._parse(photo)
        assert label_set is not None  # a manifest with the one and not the other is refused
        labels = maps.read_parsing_map(parsing, label_set)
        if labels.shape != photo.picture.shape[:2]:
            raise _wrong_size(labels, photo)
        return labels

    def _parse(self, photo: Photo) -> NDArray[np.uint8]:
        """Return the parser's map (H, W) of a photo in common ids; `RowError` where it fails."""
        record = self._maps.get(photo.sha256)
        if record is None:
            try:
                parser = self._parser
                labels = maps.to_common(parser.parse(photo.picture), parser.label_set)
                record = ParseRecord(
                    labels=labels, label_set=parser.label_set, parser=self._parser_name
                )
                self.parsed += 1
            except RowError as error:
                record = _failure(error)
            self._maps.put(photo.sha256, record)
        if isinstance(record, FailureRecord):
            raise RowError(record.stage, record.error_class, record.message)
        assert isinstance(record, ParseRecord)
        return record.labels

    def _embed(
        self, photo: Photo, labels: NDArray[np.uint8], clips: Cache, key: str
    ) -> ClipRecord | FailureRecord:
        """Embed the regions of a map and keep the result, or why there is none."""
        regions = maps.find_regions(labels)
        try:
            vectors = (
                self._clip.embed(photo.picture, [region.box for region in regions])
                if regions
                else ()
            )
            pairs = zip(regions, vectors, strict=True)
            embeddings = {region.label: vector for region, vector in pairs}
            if not all(
                np.isfinite(vector).all() and vector.any() for vector in embeddings.values()
            ):
                raise RowError("embedding", "not-finite", "CLIP gave numbers that are not finite")
            clips.put(key, ClipRecord(regions=regions, embeddings=embeddings))
            self.embedded += 1
        except RowError as error:
            clips.put(key, _failure(error))
        # As the cache has it, so that this run sees the very numbers that the next one will.
        record = clips.get(key)
        assert isinstance(record, ClipRecord | FailureRecord)
        return record

    @cached_property
    def _maps(self) -> Cache:
        """The parser's maps by the photo's hash."""
        from catalogpose.perception.parser import parser_settings

        settings = {
            "version": LOOK_VERSION,
            "parser": parser_settings(self._parser_folder),
            "label_sets": sha256_file(maps.LABEL_SETS_FILE),
        }
        return Cache(self._cache_root, "parse", settings)

    def _clips(self, *, ready: bool) -> Cache:
        """The embeddings by `_clip_key`: those on ready maps, or those on this parser's."""
        if ready not in self._clip_caches:
            from catalogpose.perception.clip import clip_settings

            settings = {
                "version": LOOK_VERSION,
                "clip": clip_settings(self._clip_folder),
                "map": "ready" if ready else self._maps.fingerprint,
                "label_sets": sha256_file(maps.LABEL_SETS_FILE),
                "region_floor": maps.REGION_FLOOR,
            }
            self._clip_caches[ready] = Cache(self._cache_root, "clip", settings)
        return self._clip_caches[ready]

    def _clip_key(self, sha256: str, parsing: Path | None, label_set: str | None) -> str:
        """Return the key of a photo's embeddings; a ready map and its label set are part of it."""
        if parsing is None:
            return sha256
        try:
            return sha256_json([sha256, sha256_file(parsing), label_set])
        except OSError as error:
            reason = f"cannot read parsing map {str(parsing)!r}: {error.strerror}"
            raise RowError("parsing", "unreadable", reason) from None

    @cached_property
    def _parser(self) -> Parser:
        """The parser, loaded."""
        from catalogpose.perception.parser import Parser

        return Parser.load(self._parser_folder, _torch_device(self._device))

    @cached_property
    def _clip(self) -> Clip:
        """CLIP, loaded."""
        from catalogpose.perception.clip import Clip

        return Clip.load(self._clip_folder, _torch_device(self._device))


def clip_fingerprint(model_folder: Path) -> str:
    """Return the hash of all that decides the embeddings of a model folder's CLIP, loading none."""
    from catalogpose.perception.clip import clip_settings

    return sha256_json(clip_settings(model_folder / "clip"))


def load_clip(model_folder: Path, device: str) -> Clip:
    """Load a model folder's CLIP on a device, torch's name of one or `auto`."""
    from catalogpose.perception.clip import Clip

    return Clip.load(model_folder / "clip", _torch_device(device))


def _failure(error: RowError) -> FailureRecord:
    """Return an error as the caches keep it."""
    return FailureRecord(stage=error.stage, error_class=error.error_class, message=error.message)


def _wrong_size(labels: NDArray[np.uint8], photo: Photo) -> RowError:
    """Return the error of a ready map that does not fit its photo."""
    height, width = labels.shape
    return RowError(
        "parsing",
        "size",
        f"the parsing map has {width}x{height} pixels, "
        f"the upright photo {photo.width}x{photo.height}",
    )


def _torch_device(device: str) -> str:
    """Return torch's name for a device of the options; `EnvironmentFault` where it is not there."""
    if device == "cpu":
        return device
    import torch

    there = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if there else "cpu"
    if device.startswith("cuda") and not there:
        raise EnvironmentFault("no GPU is available; --device cpu works without one")
    return device
