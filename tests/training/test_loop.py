"""The training loop: schedules, logs, checkpoints and resuming."""

import os
import runpy
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from catalogpose.errors import CatalogposeError, EnvironmentFault, UsageError
from catalogpose.training.loop import Check, Schedule, fit
from catalogpose.training.processes import choose_precision, open_accelerator
from catalogpose.training.schedule import draw_generator, place_of, visited
from catalogpose.training.watch import Watch


@pytest.fixture(autouse=True)
def _one_thread():
    """Compute on one thread: nets this small only wait for the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


class KilledError(Exception):
    """Stands for kill -9."""


@pytest.mark.parametrize("accumulation", [1, 3])
def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path: Path, accumulation: int) -> None:
    """Resumed, it has the losses, the weights and the average of one that was not stopped."""
    schedule = Schedule(steps=40, batch=48, learning_rate=0.05, warmup=5, average=0.9)
    whole_net, resumed_net = make_net(), make_net()
    options = {"accumulation": accumulation}
    whole = train(whole_net, tmp_path / "whole", schedule, **options)

    def kill(name: str, done: int, total: int) -> None:
        """Stop after the checkpoint of step 25."""
        if done == 26:
            raise KilledError

    with pytest.raises(KilledError):
        train(make_net(), tmp_path / "killed", schedule, progress=kill, save_seconds=0.0, **options)
    resumed = train(resumed_net, tmp_path / "killed", schedule, **options)
    assert len(whole) == 40 * accumulation
    assert len(set(whole)) == len(whole), "every micro-batch is another"
    assert whole[-len(resumed) :] == resumed
    assert 0 < len(resumed) <= 15 * accumulation
    assert torch.equal(whole_net.weight, resumed_net.weight)
    ends = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in
            ("whole", "killed")]  # fmt: skip
    assert torch.equal(ends[0]["average"][0], ends[1]["average"][0])
    assert not torch.equal(ends[0]["average"][0], ends[0]["net"]["weight"])
    assert not list(tmp_path.rglob("*.tmp"))


def test_frozen_weights_stay_and_checkpoints_list_them(tmp_path: Path) -> None:
    """A checkpoint from before a weight was frozen goes on, and ends as one from after it."""
    schedule = Schedule(steps=30, batch=16, learning_rate=0.05, average=0.9)
    ends = []
    for name, frozen_from_start in (("before", False), ("after", True)):
        net = nn.ModuleDict({"used": make_net(), "unused": nn.Linear(2, 2)})

        def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
            """Use one of both, and stop in the middle."""
            batch = torch.randn(16, 3, generator=generator)
            if place_of(generator)[0] == 15 and stop:  # noqa: B023  # called within this round
                raise KilledError
            return {"loss": (net["used"](batch).squeeze(1) - batch.sum(dim=1)).square().mean()}  # noqa: B023

        net["unused"].requires_grad_(not frozen_from_start)
        kept = net["unused"].weight.detach().clone()
        stop = True
        with pytest.raises(KilledError):
            fit("x", net, loss_of, schedule, tmp_path / name, save_seconds=0.0)
        stop = False
        net["unused"].requires_grad_(False)
        fit("x", net, loss_of, schedule, tmp_path / name)
        assert torch.equal(net["unused"].weight, kept)
        ends.append(torch.load(tmp_path / name / "checkpoint.pt", weights_only=True))
    assert len(ends[0]["average"]) == len(ends[1]["average"]) == 4
    assert torch.equal(ends[0]["average"][0], ends[1]["average"][0])
    assert torch.equal(ends[0]["net"]["used.weight"], ends[1]["net"]["used.weight"])


def test_micro_batches_make_one_batch(tmp_path: Path) -> None:
    """Gradients of micro-batches are averaged: as many samples at once teach the same."""
    nets = make_net(), make_net()
    samples = torch.randn(48, 3, generator=torch.Generator().manual_seed(1))
    for net, accumulation in zip(nets, (1, 3), strict=True):

        def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
            """Take the share of the samples that the micro-batch's place says."""
            size = 48 // accumulation  # noqa: B023  # called within this round
            part = samples.split(size)[place_of(generator)[1]]
            return {"loss": (net(part).squeeze(1) - part.sum(dim=1)).square().mean()}  # noqa: B023

        schedule = Schedule(steps=5, batch=48, learning_rate=0.05, warmup=1)
        fit("x", net, loss_of, schedule, tmp_path / str(accumulation), accumulation=accumulation,
            accelerator=open_accelerator("cpu"))  # fmt: skip
    assert torch.allclose(nets[0].weight, nets[1].weight, atol=1e-6)


