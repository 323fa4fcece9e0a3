"""The commands that make what the others need: catalogues and models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from catalogpose.cli.progress import print_summary, show_progress
from catalogpose.cli.words import AsJson, Device, Seed
from catalogpose.config import StudioOptions, TrainOptions


def studio(
    out: Annotated[Path, typer.Option(help="Folder for the catalogue.")],
    products: Annotated[int, typer.Option(help="Number of products.")] = 8,
    poses: Annotated[int, typer.Option(help="Target poses a product.")] = 3,
    seed: Seed = 0,
    height: Annotated[int, typer.Option(help="Photo height in pixels.")] = 256,
    width: Annotated[int, typer.Option(help="Photo width in pixels.")] = 176,
    split: Annotated[
        str, typer.Option(help="train, validation or test; they share no person.")
    ] = "test",
    as_json: AsJson = False,
) -> None:
    """Draw a small catalogue to try things on.

    People in garments, with photos, poses, true pictures and a manifest.
    """
    from catalogpose.commands.studio import write_studio

    options = StudioOptions(
        out=out, products=products, poses=poses, seed=seed, height=height, width=width, split=split
    )
    with show_progress("products") as progress:
        summary = write_studio(options, progress)
    print_summary(summary, as_json)


def train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the finished model.")],
    recipe: Annotated[str, typer.Option(help="A shipped recipe, or a JSON file.")] = "bundled",
    device: Device = "auto",
    seed: Seed = 0,
    only: Annotated[
        str | None, typer.Option(help="One stage of vae, clip, truepose, parser, assemble.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a model folder from nothing.

    The same command goes on where an earlier one stopped.
    """
    from catalogpose.commands.train import train_model

    options = TrainOptions(out=out, recipe=recipe, device=device, seed=seed, only=only)
    with show_progress("steps") as progress:
        summary = train_model(options, progress.stage)
    print_summary(summary, as_json)
