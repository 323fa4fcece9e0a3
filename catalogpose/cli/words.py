"""The options that several commands share, and what each command says of its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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

Manifest = Annotated[Path, typer.Option(help="Manifest, Parquet or CSV.")]
Model = Annotated[str | None, typer.Option(help="Model folder or hub id.  [default: the bundled]")]
Cache = Annotated[
    Path | None, typer.Option(help="Cache folder of maps and embeddings.  [default: the user's]")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Seed = Annotated[int, typer.Option(help="Seed of all that is drawn at random.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
