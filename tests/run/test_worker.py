from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from catalogpose.catalog.poses import write_pose
from catalogpose.catalog.provenance import read_provenance
from catalogpose.errors import EnvironmentFault, RowError
from catalogpose.records import LABEL_ID, Outcome, Pose, Region, Row
from catalogpose.run.perceive import Seen
from catalogpose.run.plan import Job, make_plan
from catalogpose.run.process import WorkerSettings
from catalogpose.run.worker import SOURCES_KEPT, Worker
from catalogpose.truepose.pipeline import TruePosePipeline

HAIR, COAT, PANTS = (LABEL_ID[name] for name in ("hair", "coat", "pants"))

LEGS = (8, 9, 10, 11, 12, 13)
"""Joints of both legs, hips included."""


class Eyes:
    """Eyes that see hair, a coat and trousers in every photo, and count how often they look."""

    looks = 0
    """Photos looked at."""
    flushed = 0
    """How often the cache was written."""

    def __init__(self, model_folder: Path, cache_root: Path, device: str) -> None:
        """Load nothing."""

    def look(self, photo: Any, parsing: Path | None, label_set: str | None) -> Seen:
        """See three bands, each a third of the photo."""
        Eyes.looks += 1
        height, width = photo.picture.shape[:2]
        bands = np.array([HAIR, COAT, PANTS], dtype=np.uint8)
        labels = np.repeat(bands[np.arange(height) * 3 // height][:, None], width, axis=1)
        rng = np.random.default_rng(len(photo.sha256))
        return Seen(
            labels=labels,
            regions=tuple(Region(label=int(b), box=(0, 0, 1, 1), area=1) for b in bands),
            embeddings={int(band): rng.normal(size=12).astype(np.float16) for band in bands},
        )

    def flush(self) -> None:
        """Count it."""
        Eyes.flushed += 1


@pytest.fixture
def desk(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Desk"]:
    """Give a place with photos, poses and a tiny random model."""
    monkeypatch.setattr("catalogpose.run.perceive.Perception", Eyes)
    monkeypatch.setattr(Eyes, "looks", 0)
    threads = torch.get_num_threads()
    yield Desk(tmp_path, tiny_model)
    torch.set_num_threads(threads)


class Desk:
    """Photos, poses and settings for one worker."""

    def __init__(self, folder: Path, model: Path) -> None:
        """Draw two photos and write two poses: all joints seen, and the legs alone."""
        self.folder, self.run = folder, folder / "run"
        (self.run / "images").mkdir(parents=True)
        rng = np.random.default_rng(2)
        for name in ("one", "two"):
            picture = rng.integers(0, 255, size=(100, 60, 3), dtype=np.uint8)
            Image.fromarray(picture).save(folder / f"{name}.png")
        joints = np.stack([np.linspace(10, 70, 18), np.linspace(10, 110, 18), np.ones(18)], axis=1)
        legs = joints.copy()
        legs[[joint for joint in range(18) if joint not in LEGS]] = (np.nan, np.nan, 0)
        for name, seen in (("all", joints), ("legs", legs)):
            pose = Pose(joints=seen.astype(np.float32), width=80, height=120)
            write_pose(folder / f"{name}.json", pose)
        self.settings = WorkerSettings(
            model=model,
            cache=folder / "cache",
            device="cpu",
            threads=1,
            batch=4,
            steps=2,
            guidance=2.0,
            run_folder=self.run,
            fingerprint="f",
            keypoint_table=None,
        )

    def worker(self, **changes: Any) -> Worker:
        """Open a worker."""
        return Worker(replace(self.settings, **changes))

    def jobs(self, *rows: tuple[str, str]) -> list[Job]:
        """Return a job for each pair of a photo's and a pose's name; ids count from r0."""
        made = [
            Row(
                number=index + 1,
                id=f"r{index}",
                source=self.folder / f"{photo}.png",
                pose=self.folder / f"{pose}.json",
                product="p1",
            )
            for index, (photo, pose) in enumerate(rows)
        ]
        plan = make_plan(made, {}, run_folder=self.run, fingerprint="f", seed=0)
        return list(plan.jobs)

    def picture(self, outcome: Outcome) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Read an outcome's picture."""
        assert outcome.output is not None
        return np.array(Image.open(self.run / outcome.output))


def by_id(outcomes: list[Outcome]) -> dict[str, Outcome]:
    """Sort outcomes by id."""
    return {outcome.id: outcome for outcome in outcomes}


def test_a_row_becomes_a_picture_that_knows_its_origin(desk: Desk) -> None:
    """The file has the model's size, the outcome its hash, and both the facts."""
    (outcome,) = desk.worker().work(desk.jobs(("one", "all")))
    assert (outcome.status, outcome.stage, outcome.device) == ("done", None, "cpu")
    assert desk.picture(outcome).shape == (128, 88, 3)
    assert desk.picture(outcome).std() > 1
    told = read_provenance(desk.run / str(outcome.output))
    assert (told["row_id"], told["product"], told["seed"]) == ("r0", "p1", outcome.seed)
    assert (told["model"], told["steps"], told["guidance"]) == ("tiny", 2, 2.0)
    assert told["source_sha256"] == outcome.source_sha256
    for name in ("model", "settings", "software"):
        assert told[name] == outcome.facts[name]
    assert outcome.facts["fallback"] is None
    assert '"shown": ["hair", "coat", "pants"]' in told["settings"]
    assert outcome.seconds > 0


def test_the_same_row_gives_the_same_file(desk: Desk) -> None:
    """Another worker, later, with other neighbours before it, makes the same bytes."""
    jobs = desk.jobs(("one", "all"), ("one", "legs"), ("two", "all"))
    first = by_id([outcome for job in jobs for outcome in desk.worker().work([job])])
    worker = desk.worker()
    again = by_id([outcome for job in reversed(jobs) for outcome in worker.work([job])])
    assert {id_: o.output_sha256 for id_, o in again.items()} == {
        id_: o.output_sha256 for id_, o in first.items()
    }
    assert len({outcome.output_sha256 for outcome in first.values()}) == 3


def test_a_batch_paints_what_single_rows_paint(desk: Desk) -> None:
    """Rows sampled together agree with rows alone, but for the last bits of floats."""
    jobs = desk.jobs(("one", "all"), ("two", "legs"), ("two", "all"))
    together = {o.id: desk.picture(o) for o in desk.worker().work(jobs)}
    for job in jobs:
        (alone,) = desk.worker().work([job])
        difference = desk.picture(alone).astype(int) - together[job.row.id]
        assert np.abs(difference).max() <= 2


def test_a_source_is_looked_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """SourceNet runs once a source, conditions are made once a source and label set."""
    encoded: list[None] = []
    conditioned: list[frozenset[int]] = []
    encode, condition = TruePosePipeline.encode_source, TruePosePipeline.condition
    monkeypatch.setattr(
        TruePosePipeline, "encode_source", lambda *a: encoded.append(None) or encode(*a)
    )
    monkeypatch.setattr(
        TruePosePipeline, "condition", lambda *a: conditioned.append(a[2]) or condition(*a)
    )
    worker = desk.worker(batch=1)
    for job in desk.jobs(("one", "all"), ("one", "legs"), ("one", "all"), ("one", "legs")):
        worker.work([job])
    assert (Eyes.looks, len(encoded), len(conditioned)) == (1, 1, 2)


def test_old_sources_leave_the_memory(desk: Desk) -> None:
    """The worker keeps a few sources and forgets the one not used for longest."""
    for number in range(SOURCES_KEPT + 1):
        picture = np.full((10, 10, 3), number, dtype=np.uint8)
        Image.fromarray(picture).save(desk.folder / f"s{number}.png")
    jobs = desk.jobs(*[(f"s{number}", "all") for number in range(SOURCES_KEPT + 1)])
    worker = desk.worker(steps=1)
    worker.work(jobs)
    worker.work(jobs[1:2])
    assert Eyes.looks == SOURCES_KEPT + 1
    worker.work(jobs[:1])
    assert Eyes.looks == SOURCES_KEPT + 2


def test_a_pose_that_shows_nothing_falls_back_to_the_whole_person(desk: Desk) -> None:
    """The picture is made all the same, and both outcome and file say so."""
    nose = np.full((18, 3), (np.nan, np.nan, 0), dtype=np.float32)
    nose[10] = (20, 20, 1)
    write_pose(desk.folder / "nose.json", Pose(joints=nose, width=80, height=120))
    (outcome,) = desk.worker().work(desk.jobs(("one", "nose")))
    assert (outcome.status, outcome.facts["fallback"]) == ("done", "whole-person")


def test_row_errors_become_outcomes(desk: Desk) -> None:
    """A broken photo and a broken pose fail their rows, on one line each; neighbours are done."""
    (desk.folder / "cut.png").write_bytes((desk.folder / "one.png").read_bytes()[:500])
    (desk.folder / "odd.json").write_text("{}")
    rows = [("cut", "all"), ("one", "odd"), ("gone", "all"), ("one", "all")]
    outcomes = by_id(desk.worker().work(desk.jobs(*rows)))
    assert [outcomes[f"r{number}"].status for number in range(4)] == ["failed"] * 3 + ["done"]
    assert [(outcomes[i].stage, outcomes[i].error_class) for i in ("r0", "r1", "r2")] == [
        ("photo", "truncated"), ("pose", "unreadable"), ("photo", "missing"),
    ]  # fmt: skip
    assert all("\n" not in str(outcome.error_message) for outcome in outcomes.values())
    assert (outcomes["r2"].source_sha256, len(str(outcomes["r0"].source_sha256))) == (None, 64)


def test_a_long_reason_is_cut(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library's page of text does not reach the ledger."""

    def refuse(*words: object) -> Seen:
        raise RowError("parsing", "odd", "many words\n" * 100)

    monkeypatch.setattr(Eyes, "look", refuse)
    (outcome,) = desk.worker().work(desk.jobs(("one", "all")))
    assert len(str(outcome.error_message)) == 300


def make_small(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Let the memory hold `most` rows at once; return the list of batch sizes tried."""
    tried: list[int] = []
    generate = TruePosePipeline.generate

    def within(self: Any, conditions: Any, *rest: Any, **options: Any) -> Any:
        tried.append(len(conditions))
        if len(conditions) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(self, conditions, *rest, **options)

    monkeypatch.setattr(TruePosePipeline, "generate", within)
    return tried


def test_too_little_memory_halves_the_batch(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is tried in halves, and the worker stays with the size that fits."""
    tried = make_small(monkeypatch, most=2)
    worker = desk.worker(batch=5)
    jobs = desk.jobs(*[("one", "all")] * 5)
    assert {outcome.status for outcome in worker.work(jobs)} == {"done"}
    assert {outcome.status for outcome in worker.work(jobs[:3])} == {"done"}
    assert tried == [5, 2, 2, 1, 2, 1]


def test_a_row_too_large_for_the_memory_fails_alone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that does not fit even by itself is a failed row, not the end of the run."""
    tried = make_small(monkeypatch, most=0)
    outcomes = desk.worker(batch=2).work(desk.jobs(("one", "all"), ("two", "all")))
    assert {(o.status, o.stage, o.error_class) for o in outcomes} == {("failed", "generate", "oom")}
    assert tried == [2, 1, 1]


def test_a_picture_that_cannot_be_written_is_no_rows_fault(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk stops the run, whatever the row."""

    def refuse(*words: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("catalogpose.run.worker.write_picture", refuse)
    with pytest.raises(EnvironmentFault, match="No space left on device"):
        desk.worker().work(desk.jobs(("one", "all")))


def test_a_missing_gpu_is_an_environment_fault(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what works without one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentFault, match="--device cpu works without"):
        desk.worker(device="cuda:0")


def test_a_closing_worker_writes_its_cache(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the eyes saw is kept for the next run."""
    monkeypatch.setattr(Eyes, "flushed", 0)
    desk.worker().close()
    assert Eyes.flushed == 1
