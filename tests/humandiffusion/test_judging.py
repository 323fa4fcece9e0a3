import numpy as np
import pytest

from catalogpose.humandiffusion.judging import (
    CHOICES,
    Attributes,
    Trial,
    attributes_of,
    judge,
    make_trials,
)


@pytest.mark.parametrize(
    ("phrase", "colour", "pattern", "kind"),
    [
        ("a navy short-sleeved shirt with white checks", "navy", "checks", "pattern_nouns"),
        (
            "a brown jumpsuit with pink vertical stripes",
            "brown",
            "vertical stripes",
            "pattern_nouns",
        ),
        ("a Red tartan skirt", "red", "tartan", "pattern_adjectives"),
        ("off-white boots", "off-white", None, None),
        ("a skirt", None, None, None),
        ("a tanned leather bag", None, None, None),
    ],
)
def test_the_first_colour_and_pattern_count(
    phrase: str, colour: str | None, pattern: str | None, kind: str | None
) -> None:
    """Of two that begin together the longer; a part of a word is none."""
    assert attributes_of(phrase) == Attributes(colour=colour, pattern=pattern, kind=kind)


def test_negatives_differ_in_one_attribute_or_are_anothers() -> None:
    """Other colours keep the pattern, other patterns the colour; a swap takes both of a neighbour;
    stripes are no mistake for vertical stripes.
    """
    top, skirt, shoes = make_trials(
        {1: "a navy top with white vertical stripes", 2: "an orange skirt with black dots",
         3: "olive boots"}
    )  # fmt: skip
    assert "an orange top with white vertical stripes" in top.colours
    assert "a navy top with white checks" in top.patterns
    assert "a navy top with white stripes" not in top.patterns
    assert set(top.swaps) == {
        "an orange top with white dots", "an olive top with white vertical stripes",
    }  # fmt: skip
    assert shoes.patterns == ()
    assert set(shoes.swaps) == {"navy boots", "orange boots"}
    for trial in (top, skirt):
        assert len(trial.negatives) == len(set(trial.negatives)) == CHOICES - 1
        assert trial.phrase not in trial.negatives
    again = make_trials({1: "a navy top with white vertical stripes"})[0]
    assert (
        again.negatives == make_trials({1: "a navy top with white vertical stripes"})[0].negatives
    )
    assert make_trials({1: "a skirt", 2: "a coat"}) == []
    (gray,) = make_trials({1: "a gray coat"})
    assert "a grey coat" not in gray.colours
    (light,) = make_trials({1: "a light blue coat"})
    assert "a blue coat" not in light.colours


def test_a_judge_answers_by_its_embeddings() -> None:
    """Known vectors: right where the phrase is nearest, wrong where another one is."""
    trial = Trial(
        label=1, phrase="a red top", colours=("a blue top",), patterns=(), swaps=("a green top",)
    )
    texts = {
        "a red top": np.array([1.0, 0.0], dtype=np.float32),
        "a blue top": np.array([0.0, 1.0], dtype=np.float32),
        "a green top": np.array([0.8, 0.6], dtype=np.float32),
    }
    right = judge(trial, np.array([1.0, 0.0], dtype=np.float32), texts)
    assert (right.hit, right.colour, right.pattern, right.bound) == (True, True, None, (True,))
    swapped = judge(trial, np.array([0.8, 0.6], dtype=np.float32), texts)
    assert (swapped.hit, swapped.colour, swapped.bound) == (False, True, (False,))
    blue = judge(trial, np.array([0.0, 1.0], dtype=np.float32), texts)
    assert (blue.found, blue.hit, blue.colour) == (True, False, False)
    gone = judge(trial, None, texts)
    assert (gone.found, gone.hit, gone.colour, gone.bound) == (False, False, False, (False,))
