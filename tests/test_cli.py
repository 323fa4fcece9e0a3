import dataclasses
import inspect
import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from catalogpose import __version__, cli, config
from catalogpose.cli import models, remembering
from catalogpose.cli.progress import show_progress
from catalogpose.commands import generate as generate_command
from catalogpose.errors import (
    EnvironmentFault,
    FailureLimitError,
    LockedError,
    ManifestError,
    UsageError,
)
from catalogpose.run.summary import GenerateSummary

SUMMARY = GenerateSummary(
    run_folder=Path("runs/shop"),
    rows=3,
    done=3,
    already_done=1,
    failed=0,
    pending=0,
    changed=0,
    failures={},
    seconds=1.5,
    retry="catalogpose generate",
)

MEMORY = {
    "build": "BuildMemoryOptions", "query": "QueryMemoryOptions", "stats": "MemoryStatsOptions",
}  # fmt: skip
"""The commands of `catalogpose memory` and their options."""

Call = Callable[..., tuple[object, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call `catalogpose` with words; return exit code, stdout and stderr."""

    def call(*words: str) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["catalogpose", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return (left.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], list[Any]]:
    """Let `generate` return or raise something; the list holds the options of each call."""

    def answer(result: object) -> list[Any]:
        calls: list[Any] = []

        def generate_pictures(options: Any, progress: Any) -> object:
            calls.append(options)
            progress(0, 4)
            progress(1, 4)
            if isinstance(result, BaseException):
                raise result
            return result

        monkeypatch.setattr(generate_command, "generate_pictures", generate_pictures)
        return calls

    return answer


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    """Help of the program and of a command takes under a second, without torch and its like."""
    script = (
        "import sys\nfrom catalogpose.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    for words in (["--help"], ["generate", "--help"], ["model", "push", "--help"]):
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = subprocess.run(
            [sys.executable, "-c", script, *words], capture_output=True, text=True, check=True
        )
        # Its own time, since other work on the machine is not its fault.
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - used < 1
        assert "Exit codes:" in done.stdout
        heavy = {"torch", "diffusers", "transformers", "pandas", "pyarrow", "numpy", "PIL"}
        assert not heavy & set(done.stderr.split())


def test_help_names_every_exit_code(call: Call) -> None:
    """One line each, and not wrapped into another."""
    _, out, _ = call("--help")
    assert re.findall(r"^ +(\d+(?:, \d+)*)  \w", out, re.M) == [
        "0", "1", "2", "3", "4", "5", "6", "130, 143",
    ]  # fmt: skip


def test_the_version_is_said(call: Call) -> None:
    """`--version` is one line."""
    assert call("--version") == (0, f"catalogpose {__version__}\n", "")


@pytest.mark.parametrize(
    ("room", "name"),
    [
        *((cli, name) for name in ("parse", "generate", "report", "studio", "train")),
        *((models, name) for name in ("inspect", "push")),
        *((remembering, name) for name in MEMORY),
    ],
)
def test_defaults_equal_those_of_the_options(room: ModuleType, name: str) -> None:
    """Every field is an option of the same name with the same default, and nothing else is."""
    kind = f"{name.title()}Options" if room is not remembering else MEMORY[name]
    fields = dataclasses.fields(getattr(config, kind))
    words = dict(inspect.signature(getattr(room, name)).parameters)
    assert words.pop("as_json").default is False
    expected = {
        field.name: inspect.Parameter.empty
        if field.default is dataclasses.MISSING
        else field.default or None
        if field.default == ()  # What may be repeated is None until it is given once.
        else field.default
        for field in fields
    }
    assert {word: parameter.default for word, parameter in words.items()} == expected


def test_words_become_options(call: Call, answer: Callable[[object], list[Any]]) -> None:
    """The command is called once, with all that was said."""
    calls = answer(SUMMARY)
    words = (
        "--manifest m.csv --out o --model team/model --cache c --device cpu --workers 2 --batch 4 "
        "--steps 7 --guidance 1.5 --seed 9 --max-failures 0 --no-retry-failed --keypoint-table k"
    )
    assert call("generate", *words.split())[0] == 0
    assert calls == [
        config.GenerateOptions(
            manifest=Path("m.csv"),
            out=Path("o"),
            model="team/model",
            cache=Path("c"),
            device="cpu",
            workers=2,
            batch=4,
            steps=7,
            guidance=1.5,
            seed=9,
            max_failures=0,
            retry_failed=False,
            keypoint_table=Path("k"),
        )
    ]


def test_a_summary_goes_to_stdout_and_progress_to_stderr(
    call: Call, answer: Callable[[object], list[Any]]
) -> None:
    """Whoever reads stdout gets the summary alone, as text or as JSON."""
    answer(SUMMARY)
    code, out, err = call("generate", "--manifest", "m.csv")
    assert (code, out) == (0, f"{SUMMARY}\n")
    assert re.fullmatch(r"1/4 rows, [0-9.]+ a second, [0-9:]+ left\n", err)
    _, out, _ = call("generate", "--manifest", "m.csv", "--json")
    assert json.loads(out)["run_folder"] == "runs/shop"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"failed": 1, "failures": {"photo": 1}}, 3),
        ({"pending": 1, "signal": signal.SIGINT}, 130),
        ({"pending": 1, "failed": 1, "signal": signal.SIGTERM}, 143),
    ],
)
def test_a_summary_decides_the_exit_code(
    call: Call, answer: Callable[[object], list[Any]], changes: dict[str, Any], code: int
) -> None:
    """Failed rows and signals reach the shell."""
    answer(dataclasses.replace(SUMMARY, **changes))
    assert call("generate", "--manifest", "m.csv")[0] == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("no"), 2),
        (FailureLimitError("no"), 4),
        (LockedError("no"), 5),
        (EnvironmentFault("no"), 6),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_becomes_plain_lines_and_its_code(
    call: Call, answer: Callable[[object], list[Any]], error: BaseException, code: int
) -> None:
    """Users see no traceback for what is no bug."""
    answer(error)
    found, out, err = call("generate", "--manifest", "m.csv")
    assert (found, out) == (code, "")
    assert err.splitlines()[1:] == ([] if code == 130 else ["catalogpose: no"])


def test_every_fault_of_a_manifest_is_a_whole_line(
    call: Call, answer: Callable[[object], list[Any]]
) -> None:
    """Long faults are not wrapped, and brackets are not markup."""
    faults = ["row 1, column source: missing file " + "very/" * 60 + "long.png", "row [b]2[/b]: x"]
    answer(ManifestError(faults))
    code, _, err = call("generate", "--manifest", "m.csv")
    assert code == 2
    assert err.splitlines()[1:] == faults


def test_a_real_manifests_faults_are_told(call: Call, tmp_path: Path) -> None:
    """`generate` and `parse` refuse a wrong manifest alike, before anything is made."""
    manifest = tmp_path / "shop.csv"
    manifest.write_text("id,source,pose\na,gone.png,gone.json\na,shop.csv,gone.json\n")
    expected = [
        "row 1, column source: missing file gone.png",
        "row 1, column pose: missing file gone.json",
        "row 2, column pose: missing file gone.json",
        "row 2, column id: duplicate id 'a'",
    ]
    for command in ("generate", "parse"):
        code, out, err = call(command, "--manifest", str(manifest))
        assert (code, out, sorted(err.splitlines())) == (2, "", sorted(expected))
    assert list(tmp_path.iterdir()) == [manifest]


def test_a_bug_keeps_its_traceback() -> None:
    """An exception that nobody foresaw is shown whole, without the values of variables."""
    script = (
        "import catalogpose.commands.generate as g\nfrom catalogpose.cli import main\n"
        "def broken(options, progress):\n    secret = 'hidden'\n    raise ValueError('a bug')\n"
        "g.generate_pictures = broken\nmain()"
    )
    words = [sys.executable, "-c", script, "generate", "--manifest", "m.csv"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: a bug\n")
    assert "hidden" not in done.stderr


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["generate"], "--manifest"),
        (["generate", "--manifest", "m.csv", "--batch", "0"], "--batch"),
        (["generate", "--manifest", "m.csv", "--steps", "many"], "--steps"),
        (["generate", "--manifest", "m.csv", "--gpus", "1", "--device", "cpu"], "--gpus"),
        (["generate", "--manifest", "m.csv", "--workers", "2", "--gpus", "2"], "--workers"),
        (["generate", "--manifest", "m.csv", "--guidance", "nan"], "--guidance"),
        (["generate", "--manifest", "m.csv", "--seed", "-1"], "--seed"),
        (["generate", "--manifest", "m.csv", "--max-failures", "-1"], "--max-failures"),
        (["parse", "--manifest", "m.csv", "--device", "tpu"], "--device"),
        (["train", "--out", "o", "--seed", "-1"], "--seed"),
        (["model", "push", "o", "no-owner"], "REPO_ID"),
        (["memory", "build", "--manifest", "m.csv", "--out", "memory"], "--out"),
        (["memory", "query", "a skirt", "--count", "0"], "--count"),
        (["memory", "query", "a skirt", "--sheet", "found.jpg"], "--sheet"),
    ],
)
def test_a_wrong_option_is_named(call: Call, words: list[str], named: str) -> None:
    """Usage errors have exit code 2, name the option and leave stdout empty."""
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert named in err


class Terminal:
    """A stderr that somebody watches."""

    def __init__(self) -> None:
        """Start empty."""
        self.text = ""

    def isatty(self) -> bool:
        """Say yes."""
        return True

    def write(self, text: str) -> None:
        """Keep text."""
        self.text += text

    def flush(self) -> None:
        """Do nothing."""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows rate and time left, and one bar a stage."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with show_progress("rows") as progress:
        progress(0, 4)
        progress(4, 4)
    assert re.search(r"4/4 \[\d\d:\d\d<.* rows/s\]", terminal.text)
    with show_progress("steps") as progress:
        progress.stage("vae", 1, 2)
        progress.stage("clip", 1, 3)
    assert "vae:  50%" in terminal.text
    assert "clip:  33%" in terminal.text


def test_a_log_gets_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One every thirty seconds, and one at the end of each stage."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with show_progress("rows") as progress:
        for done in range(0, 81, 10):
            progress(done, 100)
            now[0] += 10
    assert capsys.readouterr().err.splitlines() == [
        "30/100 rows, 1.00 a second, 0:01:10 left",
        "60/100 rows, 1.00 a second, 0:00:40 left",
        "80/100 rows, 0.89 a second, 0:00:22 left",
    ]
    with show_progress("steps") as progress:
        progress.stage("vae", 5, 10)
        now[0] += 5
        progress.stage("vae", 10, 10)
        progress.stage("clip", 0, 9)
    assert capsys.readouterr().err.splitlines() == [
        "vae: 10/10 steps, 1.00 a second",
    ]


def test_a_command_that_did_nothing_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Progress that never began, or went nowhere, leaves no line."""
    with show_progress("rows"):
        pass
    with show_progress("rows") as progress:
        progress(0, 9)
    assert capsys.readouterr().err == ""
