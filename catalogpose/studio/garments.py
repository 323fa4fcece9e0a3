"""The wardrobe: which garments there are and what one product wears."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from catalogpose.studio.cloths import draw_cloth
from catalogpose.studio.patterns import Cloth


@dataclass(frozen=True, kw_only=True)
class Garment:
    """One piece of clothing; lengths are shares of what they cover."""

    slot: str
    """`top`, `bottom`, `skirt`, `dress`, `jumpsuit`, `coat`, `shoes`, `socks`, `hat`, `scarf`,
    `belt`, `bag`, `gloves` or `sunglasses`."""
    noun: str
    """What captions call it."""
    label: str
    """Its name in `records.LABELS`; shoes say `shoe` and take a side when painted."""
    cloth: Cloth
    """What it is made of."""
    sleeve: float = 0.0
    """Sleeves as a share of the arm: 0 none, 1 to the wrist."""
    length: float = 0.0
    """Below the hips as a share of the leg: 1 to the ankle."""
    ease: float = 0.006
    """Distance of cloth from body, in body heights."""
    neck: str = "crew"
    """`crew`, `v`, `scoop`, `turtle`, `strap`, `bare` or `collar`."""
    flare: float = 0.0
    """Widening at the hem, in body heights."""
    open: float = 0.0
    """Half angle left open at the front, radians; 0 closed."""
    tucked: bool = False
    """Whether the top is under the bottom."""
    style: str = ""
    """A variant of shoes, hats and bags."""


Outfit = tuple[Garment, ...]
"""What a product wears, in no order."""


@dataclass(frozen=True)
class _Cut:
    """A kind of garment: the ranges its instances are drawn from."""

    noun: str
    sleeve: tuple[float, float] = (0.0, 0.0)
    length: tuple[float, float] = (0.0, 0.0)
    ease: tuple[float, float] = (0.005, 0.010)
    necks: tuple[str, ...] = ("crew",)
    flare: tuple[float, float] = (0.0, 0.0)
    cloths: str = "any"


TOPS = (
    _Cut("T-shirt", (0.26, 0.40), necks=("crew", "v", "crew", "scoop"), cloths="printed"),
    _Cut("T-shirt", (0.26, 0.40), necks=("crew", "v"), cloths="printed"),
    _Cut("long-sleeved top", (0.93, 1.0), necks=("crew", "v", "turtle", "scoop"), cloths="printed"),
    _Cut(
        "sweater", (0.95, 1.0), ease=(0.013, 0.022), necks=("crew", "turtle", "v"), cloths="printed"
    ),
    _Cut("shirt", (0.95, 1.0), ease=(0.008, 0.014), necks=("collar",)),
    _Cut("shirt", (0.30, 0.42), ease=(0.008, 0.014), necks=("collar",)),
    _Cut("tank top", necks=("strap",), cloths="printed"),
)
WOMEN_TOPS = (
    _Cut("strapless top", necks=("bare",)),
    _Cut("blouse", (0.6, 0.95), necks=("v", "scoop")),
)
TROUSERS = (
    _Cut("jeans", length=(0.90, 1.0), ease=(0.004, 0.010), cloths="denim"),
    _Cut("trousers", length=(0.92, 1.02), ease=(0.006, 0.012), cloths="calm"),
    _Cut(
        "wide trousers",
        length=(0.92, 1.02),
        ease=(0.008, 0.012),
        flare=(0.02, 0.035),
        cloths="calm",
    ),
    _Cut("leggings", length=(0.85, 0.98), ease=(0.002, 0.003), cloths="calm"),
    _Cut("cropped trousers", length=(0.72, 0.84), ease=(0.006, 0.014), cloths="calm"),
    _Cut("shorts", length=(0.22, 0.42), ease=(0.008, 0.014), flare=(0.0, 0.01), cloths="calm"),
)
SKIRTS = (
    _Cut("mini skirt", length=(0.22, 0.30), flare=(0.0, 0.05)),
    _Cut("skirt", length=(0.42, 0.56), flare=(0.0, 0.09)),
    _Cut("midi skirt", length=(0.62, 0.78), flare=(0.02, 0.10)),
    _Cut("maxi skirt", length=(0.88, 0.98), flare=(0.03, 0.10)),
)
DRESSES = (
    _Cut(
        "mini dress",
        (0.0, 0.4),
        (0.24, 0.34),
        necks=("crew", "v", "scoop", "strap"),
        flare=(0.0, 0.06),
    ),
    _Cut(
        "dress",
        (0.0, 1.0),
        (0.42, 0.56),
        necks=("crew", "v", "scoop", "strap", "bare"),
        flare=(0.0, 0.09),
    ),
    _Cut(
        "midi dress",
        (0.0, 1.0),
        (0.62, 0.78),
        necks=("crew", "v", "scoop", "strap"),
        flare=(0.02, 0.10),
    ),
    _Cut("maxi dress", (0.0, 1.0), (0.88, 0.98), necks=("v", "strap", "bare"), flare=(0.03, 0.10)),
)
COATS = (
    _Cut("jacket", (0.95, 1.0), (0.02, 0.08), (0.016, 0.022), cloths="calm"),
    _Cut("blazer", (0.95, 1.0), (0.12, 0.18), (0.014, 0.020), cloths="calm"),
    _Cut("coat", (0.95, 1.0), (0.42, 0.66), (0.018, 0.026), flare=(0.01, 0.04), cloths="calm"),
    _Cut("cardigan", (0.92, 1.0), (0.10, 0.30), (0.012, 0.018), cloths="calm"),
)  # fmt: skip


def _within(rng: np.random.Generator, low_high: tuple[float, float]) -> float:
    return float(rng.uniform(*low_high))


def _pick(rng: np.random.Generator, cuts: tuple[_Cut, ...]) -> _Cut:
    return cuts[int(rng.integers(len(cuts)))]


def _tailor(rng: np.random.Generator, slot: str, label: str, cut: _Cut, **more: object) -> Garment:
    """Return one garment of a cut."""
    sleeve = _within(rng, cut.sleeve)
    low, high = cut.sleeve
    if high - low >= 0.4:  # A range this wide means any kind of sleeve, not any length.
        kinds = [0.0, 0.3, 0.36] if high < 0.5 else [0.0, 0.32, 0.97]
        sleeve = kinds[int(rng.integers(len(kinds)))]
    neck = cut.necks[int(rng.integers(len(cut.necks)))]
    if neck in ("strap", "bare"):
        sleeve = 0.0
    length, flare = _within(rng, cut.length), _within(rng, cut.flare)
    ease, cloth = _within(rng, cut.ease), draw_cloth(rng, cut.cloths, slot, max(length, 0.1))
    made = Garment(slot=slot, noun=cut.noun, label=label, cloth=cloth, sleeve=sleeve, length=length,
                   ease=ease, neck=neck, flare=flare)  # fmt: skip
    return Garment(**(vars(made) | more))


def _body_clothes(rng: np.random.Generator, woman: bool) -> list[Garment]:
    """Return a top and a bottom, or a dress or a jumpsuit."""
    kind = rng.random()
    if woman and kind < 0.30:
        return [_tailor(rng, "dress", "dress", _pick(rng, DRESSES))]
    if kind > (0.92 if woman else 0.97):
        cut = _Cut("jumpsuit", (0.0, 1.0), (0.88, 1.0), (0.008, 0.014),
                   ("v", "crew", "strap", "collar"), (0.0, 0.03))  # fmt: skip
        return [_tailor(rng, "jumpsuit", "jumpsuit", cut)]
    tops = TOPS + WOMEN_TOPS if woman else TOPS
    tucked = bool(rng.random() < 0.4)
    top = _tailor(rng, "top", "upper-clothes", _pick(rng, tops), tucked=tucked,
                  length=float(rng.uniform(0.0, 0.07)))  # fmt: skip
    if woman and rng.random() < 0.42:
        bottom = _tailor(rng, "skirt", "skirt", _pick(rng, SKIRTS))
    else:
        bottom = _tailor(rng, "bottom", "pants", _pick(rng, TROUSERS))
    return [top, bottom]


SHOES: Mapping[str, tuple[str, ...]] = {
    "sneaker": ("sneakers", "white", "black", "navy", "red", "beige", "green", "yellow", "pink"),
    "loafer": ("loafers", "black", "brown", "burgundy", "camel", "navy"),
    "ankle boot": ("ankle boots", "black", "brown", "camel", "olive", "burgundy"),
    "tall boot": ("tall boots", "black", "brown", "camel", "rust"),
    "pump": ("pumps", "black", "red", "beige", "navy", "pink", "green"),
}
"""Styles of shoes: their plural, then the colours they come in."""
HATS = ("beanie", "cap", "brimmed hat", "bucket hat")
BAGS = ("handbag", "shoulder bag", "tote bag")


def _extra(rng: np.random.Generator, slot: str, noun: str, style: str = "") -> Garment:
    """Return an accessory of one plain or simply patterned cloth; its label is its slot's name."""
    cloth = draw_cloth(rng, "simple" if slot in ("scarf", "hat", "socks") else "plain", slot, 0.2)
    return Garment(slot=slot, noun=noun, label=slot, cloth=cloth, style=style)


