"""Pictures with provenance: PNGs that say in XMP that a model made them, of what and how."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from catalogpose import __version__
from catalogpose.catalog.files import write_atomically
from catalogpose.errors import UsageError

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for media made by a model; merchants and the AI Act's code of practice ask for it."""

NAMESPACE = "urn:catalogpose:provenance:1.0/"
"""Namespace of our own properties."""

IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"

XMP_KEYWORD = "XML:com.adobe.xmp"
"""Keyword of the PNG text chunk that holds XMP."""

PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{rdf}">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:Iptc4xmpExt="{iptc}"
    xmlns:catalogpose="{namespace}">
   <xmp:CreatorTool>catalogpose {version}</xmp:CreatorTool>
   <Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>
{properties}
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, not even escaped."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a picture comes from; each field becomes one XMP property of the same name."""

    row_id: str
    """The manifest row's id."""
    product: str | None
    """The product's id; None where the manifest names none, and then no property is written."""
    source_sha256: str | None
    """Hash of the source photo's file; None where words alone said what to paint."""
    reference_sha256: str | None = None
    """Hash of the reference photo's file, where the source's cloth was put on one; None elsewhere.
    """
    reference_regions: str | None = None
    """Labels of the reference's regions that took the source's cloth; None where none are named."""
    reference_mask_sha256: str | None = None
    """Hash of the mask file that said where; None where `reference_regions` did."""
    prompt: str | None = None
    """The words that said what to paint; None in rows without, as are the next three."""
    pose_map_sha256: str | None = None
    """Hash of the map's file that said where."""
    region_sources: str | None = None
    """What each region came from, as JSON by label: `source`, `null`, or for words a mapping that
    names the products whose cloth informed it."""
    memory_sha256: str | None = None
    """Hash of the memory's file; None where there was none too."""
    pose_digest: str
    """Hash of the pose as it was used."""
    model: str
    """Name of the model."""
    model_fingerprint: str
    """Hash of the model's weights and configuration."""
    seed: int
    """Seed of the row's noise."""
    steps: int
    """Number of sampling steps."""
    guidance: float
    """Guidance scale."""
    settings: str
    """Everything else that decides the picture, as JSON."""
    software: str
    """Names and versions of the software that made it."""


def write_picture(path: Path, picture: NDArray[np.uint8], provenance: Provenance) -> str:
    """Write a picture (H, W, 3) with its provenance as PNG, atomically; return the file's SHA-256.

    The same picture and provenance give the same bytes. Raises `OSError`.
    """
    chunks = PngImagePlugin.PngInfo()
    # Pillow ignores `xmp=` for PNG, so the chunk is written here.
    chunks.add_itxt(XMP_KEYWORD, _packet(provenance))
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.save(buffer, format="PNG", compress_level=1, pnginfo=chunks)
    content = buffer.getvalue()
    write_atomically(path, lambda file: file.write(content))
    return hashlib.sha256(content).hexdigest()


def _packet(provenance: Provenance) -> str:
    """Return the XMP packet."""
    values = dataclasses.asdict(provenance)
    properties = "\n".join(
        f"   <catalogpose:{name}>{_escape(str(value))}</catalogpose:{name}>"
        for name, value in values.items()
        if value is not None
    )
    return PACKET.format(
        rdf=RDF,
        iptc=IPTC,
        namespace=NAMESPACE,
        version=__version__,
        source_type=SOURCE_TYPE,
        properties=properties,
    )


def _escape(value: str) -> str:
    """Return a value as XML text; one that XML cannot hold becomes a JSON string first."""
    if NOT_XML.search(value):
        value = json.dumps(value)
    value = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Parsers turn bare line ends into one another; numbered ones stay what they are.
    return value.replace("\t", "&#9;").replace("\n", "&#10;").replace("\r", "&#13;")


def read_provenance(path: Path) -> dict[str, Any]:
    """Return a picture's provenance by the names of `Provenance`, and `digital_source_type`.

    Empty where the file carries none; `seed` and `steps` are integers, `guidance` is a float.
    Raises `UsageError` where the file is no PNG or its XMP is damaged.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            packet = image.info.get(XMP_KEYWORD)
        return _read_packet(packet) if packet else {}
    except (OSError, SyntaxError, ValueError) as error:
        raise UsageError(f"cannot read the provenance of {str(path)!r}: {error}") from None


def _read_packet(packet: str) -> dict[str, Any]:
    """Return the properties in an XMP packet that `read_provenance` promises."""
    if "<!DOCTYPE" in packet:  # XMP has none, and its entities could fill the memory
        raise ValueError("its XMP has a document type")
    kinds = {"seed": int, "steps": int, "guidance": float}
    values: dict[str, Any] = {}
    for element in ElementTree.fromstring(packet).iter():  # noqa: S314  see above
        text = element.text or ""
        if element.tag == f"{{{IPTC}}}DigitalSourceType":
            values["digital_source_type"] = text
        elif element.tag.startswith(f"{{{NAMESPACE}}}"):
            name = element.tag.partition("}")[2]
            values[name] = kinds.get(name, str)(text)
    return values
