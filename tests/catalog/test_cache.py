import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from catalogpose.catalog.cache import (
    Cache,
    ClipRecord,
    FailureRecord,
    ParseRecord,
    default_cache_folder,
)
from catalogpose.catalog.files import sha256_json
from catalogpose.errors import EnvironmentFault, UsageError
from catalogpose.records import LABELS, Region

SETTINGS = {"model": "m", "weights": {"a": "0"}}


def map_of(seed: int) -> ParseRecord:
    """Return a map that differs by seed."""
    labels = np.random.default_rng(seed).integers(0, 28, (9, 7), np.uint8)
    return ParseRecord(labels=labels, label_set="atr", parser="p")


def clip_of(*labels: int, width: int = 8) -> ClipRecord:
    """Return embeddings, not yet of unit length, for these labels."""
    generator = np.random.default_rng(sum(labels))
    regions = tuple(Region(label=n, box=(n, 1, n + 2, 9), area=16) for n in labels)
    vectors = {n: generator.normal(size=width).astype(np.float16) for n in labels}
    return ClipRecord(regions=regions, embeddings=vectors)


def labels_of(cache: Cache, key: str) -> NDArray[np.uint8]:
    """Return a map in the cache."""
    record = cache.get(key)
    assert isinstance(record, ParseRecord)
    return record.labels


def parts(cache: Cache) -> list[Path]:
    """Return the parts on disk."""
    return sorted(cache.folder.glob("part-*.parquet"))


def test_the_folder_is_named_by_the_settings(tmp_path: Path) -> None:
    """Equal settings share a folder, others get their own; nothing is written before a flush."""
    cache = Cache(tmp_path, "parse", SETTINGS)
    assert cache.fingerprint == sha256_json(SETTINGS)
    assert cache.folder == tmp_path / "v1" / "parse" / cache.fingerprint[:16]
    assert Cache(tmp_path, "parse", {**SETTINGS, "model": "n"}).folder != cache.folder
    assert Cache(tmp_path, "clip", SETTINGS).folder != cache.folder
    assert not list(tmp_path.iterdir())


def test_maps_come_back(tmp_path: Path) -> None:
    """From memory before a flush, from disk after it, in this process and the next."""
    with Cache(tmp_path, "parse", SETTINGS) as cache:
        cache.put("a", map_of(1))
        cache.put("b", map_of(2))
        assert np.array_equal(labels_of(cache, "a"), map_of(1).labels)
        assert "a" in cache
    again = Cache(tmp_path, "parse", SETTINGS)
    for reader in (cache, again):
        assert reader.keys() == {"a", "b"}
        assert np.array_equal(labels_of(reader, "b"), map_of(2).labels)
        record = reader.get("a")
        assert isinstance(record, ParseRecord)
        assert (record.label_set, record.parser) == ("atr", "p")
        assert reader.get("c") is None
        assert "c" not in reader
    meta = json.loads((cache.folder / "meta.json").read_text())
    assert meta["settings"] == SETTINGS
    assert meta["fingerprint"] == cache.fingerprint


def test_embeddings_are_one_row_a_region_of_unit_length(tmp_path: Path) -> None:
    """The part has a float16 list column of fixed width; another tool can read it."""
    with Cache(tmp_path, "clip", SETTINGS) as cache:
        cache.put("a", clip_of(3, 6))
        cache.put("b", clip_of(6))
    table = pq.read_table(parts(cache)[0])
    assert table.column("key").to_pylist() == ["a", "a", "b"]
    assert table.column("label").to_pylist() == [3, 6, 6]
    assert table.column("label_name").to_pylist() == ["face", "upper-clothes", "upper-clothes"]
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), 8)
    vectors = np.array(table.column("embedding").to_pylist())
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)
    facts = json.loads(table.schema.metadata[b"catalogpose"])
    assert facts["labels"] == list(LABELS)
    assert facts["fingerprint"] == cache.fingerprint


def test_embeddings_are_the_same_before_and_after_a_flush(tmp_path: Path) -> None:
    """A first run must not see other numbers than a second one."""
    with Cache(tmp_path, "clip", SETTINGS) as cache:
        cache.put("a", clip_of(3, 6))
        before = cache.get("a")
    after = Cache(tmp_path, "clip", SETTINGS).get("a")
    assert isinstance(before, ClipRecord)
    assert isinstance(after, ClipRecord)
    assert before.regions == after.regions == clip_of(3, 6).regions
    for label in (3, 6):
        assert after.embeddings[label].dtype == np.float16
        assert np.array_equal(before.embeddings[label], after.embeddings[label])
        given = clip_of(3, 6).embeddings[label].astype(np.float32)
        expected = given / np.linalg.norm(given)
        assert np.allclose(after.embeddings[label], expected, atol=1e-3)


