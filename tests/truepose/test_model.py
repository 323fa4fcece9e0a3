import hashlib
import json
from pathlib import Path

import pytest

from catalogpose.errors import UsageError
from catalogpose.truepose import model
from catalogpose.truepose.model import (
    CARD_NAME,
    SCHEMA,
    ModelCard,
    check_weights,
    read_card,
    resolve_model,
    write_card,
)

CARD = ModelCard(
    name="trial", height=512, width=352, training={"steps": 7}, licence="CC0-1.0 · ünï"
)
"""A card with something in every kind of field."""


def change(folder: Path, **fields: object) -> None:
    """Write a good card and then change fields of it; None takes a field out."""
    write_card(folder, CARD)
    values = json.loads((folder / CARD_NAME).read_text(encoding="utf-8")) | fields
    kept = {name: value for name, value in values.items() if value is not None}
    (folder / CARD_NAME).write_text(json.dumps(kept), encoding="utf-8")


def test_the_defaults_are_the_papers():
    """A card that says no more than a size carries the paper's settings."""
    card = ModelCard(name="n", height=1, width=1)
    assert (card.steps, card.guidance) == (35, 3.5)
    assert card.schema == SCHEMA


def test_a_card_survives_the_disk(tmp_path):
    """What was written is read again, letters beyond ASCII included."""
    written = write_card(tmp_path, CARD)
    assert written == CARD
    assert read_card(tmp_path) == CARD


def test_the_card_hashes_all_weights(tmp_path):
    """Every safetensors file is in the card by its path with its sha256, and nothing else is."""
    for name in ("unet/a.safetensors", "vae/deep/b.safetensors", "unet/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    card = write_card(tmp_path, CARD)
    expected = {
        name: hashlib.sha256(name.encode()).hexdigest()
        for name in ("unet/a.safetensors", "vae/deep/b.safetensors")
    }
    assert card.weights == expected
    assert read_card(tmp_path).weights == expected


def test_hashes_are_of_the_files_that_are_there(tmp_path):
    """Writing the card again forgets weights that are gone."""
    (tmp_path / "a.safetensors").write_bytes(b"a")
    card = write_card(tmp_path, CARD)
    (tmp_path / "a.safetensors").unlink()
    assert write_card(tmp_path, card).weights == {}


def test_a_folder_without_a_card_is_no_model(tmp_path):
    """The message names the folder, the file that it lacks and what to pass instead."""
    with pytest.raises(UsageError, match="name one that") as error:
        read_card(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert CARD_NAME in str(error.value)


@pytest.mark.parametrize("text", ["", "{", '{"name": }'])
def test_a_damaged_card(tmp_path, text):
    """The message names the file and says that it is not JSON."""
    (tmp_path / CARD_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="is not valid JSON") as error:
        read_card(tmp_path)
    assert str(tmp_path / CARD_NAME) in str(error.value)


@pytest.mark.parametrize("text", ["[]", "3", "null", '{"name": "x"}', '{"schema": 99}'])
def test_a_card_of_another_version(tmp_path, text):
    """The message names the file and the remedy: the catalogpose that wrote it."""
    (tmp_path / CARD_NAME).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="use the catalogpose that wrote it") as error:
        read_card(tmp_path)
    assert str(tmp_path / CARD_NAME) in str(error.value)


def test_unknown_fields_are_named(tmp_path):
    """A field that this version does not know may matter, so it is an error that names it."""
    change(tmp_path, colour="red", shade=1)
    with pytest.raises(UsageError, match="unknown fields: colour, shade") as error:
        read_card(tmp_path)
    assert str(tmp_path / CARD_NAME) in str(error.value)


def test_missing_fields_are_named(tmp_path):
    """Without a size a model cannot be used; the message names the field."""
    change(tmp_path, height=None)
    with pytest.raises(UsageError, match="'height'") as error:
        read_card(tmp_path)
    assert str(tmp_path / CARD_NAME) in str(error.value)


@pytest.mark.parametrize("wrong", [{"height": "512"}, {"width": 0}, {"steps": 3.5}])
def test_impossible_sizes_are_refused(tmp_path, wrong):
    """Sizes and steps that no picture can have are found before any weights are loaded."""
    change(tmp_path, **wrong)
    with pytest.raises(UsageError, match="whole numbers above 0") as error:
        read_card(tmp_path)
    assert str(tmp_path / CARD_NAME) in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"licence": 3}, "licence"), ({"training": "long"}, "training"), ({"weights": []}, "weights")],
)
def test_fields_of_another_kind_are_refused(tmp_path, wrong, named):
    """A licence that is no text, or a table that is none, is named with its file."""
    change(tmp_path, **wrong)
    with pytest.raises(UsageError, match=f"catalogpose.json: {named} must be"):
        read_card(tmp_path)


def test_weights_are_the_cards(tmp_path):
    """Whole weights pass; a changed or missing file is named, with the remedy."""
    weights = tmp_path / "unet" / "a.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"right")
    card = write_card(tmp_path, CARD)
    check_weights(tmp_path, card)
    weights.write_bytes(b"wrong")
    with pytest.raises(UsageError, match="fetch the model folder again") as error:
        check_weights(tmp_path, card)
    assert str(weights) in str(error.value)
    weights.unlink()
    with pytest.raises(UsageError, match="is missing; fetch the model folder again") as error:
        check_weights(tmp_path, card)
    assert str(weights) in str(error.value)


def test_user_errors_end_with_code_2(tmp_path):
    """A wrong model folder is the user's to mend."""
    with pytest.raises(UsageError) as error:
        read_card(tmp_path)
    assert error.value.exit_code == 2


def test_a_folder_is_its_own_model(tmp_path, monkeypatch):
    """An existing folder is taken as it is, relative ones too, even if they look like a hub id."""
    assert resolve_model(str(tmp_path)) == tmp_path
    (tmp_path / "team" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_model("team/model") == Path("team/model")


@pytest.mark.parametrize("name", ["missing", "/no/such", "./no/such", "~/such", "a/b/c"])
def test_a_missing_folder_is_not_asked_of_the_hub(name, monkeypatch):
    """What cannot be a hub id fails at once, by name."""
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked"))
    with pytest.raises(UsageError, match="no model folder at") as error:
        resolve_model(name)
    assert name in str(error.value)


def test_an_unknown_hub_id_without_network(monkeypatch, tmp_path):
    """Offline, a model that was never downloaded is a one-line error that names it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="hub gave no model") as error:
        resolve_model("catalogpose-tests/nothing-here")
    assert "catalogpose-tests/nothing-here" in str(error.value)
    assert "\n" not in str(error.value)


def test_only_safe_files_are_downloaded(monkeypatch, tmp_path):
    """Of a hub model JSON, safetensors and texts are fetched: no pickles and no code."""
    asked = {}

    def download(name: str, allow_patterns: list[str]) -> str:
        asked[name] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert resolve_model("team/model") == tmp_path
    kinds = {pattern.rsplit(".", 1)[1] for pattern in asked["team/model"]}
    assert kinds == {"json", "safetensors", "txt"}


def test_no_name_is_the_bundled_model(monkeypatch, tmp_path):
    """Without a name the package's own model is used, and where there is none the error says so."""
    monkeypatch.setattr(model, "BUNDLED", tmp_path)
    with pytest.raises(UsageError, match="pass --model FOLDER"):
        resolve_model(None)
    write_card(tmp_path, CARD)
    assert resolve_model(None) == tmp_path
