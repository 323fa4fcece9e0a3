"""README's pictures: the studio's contact sheet, and a run's first rows as they are; the heads of
such rows, to count by eye how many are right; and the same rows of two runs, for who shall not know
which is which.

python benchmarks/sheets.py studio docs/studio.jpg
python benchmarks/sheets.py run runs/figures/run docs/results.jpg --rows 12
python benchmarks/sheets.py run runs/style docs/style.jpg --rows 4
python benchmarks/sheets.py run runs/text docs/text.jpg --rows 11
python benchmarks/sheets.py run runs/figures/run work/fifty.png --rows 50 --across 10 --scale 2
python benchmarks/sheets.py heads runs/figures/run work/heads.png --rows 50 --across 10 --scale 6
python benchmarks/sheets.py blind runs/old runs/new work/blind.png --rows 50 --across 5 --scale 4

The last writes a sheet every so many rows (work/blind-0.png, ...): source, two outputs in random
order, target; work/blind.json, which no reader may see, has the seed and says of each row whose
run's output is the upper one, 0 or 1.
"""

from __future__ import annotations

import argparse
import json
import secrets
from pathlib import Path

import numpy as np
import pandas as pd
from bundled import fit_true_map
from PIL import Image

from catalogpose.catalog.sheets import fit_on
from catalogpose.quality.scoring import fit_target
from catalogpose.studio import SPLITS, draw_view
from catalogpose.training.compositor import HEAD


def studio_sheet(products: int, views: int) -> Image.Image:
    """Return the first products of the test split, one a row, in their first views."""
    first = SPLITS["test"].start
    rows = [
        np.hstack([draw_view(first + p, v, height=256, width=176).photo for v in range(views)])
        for p in range(products)
    ]
    return Image.fromarray(np.vstack(rows))


def run_sheet(run: Path, count: int, across: int) -> Image.Image:
    """Return sources, references and maps if there are any, outputs and targets of a run's first
    done rows, one under the other and of the output's size, so many rows side by side; white where
    a row has none.
    """
    rows = pd.read_parquet(run / "results.parquet").query("status == 'done'").head(count)
    columns = ["source", "reference", "pose_map", "output", "target"]
    columns = [name for name in columns if name in rows and rows[name].notna().any()]
    with Image.open(run / rows["output"].iloc[0]) as first:
        size = (first.height, first.width)
    lines = []
    for start in range(0, len(rows), across):
        for column in columns:
            line = np.full((size[0], across * size[1], 3), 255, dtype=np.uint8)
            for place, path in enumerate(rows[column].iloc[start : start + across]):
                if pd.isna(path):
                    continue
                picture = np.asarray(Image.open(run / path).convert("RGB"))
                line[:, place * size[1] : (place + 1) * size[1]] = fit_on(size, picture)
            lines.append(line)
    return Image.fromarray(np.vstack(lines))


def blind_sheets(
    runs: tuple[Path, Path], count: int, across: int, seed: int
) -> tuple[list[Image.Image], list[int]]:
    """Return sheets of the same first done rows of two runs, and which run's output lies above.

    Raises:
        SystemExit: If the runs' first rows are not the same.
    """
    first, second = (
        pd.read_parquet(run / "results.parquet").query("status == 'done'").head(count)
        for run in runs
    )
    same = [list(rows["id"] + rows["source_sha256"]) for rows in (first, second)]
    if same[0] != same[1] or len(first) < count:
        raise SystemExit(f"{runs[0]} and {runs[1]} have not the same first {count} rows done")
    upper = np.random.default_rng(seed).integers(2, size=len(first)).tolist()
    columns = []
    for place, above in enumerate(upper):
        outputs = [runs[0] / first["output"].iloc[place], runs[1] / second["output"].iloc[place]]
        source, target = (runs[0] / first[name].iloc[place] for name in ("source", "target"))
        pictures = [source, outputs[above], outputs[1 - above], target]
        # As large as the larger of both, whichever lies above.
        opened = [np.asarray(Image.open(path).convert("RGB")) for path in pictures]
        size = max(opened[1].shape[:2], opened[2].shape[:2])
        shown = [fit_on(size, picture) for picture in opened]
        columns.append(np.vstack(shown))
    starts = range(0, len(columns), across)
    return [Image.fromarray(np.hstack(columns[s : s + across])) for s in starts], upper


