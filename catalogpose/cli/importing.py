"""`catalogpose import`: a command a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from catalogpose.cli.progress import print_summary, show_progress
from catalogpose.cli.words import EXIT_CODES, AsJson
from catalogpose.config import ImportOptions

app = typer.Typer(
    help="Make manifests of a public data set, from the folder that its owners give out.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
)

Root = Annotated[Path, typer.Option(help="The data set's folder.")]
Out = Annotated[Path, typer.Option(help="Folder for manifests, poses and licence.")]
AllowPartial = Annotated[
    bool, typer.Option("--allow-partial", help="Import what is there where files are missing.")
]
Poses = Annotated[
    Path | None, typer.Option(help="Folder of OpenPose or DWPose JSON, one file a picture.")
]


@app.command(epilog=EXIT_CODES)
def deepfashion(
    root: Root, out: Out, allow_partial: AllowPartial = False, as_json: AsJson = False
) -> None:
    """DeepFashion In-shop and the papers' pairs.

    The folder holds the pictures in high resolution (img_highres/, or train_highres/ and
    test_highres/) and the lists fashion-resize-pairs-*.csv and fashion-resize-annotation-*.csv, or
    train_pairs.txt, test_pairs.txt and pose/.
    """
    _import(
        ImportOptions(dataset="deepfashion", root=root, out=out, allow_partial=allow_partial),
        as_json,
    )


@app.command("deepfashion-multimodal", epilog=EXIT_CODES)
def multimodal(
    root: Root,
    out: Out,
    allow_partial: AllowPartial = False,
    poses: Poses = None,
    keypoint_order: Annotated[
        Path | None,
        typer.Option(help="JSON list: which joint each of the owners' 21 keypoints is, or null."),
    ] = None,
    test_share: Annotated[
        float, typer.Option(help="Share of the items that go to the test split.")
    ] = 0.1,
    as_json: AsJson = False,
) -> None:
    """DeepFashion-MultiModal and its maps.

    The folder holds images/, segm/ and keypoints/. Pictures of one outfit are paired. Give
    --keypoint-order or --poses.
    """
    options = ImportOptions(
        dataset="deepfashion-multimodal", root=root, out=out, allow_partial=allow_partial,
        poses=poses, keypoint_order=keypoint_order, test_share=test_share,
    )  # fmt: skip
    _import(options, as_json)


@app.command(epilog=EXIT_CODES)
def wpose(
    root: Root,
    out: Out,
    allow_partial: AllowPartial = False,
    poses: Poses = None,
    raw: Annotated[
        Path | None, typer.Option(help="Downloaded pictures, to be cut out by bbox.txt.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """WPose and its maps; needs --poses.

    The folder is the owners' wpose/ with test_pairs.txt, parsing/ and images/ (or --raw).
    """
    options = ImportOptions(
        dataset="wpose", root=root, out=out, allow_partial=allow_partial, poses=poses, raw=raw
    )
    _import(options, as_json)


def _import(options: ImportOptions, as_json: bool) -> None:
    """Make the one call and print its summary."""
    from catalogpose.commands.import_dataset import write_dataset_manifests

    with show_progress("rows") as progress:
        summary = write_dataset_manifests(options, progress)
    print_summary(summary, as_json)
