import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = (
    ("__init__", "__main__"),
    ("cli",),
    ("commands",),
    ("run", "training"),
    ("humandiffusion",),
    ("truepose", "quality", "studio"),
    ("perception", "catalog"),
    ("records", "config", "errors", "pixels"),
)
"""Rooms from the top down; a room imports from lower layers only, and the lowest from itself."""
STUDIO_SEES = {"catalog", "records", "errors", "pixels"}
"""The studio draws for the others and knows little of them."""

DOORS = {
    "typer": ("cli/",),
    "rich": ("cli/",),
    "tqdm": ("cli/",),
    "open_clip": ("perception/clip.py",),
    "transformers": ("perception/",),
    "diffusers": ("truepose/", "humandiffusion/", "training/"),
    "accelerate": ("training/",),
    "huggingface_hub": ("truepose/", "training/", "commands/model.py"),
    "pyarrow": ("catalog/", "run/ledger.py"),
    "pandas": ("quality/", "commands/report.py"),
    "jinja2": ("quality/", "commands/report.py"),
    "skimage": ("quality/", "commands/report.py"),
    "torch": ("perception/", "truepose/", "humandiffusion/", "run/", "training/", "commands/"),
}
"""Where each heavy library may be imported, relative to the package."""

MODULE_LINES = 350
"""Most lines of a module."""
FUNCTION_LINES = 60
"""Most lines of a function, docstring included."""
VAGUE = {"utils", "util", "helpers", "helper", "misc", "common"}
"""File names that say nothing."""


def imports(tree: ast.Module, path: str) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything that a module imports, anywhere in it."""
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [a.value for a in node.args[:1] if isinstance(a, ast.Constant)]
            yield from ((node.lineno, str(name)) for name in names)


def may_see(room: str, other: str) -> bool:
    """Say whether a module of one room may import from another room."""
    if room == other:
        return True
    if room == "studio":
        return other in STUDIO_SEES
    ranks = {name: rank for rank, names in enumerate(LAYERS) for name in names}
    lowest = len(LAYERS) - 1
    return ranks[room] < ranks[other] or ranks[room] == ranks[other] == lowest


def import_faults(path: str, tree: ast.Module) -> Iterator[str]:
    """Yield each import that goes up or sideways, or through another door than its library's."""
    inside = path.removeprefix("catalogpose/")
    room = inside.split("/")[0].removesuffix(".py")
    rooms = {name for names in LAYERS for name in names}
    if room not in rooms:
        yield f"{path}:1: {room} is no room of the plan in docs/architecture.md"
        return
    for line, name in imports(tree, path):
        library, _, rest = name.partition(".")
        if library == "catalogpose":
            other = rest.split(".")[0]
            if other != "__version__" and (other not in rooms or not may_see(room, other)):
                yield f"{path}:{line}: {room} may not import {name}"
        elif library in DOORS and not any(
            inside == door or (door.endswith("/") and inside.startswith(door))
            for door in DOORS[library]
        ):
            yield f"{path}:{line}: {library} enters by {', '.join(DOORS[library])} only"


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def form_faults(path: str, source: str, tree: ast.Module) -> Iterator[str]:
    """Yield what makes a module hard to read: size, a vague name, no opening sentence."""
    name = Path(path).stem
    if len(source.splitlines()) > MODULE_LINES:
        yield f"{path}:1: longer than {MODULE_LINES} lines"
    if name in VAGUE:
        yield f"{path}:1: the name {name} says nothing"
    if not ast.get_docstring(tree):
        yield f"{path}:1: no docstring"
    for function in functions(tree):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        if length > FUNCTION_LINES:
            yield f"{path}:{function.lineno}: {function.name} is {length} lines long"
        if function.name == name:
            yield f"{path}:{function.lineno}: {function.name} is named like its module"


def package_faults(path: str, source: str) -> list[str]:
    """Return everything wrong with a module of the package; `path` is relative to the checkout."""
    tree = ast.parse(source)
    return [*import_faults(path, tree), *form_faults(path, source, tree)]


def suite_faults(path: str, source: str) -> list[str]:
    """Return everything wrong with a file of tests."""
    tree = ast.parse(source)
    faults = [f"{path}:1: the name says nothing"] if Path(path).stem in VAGUE else []
    return faults + [
        f"{path}:{function.lineno}: {function.name} has no docstring"
        for function in functions(tree)
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]


