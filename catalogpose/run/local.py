"""Many rows on this machine: one spawned process a device, each with a pipe, watched for death."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any

from catalogpose.errors import CatalogposeError, EnvironmentFault, RowError, UsageError
from catalogpose.records import Outcome
from catalogpose.run.plan import Job
from catalogpose.run.process import WorkerSettings, failed_outcome, serve

DEATHS_A_ROW = 2
"""Worker processes that a row may cost before it is given up."""

DEATHS_WORKING = 8
"""Deaths without an answer between them that stop the run: then it is not the rows."""

DEATHS_STARTING = 3
"""The same for workers that die before they have opened their model."""

DRAIN_SECONDS = 20.0
"""Time that rows under way get to end after the first signal."""

LEAVE_SECONDS = 15.0
"""Time that idle workers get to leave before they are killed."""

TICK_SECONDS = 0.25
"""How often the parent looks whether a signal came while no worker says anything."""


VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The variable by which a process sees only some GPUs."""

_SPAWN = multiprocessing.get_context("spawn")


class StopSignal:
    """Whether the user or the system asked the run to stop."""

    number: int | None = None
    """The first signal that came; None: none so far."""
    since: float = 0.0
    """When it came, in seconds of the monotonic clock."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal, so that rows under way can end; leave at the second."""
        if self.number is not None:
            raise SystemExit(128 + number)
        self.number, self.since = number, time.monotonic()


@contextmanager
def catch_signals() -> Iterator[StopSignal]:
    """Turn SIGINT and SIGTERM into a wish to stop while the block runs; for the main thread."""
    stop = StopSignal()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def run_rows(
    jobs: Iterable[Job], workers: Sequence[WorkerSettings], stop: StopSignal | None = None
) -> Generator[Outcome, None, None]:
    """Do the jobs on as many processes as there are `workers` and yield outcomes as they come.

    Every job ends in one outcome, except that after a `stop` only those under way do. A row whose
    worker dies is tried once more, alone. Close the iterator to end early: no process outlives it.

    Raises the CatalogposeError that a worker raised, such as a model that cannot be loaded,
    EnvironmentFault if worker after worker dies, and RuntimeError with the traceback of a bug.
    """
    crew = _Crew(jobs, workers, stop or StopSignal())
    try:
        yield from crew.outcomes()
    finally:
        crew.dismiss()


@dataclass(eq=False)
class _Staff:
    """One live worker process."""

    settings: WorkerSettings
    """What it was told."""
    process: SpawnProcess
    """The process."""
    pipe: Connection
    """The parent's end of its own pipe."""
    ready: bool = False
    """Whether it has opened its model."""
    jobs: tuple[Job, ...] = ()
    """What it is doing."""


