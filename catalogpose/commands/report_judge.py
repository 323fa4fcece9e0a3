"""`report --judge`: a second CLIP and parser look at what text-driven rows made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalogpose.catalog.files import sha256_file
from catalogpose.catalog.labels import find_regions, to_common
from catalogpose.errors import UsageError
from catalogpose.humandiffusion.judging import Trial, Verdict, judge, make_trials
from catalogpose.quality.agreement import GROUPS
from catalogpose.quality.scoring import Judge
from catalogpose.records import GROUP_OF, LABEL_ID

PARTS = ("clip", "parser")
"""What a judge's folder holds, as a model folder does."""


def open_judge(folder: Path, model: Path | None, device: str) -> Judge:
    """Load a judge.

    Args:
        folder: Holds `clip` and `parser`, as `train --only clip` and `--only parser` leave them.
        model: The folder of the model that made the pictures; None: it is not known.
        device: torch's name of one.

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
    # Torch takes seconds to import, and a report without a judge may not need it.
    from catalogpose.perception.clip import Clip
    from catalogpose.perception.parser import Parser

    clip, parser = Clip.load(folder / "clip", device), Parser.load(folder / "parser", device)
    known: dict[str, NDArray[np.float32]] = {}

    def parse(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return to_common(parser.parse(picture), parser.label_set)

    def score(picture: NDArray[np.uint8], phrases: Mapping[str, str]) -> Mapping[str, float | None]:
        trials = make_trials({LABEL_ID[GROUP_OF[name]]: text for name, text in phrases.items()})
        texts = sorted({text for trial in trials for text in _texts(trial)} - set(known))
        known.update(zip(texts, clip.embed_texts(texts), strict=True))
        boxes = {region.label: region.box for region in find_regions(GROUPS[parse(picture)])}
        seen = [trial.label for trial in trials if trial.label in boxes]
        vectors = clip.embed(picture, [boxes[label] for label in seen])
        regions = dict(zip(seen, np.asarray(vectors, dtype=np.float32), strict=True))
        return summarise_verdicts([judge(t, regions.get(t.label), known) for t in trials])

    return Judge(parse=parse, score=score)


def summarise_verdicts(verdicts: list[Verdict]) -> dict[str, float | None]:
    """Return a row's metrics from what was seen in its regions; None where nothing was tried."""

    def mean(values: list[bool]) -> float | None:
        return float(np.mean(values)) if values else None

    return {
        "region_text": mean([one.hit for one in verdicts]),
        "colour_accuracy": mean([one.colour for one in verdicts if one.colour is not None]),
        "pattern_accuracy": mean([one.pattern for one in verdicts if one.pattern is not None]),
        "binding_error": mean([not bound for one in verdicts for bound in one.bound]),
    }


def _texts(trial: Trial) -> set[str]:
    """Return every phrase of a trial."""
    return {trial.phrase, *trial.colours, *trial.patterns, *trial.swaps}


def _weights(folder: Path) -> list[str]:
    """Return the hashes of a part's weights."""
    return sorted(sha256_file(path) for path in folder.glob("*.safetensors"))
