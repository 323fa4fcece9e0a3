"""What a critic says and teaches, against known answers."""

import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from catalogpose.errors import UsageError
from catalogpose.records import LABEL_ID
from catalogpose.training.compositor import (
    HEAD_WEIGHT,
    Layers,
    Rivals,
    composing_loss,
    train_compositor,
)
from catalogpose.training.critic import CHANNELS, Critic, Criticism, criticise
from catalogpose.training.schedule import Schedule
from catalogpose.truepose.compositor import Compositor

H, W = 32, 24


def make_critic() -> Critic:
    """Return a critic for poses of 3 channels whose spectral norms are settled."""
    torch.manual_seed(0)
    critic = Critic(3)
    for _ in range(20):
        critic(torch.randn(1, 3, H, W), torch.zeros(1, 3, H, W))
    return critic.eval()


def test_patches_are_judged_at_two_sizes() -> None:
    """Each level is half as fine as the one before, and all but the first give a verdict a cell."""
    features, verdicts = make_critic()(torch.zeros(2, 3, H, W), torch.zeros(2, 3, H, W))
    assert [tuple(f.shape) for f in features] == [
        (2, channels, H >> level, W >> level) for level, channels in enumerate(CHANNELS, start=1)
    ]
    assert [tuple(v.shape) for v in verdicts] == [(2, 1, H >> 2, W >> 2), (2, 1, H >> 3, W >> 3)]


def test_known_answers() -> None:
    """A critic that says 0 of everything loses 2; the truth itself differs from itself in nothing,
    and another picture does.
    """
    critic = make_critic()
    critic.says = torch.nn.ModuleList(
        torch.nn.Conv2d(size, 1, 3, padding=1) for size in CHANNELS[1:]
    )
    for parameter in critic.says.parameters():
        parameter.data.zero_()
    truth, pose, weight = torch.rand(2, 3, H, W), torch.zeros(2, 3, H, W), torch.ones(2, 1, H, W)
    same = criticise(critic, truth, truth, pose, weight)
    assert same["critic"].item() == 2
    assert same["features"].item() == same["verdict"].item() == 0
    assert criticise(critic, -truth, truth, pose, weight)["features"].item() > 0
    for say in critic.says:
        say.bias.data.fill_(0.5)
    assert criticise(critic, truth, truth, pose, weight)["verdict"].item() == -0.5


def test_norms_are_spectral_and_the_same_for_both_pictures() -> None:
    """Every weight's greatest singular value is about 1, however it was scaled; and while it learns
    too a picture's features are its own.
    """
    critic = make_critic()
    for look in [*critic.looks, *critic.says]:
        value = torch.linalg.matrix_norm(look.weight.detach().flatten(1), 2)
        assert 0.9 < value.item() < 1.1
    critic.train()
    picture, pose, weight = torch.rand(1, 3, H, W), torch.zeros(1, 3, H, W), torch.ones(1, 1, H, W)
    assert criticise(critic, picture, picture, pose, weight)["features"].item() == 0


def test_a_verdict_is_one_on_a_pose() -> None:
    """The same picture is judged otherwise for another pose."""
    critic, picture = make_critic(), torch.rand(1, 3, H, W)
    verdicts = [critic(picture, torch.full((1, 3, H, W), pose))[1][0] for pose in (0.0, 1.0)]
    assert (verdicts[0] - verdicts[1]).abs().max().item() > 0.01


def test_what_counts_nothing_changes_nothing() -> None:
    """A picture that differs where no pixel counts, and farther than a cell sees, loses nothing."""
    critic, pose = make_critic(), torch.zeros(1, 3, 64, W)
    truth, weight = torch.rand(1, 3, 64, W), torch.zeros(1, 1, 64, W)
    weight[:, :, :16] = 1
    composed = truth.clone()
    composed[:, :, 48:] += 1
    assert criticise(critic, composed, truth, pose, weight)["features"].item() == 0
    composed[:, :, 4:8] += 1
    assert criticise(critic, composed, truth, pose, weight)["features"].item() > 0


def test_neither_side_teaches_the_other() -> None:
    """What the compositor is to lessen moves no weight of the critic, and the critic's own loss no
    pixel; afterwards its weights take gradients again.
    """
    critic, weight = make_critic(), torch.ones(1, 1, H, W)
    pose, truth = torch.zeros(1, 3, H, W), torch.rand(1, 3, H, W)
    composed = torch.rand(1, 3, H, W, requires_grad=True)
    losses = criticise(critic, composed, truth, pose, weight)
    (losses["verdict"] + losses["features"]).backward()
    assert composed.grad is not None
    assert composed.grad.abs().sum() > 0
    assert all(p.grad is None for p in critic.parameters())
    composed.grad = None
    losses["critic"].backward()
    assert composed.grad is None
    assert all(p.grad is not None for p in critic.parameters())


