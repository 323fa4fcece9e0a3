"""The words that phrases are found by: a readable file, its plurals, and plain texts made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from catalogpose.records import LABELS

LEXICON = Path(__file__).with_name("lexicon.json")

USUAL_NOUNS = 6
"""Nouns of a label that `usual_texts` uses."""

Link = Literal["joins", "adds", "opens", "stops"]
"""How a segment hangs on what comes before it."""


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """The words of `lexicon.json`, plurals included, ready to be looked up."""

    nouns: Mapping[tuple[str, ...], tuple[str, ...]]
    parts: frozenset[str]
    modifiers: frozenset[str]
    links: Mapping[str, Link]
    places: frozenset[str]
    participles: frozenset[str]
    negations: frozenset[str]
    determiners: frozenset[str]
    body: frozenset[str]
    elsewhere: frozenset[str]


def _plurals(word: str) -> tuple[str, ...]:
    """Return a noun and its plural."""
    return (word, f"{word}es" if word.endswith(("s", "sh", "ch", "x")) else f"{word}s")


@cache
def _read() -> dict[str, Any]:
    """Read the shipped file, once."""
    data: dict[str, Any] = json.loads(LEXICON.read_text(encoding="utf-8"))
    return data


@cache
def load_lexicon() -> Lexicon:
    """Return the shipped lexicon."""
    data = _read()
    nouns = {
        tuple(form.split()): tuple(labels.split("+"))
        for labels, words in data["nouns"].items()
        for word in words
        for form in _plurals(word)
    }
    assert {label for labels in nouns.values() for label in labels} <= set(LABELS)
    return Lexicon(
        nouns=nouns,
        parts=frozenset(form for word in data["parts"] for form in _plurals(word)),
        modifiers=frozenset(data["modifiers"]),
        links={word: kind for kind, words in data["links"].items() for word in words},
        places=frozenset(data["places"]),
        participles=frozenset(data["participles"]),
        negations=frozenset(data["negations"]),
        determiners=frozenset(data["determiners"]),
        body=frozenset(data["body"]),
        elsewhere=frozenset(data["elsewhere"]),
    )


def garment_nouns() -> dict[str, tuple[str, ...]]:
    """Return the lexicon's nouns of each single label, in the singular."""
    nouns = _read()["nouns"]
    return {label: tuple(words) for label, words in nouns.items() if "+" not in label}


def usual_texts(label: str) -> tuple[str, ...]:
    """Return plain texts of a phrase's label, its first nouns in basic colours: `a red skirt`."""
    colours = _read()["basic_colours"]
    nouns = garment_nouns().get(label, (label,))[:USUAL_NOUNS]
    return tuple(f"a {colour} {noun}" for noun in nouns for colour in colours)


def attribute_words() -> dict[str, tuple[str, ...]]:
    """Return words for colours and patterns, each kind exchangeable within itself: `colours`,
    `basic_colours`, `pattern_nouns` (`with white stripes`) and `pattern_adjectives`.
    """
    kinds = ("colours", "basic_colours", "pattern_nouns", "pattern_adjectives")
    return {kind: tuple(_read()[kind]) for kind in kinds}
