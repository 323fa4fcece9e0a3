"""`generate --prompt`: one text-driven row without a manifest of one's own."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from catalogpose.catalog.files import sha256_json
from catalogpose.catalog.manifest import check_manifest, write_manifest
from catalogpose.config import RUNS, GenerateOptions
from catalogpose.errors import ManifestError
from catalogpose.records import Description, Row

ONE_ROW = "manifest.csv"
"""The manifest that is written into the run folder."""


def write_one_row(options: GenerateOptions) -> GenerateOptions:
    """Write the row that `prompt` and its like describe as a manifest into its run folder; return
    the options of a run of that manifest. Nothing is left where the row is at fault.

    Raises:
        ManifestError: If the row is at fault.
    """
    assert options.prompt is not None  # the options see to that
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
    files = [str(file and file.resolve()) for file in (row.source, row.pose, options.pose_map)]
    name = sha256_json([options.prompt, options.label_set, files])[:8]
    folder = options.out or RUNS / f"prompt-{name}"
    there = folder.exists()
    manifest = folder / ONE_ROW
    write_manifest(manifest, [row])
    try:
        check_manifest(manifest)
    except ManifestError:
        manifest.unlink()
        if not there:
            with suppress(OSError):
                folder.rmdir()
        raise
    return replace(
        options, manifest=manifest, out=folder, prompt=None, pose_map=None, source=None, pose=None
    )