def _shoes(rng: np.random.Generator, woman: bool) -> Garment:
    styles = list(SHOES)[: 5 if woman else 3]
    style = styles[int(rng.integers(len(styles)))]
    noun, *names = SHOES[style]
    cloth = draw_cloth(rng, "plain", "shoes", 0.2, names=tuple(names))
    return Garment(slot="shoes", noun=noun, label="shoe", cloth=cloth, style=style)


def draw_outfit(rng: np.random.Generator, woman: bool) -> Outfit:
    """Return a random outfit."""
    outfit = _body_clothes(rng, woman)
    slots = {garment.slot for garment in outfit}
    if rng.random() < 0.26:
        closed = rng.random() < 0.35
        gap = 0.0 if closed else float(rng.uniform(0.22, 0.55))
        outfit.append(_tailor(rng, "coat", "coat", _pick(rng, COATS), open=gap))
    shoes = _shoes(rng, woman)
    outfit.append(shoes)
    extras = rng.random(8)
    if extras[0] < 0.15:
        style = HATS[int(rng.integers(len(HATS)))]
        outfit.append(_extra(rng, "hat", style, style))
    if extras[1] < 0.09:
        outfit.append(_extra(rng, "scarf", "scarf"))
    if extras[2] < 0.35 and (slots & {"dress", "jumpsuit"} or any(g.tucked for g in outfit)):
        outfit.append(_extra(rng, "belt", "belt"))
    if extras[3] < 0.20:
        style = BAGS[int(rng.integers(len(BAGS)))]
        outfit.append(_extra(rng, "bag", style, style))
    if extras[4] < 0.10:
        outfit.append(_extra(rng, "sunglasses", "sunglasses"))
    if extras[5] < 0.06:
        outfit.append(_extra(rng, "gloves", "gloves"))
    if extras[6] < 0.30 and "boot" not in shoes.style:
        outfit.append(_extra(rng, "socks", "socks"))
    return tuple(outfit)


def garment_in(outfit: Outfit, *slots: str) -> Garment | None:
    """Return the garment in one of these slots; None where there is none."""
    return next((garment for garment in outfit if garment.slot in slots), None)
