import hashlib
import re
from pathlib import Path

import pytest

from catalogpose.catalog.files import output_name, sha256_file, sha256_json, write_atomically


def names_in(folder: Path) -> list[str]:
    """Return the names of what lies in a folder."""
    return [path.name for path in folder.iterdir()]


def test_a_file_hashes_like_its_bytes(tmp_path: Path) -> None:
    """The hash of a file is that of its bytes."""
    (tmp_path / "a").write_bytes(b"some bytes")
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"some bytes").hexdigest()


def test_equal_json_hashes_alike() -> None:
    """The order of keys does not matter, the values do."""
    assert sha256_json({"a": 1, "b": [1.5, "é"]}) == sha256_json({"b": [1.5, "é"], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})
    assert sha256_json({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()


def test_json_without_nan() -> None:
    """NaN has no canonical form and is refused."""
    with pytest.raises(ValueError, match="JSON"):
        sha256_json(float("nan"))


def test_an_atomic_write_leaves_the_file_and_nothing_else(tmp_path: Path) -> None:
    """The folder is made, the bytes are there and no temporary file stays."""
    path = tmp_path / "new" / "a.bin"
    write_atomically(path, lambda file: file.write(b"first"))
    write_atomically(path, lambda file: file.write(b"second"))
    assert path.read_bytes() == b"second"
    assert names_in(path.parent) == ["a.bin"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    """When writing raises, what was there before stays and the temporary file goes."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(file: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["a.bin"]


def test_the_temporary_file_lies_beside_the_final_one(tmp_path: Path) -> None:
    """While writing, there is one hidden file with the ending .tmp in the same folder."""
    names: list[str] = []

    def write(file: object) -> None:
        names.extend(names_in(tmp_path))

    write_atomically(tmp_path / "a.bin", write)
    assert [re.fullmatch(r"\.[0-9a-f]{32}\.tmp", name) is not None for name in names] == [True]


@pytest.mark.parametrize(
    "row_id",
    [
        "../../etc/passwd",
        "/abs",
        "a\nb",
        "CON",
        ".hidden",
        "ü" * 300,
        "a/b\\c",
        "\u202eabc",
        "",
        "🧥",
    ],
)
def test_no_id_leaves_its_folder(row_id: str) -> None:
    """An output name is one plain, short, visible file name whatever the id."""
    name = output_name(row_id)
    assert re.fullmatch(r"([a-z0-9_]([a-z0-9_-]*[a-z0-9_])?-)?[0-9a-f]{12}\.png", name)
    assert len(name) < 80


def test_output_names_are_readable_and_tell_ids_apart() -> None:
    """Ids with one slug get different hashes; the slug shows the id."""
    assert output_name("Shirt 7/front").startswith("shirt-7-front-")
    names = {output_name(row_id) for row_id in ("a b", "a-b", "A B", "a/b", "ä b")}
    assert len(names) == 5
    assert output_name("x", ".jpg").endswith(".jpg")
