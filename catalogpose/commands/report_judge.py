"""`report --judge`: a second CLIP and parser look at what text-driven rows made."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from catalogpose.catalog.files import sha256_file
from catalogpose.catalog.labels import find_regions, to_common
from catalogpose.catalog.photos import read_photo
from catalogpose.catalog.region_table import read_region_table
from catalogpose.errors import RowError, UsageError
from catalogpose.humandiffusion.judging import Trial, Verdict, judge, make_trials
from catalogpose.quality.agreement import GROUPS
from catalogpose.quality.run_folder import Asked, Cloth
from catalogpose.records import GROUP_OF, LABEL_ID

if TYPE_CHECKING:  # torch takes seconds to import, and a report without a judge needs none
    from catalogpose.perception.clip import Clip
    from catalogpose.perception.parser import Parser

Picture = NDArray[np.uint8]

Told = TypeVar("Told")

ROW_PICTURES = 3
"""Output, source and truth, which are looked at in turn."""

PARTS = ("clip", "parser")
"""What a judge's folder holds, as a model folder does."""


class ModelJudge:
    """A parser and a CLIP that did not condition the pictures; a `quality.scoring.Judge`."""

    def __init__(self, clip: Clip, parser: Parser, photos: Mapping[str, Path]) -> None:
        """Take both, and by their hashes the photos that a memory was made of."""
        self._clip, self._parser, self._photos = clip, parser, photos
        self._texts: dict[str, NDArray[np.float32]] = {}
        self._cloth: dict[Cloth, NDArray[np.float32] | None] = {}
        self._seen: deque[tuple[Picture, Picture, Mapping[int, NDArray[np.float32]]]]
        self._seen = deque(maxlen=ROW_PICTURES)

    def parse(self, picture: Picture) -> Picture:
        """Return a picture's map in the common vocabulary."""
        return self._look(picture)[0]

    def score(self, picture: Picture, phrases: Mapping[str, str]) -> Mapping[str, float | None]:
        """Return how a picture's regions fit their phrases; see `quality.scoring.Judge`."""
        regions = self._look(picture)[1]
        trials = make_trials(_by_group(phrases))
        known = self._read(trials)
        return summarise_verdicts([judge(t, regions.get(t.label), known) for t in trials])

    def compare(
        self, picture: Picture, asked: Asked, source: Picture | None
    ) -> Mapping[str, float | None]:
        """Return how a picture's regions compare with what they are of; see `Judge`."""
        own = {} if source is None else self._look(source)[1]
        regions = self._look(picture)[1]
        kept = {LABEL_ID[GROUP_OF[name]] for name in asked.kept} & set(own) & set(regions)
        copies = []
        for label, cloth in _by_group(asked.cloth).items():
            near = [float(regions[label] @ one) for one in self._embed(cloth) if label in regions]
            copies += [max(near)] if near else []
        return {
            "copy_similarity": _mean(copies),
            "kept_identity": _mean([float(own[one] @ regions[one]) for one in kept]),
        }

    def check_cloth(self, asked: Asked, truth: Picture | None) -> float | None:
        """Return the share of what informed a row, or of the truth, that fits; see `Judge`."""
        regions = {} if truth is None else self._look(truth)[1]
        cloth = _by_group(asked.cloth)
        fits = []
        for label, phrase in _by_group(asked.phrases).items():
            found = self._embed(cloth.get(label, ()))
            if truth is not None:
                found = [regions[label]] if found and label in regions else []
            trials = make_trials({label: phrase})
            known = self._read(trials)
            fits += [
                verdict.colour is not False and verdict.pattern is not False
                for verdict in (judge(trial, one, known) for trial in trials for one in found)
            ]
        return _mean(fits)

    def cloth_gone(self) -> tuple[int, int]:
        """Return of how many regions of the catalogue the photos are gone, and how many there are,
        among those that rows have asked for.
        """
        return sum(one is None for one in self._cloth.values()), len(self._cloth)

    def _look(self, picture: Picture) -> tuple[Picture, Mapping[int, NDArray[np.float32]]]:
        """Return a picture's map and the embeddings of its regions by group, looking once at a
        picture that is asked for again and again.
        """
        for seen, labels, found in self._seen:
            if seen is picture:
                return labels, found
        labels = to_common(self._parser.parse(picture), self._parser.label_set)
        regions = find_regions(GROUPS[labels])
        vectors = self._clip.embed(picture, [region.box for region in regions])
        found = {
            region.label: vector.astype(np.float32)
            for region, vector in zip(regions, vectors, strict=True)
        }
        self._seen.append((picture, labels, found))
        return labels, found

    def _read(self, trials: Iterable[Trial]) -> Mapping[str, NDArray[np.float32]]:
        """Return the embeddings of every phrase of these trials, and of those before them."""
        wanted = {text for trial in trials for text in _texts(trial)}
        texts = sorted(wanted - set(self._texts))
        self._texts.update(zip(texts, self._clip.embed_texts(texts), strict=True))
        return self._texts

    def _embed(self, cloth: Iterable[Cloth]) -> list[NDArray[np.float32]]:
        """Return the embeddings of regions of the catalogue whose photos are still there."""
        for one in cloth:
            if one not in self._cloth:
                self._cloth[one] = self._embed_one(one)
        return [found for one in cloth if (found := self._cloth[one]) is not None]

    def _embed_one(self, cloth: Cloth) -> NDArray[np.float32] | None:
        """Return the embedding of a region of a photo; None where the photo is gone."""
        path = self._photos.get(cloth.picture)
        if path is None:
            return None
        try:
            photo = read_photo(path).picture
        except RowError:
            return None
        vector: NDArray[np.float32] = self._clip.embed(photo, [cloth.box])[0].astype(np.float32)
        return vector


