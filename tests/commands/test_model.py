import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from safetensors.numpy import save_file

from catalogpose import cli
from catalogpose.commands.model import inspect_model, push_model
from catalogpose.config import InspectOptions, PushOptions
from catalogpose.errors import EnvironmentFault, UsageError
from catalogpose.truepose.model import CARD_NAME, ModelCard, write_card

CARD = ModelCard(
    name="trial", height=64, width=48, licence="Apache-2.0", training={"data": "ten drawings"}
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a model folder of five parts whose nets have 6 numbers each, with a parser."""
    folder = tmp_path / "model"
    for net in ("unet", "source_unet", "pose_encoder", "vae", "parser"):
        (folder / net).mkdir(parents=True)
        save_file({"w": np.ones((2, 3), np.float16)}, folder / net / "model.safetensors")
        (folder / net / "config.json").write_text("{}")
    (folder / "unet" / "config.json").write_text('{"fusion": "concat", "act_fn": "silu"}')
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    (folder / "model_index.json").write_text("{}")
    write_card(folder, CARD)
    return folder


def renew(folder: Path, **changes: Any) -> None:
    """Write the card again with changed fields."""
    write_card(folder, dataclasses.replace(CARD, **changes))


class Hub:
    """What stands in for the hub: it keeps what it is asked, or raises `error` on the first."""

    def __init__(self, error: Exception | None = None) -> None:
        """Answer every call, or raise; None: answer."""
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error = error

    def create_repo(self, repo_id: str, **options: Any) -> Any:
        """Make a repository."""
        if self.error:
            raise self.error
        self.calls.append((repo_id, options))
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, **options: Any) -> None:
        """Take a folder."""
        self.calls.append((options["repo_id"], options))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Put a hub in the place of the real one."""
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    return hub


def test_a_folder_is_told_in_full(folder: Path) -> None:
    """Parts are counted from their files, TargetNet's own settings alone are shown."""
    found = inspect_model(InspectOptions(model=str(folder)))
    assert [part.name for part in found.parts] == [
        "parser", "pose_encoder", "source_unet", "unet", "vae",
    ]  # fmt: skip
    assert {part.parameters for part in found.parts} == {6}
    assert {part.kinds for part in found.parts} == {("F16",)}
    size = (folder / "unet" / "model.safetensors").stat().st_size
    assert {part.bytes for part in found.parts} == {size}
    assert found.settings == {"fusion": "concat"}
    assert found.companions == {"parser": True, "clip": False}
    assert (found.weights, found.faults, found.exit_code) == ("the card's", (), 0)
    for word in ("trial", "64 x 48", "Apache-2.0", "ten drawings", "clip/ no", f"{5 * size:,} b"):
        assert word in str(found)


def test_the_bundled_model_is_publishable() -> None:
    """It holds both companions, millions of parameters, and nothing is missing."""
    found = inspect_model(InspectOptions())
    assert found.faults == ()
    assert found.companions == {"parser": True, "clip": True}
    assert sum(part.parameters for part in found.parts) > 10_000_000


def test_inspecting_loads_no_torch(folder: Path) -> None:
    """A look at a folder takes no seconds of imports."""
    script = (
        "import sys; from catalogpose.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    words = [sys.executable, "-c", script, "model", "inspect", str(folder), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["card"]["name"] == "trial"


def test_other_weights_are_told(folder: Path) -> None:
    """A changed file makes the folder unusable: exit code 2 and its name; unless not compared."""
    weights = folder / "vae" / "model.safetensors"
    save_file({"w": np.zeros((2, 3), np.float16)}, weights)
    found = inspect_model(InspectOptions(model=str(folder)))
    assert (found.weights, found.exit_code) == ("not the card's", 2)
    assert str(weights) in str(found)
    trusting = inspect_model(InspectOptions(model=str(folder), check=False))
    assert (trusting.weights, trusting.exit_code) == ("not compared", 0)


def test_a_damaged_file_is_named(folder: Path) -> None:
    """Weights that are no safetensors file are one plain line."""
    (folder / "vae" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"vae/model.safetensors cannot be read.*fetch") as error:
        inspect_model(InspectOptions(model=str(folder), check=False))
    assert "\n" not in str(error.value)


def test_a_model_is_published_with_its_page(folder: Path, hub: Hub) -> None:
    """One repository is made and one commit sent, of the model's own files and no others."""
    (folder / "preview.png").write_bytes(b"")
    (folder / "unet" / "optimizer.bin").write_bytes(b"")
    done = push_model(PushOptions(folder=folder, repo_id="team/trial", private=True))
    (made, options), (sent_to, sent) = hub.calls
    assert (made, options) == ("team/trial", {"private": True, "exist_ok": True})
    assert (sent_to, sent["folder_path"]) == ("team/trial", folder)
    expected = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    assert set(sent["allow_patterns"]) == expected - {"preview.png", "unet/optimizer.bin"}
    assert "README.md" in done.files
    assert done.bytes == sum((folder / name).stat().st_size for name in done.files)
    assert "license: apache-2.0" in (folder / "README.md").read_text("utf-8")


def test_a_dry_run_touches_nothing(folder: Path, hub: Hub) -> None:
    """It lists what would be sent, the page too, writes no page and asks nobody."""
    done = push_model(PushOptions(folder=folder, repo_id="team/trial", dry_run=True))
    assert (done.url, hub.calls) == (None, [])
    assert "README.md" in str(done).splitlines()
    assert not (folder / "README.md").exists()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda f: (f / CARD_NAME).unlink(), "is not a catalogpose model folder"),
        (lambda f: (f / "model_index.json").unlink(), r"model_index.json is missing: train"),
        (lambda f: (f / "scheduler/scheduler_config.json").unlink(), "scheduler_config.json is"),
        (lambda f: (f / "vae/model.safetensors").write_bytes(b"x"), "vae/model.safetensors is not"),
        (lambda f: (f / "vae/model.safetensors").unlink(), "vae/model.safetensors is missing"),
        (lambda f: (f / "unet/more.safetensors").write_bytes(b""), "more.safetensors is not among"),
        (lambda f: renew(f, licence=" "), "names no licence: set `licence`"),
        (lambda f: renew(f, training={"hours": 3}), r"was trained on: set `training.data`"),
        (lambda f: (f / "README.md").write_text("my words"), r"README.md is not by catalogpose"),
    ],
)
def test_what_is_not_fit_is_refused(folder: Path, hub: Hub, harm: Any, said: str) -> None:
    """Nothing is sent, and a line names the folder or file and the remedy."""
    harm(folder)
    for dry_run in (True, False):
        with pytest.raises(UsageError, match=said):
            push_model(PushOptions(folder=folder, repo_id="team/trial", dry_run=dry_run))
    assert hub.calls == []


