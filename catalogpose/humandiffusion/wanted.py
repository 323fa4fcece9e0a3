"""What each region of a text-driven row's map shall be: kept from the source, made of words, or
left to the model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from catalogpose.catalog.columns import shown
from catalogpose.catalog.descriptions import read_map_labels
from catalogpose.humandiffusion.phrases import split_prompt
from catalogpose.records import GROUP_OF, LABEL_ID, LABELS, SIDES_OF, Description, Row


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the regions of a row's map shall be. Where a label is in both, the source goes first."""

    phrases: Mapping[int, str]
    """By label id of the map: what words say of it."""
    kept: frozenset[int]
    """Label ids whose regions the source gives, where it shows them; empty without a source."""


class WishError(ValueError):
    """A wish that the map cannot fulfil."""

    def __init__(self, column: str, reason: str) -> None:
        """Name the manifest's column and what to do."""
        super().__init__(reason)
        self.column, self.reason = column, reason


def find_wanted(asked: Description, there: Collection[str], *, has_source: bool) -> Wanted:
    """Decide what the regions of a map shall be.

    Args:
        asked: What the row asks for.
        there: Names of the labels that the map holds.
        has_source: Whether the row has a source to keep regions of.

    Raises:
        WishError: If words or `keep` speak of a label that the map does not hold, the map holds one
            that the words deny, or nothing says what anything shall be.
    """
    phrases = _find_phrases(asked, there)
    if not phrases and not has_source:
        raise WishError(
            "prompt",
            f"{shown(asked.prompt)} speaks of nothing that can be worn; name a garment of the map, "
            "such as `a red tartan skirt`",
        )
    if not has_source:
        return Wanted(phrases=phrases, kept=frozenset())
    if asked.keep is None:
        kept = {name for name in there if LABEL_ID[name] not in phrases}
    else:
        strange = next((name for name in asked.keep if not _speaks_of(name, there)), None)
        if strange is not None:
            raise WishError("keep", f"{strange} is not in the map; draw it there, or leave it out")
        kept = {name for one in asked.keep for name in (one, *SIDES_OF.get(one, ()))}
    # The source's map may have other sides than the row's: what is an arm here is a left arm there.
    # It is kept with its like, unless words speak of some of them.
    spoken = {GROUP_OF[LABELS[label]] for label in phrases if LABELS[label] not in kept}
    groups = {GROUP_OF[name] for name in kept} - spoken
    sources = {n for n in LABELS[1:] if n in kept or (n not in there and GROUP_OF[n] in groups)}
    return Wanted(phrases=phrases, kept=frozenset(LABEL_ID[name] for name in sources))


def check_descriptions(rows: Iterable[Row]) -> tuple[int | None, list[str]]:
    """Hold what text-driven rows ask for against their maps.

    The rows come from a manifest that was checked, so that the maps can be read.

    Returns:
        The number of the first text-driven row, None where there is none; and a line for each wish
        that cannot be fulfilled.
    """
    labels_of = lru_cache(65_536)(read_map_labels)
    first: int | None = None
    faults: list[str] = []
    for row in rows:
        asked = row.description
        if asked is None:
            continue
        first = first or row.number
        try:
            there = labels_of(asked.pose_map, asked.label_set)
            find_wanted(asked, there, has_source=row.source is not None)
        except WishError as error:
            faults.append(f"row {row.number}, column {error.column}: {error.reason}")
    return first, faults


def _find_phrases(asked: Description, there: Collection[str]) -> dict[int, str]:
    """Return what words say of each label of the map, by id."""
    split = split_prompt(asked.prompt)
    found: dict[int, str] = {}
    for phrase in split.phrases:
        names = _speaks_of(phrase.label, there)
        if not names and not _speaks_of(phrase.label, asked.region_prompts):
            raise WishError(
                "prompt",
                f"{shown(phrase.text)} speaks of {phrase.label}, which the map does not hold; draw "
                "it there, or leave the words out",
            )
        found.update((LABEL_ID[name], phrase.text) for name in names)
    # What speaks of all sides first, so that a side's own phrase goes before it.
    own = sorted(asked.region_prompts.items(), key=lambda one: one[0] not in SIDES_OF)
    for name, text in own:
        names = _speaks_of(name, there)
        if not names:
            raise WishError(
                "region_prompts",
                f"{name} is not in the map; draw it there, or leave the phrase out",
            )
        found.update((LABEL_ID[one], text) for one in names)
    for label in split.absent:
        names = [name for name in _speaks_of(label, there) if LABEL_ID[name] not in found]
        if names:
            raise WishError(
                "prompt",
                f"it says that there is no {label}, but the map holds {names[0]}; erase it there, "
                "or leave the words out",
            )
    return found


def _speaks_of(name: str, there: Collection[str]) -> list[str]:
    """Return which labels of a map a label of words speaks of: itself, or all its sides."""
    return [one for one in LABELS if one in there and one in (name, *SIDES_OF.get(name, ()))]
