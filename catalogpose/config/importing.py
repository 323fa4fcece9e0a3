"""The options of `import`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from catalogpose.config.checks import need
from catalogpose.errors import UsageError

DATASETS = ("deepfashion", "deepfashion-multimodal", "wpose")
"""What `catalogpose import` can read."""

KEYPOINTS_REMEDY = (
    "give --poses FOLDER with OpenPose's or DWPose's JSON, NAME.json or NAME_keypoints.json for "
    "the picture NAME.jpg"
)
"""What to do about a data set whose own keypoints do not do."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What `catalogpose import` shall do: make manifests of a data set's folder."""

    dataset: str
    """One of `DATASETS`."""
    root: Path
    """The data set's folder, as its owners distribute it."""
    out: Path
    """Folder for the manifests, the poses and `LICENCE.txt`; an earlier import there is renewed."""
    allow_partial: bool = False
    """Whether to import what is there where files are missing or counts are not the known ones."""
    poses: Path | None = None
    """Folder of poses, a JSON file a picture; None: the data set's own keypoints. `wpose` has none
    and needs it; `deepfashion` does not take it."""
    keypoint_order: Path | None = None
    """JSON list of 21 joint names or nulls, which of our joints each keypoint of
    `deepfashion-multimodal` is: its owners say so in a picture alone. None: `poses` are used."""
    test_share: float = 0.1
    """Share of the items of `deepfashion-multimodal` that go to the test split, 0 to 1."""
    raw: Path | None = None
    """Folder of the pictures of `wpose` as downloaded, to be cut out by `bbox.txt`; None: all are
    in `images/`, where the owners' script puts them."""

    def __post_init__(self) -> None:
        """Raise UsageError naming the first flag that is out of range or missing."""
        need(self.dataset in DATASETS, "DATASET", f"one of {', '.join(DATASETS)}", self.dataset)
        need(0 <= self.test_share <= 1, "--test-share", "0 to 1", self.test_share)
        if self.dataset == "deepfashion" and self.poses is not None:
            raise UsageError("--poses does not go with deepfashion, whose lists have the keypoints")
        if self.dataset == "wpose" and self.poses is None:
            raise UsageError(f"wpose ships DensePose and no keypoints: {KEYPOINTS_REMEDY}")
        if self.dataset == "deepfashion-multimodal":
            if self.poses is None and self.keypoint_order is None:
                raise UsageError(
                    "the order of deepfashion-multimodal's 21 keypoints is published in a picture "
                    "alone (assets/keypoints_definition.png in its repository): give "
                    "--keypoint-order FILE, a JSON list of 21 joint names or nulls read off it, or "
                    + KEYPOINTS_REMEDY
                )
            if self.poses is not None and self.keypoint_order is not None:
                raise UsageError("--poses and --keypoint-order: give one of them")
        for flag, value, owner in (
            ("--keypoint-order", self.keypoint_order, "deepfashion-multimodal"),
            ("--raw", self.raw, "wpose"),
        ):
            if value is not None and self.dataset != owner:
                raise UsageError(f"{flag} goes with {owner} alone")
