"""Tables of remembered regions: what is written comes back, and other files are refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalogpose.catalog import region_table
from catalogpose.catalog.region_table import RegionTable, read_region_table, write_region_table
from catalogpose.errors import UsageError


def make_table() -> RegionTable:
    """Return three regions, one with a product whose name is no plain word."""
    return RegionTable(
        vectors=np.eye(3, 4, dtype=np.float32),
        labels=np.array([6, 10, 10], dtype=np.uint8),
        areas=np.array([0.25, 0.5, 0.125], dtype=np.float32),
        boxes=np.arange(12, dtype=np.int32).reshape(3, 4),
        pictures=["aa", "bb", "cc"],
        products=["dress 7, red", "NA", "00123"],
        sources=["/a.png", "/b.png", "/c.png"],
    )


def test_a_table_comes_back(tmp_path: Path) -> None:
    """Every column survives, and so do the facts beside them."""
    path = tmp_path / "memory.parquet"
    write_region_table(path, make_table(), {"clip": "abc"})
    found, facts = read_region_table(path)
    for name, column in vars(make_table()).items():
        assert np.array_equal(getattr(found, name), column), name
    assert facts["clip"] == "abc"
    assert len(found.taken(np.array([2, 0]))) == 2
    assert found.taken(np.array([2, 0])).products == ["00123", "dress 7, red"]


def test_what_is_no_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file, another Parquet file, no Parquet, and other labels are each one line."""
    with pytest.raises(UsageError, match=r"no memory at .*gone\.parquet: build it again with"):
        read_region_table(tmp_path / "gone.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    pq.write_table(pa.table({"id": [1]}), tmp_path / "other.parquet")
    for name in ("text", "other"):
        with pytest.raises(UsageError, match=f"{name}.parquet is no memory"):
            read_region_table(tmp_path / f"{name}.parquet")
    monkeypatch.setattr(region_table, "LABELS", ("background", "hat", *map(str, range(20))))
    write_region_table(tmp_path / "old.parquet", make_table(), {})
    monkeypatch.undo()
    with pytest.raises(UsageError, match="another version of catalogpose"):
        read_region_table(tmp_path / "old.parquet")