def test_the_averaged_weights_are_kept(tmp_path: Path) -> None:
    """The net returned holds the moving average, which differs from the last weights."""
    averaged, last = make_net(), make_net()
    train(averaged, tmp_path / "a", Schedule(steps=30, batch=16, learning_rate=0.1, average=0.95))
    train(last, tmp_path / "b", Schedule(steps=30, batch=16, learning_rate=0.1, average=0.0))
    assert not torch.equal(averaged.weight, last.weight)


def test_batch_norms_keep_the_averages_of_their_statistics(tmp_path: Path) -> None:
    """What is kept evaluates like its averaged weights did on average, also when resumed."""
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    met: list[Tensor] = []

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Feed batches whose mean grows with every step."""
        met.append(net[0].running_mean.clone())
        batch = len(met) + torch.randn(16, 3, generator=generator)
        return {"loss": net(batch).square().mean()}

    schedule = Schedule(steps=4, batch=16, learning_rate=0.01, warmup=1, average=0.5)
    fit("test", net, loss_of, schedule, tmp_path)
    last = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    # After each step the average keeps step / (step + 10) of itself, at most half.
    expected = torch.zeros(3)
    for step, mean in enumerate([*met[1:], last["net"]["0.running_mean"]], start=1):
        keep = min(0.5, step / (step + 10))
        expected = keep * expected + (1 - keep) * mean
    assert torch.allclose(net[0].running_mean, expected, atol=1e-5)
    assert not torch.allclose(net[0].running_mean, last["net"]["0.running_mean"])
    resumed = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    fit("test", resumed, loss_of, schedule, tmp_path)
    assert torch.equal(resumed[0].running_mean, net[0].running_mean)
    assert torch.equal(resumed[0].running_var, net[0].running_var)


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

    with pytest.raises(CatalogposeError, match="parser: the loss is not a number at step 0; "):
        fit("parser", net, broken, Schedule(steps=1, batch=1, learning_rate=0.1), tmp_path)


def test_the_rate_rises_and_falls() -> None:
    """The learning rate warms up, and falls to nothing over the share of steps named."""
    schedule = Schedule(steps=100, batch=1, learning_rate=1.0, warmup=10, decay=0.5)
    assert schedule.rate(0) == pytest.approx(0.1)
    assert schedule.rate(9) == schedule.rate(49) == 1.0
    assert schedule.rate(75) == pytest.approx(0.5)
    assert schedule.rate(99) < 0.01


def test_what_breaks_a_training_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """A gradient that is not finite is said in one line; the checkpoint and the net stay as good
    as they were.
    """
    net = make_net()

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Have an infinite gradient at step 7."""
        weight = net.weight.sum()
        if place_of(generator)[0] == 7:
            return {"loss": (weight - weight.detach()).abs().sqrt()}
        return {"loss": weight.square()}

    with pytest.raises(CatalogposeError) as error:
        fit("x", net, loss_of, Schedule(steps=9, batch=1, learning_rate=0.1), tmp_path,
            save_seconds=0.0)  # fmt: skip
    assert "x: the gradient is not finite at step 7; " in str(error.value)
    assert "\n" not in str(error.value)
    assert torch.isfinite(net.weight).all()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 7
    assert torch.equal(state["net"]["weight"], net.weight)


