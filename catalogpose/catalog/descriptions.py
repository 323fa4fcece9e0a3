"""Cells of text-driven rows: what to keep, what a region shall be, what not to look at, and the map
that says where.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from catalogpose.catalog.labels import read_parsing_map
from catalogpose.errors import RowError
from catalogpose.records import LABEL_ID, LABELS


def split_labels(text: str) -> tuple[str, ...]:
    """Return the names of `LABELS` in a cell, separated by commas, each once.

    Raises:
        ValueError: With the reason where a word is none, or is the background.
    """
    names = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for name in names:
        _need_label(name)
    return names


def split_products(text: str) -> tuple[str, ...]:
    """Return the product ids in a cell: separated by commas, or a JSON list where one has commas.

    Raises:
        ValueError: With the reason where it begins like a list and is none.
    """
    if not text.lstrip().startswith("["):
        return tuple(word.strip() for word in text.split(",") if word.strip())
    ids = _read_json(text)
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise ValueError('not a JSON list of texts, such as ["shirt-7", "suit-3"]')
    return tuple(ids)


def split_region_prompts(text: str) -> dict[str, str]:
    """Return the phrase of each label in a cell, a JSON object of texts.

    Raises:
        ValueError: With the reason where it is none, or names an unknown label.
    """
    found = _read_json(text)
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise ValueError('not a JSON object of texts, such as {"skirt": "a red tartan skirt"}')
    for name, phrase in found.items():
        _need_label(name)
        if not phrase.strip():
            raise ValueError(f"the phrase for {name} is empty; leave the label out")
    return found


def read_map_labels(path: Path, label_set: str) -> frozenset[str]:
    """Return the names of the labels that a map holds, background left out.

    Raises:
        RowError: Of stage `parsing`, as `labels.read_parsing_map` does.
    """
    return frozenset(LABELS[label] for label in np.unique(read_parsing_map(path, label_set))) - {
        LABELS[0]
    }


def map_fault(path: Path, label_set: str) -> str | None:
    """Say why a map cannot be read, or shows nobody; None where neither is so."""
    try:
        labels = read_map_labels(path, label_set)
    except RowError as error:
        return error.message
    return None if labels else f"map {path.name!r} holds the background alone; draw a person"


def _need_label(name: str) -> None:
    """Raise ValueError unless this is a label of the common vocabulary, not the background."""
    if not LABEL_ID.get(name):
        raise ValueError(f"unknown label {name!r}; known: {', '.join(LABELS[1:])}")


def _read_json(text: str) -> object:
    """Return what JSON says; ValueError with a short reason where it is none."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
