"""The command line: words become options, one call follows, one summary comes out."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Never

import typer
from tqdm import tqdm

from catalogpose import __version__
from catalogpose.config import (
    GenerateOptions,
    ParseOptions,
    ReportOptions,
    StudioOptions,
    TrainOptions,
)
from catalogpose.errors import CatalogposeError, ManifestError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LINE_SECONDS = 30.0
"""How often progress is said where nobody watches a bar."""

EXIT_CODES = """\b
Exit codes:
  0  all done, nothing to do included
  1  unexpected: a bug, with its traceback
  2  usage, configuration or manifest
  3  finished, but some rows failed
  4  stopped: more rows failed than --max-failures allows
  5  another process works in the run folder
  6  environment: no such GPU, disk full
  130, 143  interrupted; the same command goes on"""

app = typer.Typer(
    help="Re-pose product photos: a manifest in, pictures with provenance out.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
)

Manifest = Annotated[Path, typer.Option(help="Manifest, Parquet or CSV.")]
Model = Annotated[str | None, typer.Option(help="Model folder or hub id.  [default: the bundled]")]
Cache = Annotated[
    Path | None, typer.Option(help="Cache folder of maps and embeddings.  [default: the user's]")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Seed = Annotated[int, typer.Option(help="Seed of all that is drawn at random.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]


def main() -> None:
    """Run the command line; an error made for users becomes plain lines and its own exit code."""
    try:
        app()
    except CatalogposeError as error:
        # A manifest's faults are whole lines as they are: `row 3, column source: ...`.
        who = "" if isinstance(error, ManifestError) else "catalogpose: "
        for line in str(error).split("\n"):
            typer.echo(f"{who}{line}", err=True)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _say_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        typer.echo(f"catalogpose {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    """Re-pose product photos: a manifest in, pictures with provenance out."""


@app.command(epilog=EXIT_CODES)
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
    _finish(summary, as_json, summary.exit_code)


@app.command(epilog=EXIT_CODES)
def generate(
    manifest: Manifest,
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
    as_json: AsJson = False,
) -> None:
    """Make a picture for every row of a manifest.

    The same command goes on where an earlier one stopped, and tries failed rows again.
    """
    from catalogpose.commands.generate import generate_pictures

    options = GenerateOptions(
        manifest=manifest, out=out, model=model, cache=cache, device=device, gpus=gpus,
        workers=workers, batch=batch, steps=steps, guidance=guidance, seed=seed,
        max_failures=max_failures, retry_failed=retry_failed, keypoint_table=keypoint_table,
    )  # fmt: skip
    with show_progress("rows") as progress:
        summary = generate_pictures(options, progress)
    _finish(summary, as_json, summary.exit_code)


@app.command(epilog=EXIT_CODES)
def report(
    run: Annotated[
        Path | None, typer.Argument(help="Run folder.  [default: the newest under runs/]")
    ] = None,
    device: Device = "auto",
    shown: Annotated[int, typer.Option(help="Rows shown on the page, the worst of them.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Score a run and show it on one page.

    Rows that name a true picture are compared with it; the worst come first.
    """
    from catalogpose.commands.report import write_report

    options = ReportOptions(run=run, device=device, shown=shown)
    with show_progress("rows") as progress:
        summary = write_report(options, progress)
    _finish(summary, as_json)


@app.command(epilog=EXIT_CODES)
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
    _finish(summary, as_json)


@app.command(epilog=EXIT_CODES)
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
    _finish(summary, as_json)


def _finish(summary: DataclassInstance, as_json: bool, exit_code: int = 0) -> None:
    """Print a summary on stdout and leave with an exit code."""
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(summary), default=str, ensure_ascii=False))
    else:
        typer.echo(str(summary))
    raise typer.Exit(exit_code)


@contextmanager
def show_progress(unit: str) -> Iterator[Stages]:
    """Show on stderr how far the block is: a bar for a person, else a line now and then."""
    stages = Stages(unit)
    try:
        yield stages
    finally:
        stages.close()


class Stages:
    """What a command calls as it goes; nothing is shown before the first call."""

    def __init__(self, unit: str) -> None:
        """Count in `unit`."""
        self._unit = unit
        self._name = ""
        self._shown: tqdm[Never] | Lines | None = None

    def __call__(self, done: int, total: int) -> None:
        """Show that so many are done, of so many."""
        if self._shown is None:
            make = tqdm if sys.stderr.isatty() else Lines
            self._shown = make(
                desc=self._name or None, total=total, initial=done, unit=f" {self._unit}"
            )
        self._shown.update(int(done - self._shown.n))

    def stage(self, name: str, done: int, total: int) -> None:
        """Show how far a named stage is; another name begins anew."""
        if name != self._name:
            self.close()
            self._name = name
        self(done, total)

    def close(self) -> None:
        """Show no more of this stage."""
        if self._shown is not None:
            self._shown.close()
        self._shown = None


class Lines:
    """What tqdm is to a terminal, for a log: a line every `LINE_SECONDS`, and one at the end."""

    def __init__(self, desc: str | None, total: int, initial: int, unit: str) -> None:
        """Start at `initial`."""
        self.n = self._first = initial
        self._begin, self._total, self._unit = f"{desc}: " if desc else "", total, unit
        self._started = self._said = time.monotonic()

    def update(self, more: int) -> None:
        """Count, and say it if the last line is old."""
        self.n += more
        if time.monotonic() - self._said >= LINE_SECONDS:
            self._say()

    def close(self) -> None:
        """Say how far it came, if it came anywhere."""
        if self.n != self._first:
            self._say()

    def _say(self) -> None:
        """Say how far it is, with rate and time left."""
        self._said = time.monotonic()
        rate = (self.n - self._first) / max(self._said - self._started, 1e-9)
        line = f"{self._begin}{self.n}/{self._total}{self._unit}, {rate:.2f} a second"
        if rate > 0 and self.n < self._total:
            line += f", {timedelta(seconds=round((self._total - self.n) / rate))} left"
        typer.echo(line, err=True)
