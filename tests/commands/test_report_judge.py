"""What a judge sees, with eyes whose every answer is known: a vector a colour, a map a picture."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from catalogpose.commands.report_judge import ModelJudge
from catalogpose.quality.run_folder import Asked, Cloth
from catalogpose.records import LABEL_ID

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def vector_of(colour: np.ndarray) -> np.ndarray:
    """Return the unit vector of a colour."""
    return (colour / max(1e-9, float(np.linalg.norm(colour)))).astype(np.float32)


class Eyes:
    """A CLIP that sees nothing but the mean colour, and reads nothing but the first colour word."""

    def embed(self, picture: np.ndarray, boxes: Sequence[tuple[int, int, int, int]]) -> np.ndarray:
        """Return a vector a rectangle."""
        means = [picture[t:b, left:r].mean(axis=(0, 1)) for left, t, r, b in boxes]
        return np.stack([vector_of(mean) for mean in means]) if means else np.zeros((0, 3))

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return a vector a phrase; of no known colour, that of grey."""
        named = [next((c for w, c in COLOURS.items() if w in t), (1, 1, 1)) for t in texts]
        return np.stack([vector_of(np.array(c)) for c in named]) if named else np.zeros((0, 3))


class Maps:
    """A parser that finds a coat above a skirt, and counts how often it looks."""

    label_set = "common"

    def __init__(self) -> None:
        """Begin at nothing."""
        self.looks = 0

    def parse(self, picture: np.ndarray) -> np.ndarray:
        """Return that map."""
        self.looks += 1
        labels = np.zeros(picture.shape[:2], dtype=np.uint8)
        labels[:20], labels[20:] = LABEL_ID["coat"], LABEL_ID["skirt"]
        return labels


def paint(coat: str, skirt: str) -> np.ndarray:
    """Return a picture of two colours."""
    picture = np.zeros((40, 20, 3), dtype=np.uint8)
    picture[:20], picture[20:] = COLOURS[coat], COLOURS[skirt]
    return picture


def asked(**more: Any) -> Asked:
    """Return a row that asks for a red coat, informed by photos `one` and `two`, and keeps a skirt;
    the arguments replace some of it.
    """
    cloth = [Cloth(picture=name, box=(0, 0, 20, 20)) for name in ("one", "two", "gone")]
    plain: dict[str, Any] = {
        "prompt": "a red coat", "pose_map": Path("map.png"), "label_set": "common",
        "phrases": {"coat": "a red coat"}, "cloth": {"coat": cloth}, "kept": frozenset({"skirt"}),
    }  # fmt: skip
    return Asked(**{**plain, **more})


@pytest.fixture
def shop(tmp_path: Path) -> SimpleNamespace:
    """Return a judge who knows two photos, a red coat and a green one, and its parser."""
    for name, colour in (("one", "red"), ("two", "green")):
        Image.fromarray(paint(colour, "blue")).save(tmp_path / f"{name}.png")
    photos = {name: tmp_path / f"{name}.png" for name in ("one", "two", "gone")}
    maps = Maps()
    return SimpleNamespace(judge=ModelJudge(Eyes(), maps, photos), maps=maps)


def test_retrieval_is_checked_against_the_words(shop: SimpleNamespace) -> None:
    """Of a red and a green coat one fits; a photo that is gone does not count; beside it stands
    what the judge says of the true picture's own coat.
    """
    assert shop.judge.cloth_gone() == (0, 0)
    assert shop.judge.check_cloth(asked(), None) == 0.5
    assert shop.judge.cloth_gone() == (1, 3)
    assert shop.judge.check_cloth(asked(), paint("red", "blue")) == 1
    assert shop.judge.check_cloth(asked(), paint("blue", "blue")) == 0
    assert shop.judge.check_cloth(asked(cloth={}), None) is None
    assert shop.judge.check_cloth(asked(cloth={}), paint("red", "blue")) is None


def test_copies_are_near_what_informed_them(shop: SimpleNamespace) -> None:
    """The nearest remembered region counts: 1 for its own colour, 0 for one at right angles."""
    for coat, near in (("red", 1), ("green", 1), ("blue", 0)):
        found = shop.judge.compare(paint(coat, "blue"), asked(), None)
        assert found["copy_similarity"] == pytest.approx(near)
        assert found["kept_identity"] is None
    assert shop.judge.compare(paint("red", "red"), asked(cloth={}), None)["copy_similarity"] is None


def test_kept_regions_are_compared_with_the_source(shop: SimpleNamespace) -> None:
    """A skirt that kept its colour scores 1, another 0, and a row that keeps nothing has none; the
    worded coat plays no part.
    """
    source = paint("green", "blue")
    for skirt, identity in (("blue", 1), ("red", 0)):
        found = shop.judge.compare(paint("red", skirt), asked(), source)
        assert found["kept_identity"] == pytest.approx(identity)
    nothing = shop.judge.compare(paint("red", "blue"), asked(kept=frozenset()), source)
    assert nothing["kept_identity"] is None


def test_a_picture_is_looked_at_once_a_row(shop: SimpleNamespace) -> None:
    """Output, source and truth are parsed once each, whatever is asked of them."""
    output, source, truth = paint("red", "blue"), paint("red", "blue"), paint("red", "red")
    for picture in (output, truth):
        shop.judge.parse(picture)
        shop.judge.score(picture, asked().phrases)
        shop.judge.compare(picture, asked(), source)
    shop.judge.check_cloth(asked(), truth)
    assert shop.maps.looks == 3
    assert shop.judge.score(output, asked().phrases)["colour_accuracy"] == 1
