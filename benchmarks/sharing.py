"""What a batch saves that looks at each source once: CPU seconds of a training step, as ratios.

    python benchmarks/sharing.py --pairs 14 --together 7

draws a few studio products, gives nets of the bundled recipe's sizes random weights, latents and
embeddings, and takes turns between three ways to train on the same pairs: every pair by itself,
pairs that share what SourceNet sees, and pairs that share Eq. 6 to 9 too where they see the same
regions of a source. Printed are medians over `--rounds` batches, on one thread: seconds, and their
ratio to the first way's in the same round.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from catalogpose.catalog.labels import load_keypoint_table
from catalogpose.records import LABELS
from catalogpose.training import nets as net_module
from catalogpose.training.objective import Objective, denoising_loss
from catalogpose.training.pairs import Pairs, pairs_of_views
from catalogpose.training.pictures import draw_pictures
from catalogpose.training.recipes import Recipe, load_recipe
from catalogpose.training.schedule import draw_generator, visited
from catalogpose.truepose.pose_encoder import STYLE_CHANNELS
from catalogpose.truepose.regions import selected_labels


def clip_width(recipe: Recipe) -> int:
    """Return D of the recipe's CLIP."""
    return int(recipe.clip["model"]["embed_dim"])


def make_pairs(recipe: Recipe, folder: Path, products: int) -> Pairs:
    """Draw products and pair all their views; latents and embeddings are random."""
    size = (recipe.height, recipe.width)
    drawn = draw_pictures(folder, "train", products, recipe.views, size)
    count, table = products * recipe.views, load_keypoint_table()
    labels, joints = drawn.labels.reshape(count, *size), drawn.joints.reshape(count, 18, 3)
    factor = 2 ** (len(recipe.vae["widths"]) - 1)
    latent = (recipe.vae["latent_channels"], *(side // factor for side in size))
    rng = np.random.default_rng(0)
    seen = [selected_labels(one, table) for one in joints]
    return Pairs(
        latents=rng.standard_normal((count, *latent)).astype(np.float32),
        labels=labels,
        joints=joints,
        shown=np.array([[label in one for label in range(len(LABELS))] for one in seen]),
        known=np.array([[(one == label).any() for label in range(len(LABELS))] for one in labels]),
        embeddings=rng.standard_normal((count, len(LABELS), clip_width(recipe))).astype(np.float16),
        pairs=pairs_of_views(products, recipe.views),
        surface=drawn.coarse_surface,
    )


def make_nets(recipe: Recipe) -> net_module.TruePoseNets:
    """Build the recipe's nets with random weights."""
    options, channels = recipe.truepose, recipe.vae["latent_channels"]
    unet = {
        **options["unet"], "in_channels": channels, "out_channels": channels, "sample_size": None,
    }  # fmt: skip
    pose = {**options["pose"], "in_channels": STYLE_CHANNELS[options["pose_style"]]}
    torch.manual_seed(0)
    nets = net_module.TruePoseNets(unet, pose, clip_width(recipe), options["fusion"])
    nets.unet.warm_fusion()
    return nets


def apart(source_of: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Take every pair's look at its source for another one."""
    rows = torch.arange(len(source_of))
    return rows, rows


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the CPU seconds of each round, by the way's name."""
    recipe = load_recipe(options.recipe)
    assert isinstance(recipe, Recipe)
    with tempfile.TemporaryDirectory() as folder:
        pairs = make_pairs(recipe, Path(folder), options.products)
    nets, scheduler = make_nets(recipe), DDIMScheduler(**recipe.truepose["scheduler"])
    objective = Objective(**recipe.truepose["objective"])
    ways = {"every pair alone": (False, apart), "sources shared": (True, apart),
            "looks shared too": (True, net_module._distinct)}  # fmt: skip
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(options.rounds):
        places = visited(step * options.pairs, options.pairs, len(pairs), 0, options.together)
        for name, (share, distinct) in ways.items():
            batch = pairs.take(places.tolist(), share=share)
            draw = draw_generator(0, step, 0)
            started = time.process_time()
            with patch.object(net_module, "_distinct", distinct):
                losses = denoising_loss(
                    batch, nets, scheduler, recipe.truepose["pose_style"], objective, draw, "cpu"
                )
            losses["loss"].backward()
            spent[name].append(time.process_time() - started)
            nets.zero_grad(set_to_none=True)
    return spent


def main() -> None:
    """Print each way's seconds and its share of the first one's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="bundled")
    parser.add_argument("--pairs", type=int, default=14, help="pairs a step")
    parser.add_argument("--together", type=int, default=7, help="pairs of one source in a row")
    parser.add_argument("--products", type=int, default=8, help="products drawn")
    parser.add_argument("--rounds", type=int, default=9, help="batches timed each way")
    options = parser.parse_args()
    torch.set_num_threads(1)
    spent = {name: np.array(seconds) for name, seconds in measure(options).items()}
    first = spent["every pair alone"]
    for name, seconds in spent.items():
        print(f"{name}: {np.median(seconds):.2f} s, {np.median(seconds / first):.2f}")


if __name__ == "__main__":
    main()
