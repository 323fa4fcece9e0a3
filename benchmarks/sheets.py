"""README's pictures: the studio's contact sheet, and a run's first rows as they are.

python benchmarks/sheets.py studio docs/studio.jpg
python benchmarks/sheets.py run runs/figures/run docs/results.png --rows 12
python benchmarks/sheets.py run runs/style docs/style.png --rows 4
python benchmarks/sheets.py run runs/text docs/text.png --rows 11
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from catalogpose.catalog.sheets import fit_on
from catalogpose.studio import SPLITS, draw_view


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


def main() -> None:
    """Write one sheet."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("kind", choices=["studio", "run"])
    arguments.add_argument("paths", nargs="+", type=Path)
    arguments.add_argument("--rows", type=int, default=12)
    arguments.add_argument("--across", type=int, default=None, help="rows side by side; all")
    options = arguments.parse_args()
    if options.kind == "studio":
        studio_sheet(5, 8).save(options.paths[-1], quality=88)
    else:
        run_sheet(options.paths[0], options.rows, options.across or options.rows).save(
            options.paths[-1]
        )


if __name__ == "__main__":
    main()
