"""Sentences become phrases: by hand-written examples and by every wording that the studio knows."""

import json
from pathlib import Path

import pytest

from catalogpose.humandiffusion.lexicon import garment_nouns
from catalogpose.humandiffusion.phrases import split_prompt
from catalogpose.records import LABELS
from catalogpose.studio import SPLITS, make_product
from catalogpose.studio.captions import describe, name_garment, name_hair

SENTENCES = json.loads(Path(__file__).with_name("sentences.json").read_text(encoding="utf-8"))
"""Sentence, its phrases by label and, where there are any, the labels it says are absent."""

PRODUCTS = 160
"""Products of the test split whose captions are split; their outfits are in no other split."""


@pytest.mark.parametrize("example", SENTENCES, ids=lambda example: example[0][:40])
def test_free_words_become_phrases(example: list) -> None:
    """Each garment has its own words, whatever the sentence's shape; nothing else has any."""
    sentence, wanted, *absent = example
    split = split_prompt(sentence)
    assert {phrase.label: phrase.text for phrase in split.phrases} == wanted
    assert split.absent == tuple(absent[0] if absent else ())
    for phrase in split.phrases:
        assert sentence[phrase.start : phrase.end].startswith(phrase.text.split(", ")[0])
        assert set(phrase.labels) <= set(LABELS)


@pytest.mark.parametrize("first", range(0, PRODUCTS, 40))
def test_captions_of_the_studio_come_apart_again(first: int) -> None:
    """A caption made of known phrases gives back these very phrases, for 160 held-out outfits."""
    for number in range(first, first + 40):
        product = make_product(SPLITS["test"].start + number)
        person, outfit = product.person, product.outfit
        split = split_prompt(describe(person, outfit, yaw=0.0))
        found = {phrase.label: phrase.text for phrase in split.phrases}
        wanted = {garment.label: name_garment(garment) for garment in outfit}
        wanted |= {"hair": name_hair(person), "skin": f"{person.skin} skin"}
        assert {label: text.split(", ")[0] for label, text in found.items()} == {
            label: text.split(" in a ")[0] if label == "hair" else text
            for label, text in wanted.items()
        }, describe(person, outfit, yaw=0.0)


def test_every_noun_is_found_alone() -> None:
    """Each noun of the lexicon means its label, in the singular and in a clause."""
    for label, nouns in garment_nouns().items():
        for noun in nouns:
            assert label in {p.label for p in split_prompt(f"with a red {noun}").phrases}, noun
