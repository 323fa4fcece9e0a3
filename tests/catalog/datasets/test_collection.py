from pathlib import Path

import pytest

from catalogpose.catalog.datasets.collection import Count, write_collection
from catalogpose.catalog.datasets.multimodal import find_multimodal
from catalogpose.catalog.labels import read_parsing_map
from catalogpose.catalog.manifest import check_manifest, read_rows
from catalogpose.catalog.poses import read_pose


def test_multimodal_rows_have_maps_and_poses(
    multimodal: Path, order_file: Path, tmp_path: Path
) -> None:
    """From the owners' folder to rows whose map and pose are read as a run reads them."""
    found = find_multimodal(multimodal, poses=None, keypoint_order=order_file, test_share=0.0)
    rows = write_collection(found, tmp_path / "out", allow_partial=True)
    assert rows == {"train": 8, "test": 0}
    manifest = tmp_path / "out" / "train.parquet"
    assert check_manifest(manifest) == 8
    for row in read_rows(manifest):
        assert row.parsing is not None
        assert row.label_set is not None
        assert row.source.stem == row.parsing.stem.removesuffix("_segm")
        assert read_parsing_map(row.parsing, row.label_set).shape == (256, 176)
        assert row.target is not None
        assert row.target != row.source
        assert read_pose(row.pose, size=row.pose_size).joints[8, 1] == 120


@pytest.mark.parametrize(
    ("found", "expected", "said"),
    [
        (3, None, "pairs: 3"),
        (8_570, 8_570, "pairs: 8,570"),
        (3, 8_570, "pairs: 3 (expected 8,570)"),
    ],
)
def test_a_count_says_what_was_expected_where_it_differs(
    found: int, expected: int | None, said: str
) -> None:
    """And no more than the number where it is right or unknown."""
    count = Count(what="pairs", found=found, expected=expected)
    assert str(count) == said
    assert count.differs == ("expected" in said)
