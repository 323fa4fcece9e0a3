import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catalogpose.catalog.labels import (
    LABEL_SETS,
    decode_map,
    encode_map,
    find_regions,
    keypoint_table_hash,
    load_keypoint_table,
    read_parsing_map,
    to_common,
    write_parsing_map,
)
from catalogpose.errors import RowError, UsageError
from catalogpose.records import JOINTS, LABEL_ID, LABELS, Region

SIZES = {
    "common": 28,
    "lip": 20,
    "cihp": 20,
    "atr": 18,
    "fashn": 18,
    "sapiens": 28,
    "sapiens2": 29,
    "deepfashion-multimodal": 24,
    "pascal": 7,
}
"""How many labels each published set has."""

ALSO = {
    "lip": {9: "pants", 10: "jumpsuit", 13: "face", 14: "left-arm", 19: "right-shoe"},
    "cihp": {10: "torso-skin", 7: "coat", 15: "right-arm"},
    "atr": {4: "upper-clothes", 8: "belt", 11: "face", 12: "left-leg", 16: "bag", 17: "scarf"},
    "fashn": {1: "face", 13: "arm", 15: "shoe", 16: "torso-skin", 17: "jewelry"},
    "sapiens": {1: "upper-clothes", 2: "face", 4: "left-leg", 17: "right-shoe", 27: "face"},
    "sapiens2": {2: "sunglasses", 4: "hair", 9: "left-shoe", 22: "torso-skin", 28: "face"},
    "deepfashion-multimodal": {6: "pants", 11: "shoe", 15: "skin", 21: "jumpsuit", 23: "scarf"},
    "pascal": {1: "face", 2: "torso-skin", 4: "arm", 5: "leg"},
}
"""Spot checks, written from the published orders."""


def test_every_label_set_is_complete() -> None:
    """Each set has as many labels as published, all named once, each with a common label."""
    assert {name: len(known.labels) for name, known in LABEL_SETS.items()} == SIZES
    for name, known in LABEL_SETS.items():
        assert known.name == name
        assert len(set(known.labels)) == len(known.labels) == len(known.common)
        assert known.common[0] == 0
        assert all(0 < label < len(LABELS) for label in known.common[1:])


def test_every_common_label_is_reached() -> None:
    """No label of the common vocabulary is without a parser that knows it."""
    reached = {
        label for name, known in LABEL_SETS.items() if name != "common" for label in known.common
    }
    assert reached == set(range(len(LABELS)))


@pytest.mark.parametrize("name", ALSO)
def test_spot_checks_of_the_mapping(name: str) -> None:
    """Labels at which sets differ or are easily confused become the right common ones."""
    common = LABEL_SETS[name].common
    assert {own: LABELS[common[own]] for own in ALSO[name]} == ALSO[name]


def test_sapiens2_is_sapiens_with_glasses_in_between() -> None:
    """Sapiens2 inserts one label at 2 and shifts the others."""
    old, new = LABEL_SETS["sapiens"].labels, LABEL_SETS["sapiens2"].labels
    assert new[:2] + new[3:] == old


def test_a_map_becomes_common() -> None:
    """Ids are looked up; a whole map keeps its shape."""
    labels = np.array([[0, 4], [17, 16]], dtype=np.uint8)
    expected = [[0, LABEL_ID["upper-clothes"]], [LABEL_ID["scarf"], LABEL_ID["bag"]]]
    assert to_common(labels, "atr").tolist() == expected


def test_an_id_outside_the_set_fails_the_row() -> None:
    """18 is no ATR label; 255, the usual mark for nothing, is none either."""
    for wrong in (18, 255):
        with pytest.raises(RowError, match=f"id {wrong}; label set atr ends at 17") as caught:
            to_common(np.full((2, 2), wrong, dtype=np.uint8), "atr")
        assert (caught.value.stage, caught.value.error_class) == ("parsing", "unknown-label")