def test_a_photo_without_regions_counts_as_done(tmp_path: Path) -> None:
    """It has a marker row, also in a part of its own."""
    with Cache(tmp_path, "clip", SETTINGS) as cache:
        cache.put("a", ClipRecord(regions=(), embeddings={}))
        cache.flush()
        cache.put("b", clip_of(3))
        cache.put("c", ClipRecord(regions=(), embeddings={}))
    again = Cache(tmp_path, "clip", SETTINGS)
    assert again.keys() == {"a", "b", "c"}
    for key in "ac":
        assert again.get(key) == ClipRecord(regions=(), embeddings={})
    record = again.get("b")
    assert isinstance(record, ClipRecord)
    assert list(record.embeddings) == [3]


@pytest.mark.parametrize("kind", ["parse", "clip"])
def test_failures_are_kept(tmp_path: Path, kind: str) -> None:
    """What cannot be done is remembered with its reason."""
    failure = FailureRecord(stage="parsing", error_class="odd", message="it is odd")
    with Cache(tmp_path, kind, SETTINGS) as cache:  # type: ignore[arg-type]
        cache.put("a", failure)
    assert Cache(tmp_path, kind, SETTINGS).get("a") == failure  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_an_embedding_without_direction_is_refused(tmp_path: Path, value: float) -> None:
    """Zeros and numbers that are not finite have no unit length."""
    vector = np.full(4, value, np.float16)
    record = ClipRecord(regions=clip_of(3).regions, embeddings={3: vector})
    with pytest.raises(ValueError, match="face has no direction"):
        Cache(tmp_path, "clip", SETTINGS).put("a", record)


def test_flushes_by_number_and_by_time(tmp_path: Path) -> None:
    """A part is made of every so many records, or of what is there after some time."""
    cache = Cache(tmp_path, "parse", SETTINGS, flush_count=2)
    for key in "abcde":
        cache.put(key, map_of(0))
    assert len(parts(cache)) == 2
    slow = Cache(tmp_path, "parse", {"other": 1}, flush_seconds=0)
    slow.put("a", map_of(0))
    assert len(parts(slow)) == 1
    cache.flush()
    cache.flush()
    assert len(parts(cache)) == 3


def test_the_last_record_wins(tmp_path: Path) -> None:
    """A key put again is replaced, within a part and across parts."""
    with Cache(tmp_path, "parse", SETTINGS) as cache:
        cache.put("a", map_of(1))
        cache.flush()
        cache.put("a", map_of(2))
        cache.put("b", map_of(3))
    assert np.array_equal(labels_of(cache, "a"), map_of(2).labels)
    again = Cache(tmp_path, "parse", SETTINGS)
    assert np.array_equal(labels_of(again, "a"), map_of(2).labels)
    assert np.array_equal(labels_of(again, "b"), map_of(3).labels)


def test_many_parts_are_read_at_random(tmp_path: Path) -> None:
    """Records are found whatever the order, though few parts stay in memory."""
    with Cache(tmp_path, "parse", SETTINGS, flush_count=3) as cache:
        for number in range(40):
            cache.put(str(number), map_of(number))
    reader = Cache(tmp_path, "parse", SETTINGS)
    for number in np.random.default_rng(0).permutation(40).tolist():
        assert np.array_equal(labels_of(reader, str(number)), map_of(number).labels)