def test_a_loss_that_a_micro_batch_lacks_is_the_mean_of_the_others(tmp_path: Path) -> None:
    """The log has the mean over the micro-batches that tell it, and nothing where none does."""
    net = make_net()

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Tell `some` in half the micro-batches of the first twenty steps."""
        step, lane = place_of(generator)
        loss = net.weight.square().sum()
        return {"loss": loss, **({"some": torch.tensor(3.0)} if step < 20 and lane % 2 else {})}

    fit("x", net, loss_of, Schedule(steps=40, batch=4, learning_rate=0.1), tmp_path,
        accumulation=4)  # fmt: skip
    first, second = (tmp_path / "loss.csv").read_text(encoding="utf-8").splitlines()
    assert "some=3 " in first
    assert "some" not in second
    assert "nan" not in first + second


def test_a_spike_is_said_once(tmp_path: Path) -> None:
    """A loss far above the usual one is a warning, one for many steps; a young one is none."""
    said: list[str] = []
    watch = Watch("x", tmp_path / "checkpoint.pt", said.append)
    for step in range(400):
        watch.look(step, 9.0 if step in (5, 6) or step >= 300 else 1.0, 1.0, skips=False)
    assert len(said) == 1
    assert said[0].startswith("x: at step 30")


def test_a_scaler_may_skip_steps_and_not_all(tmp_path: Path) -> None:
    """Overflowing float16 steps are left out silently until there is nothing else."""
    watch = Watch("x", tmp_path, None)
    for step in range(50):
        watch.look(step, 1.0, float("inf"), skips=True)
    with pytest.raises(CatalogposeError, match="the gradient is not finite at step 50"):
        watch.look(50, 1.0, float("inf"), skips=True)


def test_checks_see_the_average_and_change_nothing(tmp_path: Path) -> None:
    """A check runs in evaluation mode on averaged weights; the training goes on as without it."""
    schedule = Schedule(steps=25, batch=16, learning_rate=0.05, average=0.9)
    seen: list[Tensor] = []
    net, plain = make_net(), make_net()

    def measure(step: int) -> dict[str, float]:
        """Keep the weights."""
        assert not net.training
        seen.append(net.weight.detach().clone())
        return {"step": float(step), "half": step / 2}

    losses = train(net, tmp_path / "a", schedule, check=Check(every=10, measure=measure))
    assert losses == train(plain, tmp_path / "b", schedule)
    assert torch.equal(seen[-1], net.weight)
    assert torch.equal(net.weight, plain.weight)
    lines = (tmp_path / "a" / "validation.csv").read_text(encoding="utf-8").splitlines()
    assert lines == ["step,step,half", "10,10,5", "20,20,10", "25,25,12.5"]


def test_a_last_check_that_was_killed_is_made_up_for(tmp_path: Path) -> None:
    """A finished checkpoint without a measure of it is measured; one that has it is left alone."""
    schedule = Schedule(steps=20, batch=16, learning_rate=0.05, average=0.9)
    steps: list[int] = []
    killed = True

    def measure(step: int) -> dict[str, float]:
        """Be killed in the last check."""
        if step == 20 and killed:
            raise KilledError
        steps.append(step)
        return {"step_again": float(step)}

    check = Check(every=10, measure=measure)
    with pytest.raises(KilledError):
        train(make_net(), tmp_path, schedule, check=check)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 20
    killed = False
    for _ in range(2):
        assert train(make_net(), tmp_path, schedule, check=check) == []
    assert steps == [10, 20]
    lines = (tmp_path / "validation.csv").read_text(encoding="utf-8").splitlines()
    assert lines == ["step,step_again", "10,10", "20,20"]


@pytest.mark.parametrize(
    ("number", "left"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_saves_first(tmp_path: Path, number: int, left: type[BaseException]) -> None:
    """The step under way ends and is saved; the second signal does not wait."""
    net, before = make_net(), signal.getsignal(number)
    often = 1

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Be asked to stop in step 7."""
        if place_of(generator)[0] == 7:
            for _ in range(often):
                signal.raise_signal(number)
        return {"loss": net.weight.square().sum()}

    schedule = Schedule(steps=30, batch=1, learning_rate=0.1)
    with pytest.raises(left) as caught:
        fit("x", net, loss_of, schedule, tmp_path / "once")
    if left is SystemExit:
        assert caught.value.code == 128 + number
    state = torch.load(tmp_path / "once" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 8
    assert torch.equal(state["net"]["weight"], net.weight)
    assert signal.getsignal(number) is before
    often = 2
    with pytest.raises(SystemExit):
        fit("x", net, loss_of, schedule, tmp_path / "twice")
    assert not (tmp_path / "twice" / "checkpoint.pt").exists()


def test_too_small_a_memory_is_one_line(tmp_path: Path) -> None:
    """A GPU's memory that runs out is no traceback, and the line says what helps."""
    net = make_net()

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Find no memory."""
        raise torch.OutOfMemoryError

    for accelerator in (None, open_accelerator("cpu")):
        with pytest.raises(EnvironmentFault) as error:
            fit("x", net, loss_of, Schedule(steps=2, batch=6, learning_rate=0.1), tmp_path,
                accumulation=3, accelerator=accelerator)  # fmt: skip
        assert "a batch of 6 in 3 micro-batches; raise --accumulate" in str(error.value)


def test_a_missing_tracker_is_said_once(tmp_path: Path, monkeypatch) -> None:
    """Where tensorboard was to be told and is not installed, a line says how to get it."""
    monkeypatch.setattr("catalogpose.training.processes.is_tensorboard_available", lambda: False)
    said: list[str] = []
    schedule = Schedule(steps=2, batch=16, learning_rate=0.05)
    train(make_net(), tmp_path / "a", schedule, warn=said.append)
    assert said == []
    accelerator = open_accelerator("cpu", trackers=tmp_path / "b")
    train(make_net(), tmp_path / "b", schedule, warn=said.append, accelerator=accelerator)
    assert len(said) == 1
    assert "pip install 'catalogpose[train]'" in said[0]


def test_every_epoch_meets_every_sample_once() -> None:
    """Batches of any size, begun anywhere, are parts of one sequence of permutations."""
    whole = visited(0, 35, 10, seed=3)
    assert [sorted(whole[i : i + 10]) for i in (0, 10, 20)] == [list(range(10))] * 3
    assert len({tuple(whole[i : i + 10]) for i in (0, 10, 20)}) == 3
    parts = [visited(first, 7, 10, seed=3) for first in range(0, 35, 7)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(visited(0, 10, 10, seed=4), whole[:10])


def test_neighbours_stay_together() -> None:
    """Groups of neighbours are met one after the other, every sample still once an epoch."""
    whole = visited(0, 30, 10, seed=3, together=4)
    assert [sorted(whole[i : i + 10]) for i in (0, 10, 20)] == [list(range(10))] * 3
    first = whole[:10].tolist()
    for group in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9]):
        place = first.index(group[0])
        assert first[place : place + len(group)] == group
    parts = [visited(start, 3, 10, seed=3, together=4) for start in range(0, 30, 3)]
    assert np.array_equal(np.concatenate(parts), whole)
    with pytest.raises(UsageError, match="together must be 1 or more"):
        Schedule(steps=1, batch=1, learning_rate=1.0, together=0)


def test_epochs_become_steps() -> None:
    """Steps cover the epochs; a schedule says one of both, and its batch splits evenly."""
    schedule = Schedule(epochs=50, batch=12, learning_rate=1e-5)
    assert schedule.over(101_966).steps == 424_859
    assert schedule.over(101_966).over(3) == schedule.over(101_966)
    assert schedule.share(4) == 3
    with pytest.raises(UsageError, match="12 cannot be split evenly into 5"):
        schedule.share(5)
    for wrong in ({}, {"steps": 1, "epochs": 1.0}):
        with pytest.raises(UsageError, match="either steps or epochs"):
            Schedule(batch=1, learning_rate=1.0, **wrong)


def test_a_generator_knows_its_place() -> None:
    """Step and lane are read back, whatever was drawn; every place draws something else."""
    for place in ((70_000, 9), (0, 0), (2**24 - 1, 255)):
        generator = draw_generator(2**31 - 1, *place)
        torch.rand(3, generator=generator)
        assert place_of(generator) == place
    drawn = {
        float(torch.rand(1, generator=draw_generator(*place)))
        for place in ((5, 7, 0), (5, 7, 1), (5, 8, 0), (6, 7, 0))
    }
    assert len(drawn) == 4


def test_precisions() -> None:
    """float16 is refused where it cannot train, the rest becomes accelerate's word."""
    assert choose_precision("float32", "cpu") == "no"
    assert choose_precision("bf16", "cpu") == "bf16"
    assert choose_precision("auto", "cpu") in ("no", "bf16")
    with pytest.raises(UsageError, match="--precision fp16 needs a GPU"):
        choose_precision("fp16", "cpu")


TOGETHER = """
import os, sys
from pathlib import Path
import torch
from catalogpose.training.loop import Schedule, fit
from catalogpose.training.processes import open_accelerator
from catalogpose.training.schedule import place_of, visited
rank = int(os.environ.get("RANK", "0"))
torch.manual_seed(rank)  # the first process's weights are shared
torch.set_num_threads(1)
net, seen = torch.nn.ModuleList([torch.nn.Linear(3, 1), torch.nn.Linear(2, 2)]), []
net[1].requires_grad_(False)
accelerator = open_accelerator("cpu")
def loss_of(generator):
    step, lane = place_of(generator)
    size = 12 // accelerator.num_processes
    seen.extend(visited(step * 12 + lane * size, size, 40, 0).tolist())
    batch = torch.eye(3).repeat(14, 1)[seen[-size:]] + torch.tensor(seen[-size:])[:, None] / 40
    loss = (net[0](batch).squeeze(1) - batch.sum(dim=1)).square().mean()
    return {"loss": loss, **({"first": torch.tensor(3.0)} if lane == 0 else {})}
fit("x", net, loss_of, Schedule(steps=20, batch=12, learning_rate=0.05, average=0.9),
    Path(sys.argv[1]), accelerator=accelerator)
torch.save((net[0].weight.data, seen), f"{sys.argv[1]}/{rank}.out")
accelerator.end_training()
"""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_two_processes_train_one_net(tmp_path: Path, monkeypatch) -> None:
    """Both end with the same weights, met different samples, and one process would have met them
    all; a loss that one alone tells is logged as it tells it.
    """
    script = tmp_path / "together.py"
    script.write_text(TOGETHER, encoding="utf-8")
    common = {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    running = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "2")],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        said = [process.communicate(timeout=120)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], said
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "1")])
    runpy.run_path(str(script))
    (first, seen_first), (second, seen_second), (alone, seen_alone) = (
        torch.load(tmp_path / name, weights_only=True) for name in ("2/0.out", "2/1.out", "1/0.out")
    )
    assert torch.equal(first, second)
    assert sorted(seen_first + seen_second) == sorted(seen_alone)
    assert torch.allclose(first, alone, atol=1e-5)
    (line,) = (tmp_path / "2" / "loss.csv").read_text(encoding="utf-8").splitlines()
    (line_alone,) = (tmp_path / "1" / "loss.csv").read_text(encoding="utf-8").splitlines()
    told, told_alone = (
        dict(word.split("=") for word in found.split(",")[2].split())
        for found in (line, line_alone)
    )
    assert told["first"] == told_alone["first"] == "3"
    assert float(told["loss"]) == pytest.approx(float(told_alone["loss"]), rel=1e-3)
