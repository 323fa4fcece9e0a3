"""A product in other patterns, as line-ups of patterns show it."""

import dataclasses
import importlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from catalogpose.studio import make_product, make_scene

SIZE = (128, 88)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the benchmarks be imported."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "benchmarks")


@pytest.fixture
def script(folder: None) -> ModuleType:
    """Return the benchmark's module of cloths."""
    return importlib.import_module("rewoven")


def test_a_photo_s_name_says_what_it_shows(script: ModuleType) -> None:
    """Product and view are read from the name; another photo's cloth is not known."""
    product, view = script.read_view(Path("photos/studio-2000004-view3.png"))
    assert (product, view) == (make_product(2000004), 3)
    with pytest.raises(SystemExit, match=r"dress\.png is no photo of `catalogpose studio`"):
        script.read_view(Path("dress.png"))


def test_other_cloths_have_the_same_colours(script: ModuleType) -> None:
    """Patterns become other patterns, shapes other shapes and words other words, each once, the
    colours as they were; and only the garment in question is another.
    """
    rng, kinds = np.random.default_rng(0), set()
    for number in range(2000000, 2000060):
        product = make_product(number)
        for garment in product.outfit:
            kind = script.kind_of(garment.cloth)
            if not kind:
                continue
            kinds.add(kind)
            others = script.reweave(garment.cloth, 5, rng)
            assert len({garment.cloth, *others}) == 6
            assert {script.kind_of(other) for other in others} == {kind}
            ground, figure, detail = garment.cloth.colours
            # A third colour that the cloth does not show would tell a pattern that shows it.
            if kind == "pattern" and len(garment.cloth.names) == 2:
                detail = figure
            assert {other.colours for other in others} == {(ground, figure, detail)}
            if kind == "word":
                marks = [cloth.front for cloth in (garment.cloth, *others)]
                wide = [mark.size / len(mark.word) for mark in marks]
                assert max(wide) - min(wide) < 1e-6
            worn = script.wear(product, garment, others[0])
            kept = [new for old, new in zip(product.outfit, worn.outfit, strict=True) if old == new]
            assert len(kept) == len(product.outfit) - 1
    assert kinds == {"pattern", "print", "word"}


def _first_printed(script: ModuleType) -> int:
    """Return the first product of the test split with a print on a chest and no other pattern."""
    for number in range(2000000, 2001000):
        kinds = [script.kind_of(garment.cloth) for garment in make_product(number).outfit]
        bare = not any(garment.slot == "coat" for garment in make_product(number).outfit)
        if bare and sorted(kinds)[-1] == "print" and sum(map(bool, kinds)) == 1:
            return number
    raise AssertionError("no such product")


def test_what_shows_in_both_views_is_asked_about(script: ModuleType) -> None:
    """A print on a chest is asked about between two views of the front, and not where the other
    view shows the back; a product without any is not asked about.
    """
    product = make_product(_first_printed(script))
    views = sorted(range(60), key=lambda view: abs(make_scene(product.id, view).yaw))
    front, other, back = views[0], views[1], views[-1]
    chosen = script.most_shown(product, (front, other), SIZE)
    assert chosen is not None
    assert script.kind_of(chosen.cloth) == "print"
    assert script.most_shown(product, (front, back), SIZE) is None
    plain = dataclasses.replace(chosen.cloth, front=None)
    assert script.most_shown(script.wear(product, chosen, plain), (front, other), SIZE) is None


def test_a_print_comes_before_a_pattern(script: ModuleType) -> None:
    """Where a print and a larger pattern show, the print is asked about: letters and logos are
    rare.
    """
    product = make_product(_first_printed(script))
    views = sorted(range(60), key=lambda view: abs(make_scene(product.id, view).yaw))[:2]
    (below,) = (g for g in product.outfit if g.slot in ("bottom", "skirt"))
    woven = dataclasses.replace(
        below.cloth,
        pattern="checks",
        names=("white", "black"),
        colours=((250.0,) * 3, (5.0,) * 3, (5.0,) * 3),
    )
    both = script.wear(product, below, woven)
    assert script.kind_of(script.most_shown(both, tuple(views), SIZE).cloth) == "print"
    printed = script.most_shown(both, tuple(views), SIZE)
    plain = dataclasses.replace(printed.cloth, front=None)
    other = script.most_shown(script.wear(both, printed, plain), tuple(views), SIZE)
    assert script.kind_of(other.cloth) == "pattern"


def test_a_line_of_patterns_has_its_own_where_the_key_says(
    folder: None, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of six pictures the one that is the source's is at the key's number, the others differ from
    it in cloth alone; the row is counted with its kind and its sides.
    """
    lineup = importlib.import_module("lineup")
    number = _first_printed(script)
    views = sorted(range(20), key=lambda view: abs(make_scene(number, view).yaw))
    names = [f"photos/studio-{number}-view{view}.png" for view in views[:2]]
    rows = pd.DataFrame({"source": names[:1], "target": names[1:], "status": "done"})
    monkeypatch.setattr(lineup, "pd", SimpleNamespace(read_parquet=lambda path: rows))
    target = script.view_of(make_product(number), views[1], SIZE)
    parser = SimpleNamespace(label_set="common", parse=lambda picture: target.labels)
    pictures = lineup.Pictures([target.photo], [target.photo], [target.labels], parser)
    (line,) = lineup.lines_of_patterns(tmp_path, pictures, rng=np.random.default_rng(4))
    assert line.groups == ["print", "front to front"]
    source = script.view_of(make_product(number), views[0], SIZE)
    shown = lineup.show_part(source.photo, source.labels, lineup.KINDS["clothes"])
    assert [choice.tobytes() == shown.tobytes() for choice in line.choices].index(True) == line.own
    assert len({choice.tobytes() for choice in line.choices}) == 6
    changed = [np.abs(np.asarray(c, int) - np.asarray(shown, int)).max(2) for c in line.choices]
    assert max((difference > 0).mean() for difference in changed) < 0.2
    assert 0 <= line.by_colour < 6


def test_mean_colour_alone_may_tell_a_pattern(folder: None, tmp_path: Path) -> None:
    """Beside a reader stands how many rows the mean colour of the garment tells, if it was asked;
    the mean is over the mask, 0 where that is empty.
    """
    lineup = importlib.import_module("lineup")
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    there = np.array([[True, False], [True, False]])
    assert lineup.mean_colour(picture, there).tolist() == [3, 4, 5]
    assert lineup.mean_colour(picture, there & False).tolist() == [0, 0, 0]
    answers = [
        {"row": n, "number": 2, "groups": ["pattern"], "by_colour": 2 if n < 3 else 1}
        for n in range(8)
    ]
    key, given = tmp_path / "key.json", tmp_path / "given.csv"
    given.write_text("".join(f"{n},2\n" for n in range(7)))
    key.write_text(json.dumps({"answers": answers}))
    found = lineup.count_right(key, given)
    assert found["by mean colour alone"] == "3 of 8"
    assert found["pattern"].startswith("7 of 8 ")
    del answers[0]["by_colour"]
    key.write_text(json.dumps({"answers": answers}))
    assert set(lineup.count_right(key, given)) == {"all", "pattern"}


@pytest.mark.parametrize(
    ("yaw", "side"), [(0, "front"), (-60, "front"), (90, "side"), (-120, "back"), (180, "back")]
)
def test_a_turn_shows_a_side(folder: None, yaw: float, side: str) -> None:
    """A body turned by up to 65 degrees shows its front, by 115 or more its back."""
    assert importlib.import_module("lineup").side_of(yaw) == side
