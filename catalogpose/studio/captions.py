"""Words for what a picture shows: a sentence for the picture, a phrase for each region."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from catalogpose.records import LABELS
from catalogpose.studio.body import Person
from catalogpose.studio.garments import Garment, Outfit
from catalogpose.studio.prints import Print


def _article(phrase: str) -> str:
    return ("an " if phrase[0].lower() in "aeiou" else "a ") + phrase


def name_print(mark: Print) -> str:
    """Return the words for a print."""
    if mark.shape == "word":
        return f'the word "{mark.word}" in {mark.name}'
    return _article(f"{mark.name} {mark.shape}")


def name_cloth(garment: Garment) -> tuple[str, str]:
    """Return the colour before the noun and the pattern after it; the latter may be empty."""
    cloth = garment.cloth
    ground, *others = cloth.names
    if cloth.pattern == "plain":
        return ground, ""
    if cloth.pattern == "gradient":
        return ground, f"fading to {others[0]}"
    if cloth.pattern == "blocks":
        return ground, f"with a {others[0]} lower part"
    if cloth.pattern == "halves":
        return ground, f"with a {others[0]} left half"
    if cloth.pattern == "tartan":
        return ground, f"with {others[0]} and {others[1]} tartan checks"
    return ground, f"with {others[0]} {cloth.pattern}"


def name_garment(garment: Garment, *, front: bool = True) -> str:
    """Return a phrase such as `a navy short-sleeved shirt with white checks`."""
    colour, pattern = name_cloth(garment)
    words = [colour]
    if garment.slot == "coat":
        words.append("open" if garment.open else "closed")
    elif garment.slot in ("top", "dress", "jumpsuit") and "sleeved" not in garment.noun:
        words.append(_sleeve_word(garment))
    noun = garment.noun
    if garment.neck == "turtle":
        noun = f"turtleneck {noun}"
    elif garment.neck == "v" and garment.slot in ("top", "dress"):
        noun = f"V-neck {noun}"
    phrase = " ".join([*(word for word in words if word), noun])
    many = garment.slot in ("bottom", "shoes", "socks", "gloves", "sunglasses")
    phrase = phrase if many else _article(phrase)
    mark = garment.cloth.front if front else garment.cloth.back
    if mark is not None:
        pattern = f"with {name_print(mark)} on the {'chest' if front else 'back'}"
    return f"{phrase} {pattern}".strip()


def _sleeve_word(garment: Garment) -> str:
    if garment.noun in ("tank top", "strapless top"):
        return ""
    if garment.sleeve < 0.1:
        return "sleeveless"
    return "short-sleeved" if garment.sleeve < 0.5 else "long-sleeved"


def name_hair(person: Person) -> str:
    """Return a phrase such as `long brown hair`."""
    kind = {
        "short": "short {} hair", "cropped": "cropped {} hair", "bob": "{} hair in a bob",
        "long": "long {} hair", "very long": "very long {} hair",
        "ponytail": "{} hair in a ponytail", "bun": "{} hair in a bun",
    }[person.hair_style]  # fmt: skip
    return kind.format(person.hair)


def name_view(yaw: float) -> str:
    """Return where the person is seen from, by the turn in degrees."""
    turn = abs(yaw)
    if turn < 25:
        return "from the front"
    if turn < 65:
        return "in three-quarter view"
    if turn < 115:
        return "from the side"
    return "in three-quarter view from behind" if turn < 150 else "from behind"


def describe(person: Person, outfit: Outfit, yaw: float) -> str:
    """Return a sentence about the picture."""
    front = bool(np.cos(np.deg2rad(yaw)) > -0.2)
    phrases = [name_garment(garment, front=front) for garment in outfit]
    worn = ", ".join(phrases[:-1]) + " and " + phrases[-1] if len(phrases) > 1 else phrases[0]
    who = "woman" if person.woman else "man"
    looks = f"{person.skin} skin and {name_hair(person)}"
    return f"A {who} with {looks} wearing {worn}, seen {name_view(yaw)}."


def describe_regions(
    person: Person, outfit: Outfit, labels: NDArray[np.uint8], *, front: bool
) -> dict[str, str]:
    """Return a phrase for each label of the map but the background."""
    worn = {garment.label: garment for garment in outfit}
    phrases: dict[str, str] = {}
    for index in np.flatnonzero(np.bincount(labels.reshape(-1), minlength=len(LABELS))):
        name = LABELS[int(index)]
        garment = worn.get("shoe" if name.endswith("-shoe") else name)
        if garment is not None:
            phrases[name] = name_garment(garment, front=front)
        elif name == "hair":
            phrases[name] = name_hair(person)
        elif name == "face":
            beard = " and a beard" if person.beard else ""
            phrases[name] = (
                f"a {'woman' if person.woman else 'man'}'s face with {person.skin} skin{beard}"
            )
        elif name == "torso-skin":
            phrases[name] = f"neck and chest with {person.skin} skin"
        elif name != "background":
            phrases[name] = f"a {name.replace('-', ' ')} with {person.skin} skin"
    return phrases
