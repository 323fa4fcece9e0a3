"""Every piece of a person and of the clothes by name and number, the same in all pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

BODY = ("neck", "trunk", "head", "nose", "hair cap", "hair far side", "hair fall", "hair tail root",
        "hair tail", "hair bun")  # fmt: skip
"""Pieces of a body in its middle."""
PAIRED = ("ear", "upper arm", "forearm", "cuff", "palm", "thumb", "fingers", "thigh", "shin",
          "foot", "hair strand", "sock", "sole", "shoe", "tongue", "laces", "shaft")  # fmt: skip
"""Pieces that a person has on the left and on the right."""
UPPER = ("piece", "collar", "left sleeve", "right sleeve")
LEGS = ("left leg", "right leg", "seat")
CLOTHES: Mapping[str, tuple[str, ...]] = {
    "top": UPPER, "bottom": LEGS, "skirt": ("skirt",), "dress": (*UPPER, "skirt"),
    "jumpsuit": (*UPPER, *LEGS), "coat": (*UPPER, "skirt", "piece lining", "skirt lining"),
}  # fmt: skip
"""Pieces of a garment by slot; both tubes of a sleeve or of a trouser leg are one cloth."""
EXTRAS = ("hat", "hat fold", "brim", "visor", "scarf", "left scarf end", "right scarf end", "bag",
          "front handle", "back handle", "belt", "buckle",
          *(f"{side} strap {number}" for side in ("front", "back")
            for number in (1, 2, 3)))  # fmt: skip
"""Pieces of accessories."""


def _names() -> Iterator[str]:
    yield from BODY
    yield from (f"{side} {name}" for name in PAIRED for side in ("left", "right"))
    yield from (f"{slot} {piece}" for slot, cut in CLOTHES.items() for piece in cut)
    yield from EXTRAS


PART_ID: Mapping[str, int] = MappingProxyType({name: i for i, name in enumerate(_names(), 1)})
"""Number of each piece by name, 1..255; 0 is background."""

HEAD = ("head", "nose", "left ear", "right ear", "hat", "hat fold", "brim", "visor",
        *(name for name in PART_ID if "hair" in name))  # fmt: skip
"""What people are known by, hair and hats included."""
