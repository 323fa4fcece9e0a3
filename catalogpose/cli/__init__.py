"""The command line: words become options, one call follows, one summary comes out."""

from __future__ import annotations

from typing import Annotated

import typer

from catalogpose import __version__
from catalogpose.cli import importing, models, remembering
from catalogpose.cli.making import studio, train
from catalogpose.cli.running import generate, parse, report
from catalogpose.cli.words import EXIT_CODES
from catalogpose.errors import CatalogposeError, ManifestError

app = typer.Typer(
    help="Re-pose product photos: a manifest in, pictures with provenance out.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
)


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


for command in (parse, generate, report, studio, train):
    app.command(epilog=EXIT_CODES)(command)
app.add_typer(models.app, name="model")
app.add_typer(importing.app, name="import")
app.add_typer(remembering.app, name="memory")
