from pathlib import Path

import numpy as np
import pytest

from catalogpose.catalog.labels import write_parsing_map
from catalogpose.humandiffusion.wanted import WishError, check_descriptions, find_wanted
from catalogpose.records import LABEL_ID, Description, Row

THERE = ("hair", "face", "coat", "pants", "left-arm", "left-shoe", "right-shoe")


def asked(prompt: str, **more: object) -> Description:
    """Return what a row asks for over a map that nobody opens."""
    return Description(prompt=prompt, pose_map=Path("map.png"), label_set="common", **more)  # type: ignore[arg-type]


def ids(*names: str) -> frozenset[int]:
    """Return the ids of labels."""
    return frozenset(LABEL_ID[name] for name in names)


def test_words_fill_what_they_speak_of_and_the_source_the_rest() -> None:
    """Shoes are both shoes; face, hair, skin and garments without words are kept by default."""
    found = find_wanted(asked("a red coat and white sneakers"), THERE, has_source=True)
    assert found.phrases == {
        LABEL_ID["coat"]: "a red coat",
        LABEL_ID["left-shoe"]: "white sneakers",
        LABEL_ID["right-shoe"]: "white sneakers",
    }
    skin = ("torso-skin", "left-arm", "right-arm", "arm", "left-leg", "right-leg", "leg", "skin")
    assert found.kept == ids("hair", "face", "pants", *skin)
    # Where words speak of one side, the other stays; what the map tells not apart does not.
    tattoo = asked("a red coat", region_prompts={"left-shoe": "a green boot"})
    found = find_wanted(tattoo, THERE, has_source=True)
    assert found.kept >= ids("right-shoe")
    assert not found.kept & ids("left-shoe", "shoe")


def test_nobody_is_kept_without_a_source() -> None:
    """What words do not speak of is left to the model."""
    found = find_wanted(asked("a red coat"), THERE, has_source=False)
    assert (set(found.phrases), found.kept) == ({LABEL_ID["coat"]}, frozenset())


def test_what_is_to_be_kept_goes_before_words() -> None:
    """`keep` replaces the default, and a label in both comes from the source where it shows it."""
    found = find_wanted(asked("a red coat", keep=("coat", "left-shoe")), THERE, has_source=True)
    assert found.kept == ids("coat", "left-shoe", "shoe")
    assert found.phrases == {LABEL_ID["coat"]: "a red coat"}
    one = asked("a coat", keep=("left-shoe",), region_prompts={"right-shoe": "a green boot"})
    found = find_wanted(one, THERE, has_source=True)
    assert found.kept == ids("left-shoe")
    assert found.phrases[LABEL_ID["right-shoe"]] == "a green boot"


def test_a_regions_own_phrase_goes_before_the_sentence() -> None:
    """It may stand for one side alone, and for what the sentence leaves out."""
    own = {"left-shoe": "a green boot", "pants": "blue jeans"}
    found = find_wanted(asked("white sneakers", region_prompts=own), THERE, has_source=False)
    assert found.phrases == {
        LABEL_ID["right-shoe"]: "white sneakers",
        LABEL_ID["left-shoe"]: "a green boot",
        LABEL_ID["pants"]: "blue jeans",
    }
    both = {"shoe": "a clog", "left-shoe": "a green boot"}
    for given in (both, dict(reversed(both.items()))):
        found = find_wanted(asked("a coat", region_prompts=given), THERE, has_source=False)
        assert found.phrases[LABEL_ID["left-shoe"]] == "a green boot"
        assert found.phrases[LABEL_ID["right-shoe"]] == "a clog"
    # A phrase of its own may also be what the sentence says of a label that is not there.
    both = asked("a shoe", region_prompts={"shoe": "a green boot"})
    assert set(find_wanted(both, ("left-shoe",), has_source=False).phrases) == ids("left-shoe")


@pytest.mark.parametrize(
    ("wish", "has_source", "column", "reason"),
    [
        (
            asked("a red coat and a blue skirt"),
            False,
            "prompt",
            "a blue skirt speaks of skirt, which the map does not hold; draw it there, or leave "
            "the words out",
        ),
        (
            asked("a red coat", region_prompts={"hat": "a beret"}),
            False,
            "region_prompts",
            "hat is not in the map; draw it there, or leave the phrase out",
        ),
        (
            asked("a red coat", keep=("face", "hat")),
            True,
            "keep",
            "hat is not in the map; draw it there, or leave it out",
        ),
        (
            asked("a red coat without shoes"),
            False,
            "prompt",
            "it says that there is no shoe, but the map holds left-shoe; erase it there, or leave "
            "the words out",
        ),
        (
            asked("something nice"),
            False,
            "prompt",
            "something nice speaks of nothing that can be worn; name a garment of the map, such as "
            "`a red tartan skirt`",
        ),
    ],
)
def test_wishes_that_a_map_cannot_fulfil(
    wish: Description, has_source: bool, column: str, reason: str
) -> None:
    """Each names the column and the remedy."""
    with pytest.raises(WishError) as caught:
        find_wanted(wish, THERE, has_source=has_source)
    assert (caught.value.column, caught.value.reason) == (column, reason)


def test_rows_are_held_against_their_maps(tmp_path: Path) -> None:
    """The first text-driven row is named, and a line for each fault; other rows do not count."""
    labels = np.full((8, 8), LABEL_ID["skirt"], dtype=np.uint8)
    write_parsing_map(tmp_path / "map.png", labels)

    def row(number: int, prompt: str | None) -> Row:
        described = (
            None
            if prompt is None
            else Description(prompt=prompt, pose_map=tmp_path / "map.png", label_set="common")
        )
        return Row(number=number, id=str(number), source=None, pose=None, description=described)

    rows = [row(1, None), row(2, "a red skirt"), row(3, "a red hat")]
    first, faults = check_descriptions(rows)
    assert first == 2
    assert faults == [
        "row 3, column prompt: a red hat speaks of hat, which the map does not hold; draw it "
        "there, or leave the words out"
    ]
    assert check_descriptions(rows[:1]) == (None, [])
