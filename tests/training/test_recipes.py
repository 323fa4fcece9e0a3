"""The recipes: what the paper says of its training is what the shipped files say."""

import dataclasses
import json
from pathlib import Path

import pytest

from catalogpose.errors import UsageError
from catalogpose.training.objective import Objective
from catalogpose.training.recipe_checks import check_photo_recipe, check_studio_recipe
from catalogpose.training.recipes import FOLDER, PhotoRecipe, Recipe, TextRecipe, load_recipe
from catalogpose.training.schedule import Schedule
from catalogpose.training.wishes import Mix
from catalogpose.training.words import TextCourse
from catalogpose.truepose.model import BUNDLED

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
    """Each file is one of the three kinds."""
    kinds = {path.stem: type(load_recipe(path.stem)) for path in FOLDER.glob("*.json")}
    assert kinds["bundled"] is Recipe
    assert set(kinds.values()) == {Recipe, PhotoRecipe, TextRecipe}


def test_a_recipe_that_lacks_something_is_refused(tmp_path: Path) -> None:
    """The error names the file, the section and what it lacks."""
    values = json.loads((FOLDER / "truepose-512.json").read_text(encoding="utf-8"))
    del values["truepose"]["scheduler"]
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(UsageError, match=r"mine\.json is not a recipe: truepose lacks scheduler"):
        load_recipe(str(path))


def check(recipe: Recipe | PhotoRecipe | TextRecipe) -> None:
    """Check a recipe of any kind."""
    if isinstance(recipe, PhotoRecipe):
        check_photo_recipe(recipe)
    elif isinstance(recipe, TextRecipe):
        course = TextCourse(recipe=recipe, start=BUNDLED, folder=Path("x"), device="cpu")
        assert course.schedule.steps > 0
        assert course.objective.attention_weight == 1
        assert course.mix == Mix()
    else:
        check_studio_recipe(recipe)


def write_changed(name: str, keys: tuple[str, ...], value: object, path: Path) -> str:
    """Write a shipped recipe with one value changed, and return the file."""
    values = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    place = values
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(values), encoding="utf-8")
    return str(path)


def test_an_option_that_comes_later_stops_no_training() -> None:
    """`fine` is among what decides a training only where it is not 1, so that a folder which was
    begun before there was `fine` goes on.
    """
    recipe = load_recipe("bundled")
    assert isinstance(recipe, Recipe)
    assert recipe.facts == dataclasses.asdict(recipe)
    plain = dataclasses.replace(recipe, fine=1)
    assert recipe.facts == {**plain.facts, "fine": 2}
    assert "fine" not in plain.facts


@pytest.mark.parametrize(
    ("name", "keys", "value", "words"),
    [
        ("truepose-512", ("height",), 500, "height and width must be multiples of 8"),
        ("truepose-512", ("width",), "352", "width must be a whole number, 8 or more"),
        ("truepose-512", ("validation", "every"), 0, "validation: every must be a whole number"),
        ("truepose-512", ("validation", "pairs"), 0, "validation: pairs must be a whole number"),
        ("truepose-512", ("truepose", "steps"), 0, "truepose: steps must be a whole number, 1"),
        ("truepose-512", ("save_minutes",), -1, "save_minutes must be 0 or more"),
        ("truepose-512", ("clip",), "openai", "clip must hold names and values"),
        ("bundled", ("fine",), 0, "fine must be a whole number, 1 or more"),
        ("bundled", ("views",), 0, "views must be a whole number, 1 or more"),
        ("bundled", ("width",), 50, "height and width must be multiples of 8"),
    ],
)
def test_numbers_out_of_range_are_refused(
    name: str, keys: tuple[str, ...], value: object, words: str, tmp_path: Path
) -> None:
    """The error is one line with the file, the name and what it must be."""
    with pytest.raises(UsageError) as error:
        load_recipe(write_changed(name, keys, value, tmp_path / "mine.json"))
    assert f"mine.json is not a recipe: {words}" in str(error.value)
    assert "\n" not in str(error.value)


def matcher(**model: int) -> dict[str, object]:
    """Return a recipe's section of a matcher of these options."""
    return {"model": model, "schedule": {"steps": 2, "batch": 1, "learning_rate": 0.001}}


def test_a_matcher_is_made_of_a_recipe() -> None:
    """A section without faults passes; one view alone cannot teach where to look."""
    recipe = load_recipe("bundled")
    assert isinstance(recipe, Recipe)
    options = {**recipe.truepose, "matcher": matcher(stride=4)}
    made = dataclasses.replace(recipe, truepose=options)
    check(made)
    with pytest.raises(UsageError, match="a matcher needs a source and two views or more"):
        check(dataclasses.replace(made, views=1))
    del options["matcher"]
    with pytest.raises(UsageError, match="carried_weight needs a matcher"):
        check(dataclasses.replace(made, truepose=options))
    options["objective"] = {}
    with pytest.raises(UsageError, match="a compositor needs a matcher"):
        check(dataclasses.replace(made, truepose=options))


