"""Whether a picture's regions show what words say of them, and not what they might have said: hard
negatives and bindings, by the embeddings of a judge.

Numpy alone: who judges, a CLIP and a parser that did not condition the picture, is the caller's
choice.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from catalogpose.humandiffusion.lexicon import attribute_words

CHOICES = 16
"""Phrases among which the true one has to be found: itself and hard negatives."""

SHARE = 5
"""Most negatives of each kind but colours, which fill up."""

TEMPLATE = r"(?<![\w-]){}(?![\w-])"
"""A word or words that stand on their own."""


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """The first colour and the first pattern that a phrase names, with its kind of words."""

    colour: str | None
    """None where it names none."""
    pattern: str | None
    """None where it names none."""
    kind: str | None
    """`pattern_nouns` or `pattern_adjectives`; None where it names none."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A region's phrase beside what it must not be taken for."""

    label: int
    """The region's group, an id of `LABELS`."""
    phrase: str
    """What was asked for."""
    colours: tuple[str, ...]
    """The phrase in other colours; empty where it names none."""
    patterns: tuple[str, ...]
    """The phrase with other patterns; empty where it names none."""
    swaps: tuple[str, ...]
    """The phrase with the colour and pattern of the row's other regions."""

    @property
    def negatives(self) -> tuple[str, ...]:
        """At most `CHOICES - 1` of them: a share of patterns and swaps, filled up with colours."""
        first = [*_some(self.patterns, SHARE, self.phrase), *_some(self.swaps, SHARE, self.phrase)]
        rest = [one for one in self.colours if one not in first]
        return (*first, *_some(rest, CHOICES - 1 - len(first), self.phrase))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a judge saw in one region; a region that it did not find is wrong in all."""

    found: bool
    """Whether the judge's map shows the region."""
    hit: bool
    """Whether the phrase came first among itself and its negatives."""
    colour: bool | None
    """Whether it came first among its colours; None where it names none."""
    pattern: bool | None
    """Whether it came first among its patterns; None where it names none."""
    bound: tuple[bool, ...]
    """For each swap, whether the phrase came before it."""


def attributes_of(phrase: str) -> Attributes:
    """Return the first colour and the first pattern that a phrase names."""
    colour = _first(phrase, "colours")
    for kind in ("pattern_nouns", "pattern_adjectives"):
        pattern = _first(phrase, kind)
        if pattern is not None:
            return Attributes(colour=colour, pattern=pattern, kind=kind)
    return Attributes(colour=colour, pattern=None, kind=None)


def make_trials(phrases: Mapping[int, str]) -> list[Trial]:
    """Return a trial for each region whose phrase names a colour or a pattern.

    Args:
        phrases: By label id, one a group, of one row.
    """
    words = attribute_words()
    found = {label: attributes_of(phrase) for label, phrase in phrases.items()}
    trials = []
    for label, phrase in phrases.items():
        own = found[label]
        basic = _unlike(own.colour, words["basic_colours"])
        colours = [_exchange(phrase, own.colour, other) for other in basic]
        kinds = words.get(own.kind or "", ())
        patterns = [_exchange(phrase, own.pattern, other) for other in _unlike(own.pattern, kinds)]
        swaps = [
            _exchange(_exchange(phrase, own.colour, other.colour), own.pattern, other.pattern)
            for place, other in found.items()
            if place != label and (other.kind == own.kind or None in (other.kind, own.kind))
        ]
        trial = Trial(
            label=label,
            phrase=phrase,
            colours=_others(phrase, colours),
            patterns=_others(phrase, patterns),
            swaps=_others(phrase, swaps),
        )
        if trial.negatives:
            trials.append(trial)
    return trials


def judge(
    trial: Trial, region: NDArray[np.float32] | None, texts: Mapping[str, NDArray[np.float32]]
) -> Verdict:
    """Judge one region.

    Args:
        trial: What was asked for.
        region: (D,), the judge's embedding of the region, unit length; None where the judge's map
            does not show it.
        texts: By phrase, the judge's embedding (D,), unit length, of all phrases of the trial.
    """
    if region is None:
        return Verdict(
            found=False,
            hit=False,
            colour=False if trial.colours else None,
            pattern=False if trial.patterns else None,
            bound=(False,) * len(trial.swaps),
        )
    own = float(region @ texts[trial.phrase])

    def ahead(others: Sequence[str]) -> bool:
        return all(own > float(region @ texts[other]) for other in others)

    return Verdict(
        found=True,
        hit=ahead(trial.negatives),
        colour=ahead(trial.colours) if trial.colours else None,
        pattern=ahead(trial.patterns) if trial.patterns else None,
        bound=tuple(ahead([swap]) for swap in trial.swaps),
    )


def _unlike(word: str | None, others: Sequence[str]) -> list[str]:
    """Return the words that are something else: stripes are no mistake for vertical stripes, nor
    grey for gray.
    """
    if word is None:
        return []
    plain = word.replace("gray", "grey")
    return [one for one in others if one not in plain and plain not in one]


def _others(phrase: str, variants: Sequence[str]) -> tuple[str, ...]:
    """Return the distinct variants that are not the phrase."""
    return tuple(dict.fromkeys(one for one in variants if one != phrase))


def _exchange(phrase: str, word: str | None, other: str | None) -> str:
    """Put another word in a word's place, with the article that it asks for."""
    if word is None or other is None:
        return phrase
    changed = _pattern_of(word).sub(other, phrase, count=1)
    article = "an" if other[0] in "aeiou" else "a"
    return re.sub(rf"(?<!\w)an? (?={re.escape(other)})", f"{article} ", changed, count=1)


def _first(phrase: str, kind: str) -> str | None:
    """Return the word of a kind that stands first in a phrase, of two the longer; None: none."""
    matches = [
        (match.start(), -len(word), word)
        for word in attribute_words()[kind]
        if (match := _pattern_of(word).search(phrase))
    ]
    return min(matches)[2] if matches else None


@cache
def _pattern_of(word: str) -> re.Pattern[str]:
    """Return what finds a word that stands on its own, whatever its case."""
    return re.compile(TEMPLATE.format(re.escape(word)), re.IGNORECASE)


def _some(phrases: Sequence[str], count: int, key: str) -> list[str]:
    """Return at most `count` of these, which ones the key alone decides."""
    return sorted(phrases, key=lambda one: hashlib.blake2b(f"{key}\0{one}".encode()).digest())[
        : max(0, count)
    ]
