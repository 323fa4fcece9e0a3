"""The training loop: schedules, logs, checkpoints and resuming."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from catalogpose.errors import CatalogposeError
from catalogpose.training.loop import Schedule, fit


def make_net() -> nn.Linear:
    """Return the same small net each time."""
    torch.manual_seed(0)
    return nn.Linear(3, 1)


def train(net: nn.Linear, folder: Path, schedule: Schedule, **options: object) -> list[float]:
    """Fit a fixed linear map and return the losses of the steps that ran."""
    losses: list[float] = []

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Draw inputs and compare with the sum of their coordinates."""
        batch = torch.randn(16, 3, generator=generator)
        loss = (net(batch).float().squeeze(1) - batch.sum(dim=1)).square().mean()
        losses.append(float(loss.detach()))
        return {"loss": loss}

    fit("test", net, loss_of, schedule, folder, **options)
    return losses


def test_a_killed_training_goes_on_with_the_same_losses(tmp_path: Path) -> None:
    """A training stopped at a checkpoint and resumed has the losses of one that was not stopped."""
    schedule = Schedule(steps=40, batch=16, learning_rate=0.05, warmup=5, average=0.9)
    whole = train(make_net(), tmp_path / "whole", schedule)

    class KilledError(Exception):
        """Stands for kill -9."""

    def kill(name: str, done: int, total: int) -> None:
        """Stop after the checkpoint of step 25."""
        if done == 26:
            raise KilledError

    with pytest.raises(KilledError):
        train(make_net(), tmp_path / "killed", schedule, progress=kill, save_seconds=0.0)
    resumed = train(make_net(), tmp_path / "killed", schedule)
    assert whole[-len(resumed) :] == resumed
    assert 0 < len(resumed) <= 15


def test_the_averaged_weights_are_kept(tmp_path: Path) -> None:
    """The net returned holds the moving average, which differs from the last weights."""
    averaged, last = make_net(), make_net()
    train(averaged, tmp_path / "a", Schedule(steps=30, batch=16, learning_rate=0.1, average=0.95))
    train(last, tmp_path / "b", Schedule(steps=30, batch=16, learning_rate=0.1, average=0.0))
    assert not torch.equal(averaged.weight, last.weight)


def test_training_lowers_the_loss_and_logs_it(tmp_path: Path) -> None:
    """The loss falls, and its log has a line for every twentieth step."""
    losses = train(make_net(), tmp_path, Schedule(steps=60, batch=16, learning_rate=0.1, warmup=1))
    assert losses[-1] < 0.1 * losses[0]
    lines = (tmp_path / "loss.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in lines] == ["20", "40", "60"]


def test_a_loss_that_is_not_a_number_stops_the_training(tmp_path: Path) -> None:
    """A NaN loss is an error that names the net and the step."""
    net = make_net()

    def broken(generator: torch.Generator) -> dict[str, Tensor]:
        """Return NaN."""
        return {"loss": net.weight.sum() * float("nan")}

    with pytest.raises(CatalogposeError, match="parser: the loss is not a number at step 0"):
        fit("parser", net, broken, Schedule(steps=1, batch=1, learning_rate=0.1), tmp_path)


def test_the_rate_rises_and_falls() -> None:
    """The learning rate warms up, and falls to nothing over the share of steps named."""
    schedule = Schedule(steps=100, batch=1, learning_rate=1.0, warmup=10, decay=0.5)
    assert schedule.rate(0) == pytest.approx(0.1)
    assert schedule.rate(9) == schedule.rate(49) == 1.0
    assert schedule.rate(75) == pytest.approx(0.5)
    assert schedule.rate(99) < 0.01
