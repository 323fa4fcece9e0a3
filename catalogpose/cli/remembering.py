"""The commands of `catalogpose memory`: remember a catalogue's cloth, and find it by words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from catalogpose.cli.progress import print_summary, show_progress
from catalogpose.cli.words import EXIT_CODES, AsJson, Cache, Device, Manifest, Model
from catalogpose.config import BuildMemoryOptions, MemoryStatsOptions, QueryMemoryOptions

app = typer.Typer(
    help="Remember a catalogue's cloth, and find it by words.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
)

MemoryFile = Annotated[Path, typer.Option(help="What memory build wrote.")]


@app.command(epilog=EXIT_CODES)
def build(
    manifest: Manifest,
    out: Annotated[Path, typer.Option(help="File written, Parquet.")] = Path("memory.parquet"),
    model: Model = None,
    cache: Cache = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Remember the garments of every source photo: what parse saw, by label.

    Faces, hair and skin are never remembered; small regions and near copies are left out.
    """
    from catalogpose.commands.memory_build import build_memory

    options = BuildMemoryOptions(
        manifest=manifest, out=out, model=model, cache=cache, device=device
    )
    with show_progress("rows") as progress:
        summary = build_memory(options, progress)
    print_summary(summary, as_json, summary.exit_code)


@app.command(epilog=EXIT_CODES)
def query(
    prompt: Annotated[str, typer.Argument(help="Free words, such as `a red tartan skirt`.")],
    memory: MemoryFile = Path("memory.parquet"),
    count: Annotated[int, typer.Option(help="Regions a phrase.")] = 8,
    without: Annotated[
        list[str] | None, typer.Option(help="A product that does not count; may be repeated.")
    ] = None,
    sheet: Annotated[Path | None, typer.Option(help="PNG of what was found.")] = None,
    model: Model = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Find cloth by words: the nearest regions of each garment that the words name.

    The gate says how far the catalogue's cloth would replace the words; it falls where the
    catalogue has nothing near.
    """
    from catalogpose.commands.memory_query import query_memory

    options = QueryMemoryOptions(
        prompt=prompt, memory=memory, count=count, without=tuple(without or ()), sheet=sheet,
        model=model, device=device,
    )  # fmt: skip
    print_summary(query_memory(options), as_json)


@app.command(epilog=EXIT_CODES)
def stats(memory: MemoryFile = Path("memory.parquet"), as_json: AsJson = False) -> None:
    """Tell how many regions a memory has, by label."""
    from catalogpose.commands.memory_query import memory_stats

    print_summary(memory_stats(MemoryStatsOptions(memory=memory)), as_json)
