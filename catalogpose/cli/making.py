"""The commands that make what the others need: catalogues and models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from catalogpose.cli.progress import print_summary, show_progress
from catalogpose.cli.words import AsJson, Cache, Device, Seed
from catalogpose.config import StudioOptions, TrainOptions

StartFrom = Annotated[
    str | None,
    typer.Option(help="Stable Diffusion 1.5 or model folder to start from.  [default: recipe's]"),
]
Prepare = Annotated[
    bool, typer.Option("--prepare", help="Compute what training needs of the photos; stop.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check one batch; tell memory, steps and hours.")
]
Stage = Annotated[
    str | None,
    typer.Option(help="One stage of a studio recipe: vae, clip, parser, start, matcher, ..."),
]

Refine = Annotated[
    list[str] | None,
    typer.Option(help="Part of a studio --model to train on too: vae, clip, parser; repeatable."),
]


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
    rows: Annotated[
        str, typer.Option(help="pose, text, edit or mixed: what the rows ask for.")
    ] = "pose",
    as_json: AsJson = False,
) -> None:
    """Draw a small catalogue to try things on.

    People in garments, with photos, poses, true pictures and a manifest.
    """
    from catalogpose.commands.studio import write_studio

    options = StudioOptions(
        out=out, products=products, poses=poses, seed=seed, height=height, width=width,
        split=split, rows=rows,
    )  # fmt: skip
    with show_progress("products") as progress:
        summary = write_studio(options, progress)
    print_summary(summary, as_json)


def train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the finished model.")],
    recipe: Annotated[str, typer.Option(help="A shipped recipe, or a JSON file.")] = "bundled",
    manifest: Annotated[
        Path | None, typer.Option(help="Pairs of photos to learn from, for a recipe for photos.")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Manifest of rows to score on the way.")
    ] = None,
    model: StartFrom = None,
    prepare: Prepare = False,
    dry_run: DryRun = False,
    cache: Cache = None,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, bf16 or fp16.")] = "auto",
    accumulate: Annotated[int, typer.Option(help="Micro-batches a step in each process.")] = 1,
    compile_nets: Annotated[
        bool, typer.Option("--compile", help="Let torch compile the nets.")
    ] = False,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the weights; they inherit the photos'.")
    ] = None,
    seed: Seed = 0,
    refine: Refine = None,
    only: Stage = None,
    as_json: AsJson = False,
) -> None:
    """Train a model folder: in the studio from nothing or from such a model, on photos from Stable
    Diffusion.

    The same command goes on where an earlier one stopped. `accelerate launch -m catalogpose train`
    trains on many GPUs.
    """
    from catalogpose.commands.train import train_model

    options = TrainOptions(
        out=out,
        recipe=recipe,
        manifest=manifest,
        validation=validation,
        model=model,
        prepare=prepare,
        dry_run=dry_run,
        cache=cache,
        device=device,
        precision=precision,
        accumulate=accumulate,
        compile_nets=compile_nets,
        licence=licence,
        seed=seed,
        refine=tuple(refine or ()),
        only=only,
    )
    with show_progress("steps") as progress:
        summary = train_model(
            options, progress.stage, lambda line: typer.echo(f"catalogpose: {line}", err=True)
        )
    # Of several processes that train together, the first one speaks.
    if os.environ.get("RANK", "0") == "0":
        print_summary(summary, as_json, summary.exit_code)