HEAD_SHARE = 0.22
"""Side of the square that is shown around a head, of the picture's height."""


def head_sheet(run: Path, count: int, across: int) -> Image.Image:
    """Return the heads of sources, outputs and targets of a studio run's first done rows, all on
    the output's canvas, and the output's head where the target's is.
    """
    rows = pd.read_parquet(run / "results.parquet").query("status == 'done'").head(count)
    with Image.open(run / rows["output"].iloc[0]) as first:
        side = round(HEAD_SHARE * first.height)
    lines = []
    for start in range(0, len(rows), across):
        part = rows.iloc[start : start + across]
        for column, map_of in (("source", "source"), ("output", "target"), ("target", "target")):
            line = np.full((side, across * side, 3), 255, dtype=np.uint8)
            for place, (path, mapped) in enumerate(zip(part[column], part[map_of], strict=True)):
                made = np.array(Image.open(run / part["output"].iloc[place]).convert("RGB"))
                picture = made if column == "output" else fit_target(run / path, made)
                head = cut_head(picture, fit_true_map(run / mapped, made), side)
                line[:, place * side : (place + 1) * side] = head
            lines.append(line)
    return Image.fromarray(np.vstack(lines))


def cut_head(picture: np.ndarray, labels: np.ndarray, side: int) -> np.ndarray:
    """Return the square of so many pixels around the middle of a map's head, the picture's edge
    going on outside; all white where the map has none.
    """
    found = np.argwhere(np.isin(labels, HEAD))
    if not len(found):
        return np.full((side, side, 3), 255, dtype=np.uint8)
    wide = np.pad(picture, ((side, side), (side, side), (0, 0)), "edge")
    top, left = (found.min(axis=0) + found.max(axis=0) - side) // 2 + side
    return wide[top : top + side, left : left + side]


def main() -> None:
    """Write one sheet, or the blind ones and their key."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("kind", choices=["studio", "run", "heads", "blind"])
    arguments.add_argument("paths", nargs="+", type=Path)
    arguments.add_argument("--rows", type=int, default=12)
    arguments.add_argument("--across", type=int, default=None, help="rows side by side; all")
    arguments.add_argument("--seed", type=int, default=None, help="of blind's order; a fresh one")
    arguments.add_argument("--scale", type=int, default=1, help="side of a pixel; 1")
    options = arguments.parse_args()
    if options.kind == "studio":
        studio_sheet(5, 8).save(options.paths[-1], quality=88)
        return
    across, path = options.across or options.rows, options.paths[-1]
    if options.kind == "blind":
        if len(options.paths) != 3:
            arguments.error("blind takes two runs and the path of the sheets")
        seed = secrets.randbits(32) if options.seed is None else options.seed
        sheets, upper = blind_sheets(tuple(options.paths[:2]), options.rows, across, seed)
        path.with_suffix(".json").write_text(json.dumps({"seed": seed, "upper": upper}))
        for number, sheet in enumerate(sheets):
            save(sheet, path.with_stem(f"{path.stem}-{number}"), options.scale)
        return
    draw = head_sheet if options.kind == "heads" else run_sheet
    save(draw(options.paths[0], options.rows, across), path, options.scale)


def save(sheet: Image.Image, path: Path, scale: int) -> None:
    """Write a sheet, each of its pixels as a square."""
    size = (sheet.width * scale, sheet.height * scale)
    # Of a JPEG: colours as fine as the rest, so that stripes stay.
    sheet.resize(size, Image.Resampling.NEAREST).save(path, quality=90, subsampling=0)


if __name__ == "__main__":
    main()