def test_what_is_computed_survives_an_error(tmp_path: Path) -> None:
    """The context manager flushes also when its body raises."""

    def stop_halfway() -> None:
        with Cache(tmp_path, "parse", SETTINGS) as cache:
            cache.put("a", map_of(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_halfway()
    assert Cache(tmp_path, "parse", SETTINGS).keys() == {"a"}


def test_temporary_files_are_not_read(tmp_path: Path) -> None:
    """What a killed process left half written is passed over."""
    with Cache(tmp_path, "parse", SETTINGS) as cache:
        cache.put("a", map_of(0))
    (cache.folder / f".{'0' * 32}.tmp").write_bytes(parts(cache)[0].read_bytes()[:100])
    assert Cache(tmp_path, "parse", SETTINGS).keys() == {"a"}


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from catalogpose.catalog import files
from catalogpose.catalog.cache import Cache, ParseRecord

record = ParseRecord(labels=np.ones((9, 7), np.uint8), label_set="atr", parser="p")
cache = Cache(Path(sys.argv[1]), "parse", {"model": "m", "weights": {"a": "0"}}, flush_count=2)
for key in "abcd":
    cache.put(key, record)
cache.put("e", record)
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
cache.put("f", record)
"""


def test_a_killed_process_loses_its_unflushed_part_only(tmp_path: Path) -> None:
    """Killed in the middle of writing its third part, it leaves two whole ones and a temporary."""
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    cache = Cache(tmp_path, "parse", SETTINGS)
    assert cache.keys() == set("abcd")
    assert len(list(cache.folder.glob(".*.tmp"))) == 1
    with cache:
        cache.put("e", map_of(5))
    assert Cache(tmp_path, "parse", SETTINGS).keys() == set("abcde")


WRITER = """
import sys
from pathlib import Path
import numpy as np
from catalogpose.catalog.cache import Cache, ParseRecord

first = int(sys.argv[2])
settings = {"model": "m", "weights": {"a": "0"}}
with Cache(Path(sys.argv[1]), "parse", settings, flush_count=3) as cache:
    for number in range(first, first + 20):
        labels = np.full((2, 2), number % 28, np.uint8)
        cache.put(str(number), ParseRecord(labels=labels, label_set="atr", parser="p"))
"""


def test_two_processes_write_at_once(tmp_path: Path) -> None:
    """Neither loses or damages what the other writes, overlapping keys included."""
    cache = Cache(tmp_path, "parse", SETTINGS)
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, first]) for first in ("0", "10")]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert cache.get("0") is None  # opened before; others' records appear with keys()
    assert cache.keys() == {str(number) for number in range(30)}
    assert all((labels_of(cache, str(n)) == n % 28).all() for n in range(30))


def test_a_damaged_part_is_named_with_the_remedy(tmp_path: Path) -> None:
    """A cut part is found on opening, flipped bytes when they are read."""
    with Cache(tmp_path, "parse", SETTINGS) as cache:
        cache.put("a", map_of(0))
    (part,) = parts(cache)
    content = part.read_bytes()
    place = pq.read_metadata(part).row_group(0).column(10).data_page_offset + 60
    part.write_bytes(content[:place] + b"\xff\xff\xff" + content[place + 3 :])
    damaged = Cache(tmp_path, "parse", SETTINGS)
    with pytest.raises(UsageError, match=rf"cannot read {part} in the cache: .*; delete that file"):
        damaged.get("a")
    part.write_bytes(content[:50])
    with pytest.raises(UsageError, match=rf"cannot read {part} in the cache: .*; delete that file"):
        Cache(tmp_path, "parse", SETTINGS)


def test_a_part_that_vanished_is_named(tmp_path: Path) -> None:
    """Deleting parts under a running process is no silent miss."""
    with Cache(tmp_path, "parse", SETTINGS) as cache:
        cache.put("a", map_of(0))
    parts(cache)[0].unlink()
    with pytest.raises(UsageError, match="cannot read"):
        Cache.get(cache, "a")


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    """The first 16 digits of a fingerprint could agree by accident; meta.json has them all."""
    with Cache(tmp_path, "parse", SETTINGS) as cache:
        cache.put("a", map_of(0))
    (cache.folder / "meta.json").write_text('{"fingerprint": "other"}')
    with pytest.raises(UsageError, match="belongs to other settings"):
        Cache(tmp_path, "parse", SETTINGS)
    (cache.folder / "meta.json").write_text("{")
    with pytest.raises(UsageError, match=r"meta\.json in the cache"):
        Cache(tmp_path, "parse", SETTINGS)


def test_a_disk_that_takes_nothing_is_the_machines_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk stops the run with its own exit code and loses nothing that is in memory."""
    cache = Cache(tmp_path, "parse", SETTINGS)
    cache.put("a", map_of(0))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(EnvironmentFault, match=r"No space left on device; free some space"):
            cache.flush()
    cache.flush()
    assert Cache(tmp_path, "parse", SETTINGS).keys() == {"a"}


def test_the_path_may_look_like_a_partition(tmp_path: Path) -> None:
    """A folder such as `day=1` adds no column."""
    with Cache(tmp_path / "day=1", "clip", SETTINGS) as cache:
        cache.put("a", clip_of(3))
    assert isinstance(Cache(tmp_path / "day=1", "clip", SETTINGS).get("a"), ClipRecord)


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Our own variable comes first, then the user's cache folder, then ~/.cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("CATALOGPOSE_CACHE", "/own")
    assert default_cache_folder() == Path("/own")
    monkeypatch.delenv("CATALOGPOSE_CACHE")
    assert default_cache_folder() == Path("/x/catalogpose")
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert default_cache_folder() == tmp_path / ".cache" / "catalogpose"
