"""Whether clothes and heads can be recognised: of all sources of a run, whose do a picture's look
most like to a CLIP?

    python benchmarks/recognition.py runs/figures/run

takes a finished run of `benchmarks/bundled.py`, whose rows are of a product each, and prints as
JSON and as a Markdown table how often the first place is the row's own source, ties shared, with
95 % bootstrap intervals: of what was generated, of the true targets, and of the labels alone, all
cloth alike. Regions of targets are the true ones, those of sources the parser's; a label that a
source lacks counts as a cosine of 0. CLIP and parser are those of a model folder, `--model`, the
bundled one by default; runs of several versions are to be judged by one. `turned` rows show a face
in source or target, and not in both.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from bundled import Photo, read_pairs
from numpy.typing import NDArray

from catalogpose.catalog.labels import find_regions, to_common
from catalogpose.perception.clip import Clip
from catalogpose.perception.parser import Parser
from catalogpose.quality.intervals import Interval, mean_interval
from catalogpose.records import GARMENTS, LABEL_ID
from catalogpose.truepose.model import read_card, resolve_model

FACE = LABEL_ID["face"]

KINDS = {
    "clothes": [LABEL_ID[name] for name in GARMENTS],
    "heads": [LABEL_ID[name] for name in ("hat", "hair", "face", "sunglasses")],
}
"""What is recognised, and the labels that it is made of."""

Vectors = Mapping[int, NDArray[np.floating]]
"""A picture's regions: unit vectors (D,) by label."""


def embed_parts(clip: Clip, pictures: Sequence[Photo], maps: Sequence[Photo]) -> list[Vectors]:
    """Embed the largest region of every label of `KINDS` in pictures (H, W, 3) with maps (H, W)."""
    wanted = {label for labels in KINDS.values() for label in labels}
    found = []
    for picture, labels in zip(pictures, maps, strict=True):
        regions = [region for region in find_regions(labels) if region.label in wanted]
        vectors = clip.embed(picture, [region.box for region in regions]).astype(np.float32)
        found.append({r.label: v for r, v in zip(regions, vectors, strict=True)})
    return found


def first_places(
    pictures: Sequence[Vectors], sources: Sequence[Vectors], labels: Sequence[int]
) -> NDArray[np.float64]:
    """Say of each of n pictures whether its own source, of the same number, comes first.

    The order is by the mean cosine over the picture's regions of these labels.

    Returns:
        (n,): 1 where it does, a share where several do, 0 where it does not; NaN where the picture
        has none of the labels.
    """
    found = np.full(len(pictures), np.nan)
    for row, picture in enumerate(pictures):
        own = [label for label in labels if label in picture]
        if not own:
            continue
        scores = np.array([mean_cosine(picture, source, own) for source in sources])
        first = scores >= scores.max() - 1e-6
        found[row] = first[row] / first.sum()
    return found


def mean_cosine(picture: Vectors, other: Vectors, labels: Sequence[int]) -> float:
    """Return the mean cosine of a picture's regions of these labels with another's; 0 where that
    has none.
    """
    return float(np.mean([picture[k] @ other[k] if k in other else 0.0 for k in labels]))


def all_alike(pictures: Sequence[Vectors]) -> list[Vectors]:
    """Return pictures whose regions all look the same: the labels alone are left."""
    return [{label: np.ones(1) for label in picture} for picture in pictures]


def measure(run: Path, model: Path) -> dict[str, dict[str, dict[str, Interval]]]:
    """Return how often each kind is recognised, by kind, picture and rows."""
    sources, outputs, targets, maps = read_pairs(run)
    clip, parser = Clip.load(model / "clip"), Parser.load(model / "parser")
    seen = [to_common(parser.parse(photo), parser.label_set) for photo in sources]
    known = embed_parts(clip, sources, seen)
    made = embed_parts(clip, outputs, maps)
    pictures = {
        "output": (made, known),
        "true target": (embed_parts(clip, targets, maps), known),
        "labels alone": (all_alike(made), all_alike(known)),
    }
    pairs = zip(seen, maps, strict=True)
    turned = np.array([bool((a == FACE).any() ^ (b == FACE).any()) for a, b in pairs])
    rows = {"all": np.ones_like(turned), "turned": turned}
    return {
        kind: {
            picture: {
                name: mean_interval(first_places(*vectors, labels)[chosen])
                for name, chosen in rows.items()
            }
            for picture, vectors in pictures.items()
        }
        for kind, labels in KINDS.items()
    }


def cell(value: Interval) -> str:
    """Write a share, its interval and n."""
    if value.mean is None:
        return "-"
    span = "" if value.low is None else f" ({value.low:.0%}..{value.high:.0%})"
    return f"{value.mean:.1%}{span}, n = {value.n}"


def main() -> None:
    """Measure a run and print what came out."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("run", type=Path)
    arguments.add_argument("--model", default=None, help="whose CLIP and parser judge")
    options = arguments.parse_args()
    model = resolve_model(options.model)
    found = measure(options.run, model)
    libraries = ("torch", "open_clip_torch", "transformers", "numpy")
    facts = {
        "judge": {
            name: digest[:16]
            for name, digest in read_card(model).weights.items()
            if name.split("/")[0] in ("clip", "parser")
        },
        "versions": {name: version(name) for name in libraries},
        "first": found,
    }
    print(json.dumps(facts, indent=2, default=dataclasses.asdict))
    print("| what, of which rows | " + " | ".join(found["heads"]) + " |\n|---|---|---|---|")
    for kind, pictures in found.items():
        for rows in ("all", "turned"):
            print(
                f"| {kind}, {rows} | " + " | ".join(cell(p[rows]) for p in pictures.values()) + " |"
            )


if __name__ == "__main__":
    main()
