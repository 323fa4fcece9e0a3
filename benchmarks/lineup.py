"""Line-ups: which of six sources was this output made of? For a person, or any reader of pictures.

python benchmarks/lineup.py draw runs/figures/run work/heads --kind heads --rows 50
python benchmarks/lineup.py draw runs/figures/run work/patterns --kind patterns --picture target
python benchmarks/lineup.py count work/heads/key.json work/answers.csv

Each line of a sheet is one row of a studio run: on the left its output, or with `--picture target`
its true target; on the right six sources with numbers. Of `clothes` and `heads` those are its own
and the five others of about its size that a CLIP finds most like it. Of `patterns` they are its own
and the same picture drawn five times anew with the one pattern or print that shows most exchanged
for another of the same palette (`rewoven.py`): person, pose and cut are alike in all six, and rows
without a pattern or a print that shows in source and target are left out. Only heads are shown, or
only what is worn, on white: the ground tells nothing, nor do the clothes who somebody is. Sources
are cut out by their true maps, what is asked of by the map that the model's parser makes of it, so
that an outline is its own. `key.json`, which no reader may see, has the answers; a reader writes
lines `row,number`, and `count` says how many are right, of all and of groups of rows: `turned`
shows a face in source or target and not in both; of patterns by kind, by the sides that source and
target show, and of cloths of `three colours`, of which most others show two. Beside a reader of
patterns stands one who sees the garment's mean colour alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bundled import Photo, fit_true_map, read_pairs
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from recognition import FACE, KINDS, Vectors, embed_parts, mean_cosine
from rewoven import kind_of, most_shown, read_view, reweave, view_of, wear

from catalogpose.catalog.labels import to_common
from catalogpose.perception.clip import Clip
from catalogpose.perception.parser import Parser
from catalogpose.quality.intervals import mean_interval
from catalogpose.records import LABEL_ID
from catalogpose.studio import make_scene
from catalogpose.studio.captions import name_view
from catalogpose.truepose.model import resolve_model

CHOICES = 6
"""Sources in a line-up."""

LINES = 5
"""Line-ups on a sheet."""

LARGER = 1.8
"""How many times as many pixels a part may have and still be about as large."""

TILE = (320, 220)
"""Height and width of a picture on a sheet, in pixels."""

MARGIN = 24
"""Pixels around a picture, where its number stands."""


@dataclass(frozen=True)
class Line:
    """One line-up."""

    row: int
    """Its row's number in the run."""
    query: Image.Image
    """What is asked of."""
    choices: Sequence[Image.Image]
    """`CHOICES` pictures."""
    own: int
    """Which of them is the row's own, counted from 0."""
    groups: Sequence[str]
    """What the row is counted with beside all."""
    by_colour: int | None = None
    """Which is nearest in the mean colour of what differs; None: that was not asked."""


@dataclass(frozen=True)
class Pictures:
    """A run's first rows, at the outputs' size."""

    sources: Sequence[Photo]
    """(H, W, 3) of all the run's rows."""
    shown: Sequence[Photo]
    """(H, W, 3) of its first rows, what is asked of."""
    maps: Sequence[Photo]
    """The true targets' maps (H, W)."""
    parser: Parser
    """What makes the maps of what is asked of."""

    @classmethod
    def read(cls, run: Path, model: Path, picture: str, count: int) -> Pictures:
        """Read a run, whose outputs or targets are shown, whichever `picture` says."""
        sources, outputs, targets, maps = read_pairs(run)
        shown = outputs if picture == "output" else targets
        return cls(sources, shown[:count], maps, Parser.load(model / "parser"))

    def asked(self) -> Iterator[tuple[Photo, Photo]]:
        """Yield what is asked of, and its map (H, W) by the parser."""
        for picture in self.shown:
            yield picture, to_common(self.parser.parse(picture), self.parser.label_set)