def open_judge(
    folder: Path, model: Path | None, device: str, memory: Path | None = None
) -> ModelJudge:
    """Load a judge.

    Args:
        folder: Holds `clip` and `parser`, as `train --only clip` and `--only parser` leave them.
        model: The folder of the model that made the pictures; None: it is not known.
        device: torch's name of one.
        memory: What words looked into, which knows where its photos lie; None: nothing.

    Raises:
        UsageError: If a part is missing, or is the very one that conditioned the pictures.
    """
    for part in PARTS:
        if not (folder / part).is_dir():
            raise UsageError(f"--judge {folder} has no {part}: name a folder with both")
        if model is not None and _weights(folder / part) == _weights(model / part):
            raise UsageError(
                f"--judge {folder} has the {part} that made these pictures: it would judge its own "
                "work; train another with `catalogpose train --only "
                f"{part} --seed 1`"
            )
    from catalogpose.perception.clip import Clip
    from catalogpose.perception.parser import Parser

    return ModelJudge(
        Clip.load(folder / "clip", device),
        Parser.load(folder / "parser", device),
        {} if memory is None else _photos_of(memory),
    )


def _photos_of(memory: Path) -> dict[str, Path]:
    """Return the photos that a memory was made of, by their hashes; none where it is gone or can be
    read no more: a run's pictures can be judged without.
    """
    try:
        table, _ = read_region_table(memory)
    except UsageError:
        return {}
    return {name: Path(path) for name, path in zip(table.pictures, table.sources, strict=True)}


def summarise_verdicts(verdicts: list[Verdict]) -> dict[str, float | None]:
    """Return a row's metrics from what was seen in its regions; None where nothing was tried."""
    return {
        "region_text": _mean([one.hit for one in verdicts]),
        "colour_accuracy": _mean([one.colour for one in verdicts if one.colour is not None]),
        "pattern_accuracy": _mean([one.pattern for one in verdicts if one.pattern is not None]),
        "binding_error": _mean([not bound for one in verdicts for bound in one.bound]),
    }


def _mean(values: list[bool] | list[float]) -> float | None:
    """Return the mean; None where there is nothing."""
    return float(np.mean(values)) if values else None


def _by_group(told: Mapping[str, Told]) -> dict[int, Told]:
    """Return what is told of labels by their groups' ids: both shoes are one."""
    return {LABEL_ID[GROUP_OF[name]]: one for name, one in told.items()}


def _texts(trial: Trial) -> set[str]:
    """Return every phrase of a trial."""
    return {trial.phrase, *trial.colours, *trial.patterns, *trial.swaps}


def _weights(folder: Path) -> list[str]:
    """Return the hashes of a part's weights."""
    return sorted(sha256_file(path) for path in folder.glob("*.safetensors"))
