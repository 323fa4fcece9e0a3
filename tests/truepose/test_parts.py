import inspect
import json
from pathlib import Path

import pytest

from catalogpose.errors import UsageError
from catalogpose.truepose.model import BUNDLED, ModelCard
from catalogpose.truepose.parts import (
    NET_SETTINGS,
    folder_faults,
    read_net_settings,
    read_parts,
    read_picture_size,
)
from catalogpose.truepose.pose_encoder import PoseEncoder
from catalogpose.truepose.siamese import TargetNet


def test_the_nets_own_settings_are_all_told() -> None:
    """What TargetNet takes beyond a plain UNet's options is what is read of its config."""
    own = set(inspect.signature(TargetNet.__init__).parameters) - {"self", "unet"}
    assert set(NET_SETTINGS) == own


def test_parameters_are_the_nets() -> None:
    """The heads of the bundled files announce as many numbers as the loaded net has."""
    net = PoseEncoder.from_pretrained(BUNDLED / "pose_encoder")
    expected = sum(parameter.numel() for parameter in net.parameters())
    found = {part.name: part.parameters for part in read_parts(BUNDLED)}
    assert found["pose_encoder"] == expected


def test_pictures_are_as_large_as_the_compositor_says(tmp_path: Path) -> None:
    """So many times the canvas, height first; as large as it without a compositor, with an earlier
    one, or with one that has no scale of its own.
    """
    card = ModelCard(name="m", height=64, width=48)
    assert read_picture_size(tmp_path, card) == (64, 48)
    for values, size in (({}, (64, 48)), ({"scale": 1}, (64, 48)), ({"scale": 3}, (192, 144))):
        (tmp_path / "compositor").mkdir(exist_ok=True)
        (tmp_path / "compositor" / "config.json").write_text(json.dumps(values))
        assert read_picture_size(tmp_path, card) == size
    (tmp_path / "compositor" / "config.json").write_text(json.dumps({"scale": None}))
    with pytest.raises(UsageError, match=r"config.json has a scale that is no whole number"):
        read_picture_size(tmp_path, card)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_config_is_named(tmp_path: Path, text: str) -> None:
    """A config that is no JSON object is one plain line; a missing one has no settings."""
    assert read_net_settings(tmp_path) == {}
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(text)
    with pytest.raises(UsageError, match=r"unet/config.json is not") as error:
        read_net_settings(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("licence", "named"), [("", False), ("Unknown", False), ("MIT", True),
                                                ("unknown: that of the data", False)])  # fmt: skip
def test_an_unknown_licence_is_none(tmp_path: Path, licence: str, named: bool) -> None:
    """A model whose licence nobody knows is not published."""
    card = ModelCard(name="m", height=8, width=8, licence=licence)
    faults = folder_faults(tmp_path, card, check=False)
    assert any("names no licence" in fault for fault in faults) != named
