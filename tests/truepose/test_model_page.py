import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from catalogpose.errors import UsageError
from catalogpose.truepose.model import ModelCard
from catalogpose.truepose.model_page import END, make_model_page, write_model_page
from catalogpose.truepose.parts import Part

CARD = ModelCard(
    name="trial",
    height=64,
    width=48,
    licence="Apache-2.0",
    training={"data": "ten drawings", "hours": {"unet": 3}, "seed": 7},
)
PART = Part(name="unet", parameters=1234567, bytes=2_500_000, kinds=("F16",))


def front_matter(**changes: Any) -> dict[str, Any]:
    """Return what the hub reads of the card with changed fields."""
    page = make_model_page(dataclasses.replace(CARD, **changes), (PART,), {}, (1024, 704))
    _, text, _ = page.split("---\n", 2)
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def test_the_hub_can_file_it() -> None:
    """Library, task and licence stand in the front matter; what the card lacks does not."""
    found = front_matter()
    assert found.pop("tags")[:2] == ["catalogpose", "truepose"]
    assert found == {
        "library_name": "diffusers",
        "license": "apache-2.0",
        "pipeline_tag": "image-to-image",
    }


def test_data_and_base_are_filed_too() -> None:
    """Hub ids of data sets and of the weights it started from are passed on, one or several."""
    training = {"data": "d", "datasets": ["team/a", "team/b"], "base_model": "team/sd"}
    found = front_matter(training=training)
    assert (found["datasets"], found["base_model"]) == (["team/a", "team/b"], ["team/sd"])


def test_a_folder_is_no_base_on_the_hub() -> None:
    """What only one machine knows is not passed on; hub ids beside it are."""
    found = front_matter(training={"data": "d", "base_model": ["/home/me/sd", "team/sd"]})
    assert found["base_model"] == ["team/sd"]
    assert "base_model" not in front_matter(training={"data": "d", "base_model": "/home/sd"})


def test_an_unknown_licence_keeps_its_name() -> None:
    """The hub knows some licences; another is `other` with its name beside it."""
    found = front_matter(licence="Research only, v2")
    assert (found["license"], found["license_name"]) == ("other", "research-only-v2")


def test_the_page_says_what_people_ask() -> None:
    """Five sections, with canvas, parameters, the card's training and its licence."""
    page = make_model_page(CARD, (PART,), {"fusion": "hpfa+caa"}, (1024, 704))
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## What it is",
        "## What it is not",
        "## Training data and licence",
        "## How to use it",
        "## How it was measured",
    ]
    for words in (
        "# trial", "64 x 48", "pictures: 1024 x 704", "finer than 1024 x 704 pixels",
        "| `unet` | 1,234,567 | 2.5 |", "fusion hpfa+caa",
        "- data: ten drawings", "- hours:\n  - unet: 3", "- seed: 7",
        "- licence of the weights: Apache-2.0", "carries no `parser/` and no `clip/`",
    ):  # fmt: skip
        assert words in page


def test_figures_are_the_cards_or_none() -> None:
    """Measured figures are shown once, in their section; without any the page says so."""
    assert "records no figures" in make_model_page(CARD, (PART,), {}, (1024, 704))
    card = dataclasses.replace(CARD, training={"data": "d", "measured": {"psnr": 19.5}})
    page = make_model_page(card, (PART,), {}, (1024, 704))
    assert "records no figures" not in page
    assert page.count("- psnr: 19.5") == 1
    assert page.index("## How it was measured") < page.index("- psnr: 19.5")


def test_words_of_the_card_stay_one_line() -> None:
    """A line feed or a tag in the card cannot make a heading or HTML of it."""
    card = dataclasses.replace(CARD, training={"data": "a\n## b <script>"})
    page = make_model_page(card, (PART,), {}, (1024, 704))
    assert "- data: a ## b &lt;script>" in page.splitlines()


def test_a_page_is_renewed_and_own_words_stay(tmp_path: Path) -> None:
    """Writing again changes our part alone."""
    path = write_model_page(tmp_path, CARD)
    assert write_model_page(tmp_path, CARD).read_text("utf-8").endswith(f"{END}\n")
    path.write_text(path.read_text("utf-8") + "\nMy own words.\n", "utf-8")
    write_model_page(tmp_path, dataclasses.replace(CARD, name="renamed"))
    text = path.read_text("utf-8")
    assert "# renamed" in text
    assert "# trial" not in text
    assert text.endswith(f"{END}\n\nMy own words.\n")


def test_a_foreign_page_is_left_alone(tmp_path: Path) -> None:
    """A page that somebody wrote is not overwritten; the message says what to do."""
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UsageError, match="move it away"):
        write_model_page(tmp_path, CARD)
    assert (tmp_path / "README.md").read_text() == "mine"