@pytest.mark.parametrize(
    ("name", "keys", "value", "words"),
    [
        ("truepose-512", ("net", "fusion"), "mix", "unknown fusion 'mix'; known: hpfa"),
        ("truepose-512", ("net", "sigmas"), 1, "net: unknown sigmas; known: delta, fusion"),
        ("truepose-512", ("pose", "width"), 1, "pose: unknown width; known: strides, widths"),
        ("truepose-512", ("pose", "strides"), [2, 2, 4], "pose: strides must be 3 numbers, each"),
        ("bundled", ("pose", "strides"), [2, 2, 2], "pose: strides must multiply to 4, the VAE's"),
        ("truepose-512", ("pose", "widths"), [8], "pose: widths must be 3 whole numbers"),
        ("truepose-512", ("pose_style",), "grey", "unknown pose_style 'grey'; known: rgb"),
        ("truepose-512", ("scheduler", "beta_shape"), 1, "scheduler: "),
        ("truepose-512", ("scheduler", "beta_schedule"), "steep", "scheduler: "),
        ("truepose-512", ("scheduler", "prediction_type"), "x", "scheduler: prediction_type must"),
        ("truepose-512", ("objective", "noise"), 2, "objective: "),
        ("truepose-512", ("objective", "noises"), "two", "objective: "),
        ("truepose-512", ("objective", "truth_weight"), 1.0, "truth_weight needs studio pictures"),
        ("truepose-512", ("schedule", "batch"), 0, "schedule's batch must be 1 or more"),
        ("bundled", ("fusion",), "mix", "unknown fusion 'mix'; known: hpfa"),
        ("bundled", ("fusion",), "concat", "warm needs HPFA; fusion concat has none"),
        ("bundled", ("unet", "depth"), 3, "unet: unknown depth; known: "),
        ("bundled", ("objective", "noises"), 0, "objective: noises must be 1 or more"),
        ("bundled", ("start", "steps"), 0, "schedule of start: "),
        ("bundled", ("objective", "carried_weight"), 2, "carried_weight must be 0 to 1"),
        ("truepose-512", ("objective", "carried_weight"), 1.0, "carried_weight needs a matcher"),
        ("bundled", ("matcher",), matcher(stride=3), "matcher: stride must be even and divide"),
        ("bundled", ("matcher",), matcher(stride=6), "matcher: stride must be even and divide"),
        ("bundled", ("matcher",), matcher(depth=3), "model of matcher: "),
        ("bundled", ("matcher",), matcher(smoothing=1.5), "model of matcher: smoothing must be a"),
        ("bundled", ("matcher",), {"model": {}}, "schedule of matcher: "),
        ("bundled", ("matcher",), {"net": {}}, "matcher: unknown net; known: head_weight"),
        ("bundled", ("matcher", "head_weight"), 0.5, "matcher: head_weight must be 1 or more"),
        ("bundled", ("compositor", "pool"), 0, "compositor: pool must be 1 or more"),
        ("bundled", ("compositor", "model", "stride"), 3, "compositor: stride must divide height"),
        ("bundled", ("compositor", "model", "depth"), 3, "model of compositor: "),
        ("bundled", ("compositor", "model", "rounds"), 0, "compositor: rounds must be 1 or more"),
        ("bundled", ("compositor", "schedule"), {}, "schedule of compositor: "),
        (
            "bundled",
            ("compositor", "net"),
            {},
            "compositor: unknown net; known: critic, model,",
        ),
        ("bundled", ("compositor", "critic"), {"schedule": {}}, "schedule of critic: "),
        ("bundled", ("compositor", "critic"), 3, "critic: names and values are needed"),
        (
            "bundled",
            ("compositor", "critic", "taste"),
            1,
            "critic: unknown taste; known: objective",
        ),
        ("bundled", ("compositor", "critic", "objective", "error_weight"), -1, "error_weight must"),
        ("bundled", ("compositor", "critic", "schedule", "seed"), 3, "the seed is that of --seed"),
        ("bundled", ("compositor", "schedule", "batch"), 2.5, "batch must be a whole number"),
        (
            "bundled",
            ("start",),
            {"epochs": 2, "batch": 4, "learning_rate": 0.1},
            "steps are needed",
        ),
        ("bundled", ("schedule", "average"), 2, "average must be a number, from 0 to 1"),
        (
            "bundled",
            ("schedule", "learning_rate"),
            "x",
            "learning_rate must be a number, 0 or more",
        ),
    ],
)
def test_nets_that_cannot_be_made_are_refused(
    name: str, keys: tuple[str, ...], value: object, words: str, tmp_path: Path
) -> None:
    """Before anything is prepared or trained, in one line that names the section."""
    recipe = load_recipe(write_changed(name, ("truepose", *keys), value, tmp_path / "mine.json"))
    with pytest.raises(UsageError) as error:
        check(recipe)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_every_shipped_recipe_can_be_made() -> None:
    """The checks let pass what is shipped."""
    for path in FOLDER.glob("*.json"):
        check(load_recipe(path.stem))
