"""How many pictures the studio draws a second on one core: prints JSON.

Run `OMP_NUM_THREADS=1 python benchmarks/studio.py [--products N] [--views K]`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time

from catalogpose.studio import SPLITS, draw_view

SIZES = ((256, 176), (128, 88))
"""Height and width in pixels."""


def measure(height: int, width: int, products: int, views: int) -> dict[str, float | int | str]:
    """Draw products nobody has drawn before, textures and all; return counts and rates."""
    first = SPLITS["validation"].start + height * products
    wall, cpu = time.perf_counter(), time.process_time()
    for product in range(first, first + products):
        for view in range(views):
            draw_view(product, view, height=height, width=width)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    pictures = products * views
    return {
        "size": f"{height}x{width}",
        "n": pictures,
        "views_a_product": views,
        "pictures_per_second_and_core": round(pictures / cpu, 1),
        "pictures_per_second_of_wall_time": round(pictures / wall, 1),
    }


def main() -> None:
    """Measure both sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", type=int, default=40)
    parser.add_argument("--views", type=int, default=4)
    words = parser.parse_args()
    draw_view(0, 0, height=64, width=44)
    results = [measure(*size, words.products, words.views) for size in SIZES]
    print(json.dumps({"machine": platform.machine(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
