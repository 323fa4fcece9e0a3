import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from catalogpose.catalog.provenance import Provenance, read_provenance, write_picture
from catalogpose.errors import UsageError

OURS = "{urn:catalogpose:provenance:1.0/}"
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"


def make(**changes: Any) -> Provenance:
    """Return some provenance."""
    values: dict[str, Any] = {
        "row_id": "shirt-7",
        "product": "7",
        "reference_sha256": "cd" * 32,
        "reference_regions": "skirt, upper-clothes",
        "reference_mask_sha256": "ef" * 32,
        "prompt": "a red skirt",
        "pose_map_sha256": "12" * 32,
        "region_sources": '{"skirt": {"phrase": "a red skirt"}}',
        "memory_sha256": "34" * 32,
        "source_sha256": "ab" * 32,
        "pose_digest": "cd" * 32,
        "model": "bundled",
        "model_fingerprint": "ef" * 32,
        "seed": 2**63 - 1,
        "steps": 35,
        "guidance": 7.5,
        "settings": json.dumps({"canvas": [352, 512], "path": 'a\\b "c"'}),
        "software": "catalogpose 0.1.0, torch 2.15.0",
    }
    return Provenance(**{**values, **changes})


def chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    """Return the chunks of a PNG after checking its signature and checksums."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    found, start = [], 8
    while start < len(content):
        (length,) = struct.unpack(">I", content[start : start + 4])
        kind, data = content[start + 4 : start + 8], content[start + 8 : start + 8 + length]
        (checksum,) = struct.unpack(">I", content[start + 8 + length : start + 12 + length])
        assert zlib.crc32(kind + data) == checksum
        found.append((kind, data))
        start += 12 + length
    return found


def properties(content: bytes) -> dict[str, str | None]:
    """Return the XMP properties of a PNG, found as a stranger would find them."""
    (xmp,) = [data for kind, data in chunks(content) if kind == b"iTXt"]
    keyword, rest = xmp.split(b"\0", 1)
    assert keyword == b"XML:com.adobe.xmp"
    assert rest[:4] == b"\0\0\0\0"  # not compressed, no language, no translated keyword
    root = ElementTree.fromstring(rest[4:].decode("utf-8"))
    (description,) = root.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    return {element.tag: element.text for element in description}


PICTURE = np.random.default_rng(0).integers(0, 256, (12, 8, 3), np.uint8)


def test_a_stranger_can_read_it(tmp_path: Path) -> None:
    """The IPTC term and each of our fields are XMP properties of their own."""
    provenance = make()
    write_picture(tmp_path / "p.png", PICTURE, provenance)
    found = properties((tmp_path / "p.png").read_bytes())
    kind = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert found[f"{IPTC}DigitalSourceType"] == kind
    assert found["{http://ns.adobe.com/xap/1.0/}CreatorTool"] == "catalogpose 0.1.0"
    ours = {tag.removeprefix(OURS): text for tag, text in found.items() if tag.startswith(OURS)}
    assert ours == {name: str(value) for name, value in vars(provenance).items()}
    assert json.loads(ours["settings"] or "")["path"] == 'a\\b "c"'


def test_the_pixels_and_the_hash_are_right(tmp_path: Path) -> None:
    """The picture comes back exactly, the hash is the file's, the same again is the same file."""
    sha256 = write_picture(tmp_path / "new" / "p.png", PICTURE, make())
    content = (tmp_path / "new" / "p.png").read_bytes()
    assert sha256 == hashlib.sha256(content).hexdigest()
    assert write_picture(tmp_path / "q.png", PICTURE, make()) == sha256
    with Image.open(tmp_path / "q.png") as image:
        assert np.array_equal(np.asarray(image), PICTURE)


def test_we_read_what_we_write(tmp_path: Path) -> None:
    """Numbers come back as numbers; a missing product, reference or prompt leaves none."""
    missing = ("product", "reference_sha256", "reference_regions", "reference_mask_sha256",
               "prompt", "pose_map_sha256", "region_sources", "memory_sha256")  # fmt: skip
    write_picture(tmp_path / "p.png", PICTURE, make(**dict.fromkeys(missing)))
    found = read_provenance(tmp_path / "p.png")
    assert found.pop("digital_source_type").endswith("/trainedAlgorithmicMedia")
    expected = vars(make())
    assert found == {name: expected[name] for name in expected if name not in missing}


@pytest.mark.parametrize(
    "row_id",
    ["<a> & 'b' \"c\" ]]>", "é 🧥 \u202e", " a ", "a\tb\nc\rd\r\ne", "&#9;", "{braces} {0}"],
)
def test_any_text_survives(tmp_path: Path, row_id: str) -> None:
    """Markup, spaces and line ends come back as they were."""
    write_picture(tmp_path / "p.png", PICTURE, make(row_id=row_id))
    assert properties((tmp_path / "p.png").read_bytes())[f"{OURS}row_id"] == row_id
    assert read_provenance(tmp_path / "p.png")["row_id"] == row_id


@pytest.mark.parametrize("row_id", ["a\0b", "\x1b[31m", "\x0b\x0c", "\ud800", "\ufffe"])
def test_what_xml_cannot_hold_becomes_json(tmp_path: Path, row_id: str) -> None:
    """Control characters are in the file as a JSON string, which is again plain text."""
    write_picture(tmp_path / "p.png", PICTURE, make(row_id=row_id))
    found = properties((tmp_path / "p.png").read_bytes())[f"{OURS}row_id"]
    assert json.loads(found or "") == row_id


def test_a_picture_without_provenance(tmp_path: Path) -> None:
    """Somebody else's PNG has none, which is no error."""
    Image.fromarray(PICTURE).save(tmp_path / "p.png")
    assert read_provenance(tmp_path / "p.png") == {}


@pytest.mark.parametrize("packet", ["<x", "<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>"])
def test_a_damaged_packet_is_a_usage_error(tmp_path: Path, packet: str) -> None:
    """Broken XML, and XML with entities of its own, are refused."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", packet)
    Image.fromarray(PICTURE).save(tmp_path / "p.png", pnginfo=info)
    with pytest.raises(UsageError, match="cannot read the provenance"):
        read_provenance(tmp_path / "p.png")


def test_a_file_that_is_no_png_is_a_usage_error(tmp_path: Path) -> None:
    """Missing or another format: one plain line."""
    (tmp_path / "p.png").write_bytes(b"text")
    for name in ("p.png", "gone.png"):
        with pytest.raises(UsageError, match="cannot read the provenance"):
            read_provenance(tmp_path / name)
