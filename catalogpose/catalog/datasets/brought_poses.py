"""Poses that a user brings for a data set: a folder with one JSON file a picture."""

from __future__ import annotations

from pathlib import Path

from catalogpose.catalog.datasets.collection import Missing
from catalogpose.catalog.poses import read_pose
from catalogpose.errors import RowError, UsageError
from catalogpose.records import Pose

SUFFIXES = (".json", "_keypoints.json")
"""What follows a picture's name without its suffix; OpenPose writes the longer one."""


def check_pose_folder(folder: Path) -> None:
    """Raise UsageError unless the folder is there."""
    if not folder.is_dir():
        raise UsageError(f"--poses {folder} is no folder; give one with a JSON file a picture")


def read_brought_pose(folder: Path, picture: Path, size: tuple[int, int]) -> Pose | Missing:
    """Return the pose of a picture, in its pixels, or what is missing.

    `size` is the picture's width and height; it is the canvas unless the file names another.
    """
    for suffix in SUFFIXES:
        file = folder / f"{picture.stem}{suffix}"
        if file.is_file():
            try:
                return read_pose(file, fallback=size)
            except RowError as error:
                return Missing(kind="pose", name=f"{file.name} ({error.message})")
    return Missing(kind="pose", name=f"{picture.stem}.json")
