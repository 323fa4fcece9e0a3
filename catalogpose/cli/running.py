"""The nightly commands: `parse`, `generate` and `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from catalogpose.cli.progress import print_summary, show_progress
from catalogpose.cli.words import AsJson, Cache, Device, Manifest, Model
from catalogpose.config import GenerateOptions, ParseOptions, ReportOptions

Prompt = Annotated[str | None, typer.Option(help="Free words, for one picture without a manifest.")]
PoseMap = Annotated[
    Path | None, typer.Option(help="With --prompt: a PNG of labels, what shall be where.")
]
LabelSet = Annotated[str, typer.Option(help="With --prompt: the label set of --pose-map.")]
KeptSource = Annotated[
    Path | None, typer.Option(help="With --prompt: a photo that keeps what no word changes.")
]
BesidePose = Annotated[
    Path | None, typer.Option(help="With --prompt: the pose beside the map, JSON.")
]


def parse(
    manifest: Manifest,
    model: Model = None,
    cache: Cache = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Look at every source photo once.

    Their parsing maps and embeddings go into the cache, where generate finds them.
    """
    from catalogpose.commands.parse import parse_manifest

    options = ParseOptions(manifest=manifest, model=model, cache=cache, device=device)
    with show_progress("rows") as progress:
        summary = parse_manifest(options, progress)
    print_summary(summary, as_json, summary.exit_code)


def generate(
    manifest: Annotated[
        Path | None, typer.Option(help="Manifest, Parquet or CSV.  [default: --prompt says what]")
    ] = None,
    prompt: Prompt = None,
    pose_map: PoseMap = None,
    label_set: LabelSet = "common",
    source: KeptSource = None,
    pose: BesidePose = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder.  [default: runs/ and the manifest's name]")
    ] = None,
    model: Model = None,
    cache: Cache = None,
    device: Device = "auto",
    gpus: Annotated[
        int | None, typer.Option(help="GPUs, one process each.  [default: one if there is any]")
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes on the CPU.")] = 1,
    batch: Annotated[
        int | None, typer.Option(help="Rows sampled together.  [default: 1 on a CPU, 8 on a GPU]")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Sampling steps.  [default: the model's]")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale.  [default: the model's]")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the run; a row's comes from it and the id.")
    ] = 0,
    max_failures: Annotated[
        int | None, typer.Option(help="Failed rows to bear.  [default: any number]")
    ] = None,
    retry_failed: Annotated[bool, typer.Option(help="Try rows again that failed before.")] = True,
    keypoint_table: Annotated[
        Path | None, typer.Option(help="Which labels a joint shows, JSON.  [default: the shipped]")
    ] = None,
    memory: Annotated[
        Path | None, typer.Option(help="Cloth for the words of prompts, from `memory build`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a picture for every row of a manifest, or one of what a prompt says.

    The same command goes on where an earlier one stopped, and tries failed rows again.
    """
    from catalogpose.commands.generate import generate_pictures

    options = GenerateOptions(
        manifest=manifest, prompt=prompt, pose_map=pose_map, label_set=label_set, source=source,
        pose=pose, out=out, model=model, cache=cache, device=device, gpus=gpus, workers=workers,
        batch=batch, steps=steps, guidance=guidance, seed=seed, max_failures=max_failures,
        retry_failed=retry_failed, keypoint_table=keypoint_table, memory=memory,
    )  # fmt: skip
    with show_progress("rows") as progress:
        summary = generate_pictures(options, progress)
    print_summary(summary, as_json, summary.exit_code)


def report(
    run: Annotated[
        Path | None, typer.Argument(help="Run folder.  [default: the newest under runs/]")
    ] = None,
    device: Device = "auto",
    judge: Annotated[
        Path | None, typer.Option(help="Folder of a second clip and parser, for rows with prompts.")
    ] = None,
    shown: Annotated[int, typer.Option(help="Rows shown on the page, the worst of them.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Score a run and show it on one page.

    Rows that name a true picture are compared with it; the worst come first.
    """
    from catalogpose.commands.report import write_report

    options = ReportOptions(run=run, device=device, judge=judge, shown=shown)
    with show_progress("rows") as progress:
        summary = write_report(options, progress)
    print_summary(summary, as_json)