def test_a_net_that_was_never_trained_is_missed(folder: Path, hub: Hub) -> None:
    """A folder whose card knows no weights of a net is not whole."""
    (folder / "source_unet" / "model.safetensors").unlink()
    write_card(folder, CARD)
    with pytest.raises(UsageError, match="source_unet has no weights"):
        push_model(PushOptions(folder=folder, repo_id="team/trial"))
    assert hub.calls == []


def refusal(status: int) -> HfHubHTTPError:
    """Return what the hub's client raises for such a status."""
    answer: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return HfHubHTTPError(f"{status} it says\nmore", response=answer)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (HTTPError("no route"), EnvironmentFault, "the hub cannot be reached: no route"),
        (ConnectionError("offline"), EnvironmentFault, "the hub cannot be reached: offline"),
        (refusal(401), UsageError, "the hub refused team/trial: 401 it says; `hf auth login`"),
        (refusal(503), EnvironmentFault, "the hub failed: 503 it says; try again later"),
    ],
)
def test_a_hub_that_fails_is_one_line(
    folder: Path, hub: Hub, error: Exception, kind: type[Exception], said: str
) -> None:
    """Without network, without rights and with a broken hub the message says what to do."""
    hub.error = error
    with pytest.raises(kind) as raised:
        push_model(PushOptions(folder=folder, repo_id="team/trial"))
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


def test_words_reach_the_hub(
    folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`catalogpose model push` passes its arguments on, and each fault is a line with code 2."""
    words = ["catalogpose", "model", "push", str(folder), "team/trial", "--private"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    assert hub.calls[0] == ("team/trial", {"private": True, "exist_ok": True})
    renew(folder, licence="", training={})
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
