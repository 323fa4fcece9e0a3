"""`generate --prompt`: one text-driven row without a manifest of one's own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from catalogpose.catalog.files import sha256_json
from catalogpose.catalog.manifest import write_manifest
from catalogpose.config import RUNS, GenerateOptions
from catalogpose.errors import UsageError
from catalogpose.records import Description, Row

ONE_ROW = "prompt.csv"
"""The manifest that a run of one row writes into its run folder."""


def default_folder(options: GenerateOptions) -> Path:
    """Return the run folder of a prompt where the options name none: its words and files decide."""
    files = [
        str(file and file.resolve()) for file in (options.source, options.pose, options.pose_map)
    ]
    name = sha256_json([options.prompt, options.label_set, files])[:8]
    return RUNS / f"prompt-{name}"


@contextmanager
def trial_manifest(options: GenerateOptions) -> Iterator[Path]:
    """Give a manifest of the row that `prompt` and its like describe, away from the run folder:
    nothing is left where the row is at fault.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ONE_ROW
        write_manifest(path, [_row(options)])
        yield path


def settle_row(options: GenerateOptions, run_folder: Path) -> Path:
    """Write the row's manifest into the run folder, which is held, and return it.

    Raises:
        UsageError: If a file of that name lies there that no run has written.
    """
    path = run_folder / ONE_ROW
    if path.exists() and not (run_folder / "run.json").exists():
        raise UsageError(f"--out {run_folder} holds a {ONE_ROW} of another origin: name a new one")
    write_manifest(path, [_row(options)])
    return path


def _row(options: GenerateOptions) -> Row:
    """Return the row; the options see to it that it has words and a map."""
    assert options.prompt is not None
    assert options.pose_map is not None
    row = Row(
        number=1,
        id="picture",
        source=options.source,
        pose=options.pose,
        description=Description(
            prompt=options.prompt, pose_map=options.pose_map, label_set=options.label_set
        ),
    )
    files = {name: file.resolve() for name in ("source", "pose") if (file := getattr(row, name))}
    return replace(row, **files)
