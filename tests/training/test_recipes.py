"""The recipes: what the paper says of its training is what the shipped files say."""

import json
from pathlib import Path

import pytest

from catalogpose.errors import UsageError
from catalogpose.training.objective import Objective
from catalogpose.training.recipes import FOLDER, PhotoRecipe, Recipe, load_recipe
from catalogpose.training.schedule import Schedule

PAIRS = 101_966
"""Training pairs of DeepFashion."""


@pytest.mark.parametrize(
    ("name", "size", "batch", "steps"),
    [("truepose-512", (512, 352), 12, 424_859), ("truepose-256", (256, 176), 60, 84_972)],
)
def test_the_paper_s_numbers(name: str, size: tuple[int, int], batch: int, steps: int) -> None:
    """Sizes, 50 epochs of AdamW at a constant 1e-5, 30 % dropout, K = 2, 35 steps, guidance 3.5."""
    recipe = load_recipe(name)
    assert isinstance(recipe, PhotoRecipe)
    options = recipe.truepose
    schedule = Schedule(**options["schedule"]).over(PAIRS)
    assert ((recipe.height, recipe.width), schedule.batch, schedule.steps) == (size, batch, steps)
    assert {schedule.rate(step) for step in (0, 1, steps // 2, steps - 1)} == {1e-5}
    assert Objective(**options["objective"]) == Objective(condition_dropout=0.3)
    net = options["net"]
    assert (net["delta"], net["sigma"], net["region_count"]) == (0.6, 0.3, 2)
    assert options["scheduler"]["prediction_type"] == "epsilon"
    assert (options["steps"], options["guidance"]) == (35, 3.5)


def test_every_shipped_recipe_loads() -> None:
    """Each file is one of the two kinds."""
    kinds = {path.stem: type(load_recipe(path.stem)) for path in FOLDER.glob("*.json")}
    assert kinds["bundled"] is Recipe
    assert set(kinds.values()) == {Recipe, PhotoRecipe}


def test_a_recipe_that_lacks_something_is_refused(tmp_path: Path) -> None:
    """The error names the file, the section and what it lacks."""
    values = json.loads((FOLDER / "truepose-512.json").read_text(encoding="utf-8"))
    del values["truepose"]["scheduler"]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(UsageError, match=r"mine\.json is not a recipe: truepose lacks scheduler"):
        load_recipe(str(path))