def faults_in(folder: str, check: Callable[[str, str], list[str]]) -> str:
    """Return what is wrong with the Python files of a folder, one fault a line."""
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files, f"no Python under {folder}: the check would pass on nothing"
    return "\n".join(
        fault
        for file in files
        for fault in check(file.relative_to(ROOT).as_posix(), file.read_text("utf-8"))
    )


def test_the_package_keeps_to_the_plan() -> None:
    """Imports point down, each library has its door, and each module and function fits one head."""
    faults = faults_in("catalogpose", package_faults)
    assert not faults, f"\n{faults}"


def test_the_tests_say_what_they_test() -> None:
    """Every test has a sentence of docstring, and no file of tests is vaguely named."""
    faults = faults_in("tests", suite_faults)
    assert not faults, f"\n{faults}"


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("catalog/cache.py", "from catalogpose.perception.parser import Parser"),
        ("perception/parser.py", "import catalogpose.catalog.photos"),
        ("perception/parser.py", "from ..catalog import photos"),
        ("truepose/pipeline.py", "from catalogpose.run.plan import row_seed"),
        ("quality/colour.py", "from catalogpose.truepose.model import ModelCard"),
        ("run/worker.py", "from catalogpose import commands"),
        ("run/worker.py", "import_module('catalogpose.training.loop')"),
        ("training/loop.py", "from catalogpose.run.local import run_rows"),
        ("studio/paint.py", "from catalogpose.perception.clip import Clip"),
        ("studio/paint.py", "from catalogpose.config import StudioOptions"),
        ("records.py", "from catalogpose.catalog.files import sha256_file"),
        ("commands/report.py", "from catalogpose.cli import app"),
        ("run/plan.py", "from catalogpose.novelty import thing"),
        ("novelty/thing.py", "import math"),
        ("commands/parse.py", "import typer"),
        ("training/parser.py", "from transformers import AutoModel"),
        ("perception/parser.py", "import open_clip"),
        ("run/local.py", "def f():\n    import pyarrow.parquet as pq"),
        ("catalog/manifest.py", "import pandas as pd"),
        ("quality/metrics.py", "import torch.nn.functional"),
        ("perception/clip.py", "if TYPE_CHECKING:\n    from diffusers import UNet2DConditionModel"),
    ],
)
def test_a_planted_import_is_caught(path: str, line: str) -> None:
    """An import that goes up, sideways or through the wrong door is exactly one fault."""
    assert len(package_faults(f"catalogpose/{path}", f'"""A module."""\n{line}\n')) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("cli/running.py", "from catalogpose.commands.report import write_report"),
        ("commands/report.py", "import pandas as pd"),
        ("training/vae.py", "from catalogpose.studio import draw"),
        ("training/parser.py", "from catalogpose.perception.parser import Parser"),
        ("studio/paint.py", "from catalogpose.catalog.files import write_atomically"),
        ("run/ledger.py", "import pyarrow.parquet as pq"),
        ("run/plan.py", "from . import ledger"),
        ("run/plan.py", "from ..catalog import files"),
        ("config/running.py", "from catalogpose.errors import UsageError"),
        ("catalog/provenance.py", "from catalogpose import __version__"),
        ("perception/clip.py", "import open_clip, torch"),
    ],
)
def test_an_import_of_the_plan_passes(path: str, line: str) -> None:
    """What docs/architecture.md allows is no fault."""
    assert package_faults(f"catalogpose/{path}", f'"""A module."""\n{line}\n') == []


@pytest.mark.parametrize(
    ("path", "source", "fault"),
    [
        ("run/utils.py", '"""A module."""', "says nothing"),
        ("run/plan.py", "import math", "no docstring"),
        ("run/plan.py", '"""A module."""' + "\n" * 351, "longer than"),
        ("run/plan.py", '"""A module."""\ndef f():\n' + "    pass\n" * 60, "f is 61 lines"),
        ("run/plan.py", '"""A module."""\nclass A:\n    async def plan(self): ...', "named like"),
    ],
)
def test_planted_bad_form_is_caught(path: str, source: str, fault: str) -> None:
    """A vague name, a missing opening sentence and too much length are faults."""
    found = package_faults(f"catalogpose/{path}", source)
    assert len(found) == 1
    assert fault in found[0]


def test_a_planted_silent_test_is_caught() -> None:
    """A test without a docstring is a fault; a function that is no test needs none here."""
    source = "def test_a():\n    assert True\n\nclass TestB:\n    def test_c(self):\n        ...\n"
    assert len(suite_faults("tests/test_x.py", source + "def make():\n    ...\n")) == 2
    assert suite_faults("tests/helpers.py", "") == ["tests/helpers.py:1: the name says nothing"]