def test_an_unknown_label_set_is_a_usage_error() -> None:
    """The message lists the known ones."""
    with pytest.raises(UsageError, match="unknown label set 'nope'; known: common, lip"):
        to_common(np.zeros((1, 1), dtype=np.uint8), "nope")


def test_maps_come_back_as_they_were(tmp_path: Path) -> None:
    """A written map is indexed, colourful and reads back exactly."""
    labels = np.arange(28, dtype=np.uint8).reshape(4, 7)
    write_parsing_map(tmp_path / "map.png", labels)
    assert np.array_equal(read_parsing_map(tmp_path / "map.png", "common"), labels)
    with Image.open(tmp_path / "map.png") as image:
        assert image.mode == "P"
        palette = image.getpalette()
    assert palette is not None
    assert palette[3:6] == [128, 0, 0]
    assert palette[3 * 19 : 3 * 20] == [128, 192, 0]
    assert np.array_equal(decode_map(encode_map(labels)), labels)


def test_indexed_and_grey_maps_are_read_without_conversion(tmp_path: Path) -> None:
    """An odd palette and a grey picture give the ids, not the colours."""
    labels = np.array([[0, 5, 17], [4, 4, 0]], dtype=np.uint8)
    odd = Image.fromarray(labels)
    odd.putpalette([7] * 768)
    odd.save(tmp_path / "p.png")
    Image.fromarray(labels).save(tmp_path / "l.png")
    expected = to_common(labels, "atr")
    assert np.array_equal(read_parsing_map(tmp_path / "p.png", "atr"), expected)
    assert np.array_equal(read_parsing_map(tmp_path / "l.png", "atr"), expected)