def test_a_critic_learns_to_tell_and_its_features_to_differ() -> None:
    """Of stripes and their mean colour it learns which are true, says so, and its features then
    differ more than at first.
    """
    torch.manual_seed(0)
    critic, weight, pose = make_critic().train(), torch.ones(4, 1, H, W), torch.zeros(4, 3, H, W)
    truth = torch.where(torch.arange(H) % 4 < 2, -0.5, 0.5)[:, None].expand(4, 3, H, W)
    blurred = torch.zeros(4, 3, H, W)
    adam = torch.optim.Adam(critic.parameters(), 0.002)
    first = criticise(critic, blurred, truth, pose, weight)
    for _ in range(60):
        losses = criticise(critic, blurred, truth, pose, weight)
        adam.zero_grad()
        losses["critic"].backward()
        adam.step()
    assert losses["critic"].item() < 0.5 * first["critic"].item()
    assert losses["features"].item() > first["features"].item()
    told, refused = (critic(picture, pose)[1] for picture in (truth, blurred))
    for true, made in zip(told, refused, strict=True):
        assert true.mean().item() > made.mean().item() + 0.5
    assert losses["verdict"].item() > 0  # What is composed is to be told less surely.


def test_the_mask_learns_of_what_is_composed() -> None:
    """With a critic the sum counts what is composed; without weights for it there is what a
    compositor has by itself, and the critic's own loss.
    """
    torch.manual_seed(0)
    net, critic = Compositor(channels=(16, 16), groups=4), make_critic()
    seen = torch.rand(1, 3, H, W), torch.rand(1, 4, H, W), torch.zeros(1, 3, H, W)
    truth, labels = torch.rand(1, 3, H, W), torch.full((1, H, W), LABEL_ID["dress"])
    labels[:, : H // 4] = LABEL_ID["face"]
    alone = composing_loss(net, seen, truth, labels)
    silent = Criticism(verdict_weight=0, feature_weight=0, error_weight=0)
    for criticism in (silent, Criticism(verdict_weight=3, feature_weight=5, error_weight=7)):
        found = composing_loss(Rivals(net, critic, criticism), seen, truth, labels)
        wanted = alone["loss"] + found["critic"] + criticism.verdict_weight * found["verdict"]
        wanted = wanted + criticism.feature_weight * found["features"]
        torch.testing.assert_close(found["loss"], wanted + criticism.error_weight * found["off"])
    shown, touched = net(*seen)
    apart = (torch.lerp(touched, seen[1][:, :3], shown.sigmoid()) - truth).abs()
    head, rest = apart[:, :, : H // 4].mean(), apart[:, :, H // 4 :].mean()
    off = (HEAD_WEIGHT * head + 3 * rest) / (HEAD_WEIGHT + 3)
    torch.testing.assert_close(found["off"], off)
    (moved,) = torch.autograd.grad(found["off"], net.tower.leave.weight)
    assert moved[: net.config.stride**2].abs().sum().item() > 0  # The mask's.


def test_a_training_with_a_critic_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """Stopped by Ctrl-C and begun again it ends with the weights of one that was not, and those are
    not the weights of one without a critic.
    """
    draw = np.random.default_rng(0)
    layers = Layers(
        painted=draw.integers(0, 256, (4, H, W, 3)).astype(np.uint8),
        carried=draw.random((4, 4, H, W), dtype=np.float32),
        joints=np.ones((4, 18, 3), dtype=np.float32),
        truth=draw.integers(0, 256, (4, H, W, 3)).astype(np.uint8),
        labels=np.full((4, H, W), LABEL_ID["dress"], dtype=np.uint8),
    )

    def train(folder: str, criticism: Criticism | None, stop: int = 0) -> torch.Tensor:
        """Train on for 6 steps, or until a Ctrl-C; return some of the weights."""
        torch.manual_seed(0)
        net = Compositor(channels=(16, 16), groups=4)
        schedule = Schedule(epochs=3, batch=2, learning_rate=0.01, warmup=1)

        def progress(name: str, done: int, total: int) -> None:
            """Press Ctrl-C after so many steps."""
            assert total == 6
            if done == stop:
                signal.raise_signal(signal.SIGINT)

        train_compositor(
            layers, net, "rgb", schedule, tmp_path / folder,
            device="cpu", criticism=criticism, progress=progress,
        )  # fmt: skip
        return net.tower.leave.weight.detach()

    whole = train("whole", Criticism())
    with pytest.raises(KeyboardInterrupt):
        train("halves", Criticism(), stop=3)
    torch.testing.assert_close(train("halves", Criticism()), whole, rtol=0, atol=0)
    assert not torch.equal(train("alone", None), whole)


@pytest.mark.parametrize("name", ["verdict_weight", "feature_weight", "error_weight"])
def test_weights_below_zero_are_refused(name: str) -> None:
    """So is what is no number."""
    for value in (-1.0, math.nan, math.inf, True, "1"):
        with pytest.raises(UsageError, match=f"^{name} must be a number, 0 or more"):
            Criticism(**{name: value})  # type: ignore[arg-type]  # the wrong ones too