def show_part(picture: Photo, labels: Photo, wanted: Sequence[int]) -> Image.Image:
    """Return the regions of these labels on white, as large as a tile allows; all white where the
    map (h, w) has none.
    """
    there = np.isin(labels, wanted)
    tile = Image.new("RGB", (TILE[1], TILE[0]), "white")
    if not there.any():
        return tile
    rows, columns = np.nonzero(there)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    part = Image.fromarray(np.where(there[..., None], picture, np.uint8(255))).crop(box)
    scale = min(tile.width / part.width, tile.height / part.height)
    size = (max(1, round(part.width * scale)), max(1, round(part.height * scale)))
    part = part.resize(size, Image.Resampling.BICUBIC)
    tile.paste(part, ((tile.width - size[0]) // 2, (tile.height - size[1]) // 2))
    return tile


def choose_others(
    vectors: Sequence[Vectors], areas: Sequence[int], labels: Sequence[int], row: int
) -> list[int]:
    """Return the other sources most like a row's own, nearest first: those that mix up a reader.

    Those come first of which about as many pixels are seen, `areas`: else how coarse a picture is
    would tell who was photographed from near.
    """
    own = [label for label in labels if label in vectors[row]]

    def unlikeness(place: int) -> tuple[bool, float]:
        """Sort by size, then by looks."""
        ratio = max(areas[place], 1) / max(areas[row], 1)
        unequal = not 1 / LARGER <= ratio <= LARGER
        return unequal, -mean_cosine(vectors[row], vectors[place], own)

    others = [place for place in range(len(vectors)) if place != row]
    return sorted(others, key=unlikeness)[: CHOICES - 1]


def draw_line(row: int, query: Image.Image, choices: Sequence[Image.Image]) -> Image.Image:
    """Return a line-up: the row's number and its picture, then the choices with theirs."""
    wide, high = TILE[1] + MARGIN, TILE[0] + 2 * MARGIN
    line = Image.new("RGB", ((2 + len(choices)) * wide, high), "white")
    pen = ImageDraw.Draw(line)
    pen.line([(1.5 * wide, 0), (1.5 * wide, high)], fill="black", width=3)
    pen.line([(0, high - 1), (line.width, high - 1)], fill="grey")
    for place, picture in enumerate((query, *choices)):
        left = round((place + (place > 0)) * wide + MARGIN / 2)
        line.paste(picture, (left, MARGIN))
        name = f"row {row}" if place == 0 else str(place)
        pen.text((left + 4, 2), name, fill="black", font_size=20)
    return line


def lines_of_sources(
    run: Path, model: Path, pictures: Pictures, *, kind: str, rng: np.random.Generator
) -> Iterator[Line]:
    """Yield a run's rows with the sources most like their own; those are left out whose source or
    picture shows nothing of the kind.

    Raises:
        SystemExit: If a source comes twice, which would be right at two numbers, or are too few.
    """
    paths = pd.read_parquet(run / "results.parquet").query("status == 'done'")["source"]
    if len(paths) < CHOICES or paths.duplicated().any():
        raise SystemExit(f"{run} needs {CHOICES} rows or more, each of a source of its own")
    sources, labels = pictures.sources, KINDS[kind]
    sized = zip(paths, sources, strict=True)
    known = [fit_true_map(run / path, source) for path, source in sized]
    vectors = embed_parts(Clip.load(model / "clip"), sources, known)
    areas = [int(np.isin(known_map, labels).sum()) for known_map in known]
    for row, (shown, seen) in enumerate(pictures.asked()):
        if not (np.isin(seen, labels).any() and set(vectors[row]) & set(labels)):
            continue
        order = [row, *choose_others(vectors, areas, labels, row)]
        rng.shuffle(order)
        choices = [show_part(sources[place], known[place], labels) for place in order]
        turned = bool((known[row] == FACE).any() ^ (pictures.maps[row] == FACE).any())
        groups = ["turned"] if turned else []
        yield Line(row, show_part(shown, seen, labels), choices, order.index(row), groups)


def lines_of_patterns(run: Path, pictures: Pictures, *, rng: np.random.Generator) -> Iterator[Line]:
    """Yield the rows in whose source and target one pattern or print shows, with the source as it
    is and woven or printed otherwise, see `reweave`; person, pose and cut are the same.
    """
    rows = pd.read_parquet(run / "results.parquet").query("status == 'done'")
    labels = KINDS["clothes"]
    # Not all of the run's rows need be asked about.
    pairs = zip(rows["source"], rows["target"], pictures.asked(), strict=False)
    for row, (source, target, (shown, seen)) in enumerate(pairs):
        product, view = read_view(Path(source))
        posed = read_view(Path(target))[1]
        size = (shown.shape[0], shown.shape[1])
        garment = most_shown(product, (view, posed), size)
        if garment is None:
            continue
        cloths = [garment.cloth, *reweave(garment.cloth, CHOICES - 1, rng)]
        order = rng.permutation(CHOICES).tolist()
        drawn = [view_of(wear(product, garment, cloths[n]), view, size) for n in order]
        choices = [show_part(picture.photo, picture.labels, labels) for picture in drawn]
        sides = [side_of(make_scene(product.id, number).yaw) for number in (view, posed)]
        groups = [kind_of(garment.cloth), " to ".join(sides)]
        if groups[0] == "pattern" and len(garment.cloth.names) > 2:
            groups.append("three colours")
        part = LABEL_ID[garment.label]
        asked = mean_colour(shown, seen == part if (seen == part).any() else np.isin(seen, labels))
        apart = [np.abs(mean_colour(x.photo, x.labels == part) - asked).sum() for x in drawn]
        query = show_part(shown, seen, labels)
        yield Line(row, query, choices, order.index(0), groups, int(np.argmin(apart)))


def mean_colour(picture: Photo, there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean of a picture (H, W, 3) where a mask (H, W) is true; 0 where it never is."""
    found: NDArray[np.float64] = picture[there].mean(axis=0) if there.any() else np.zeros(3)
    return found


def side_of(yaw: float) -> str:
    """Return which side of a body turned by so many degrees is seen."""
    view = name_view(yaw)
    return "back" if "behind" in view else "side" if "side" in view else "front"


def draw(
    run: Path, out: Path, model: Path, *, kind: str, picture: str, count: int, seed: int
) -> None:
    """Write the sheets and the key of a run's first rows."""
    rng = np.random.default_rng(seed)
    pictures = Pictures.read(run, model, picture, count)
    if kind == "patterns":
        lines = list(lines_of_patterns(run, pictures, rng=rng))
    else:
        lines = list(lines_of_sources(run, model, pictures, kind=kind, rng=rng))
    out.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(lines), LINES):
        drawn = [draw_line(x.row, x.query, x.choices) for x in lines[start : start + LINES]]
        sheet = np.vstack([np.asarray(line) for line in drawn])
        Image.fromarray(sheet).save(out / f"sheet-{start // LINES:02d}.png")
    answers: list[dict[str, Any]] = []
    for x in lines:
        colour = {} if x.by_colour is None else {"by_colour": 1 + x.by_colour}
        answers.append({"row": x.row, "number": 1 + x.own, "groups": x.groups, **colour})
    key = {"kind": kind, "picture": picture, "seed": seed, "choices": CHOICES, "answers": answers}
    (out / "key.json").write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")


def count_right(key: Path, answers: Path) -> dict[str, str]:
    """Return how many of a reader's answers are right, of all rows and of every group of them. A
    row without an answer is wrong.
    """
    true = json.loads(key.read_text(encoding="utf-8"))["answers"]
    with answers.open(newline="", encoding="utf-8") as file:
        given = {int(row): int(number) for row, number in csv.reader(file)}
    right = np.array([given.get(a["row"]) == a["number"] for a in true], dtype=float)
    names = sorted({name for a in true for name in a["groups"]})
    found = {}
    for group in ("all", *names):
        chosen = right[[group == "all" or group in a["groups"] for a in true]]
        value = mean_interval(chosen)
        span = "" if value.low is None else f" ({value.low:.0%}..{value.high:.0%})"
        found[group] = f"{int(chosen.sum())} of {len(chosen)}{span}"
    if all("by_colour" in a for a in true):
        nearest = sum(a["by_colour"] == a["number"] for a in true)
        found["by mean colour alone"] = f"{nearest} of {len(true)}"
    return found


def main() -> None:
    """Draw line-ups, or count."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = arguments.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw")
    drawing.add_argument("run", type=Path)
    drawing.add_argument("out", type=Path)
    drawing.add_argument("--kind", choices=[*KINDS, "patterns"], required=True)
    drawing.add_argument("--picture", choices=["output", "target"], default="output")
    drawing.add_argument("--rows", type=int, default=50)
    drawing.add_argument("--model", default=None, help="whose CLIP chooses; the bundled one")
    drawing.add_argument("--seed", type=int, default=None, help="of the order; a fresh one")
    counting = commands.add_parser("count")
    counting.add_argument("key", type=Path)
    counting.add_argument("answers", type=Path)
    options = arguments.parse_args()
    if options.command == "count":
        print(json.dumps(count_right(options.key, options.answers), indent=2))
        return
    seed = secrets.randbits(32) if options.seed is None else options.seed
    model = resolve_model(options.model)
    chosen = {"kind": options.kind, "picture": options.picture, "count": options.rows}
    draw(options.run, options.out, model, seed=seed, **chosen)


if __name__ == "__main__":
    main()
