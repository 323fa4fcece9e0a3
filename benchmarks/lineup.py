"""Line-ups: which of six sources was this output made of? For a person, or any reader of pictures.

python benchmarks/lineup.py draw runs/figures/run work/heads --kind heads --rows 50
python benchmarks/lineup.py draw runs/figures/run work/clothes --kind clothes --picture target
python benchmarks/lineup.py count work/heads/key.json work/answers.csv

Each line of a sheet is one row of a studio run: on the left its output, or with `--picture target`
its true target; on the right six sources with numbers, its own and the five others of
about its size that a CLIP finds most like it. Only heads are shown, or only what is worn, on white:
the ground tells nothing, nor do the clothes who somebody is. Sources are cut out by their true
maps, what is asked of by the map that the model's parser makes of it, so that an outline is its
own. `key.json`, which no reader may see, has the answers; a reader writes lines `row,number`, and
`count` says how many are right.
"""

from __future__ import annotations

import argparse
import csv
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from bundled import Photo, fit_true_map, read_pairs
from PIL import Image, ImageDraw
from recognition import FACE, KINDS, Vectors, embed_parts, mean_cosine

from catalogpose.catalog.labels import to_common
from catalogpose.perception.clip import Clip
from catalogpose.perception.parser import Parser
from catalogpose.quality.intervals import mean_interval
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


def draw(
    run: Path, out: Path, model: Path, *, kind: str, picture: str, count: int, seed: int
) -> None:
    """Write the sheets and the key of a run's first rows; those are left out whose source or
    picture shows nothing of the kind.

    Raises:
        SystemExit: If a source comes twice, which would be right at two numbers, or are too few.
    """
    sources, outputs, targets, maps = read_pairs(run)
    rows = pd.read_parquet(run / "results.parquet").query("status == 'done'")
    if len(rows) < CHOICES or rows["source"].duplicated().any():
        raise SystemExit(f"{run} needs {CHOICES} rows or more, each of a source of its own")
    pairs = zip(rows["source"], outputs, strict=True)
    known = [fit_true_map(run / path, made) for path, made in pairs]
    labels = KINDS[kind]
    vectors = embed_parts(Clip.load(model / "clip"), sources, known)
    parser = Parser.load(model / "parser")
    areas = [int(np.isin(known_map, labels).sum()) for known_map in known]
    shown = outputs if picture == "output" else targets
    draw_order, lines = np.random.default_rng(seed), []
    key: dict[str, Any] = {"kind": kind, "picture": picture, "seed": seed, "choices": CHOICES}
    answers = []
    for row in range(min(count, len(outputs))):
        seen = to_common(parser.parse(shown[row]), parser.label_set)
        if not (np.isin(seen, labels).any() and set(vectors[row]) & set(labels)):
            continue
        order = [row, *choose_others(vectors, areas, labels, row)]
        draw_order.shuffle(order)
        choices = [show_part(sources[place], known[place], labels) for place in order]
        lines.append(draw_line(row, show_part(shown[row], seen, labels), choices))
        turned = bool((known[row] == FACE).any() ^ (maps[row] == FACE).any())
        answers.append({"row": row, "number": 1 + order.index(row), "turned": turned})
    out.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(lines), LINES):
        sheet = np.vstack([np.asarray(line) for line in lines[start : start + LINES]])
        Image.fromarray(sheet).save(out / f"sheet-{start // LINES:02d}.png")
    text = json.dumps({**key, "answers": answers}, indent=1)
    (out / "key.json").write_text(text + "\n", encoding="utf-8")


def count_right(key: Path, answers: Path) -> dict[str, str]:
    """Return how many of a reader's answers are right, of all rows and of those where only one of
    source and target shows a face. A row without an answer is wrong.
    """
    true = json.loads(key.read_text(encoding="utf-8"))["answers"]
    with answers.open(newline="", encoding="utf-8") as file:
        given = {int(row): int(number) for row, number in csv.reader(file)}
    right = np.array([given.get(a["row"]) == a["number"] for a in true], dtype=float)
    turned = np.array([a["turned"] for a in true])
    found = {}
    for name, chosen in (("all", right), ("turned", right[turned])):
        value = mean_interval(chosen)
        span = "" if value.low is None else f" ({value.low:.0%}..{value.high:.0%})"
        found[name] = f"{int(chosen.sum())} of {len(chosen)}{span}"
    return found


def main() -> None:
    """Draw line-ups, or count."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = arguments.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw")
    drawing.add_argument("run", type=Path)
    drawing.add_argument("out", type=Path)
    drawing.add_argument("--kind", choices=list(KINDS), required=True)
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
