"""The names of In-shop pictures, which the lists, the archive and later data sets spell apart."""

from __future__ import annotations

import re
from dataclasses import dataclass

FLAT = re.compile(
    r"fashion(?P<gender>WOMEN|MEN)(?P<category>.+)id(?P<item>\d{8})(?P<colour>\d{2})"
    r"_(?P<shot>\d+)(?P<view>[a-z]+)\.(?:jpg|png)"
)
"""`fashionWOMENDressesid0000262902_1front.jpg`, as the lists and CFLD's folders have it."""

TREE = re.compile(
    r"(?:.*/)?(?P<gender>WOMEN|MEN)/(?P<category>[^/]+)/id_(?P<item>\d{8})/(?P<colour>\d{2})"
    r"_(?P<shot>\d+)_(?P<view>[a-z]+)\.(?:jpg|png)"
)
"""`img/WOMEN/Dresses/id_00002629/02_1_front.jpg`, as the archive has it."""

DASHED = re.compile(
    r"(?P<gender>WOMEN|MEN)-(?P<category>.+)-id_(?P<item>\d{8})-(?P<colour>\d{2})"
    r"_(?P<shot>\d+)_(?P<view>[a-z]+)\.(?:jpg|png)"
)
"""`WOMEN-Dresses-id_00002629-02_1_front.jpg`, as DeepFashion-MultiModal has it."""


@dataclass(frozen=True, kw_only=True)
class InshopName:
    """What the name of an In-shop picture says."""

    gender: str
    """`WOMEN` or `MEN`."""
    category: str
    """Such as `Tees_Tanks`."""
    item: str
    """Eight digits: the garment."""
    colour: str
    """Two digits: the garment in one colour, worn by one person."""
    shot: str
    """Digits: which picture of them."""
    view: str
    """`front`, `side`, `back`, `full`, `additional` or `flat`."""

    @property
    def flat(self) -> str:
        """The name in the lists of pairs."""
        return (
            f"fashion{self.gender}{self.category}id{self.item}{self.colour}"
            f"_{self.shot}{self.view}.jpg"
        )

    @property
    def tree(self) -> str:
        """The path in the owners' archive."""
        return (
            f"{self.gender}/{self.category}/id_{self.item}/"
            f"{self.colour}_{self.shot}_{self.view}.jpg"
        )

    @property
    def product(self) -> str:
        """Garment and colour."""
        return f"id_{self.item}-{self.colour}"


def parse_inshop_name(name: str) -> InshopName | None:
    """Read any of the three spellings; None for another name."""
    for pattern in (FLAT, TREE, DASHED):
        if match := pattern.fullmatch(name):
            return InshopName(**match.groupdict())
    return None
