import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from catalogpose.errors import EnvironmentFault
from catalogpose.records import Outcome
from catalogpose.run.local import catch_signals, run_rows
from catalogpose.run.plan import Job, make_plan

MakeShop = Callable[..., Any]


def jobs_of(shop: Any) -> tuple[Job, ...]:
    """Return a job for every row."""
    return make_plan(shop.rows, {}, run_folder=shop.run, fingerprint="f", seed=0).jobs


def run(shop: Any, workers: int = 2, **changes: Any) -> dict[str, Outcome]:
    """Do all rows of a shop and return the outcomes by id; each id must come once."""
    outcomes = list(run_rows(jobs_of(shop), [shop.settings(**changes)] * workers))
    assert len({outcome.id for outcome in outcomes}) == len(outcomes)
    return {outcome.id: outcome for outcome in outcomes}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("batch", [1, 4])
def test_every_row_gets_one_outcome(make_shop: MakeShop, workers: int, batch: int) -> None:
    """Seeds and pictures are the same whatever the number of workers and the batch."""
    shop = make_shop([f"r{number}" for number in range(7)])
    outcomes = run(shop, workers, batch=batch)
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    assert shop.pictures == shop.expected_pictures
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("bad", "how"), [("kill", "signal 9"), ("segfault", "signal 11")])
def test_a_killer_costs_only_its_own_row(
    make_shop: MakeShop, batch: int, bad: str, how: str
) -> None:
    """A row that kills its worker is tried twice and given up; its neighbours are all done."""
    shop = make_shop(["a", "b", bad, "c", "d", "e"])
    outcomes = run(shop, batch=batch)
    failed = outcomes.pop(bad)
    assert (failed.status, failed.stage, failed.error_class) == (
        "failed", "worker", "worker-killed",
    )  # fmt: skip
    assert how in str(failed.error_message)
    assert failed.attempts == 2
    assert len(str(failed.source_sha256)) == 64
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    assert shop.tried.count(bad) == 2


def test_a_row_whose_worker_dies_once_is_done(make_shop: MakeShop) -> None:
    """A death that does not repeat costs nothing but time."""
    outcomes = run(make_shop(["a", "flaky", "b"]))
    assert (outcomes["flaky"].status, outcomes["flaky"].attempts) == ("done", 2)


def test_workers_that_always_die_stop_the_run(make_shop: MakeShop) -> None:
    """A broken machine must not fail the whole catalogue, row by row."""
    shop = make_shop([f"kill{number}" for number in range(20)])
    with pytest.raises(EnvironmentFault, match="die one after another at work on cpu"):
        run(shop)
    assert len(shop.tried) <= 10


def test_a_model_that_cannot_be_opened_fails_once(make_shop: MakeShop) -> None:
    """The worker's own message is the run's, and no further worker is tried."""
    with pytest.raises(EnvironmentFault, match=r"^no weights in .*model$"):
        run(make_shop(["a", "b"]), workers=1, factory="fake_worker:NeverStarts")


def test_workers_that_die_at_their_start_stop_the_run(make_shop: MakeShop) -> None:
    """Without a message the run gives up after a few, and no row is blamed."""
    started = time.monotonic()
    with pytest.raises(EnvironmentFault, match="at their start on cpu"):
        run(make_shop(["a", "b"]), factory="fake_worker:DiesAtStart")
    assert time.monotonic() - started < 40
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("bug", "told"), [("bug", "KeyError: 'a bug'"), ("eof", "EOFError")])
def test_a_bug_stops_the_run_with_its_traceback(make_shop: MakeShop, bug: str, told: str) -> None:
    """An exception that is no row's fault is not recorded as one."""
    with pytest.raises(RuntimeError, match=told):
        run(make_shop(["a", bug, "b"]))
    assert not multiprocessing.active_children()


def test_a_full_disk_is_no_rows_fault(make_shop: MakeShop) -> None:
    """The run stops with the exit code for the environment."""
    with pytest.raises(EnvironmentFault, match="No space left on device") as caught:
        run(make_shop(["full"]))
    assert caught.value.exit_code == 6


def test_a_worker_sees_only_its_gpu(make_shop: MakeShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA_VISIBLE_DEVICES is set for each worker, and this process keeps its own."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    shop = make_shop(["a"])
    for name in ("5", "4", None):
        (outcome,) = run_rows(jobs_of(shop), [shop.settings(visible=name)])
        assert outcome.facts["visible"] == (name or "4,5")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,5"


def test_a_closed_run_leaves_no_process(make_shop: MakeShop) -> None:
    """Whoever stops listening, after an error of his own for example, leaves nothing behind."""
    shop = make_shop(["a", "slow", "slow2"])
    jobs = jobs_of(shop)
    started = time.monotonic()
    with closing(run_rows(jobs, [shop.settings()] * 2)) as outcomes:
        assert next(outcomes).id == "a"
    assert not multiprocessing.active_children()
    assert time.monotonic() - started < 40


def test_a_stop_lets_rows_under_way_end(make_shop: MakeShop) -> None:
    """After the first signal no row is begun, and those begun are not lost."""
    shop = make_shop([f"r{number}" for number in range(30)])
    jobs = jobs_of(shop)
    with catch_signals() as stop:
        outcomes = []
        for outcome in run_rows(jobs, [shop.settings(batch=2)] * 2, stop):
            outcomes.append(outcome.id)
            if len(outcomes) == 5:
                os.kill(os.getpid(), signal.SIGTERM)
    assert stop.number == signal.SIGTERM
    assert len(outcomes) < 12
    assert sorted(shop.tried) == sorted(outcomes)


def test_a_drain_has_an_end(make_shop: MakeShop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that takes too long is given back: it stays to be done."""
    monkeypatch.setattr("catalogpose.run.local.DRAIN_SECONDS", 0.2)
    shop = make_shop(["slow"])
    started = time.monotonic()

    def interrupt() -> None:
        while not shop.tried:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    with catch_signals() as stop:
        threading.Thread(target=interrupt).start()
        assert list(run_rows(jobs_of(shop), [shop.settings()], stop)) == []
    assert stop.number == signal.SIGINT
    assert shop.tried == ["slow"]
    assert time.monotonic() - started < 40


def test_the_second_signal_leaves_at_once() -> None:
    """Who presses Ctrl-C twice means it; handlers are as before afterwards."""
    before = signal.getsignal(signal.SIGINT)
    with catch_signals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(SystemExit) as caught:
            os.kill(os.getpid(), signal.SIGINT)
    assert caught.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before
