"""The record that `import` leaves beside its manifests, as training reads it."""

from pathlib import Path

import pytest

from catalogpose.catalog.data_record import RECORD_NAME, read_data_record
from catalogpose.catalog.datasets.collection import write_collection
from catalogpose.catalog.datasets.multimodal import find_multimodal
from catalogpose.errors import UsageError


def test_what_import_wrote_is_read(multimodal: Path, order_file: Path, tmp_path: Path) -> None:
    """Name and terms come back for each split, and for no other manifest."""
    found = find_multimodal(multimodal, poses=None, keypoint_order=order_file, test_share=0.0)
    rows = write_collection(found, tmp_path / "out", allow_partial=True)
    for split in rows:
        record = read_data_record(tmp_path / "out" / f"{split}.parquet")
        assert record is not None
        assert record.name == found.name
        assert found.licence.name in record.licence
        assert found.licence.home in record.licence
    assert read_data_record(tmp_path / "out" / "mine.parquet") is None
    assert read_data_record(tmp_path / "train.parquet") is None


@pytest.mark.parametrize("text", ["{", "[]", '{"rows": {"train": 1}}'])
def test_another_file_of_that_name_is_refused(tmp_path: Path, text: str) -> None:
    """The error is one line that names the file and the remedy."""
    (tmp_path / RECORD_NAME).write_text(text)
    with pytest.raises(UsageError, match="repeat the import, or move it away") as error:
        read_data_record(tmp_path / "train.parquet")
    assert "\n" not in str(error.value)
