"""The commands of `catalogpose model`: look at a model folder, publish it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from catalogpose.cli.progress import print_summary
from catalogpose.cli.words import EXIT_CODES, AsJson
from catalogpose.config import InspectOptions, PushOptions

app = typer.Typer(
    help="Look at a model folder, or publish it.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command(epilog=EXIT_CODES)
def inspect(
    model: Annotated[
        str | None, typer.Argument(help="Model folder or hub id.  [default: the bundled]")
    ] = None,
    check: Annotated[bool, typer.Option(help="Compare the weights with the card's hashes.")] = True,
    as_json: AsJson = False,
) -> None:
    """Tell what a model folder is and holds.

    Canvas, sampling, parts with their sizes, training data, licence, and whether it can be
    published.
    """
    from catalogpose.commands.model import inspect_model

    summary = inspect_model(InspectOptions(model=model, check=check))
    print_summary(summary, as_json, summary.exit_code)


@app.command(epilog=EXIT_CODES)
def push(
    folder: Annotated[Path, typer.Argument(help="Model folder.")],
    repo_id: Annotated[str, typer.Argument(help="Where on the hub, owner/name.")],
    private: Annotated[bool, typer.Option("--private", help="For your own eyes.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a model folder on the Hugging Face hub.

    Its page is written from its card; it must be whole and name its data and licence.
    """
    from catalogpose.commands.model import push_model

    options = PushOptions(folder=folder, repo_id=repo_id, private=private, dry_run=dry_run)
    print_summary(push_model(options), as_json)