class _Crew:
    """The workers of one run and what waits for them."""

    def __init__(
        self, jobs: Iterable[Job], workers: Sequence[WorkerSettings], stop: StopSignal
    ) -> None:
        """Start nobody yet; a worker starts when jobs wait for it."""
        self._waiting = deque(jobs)
        self._suspects: deque[Job] = deque()
        self._deaths: Counter[str] = Counter()
        self._died_starting = 0
        self._died_working = 0
        self._absent = list(workers)
        self._staff: list[_Staff] = []
        self._stop = stop

    def outcomes(self) -> Iterator[Outcome]:
        """Feed, listen and bury until every job has its outcome or the run shall stop."""
        while True:
            stopping = self._stop.number is not None
            if not stopping:
                self._feed()
            elif time.monotonic() - self._stop.since > DRAIN_SECONDS:
                return
            left = (self._waiting or self._suspects) and not stopping
            if not left and not any(worker.jobs for worker in self._staff):
                return
            handles = [h for w in self._staff for h in (w.pipe, w.process.sentinel)]
            said = wait(handles, TICK_SECONDS)
            for worker in tuple(self._staff):
                if worker.pipe in said or worker.process.sentinel in said:
                    yield from self._hear(worker)

    def dismiss(self) -> None:
        """Send every worker home; kill those that are busy, and those that do not leave."""
        for worker in self._staff:
            worker.pipe.close()
            if worker.jobs or not worker.ready:
                worker.process.kill()
        deadline = time.monotonic() + LEAVE_SECONDS
        for worker in self._staff:
            _see_off(worker.process, deadline)
        self._staff.clear()

    def _feed(self) -> None:
        """Give idle workers the next jobs, and start a worker where jobs wait for one."""
        for worker in self._staff:
            if worker.ready and not worker.jobs:
                worker.jobs = self._take(worker.settings.batch)
                if worker.jobs:
                    self._send(worker)
        starting = sum(worker.settings.batch for worker in self._staff if not worker.ready)
        while self._absent and len(self._waiting) + len(self._suspects) > starting:
            worker = _start(self._absent.pop(0))
            self._staff.append(worker)
            starting += worker.settings.batch

    def _take(self, count: int) -> tuple[Job, ...]:
        """Take the next jobs off the queue: one suspect alone, or up to `count` others together."""
        if self._suspects:
            return (self._suspects.popleft(),)
        return tuple(self._waiting.popleft() for _ in range(min(count, len(self._waiting))))

    @staticmethod
    def _send(worker: _Staff) -> None:
        """Hand a worker its jobs; if it has just died, its sentinel will say so."""
        with suppress(BrokenPipeError, ConnectionResetError):
            worker.pipe.send(worker.jobs)

    def _hear(self, worker: _Staff) -> Iterator[Outcome]:
        """Take in all that a worker said, and bury it if it is dead."""
        alive = worker.process.is_alive()
        try:
            while worker.pipe.poll():
                kind, content = worker.pipe.recv()
                yield from self._answer(worker, kind, content)
        except (EOFError, ConnectionResetError):
            alive = False
        if not alive:
            yield from self._bury(worker)

    def _answer(self, worker: _Staff, kind: str, content: Any) -> Iterator[Outcome]:
        """Act on one message of a worker; see `process.serve` for the kinds."""
        if kind == "fault":
            code, message = content
            raise {2: UsageError, 6: EnvironmentFault}.get(code, CatalogposeError)(message)
        if kind == "bug":
            raise RuntimeError(f"a worker met a bug; the run can be resumed\n{content}")
        worker.ready = True
        self._died_starting = 0
        if kind == "done":
            worker.jobs = ()
            self._died_working = 0
            yield from content

    def _bury(self, worker: _Staff) -> Iterator[Outcome]:
        """Note a worker's death: its rows are tried again one by one, or given up."""
        self._staff.remove(worker)
        worker.pipe.close()
        how = _how_it_ended(_see_off(worker.process, time.monotonic() + LEAVE_SECONDS))
        self._absent.append(worker.settings)
        for job in worker.jobs:
            self._deaths[job.row.id] += 1
            if len(worker.jobs) == 1 and self._deaths[job.row.id] >= DEATHS_A_ROW:
                reason = f"its worker process died each time, at last by {how}"
                error = RowError("worker", "worker-killed", reason)
                yield failed_outcome(job, worker.settings, error, 0.0)
            else:
                self._suspects.append(replace(job, attempt=job.attempt + 1))
        self._died_working += worker.ready
        self._died_starting += not worker.ready
        if self._died_working >= DEATHS_WORKING or self._died_starting >= DEATHS_STARTING:
            raise EnvironmentFault(
                f"workers die one after another {'at work' if worker.ready else 'at their start'} "
                f"on {worker.settings.device} ({how}); lines above this one may say why"
            )


def _start(settings: WorkerSettings) -> _Staff:
    """Start a worker process that sees only its own device and that signals to the group spare."""
    here, there = multiprocessing.Pipe()
    process = _SPAWN.Process(target=serve, args=(there, settings), daemon=True)
    # The tracker's own start would lift the block below, so it starts first.
    resource_tracker.ensure_running()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    before = os.environ.get(VISIBLE)
    if settings.visible is not None:
        os.environ[VISIBLE] = settings.visible
    try:
        process.start()
    finally:
        if settings.visible is not None:
            os.environ.pop(VISIBLE)
            os.environ.update({} if before is None else {VISIBLE: before})
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        there.close()
    return _Staff(settings=settings, process=process, pipe=here)


def _see_off(process: SpawnProcess, deadline: float) -> int | None:
    """Wait for a process until the deadline, then kill it; return its exit code."""
    process.join(max(0.0, deadline - time.monotonic()))
    if process.is_alive():
        process.kill()
        process.join()
    code = process.exitcode
    process.close()
    return code


def _how_it_ended(code: int | None) -> str:
    """Say in words how a process ended."""
    if code is not None and code < 0:
        hint = ", as when memory runs out" if -code == signal.SIGKILL else ""
        return f"signal {-code}{hint}"
    return f"exit code {code}"