def grey_png(depth: int) -> bytes:
    """Return a 2x2 grey PNG of so many bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 2, 2, depth, 0, 0, 0, 0)
    rows = zlib.compress(b"\0\x10\x10" * 2)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def wrong_map(kind: str) -> bytes:
    """Return the bytes of something that is no parsing map."""
    buffer = io.BytesIO()
    if kind == "colours":
        Image.new("RGB", (4, 4)).save(buffer, "PNG")
    elif kind == "jpeg":
        Image.new("L", (4, 4)).save(buffer, "JPEG")
    elif kind == "half":
        Image.fromarray(np.random.default_rng(0).integers(0, 9, (64, 64), np.uint8)).save(
            buffer, "PNG"
        )
        return buffer.getvalue()[:-600]
    elif kind == "4-bit grey":
        return grey_png(4)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "error_class"),
    [
        ("colours", "not-indexed"),
        ("4-bit grey", "not-indexed"),
        ("jpeg", "unreadable"),
        ("half", "unreadable"),
        ("empty", "unreadable"),
    ],
)
def test_what_is_no_map_fails_the_row(tmp_path: Path, kind: str, error_class: str) -> None:
    """Colour pictures, other formats and damaged files are told apart, each on one line."""
    (tmp_path / "map.png").write_bytes(wrong_map(kind))
    with pytest.raises(RowError) as caught:
        read_parsing_map(tmp_path / "map.png", "lip")
    assert (caught.value.stage, caught.value.error_class) == ("parsing", error_class)
    assert "\n" not in caught.value.message


def test_a_missing_map_fails_the_row(tmp_path: Path) -> None:
    """A map that is not there has a class of its own."""
    with pytest.raises(RowError) as caught:
        read_parsing_map(tmp_path / "gone.png", "lip")
    assert (caught.value.stage, caught.value.error_class) == ("parsing", "missing")


def test_regions_wrap_their_labels() -> None:
    """Boxes are exclusive at right and bottom, regions sorted by label, the background is none."""
    labels = np.zeros((8, 10), dtype=np.uint8)
    labels[1:4, 2:5] = 6
    labels[7, 9] = 3
    labels[0, 0] = 6
    assert find_regions(labels) == (
        Region(label=3, box=(9, 7, 10, 8), area=1),
        Region(label=6, box=(0, 0, 5, 4), area=10),
    )


def test_crumbs_are_no_regions() -> None:
    """The floor is a share of the person, not of the picture, and never less than one pixel."""
    labels = np.zeros((200, 200), dtype=np.uint8)
    labels[:40, :100] = 6
    labels[50, 50] = 2
    labels[60, 60:62] = 3
    assert [region.label for region in find_regions(labels)] == [6]
    assert [region.label for region in find_regions(labels, floor=2 / 4003)] == [3, 6]
    assert [region.label for region in find_regions(labels, floor=0)] == [2, 3, 6]


def test_an_empty_map_has_no_regions() -> None:
    """Background alone gives nothing."""
    assert find_regions(np.zeros((5, 5), dtype=np.uint8)) == ()


def holds(label: str, *joints: str) -> bool:
    """Say whether these joints show a label, by the shipped table."""
    seen = {JOINTS.index(joint) for joint in joints}
    clauses = load_keypoint_table()[LABEL_ID[label]]
    return any(len(seen & set(clause["of"])) >= clause["at_least"] for clause in clauses)


def test_the_shipped_keypoint_table() -> None:
    """Its rules say what the reference table says."""
    assert holds("face", "left-eye")
    assert not holds("face", "left-ear", "right-ear")
    assert holds("hair", "right-ear")
    assert holds("scarf", "neck")
    assert holds("scarf", "left-shoulder", "right-shoulder")
    assert not holds("scarf", "left-shoulder")
    assert holds("coat", "neck", "left-hip")
    assert not holds("coat", "neck")
    assert holds("dress", "left-knee")
    assert holds("dress", "neck", "left-shoulder")
    assert not holds("belt", "left-knee")
    assert holds("left-arm", "left-elbow")
    assert not holds("left-arm", "left-shoulder", "right-elbow", "right-wrist")
    assert holds("gloves", "right-wrist")
    assert not holds("gloves", "right-elbow")
    assert holds("left-shoe", "left-ankle")
    assert not holds("left-shoe", "right-ankle", "left-knee")
    assert holds("skin", "left-knee")
    assert 0 not in load_keypoint_table()


def changed_table(tmp_path: Path, **labels: object) -> Path:
    """Write the shipped table with other clauses for some labels; None leaves a label out."""
    data = {"schema": 1, "labels": {}}
    for label, clauses in load_keypoint_table().items():
        clauses = labels.get(LABELS[label], clauses)
        if clauses is not None:
            data["labels"][LABELS[label]] = clauses
    (tmp_path / "table.json").write_text(json.dumps(data))
    return tmp_path / "table.json"


def test_a_team_can_bring_its_own_table(tmp_path: Path) -> None:
    """Another rule is read and changes the hash; the same one does not."""
    shipped = keypoint_table_hash(load_keypoint_table())
    assert keypoint_table_hash(load_keypoint_table(changed_table(tmp_path))) == shipped
    other = load_keypoint_table(changed_table(tmp_path, bag=[]))
    assert other[LABEL_ID["bag"]] == []
    assert keypoint_table_hash(other) != shipped


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"bag": None}, "missing or unknown labels: bag"),
        ({"bag": [{"at_least": 1, "of": [18]}]}, "label 'bag' has a wrong clause"),
        ({"bag": [{"at_least": 3, "of": [1, 2]}]}, "label 'bag' has a wrong clause"),
        ({"bag": [{"at_least": 1}]}, "label 'bag' has a wrong clause"),
        ({"bag": {"at_least": 1, "of": [1]}}, "label 'bag' has a wrong clause"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, labels: dict[str, object], reason: str) -> None:
    """A forgotten label or a clause that cannot hold is a usage error."""
    with pytest.raises(UsageError, match=reason):
        load_keypoint_table(changed_table(tmp_path, **labels))


def test_an_unreadable_table_is_refused(tmp_path: Path) -> None:
    """No JSON, no object, no file: a usage error each."""
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("[]")
    for name in ("a.json", "b.json", "gone.json"):
        with pytest.raises(UsageError, match="keypoint table"):
            load_keypoint_table(tmp_path / name)
