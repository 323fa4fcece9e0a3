from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from catalogpose.truepose.conditions import Conditions
from catalogpose.truepose.siamese import SourceNet, TargetNet


@pytest.fixture
def target(unet: UNet2DConditionModel, wake: Callable[[nn.Module], None]) -> TargetNet:
    """Return a TargetNet in which every path is awake."""
    net = TargetNet.start_from(unet, clip_width=12).eval()
    wake(net)
    return net


@pytest.fixture
def conditions(unet, target, scene) -> Conditions:
    """Return the conditions of two sources."""
    with torch.no_grad():
        return scene.conditions(target, SourceNet.start_from(unet))


def pick(conditions: Conditions, row: int) -> Conditions:
    """Return one picture's conditions."""
    names = ("key", "value", "region_key", "region_value", "region_valid")
    layers = [
        type(layer)(**{name: getattr(layer, name)[row : row + 1] for name in names})
        for layer in conditions.layers
    ]
    return Conditions(layers=layers)


@torch.no_grad()
def test_stacked_sources_stay_apart(target, scene, conditions):
    """Pictures of different sources share a batch and come out as they do alone."""
    again = Conditions.stack([pick(conditions, row) for row in (1, 0)])
    order = torch.tensor([1, 0])
    time = torch.tensor(400)
    both = target(scene.noisy[order], time, scene.pose[order], again)
    for place, row in enumerate((1, 0)):
        one = slice(row, row + 1)
        alone = target(scene.noisy[one], time, scene.pose[one], pick(conditions, row))
        torch.testing.assert_close(both[place : place + 1], alone, rtol=1e-4, atol=1e-5)
    apart = target(scene.noisy[order], time, scene.pose[order], conditions)
    assert (apart - both).abs().max() > 1e-2


@torch.no_grad()
def test_the_skipped_half_equals_the_zeroed_one(target, scene, conditions):
    """Skipping HPFA and CAA in the unconditional half is exactly setting C to zero there."""
    noisy, pose = scene.noisy.repeat(2, 1, 1, 1), scene.pose.repeat(2, 1, 1, 1)
    time = torch.tensor(400)
    skipped = target(noisy, time, pose, Conditions.stack([conditions], unconditional=2))
    keep = torch.tensor([False, False, True, True])
    zeroed = Conditions.stack([conditions, conditions]).dropped(keep)
    torch.testing.assert_close(skipped, target(noisy, time, pose, zeroed), rtol=1e-5, atol=1e-6)
    assert (skipped[:2] - skipped[2:]).abs().max() > 1e-2


@torch.no_grad()
def test_dropping_takes_the_condition_and_leaves_the_pose(target, scene, conditions):
    """In a dropped row no source matters any more; a kept row and the pose stay (Eq. 10)."""
    time = torch.tensor(400)
    keep = torch.tensor([False, True])
    mixed = target(scene.noisy, time, scene.pose, conditions.dropped(keep))
    other = Conditions.stack([pick(conditions, 1), pick(conditions, 1)]).dropped(keep)
    same = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(mixed, target(scene.noisy, time, scene.pose, other), **same)
    whole = target(scene.noisy, time, scene.pose, conditions)
    torch.testing.assert_close(mixed[1], whole[1], **same)
    assert (mixed[0] - whole[0]).abs().max() > 1e-2
    unposed = target(scene.noisy, time, 0 * scene.pose, conditions.dropped(keep))
    assert (mixed[0] - unposed[0]).abs().max() > 1e-2


def test_dropping_all_is_the_last_word(conditions):
    """Nothing of a source is left in a dropped row, whatever was in it."""
    nothing = conditions.dropped(torch.tensor([False, False]))
    for layer in nothing.layers:
        for tensor in (layer.key, layer.value, layer.region_key, layer.region_value):
            assert not tensor.any()


@torch.no_grad()
def test_several_latents_share_their_sources(target, scene, conditions):
    """Repeated conditions serve a batch of so many rounds through the same sources."""
    noisy = torch.cat([scene.noisy, scene.noisy.flip(3)])
    pose, time = scene.pose.repeat(2, 1, 1, 1), torch.tensor(400)
    together = target(noisy, time, pose, conditions.repeated(2))
    for half in (slice(0, 2), slice(2, 4)):
        alone = target(noisy[half], time, scene.pose, conditions)
        torch.testing.assert_close(together[half], alone, rtol=1e-4, atol=1e-5)
