from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from catalogpose import __version__
from catalogpose.catalog.canvas import fit_photo
from catalogpose.catalog.files import sha256_file
from catalogpose.catalog.photos import read_photo
from catalogpose.catalog.poses import write_pose
from catalogpose.catalog.provenance import read_provenance
from catalogpose.errors import EnvironmentFault, RowError
from catalogpose.records import LABEL_ID, Letterbox, Outcome, Pose, Reference, Region, Row
from catalogpose.run.memory import SOURCES_KEPT
from catalogpose.run.perceive import Seen
from catalogpose.run.plan import Job, make_plan
from catalogpose.run.process import WorkerSettings
from catalogpose.run.worker import Worker
from catalogpose.truepose.compositor import Compositor
from catalogpose.truepose.matcher import Matcher
from catalogpose.truepose.pipeline import TruePosePipeline, load_pipeline

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
        labels = self.see_map(photo, parsing, label_set)
        bands = np.unique(labels)
        rng = np.random.default_rng(len(photo.sha256))
        return Seen(
            labels=labels,
            regions=tuple(Region(label=int(b), box=(0, 0, 1, 1), area=1) for b in bands),
            embeddings={int(band): rng.normal(size=12).astype(np.float16) for band in bands},
        )

    def see_map(
        self, photo: Any, parsing: Path | None, label_set: str | None
    ) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """See the bands alone."""
        Eyes.looks += 1
        height, width = photo.picture.shape[:2]
        bands = np.array([HAIR, COAT, PANTS], dtype=np.uint8)
        return np.repeat(bands[np.arange(height) * 3 // height][:, None], width, axis=1)

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

    def style(self, *rows: tuple[str, str, Any]) -> list[Job]:
        """Return a job for each source, reference and what of it is marked: label names or a mask;
        ids count from s0. None in place of the mark: plain re-posing to the pose `all`.
        """
        made = []
        for index, (source, photo, mark) in enumerate(rows):
            reference = None
            if mark is not None:
                where = {"mask": mark} if isinstance(mark, Path) else {"regions": mark}
                reference = Reference(photo=self.folder / f"{photo}.png", **where)
            row = Row(
                number=index + 1,
                id=f"s{index}",
                source=self.folder / f"{source}.png",
                pose=self.folder / "all.json",
                reference=reference,
            )
            made.append(row)
        return list(make_plan(made, {}, run_folder=self.run, fingerprint="f", seed=0).jobs)

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


def test_a_finer_photo_makes_a_finer_picture(desk: Desk, tmp_path: Path) -> None:
    """Where a model's pictures are twice its canvas, the photo is carried at that size: rows of
    single pixels arrive, which the canvas shows as grey, in the source and in one whose other
    regions were blanked for words.
    """
    pipe = load_pipeline(desk.settings.model, "cpu")
    style = {"pose_channels": pipe.pose_encoder.config.in_channels}
    pipe.unet.add_carried(pipe.vae.config.latent_channels + 1)
    compositor = Compositor(**style, channels=(8, 16), groups=4, scale=2, last_channels=8)
    torch.nn.init.zeros_(compositor.tower.leave.weight)
    torch.nn.init.constant_(compositor.tower.leave.bias[:4], 30.0)  # lays everything
    matcher = Matcher(**style, channels=(8, 16), width=8, groups=4)
    parts = {"matcher": matcher, "compositor": compositor}
    made = TruePosePipeline(**{**pipe.components, **parts})
    made.card = pipe.card
    made.save_pretrained(tmp_path / "finer")
    photo = np.zeros((256, 176, 3), dtype=np.uint8)
    photo[::2] = 255
    Image.fromarray(photo).save(desk.folder / "one.png")
    worker, (job,) = desk.worker(model=tmp_path / "finer"), desk.jobs(("one", "all"))
    (outcome,) = worker.work([job])
    picture = desk.picture(outcome).astype(int)
    assert picture.shape == (256, 176, 3)
    assert np.abs(np.diff(picture, axis=0)).mean() > 60

    class Text:
        """Notes the finer photo that it is given."""

        finer: np.ndarray[Any, np.dtype[np.uint8]]

        def encode_source(self, *given: Any) -> Any:
            """Look at the source as TruePose does."""
            *seen, _, self.finer = given
            return worker._pipe.encode_source(*seen, finer=self.finer)

    text: Any = Text()
    worker._memory._eyes.embed = lambda picture, regions: {}  # type: ignore[method-assign]
    worker._memory.kept_source(job, frozenset({HAIR, COAT}), text)
    assert text.finer.shape == (256, 176, 3)
    assert np.ptp(text.finer[:160]) == 255
    assert np.ptp(text.finer[180:]) == 0


def test_a_checkout_that_is_not_installed_names_its_own_version(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only other packages' versions are looked up among what is installed."""
    asked = []
    monkeypatch.setattr("catalogpose.run.worker.version", lambda name: asked.append(name) or "9")
    (outcome,) = desk.worker().work(desk.jobs(("one", "all")))
    assert outcome.facts["software"] == f"catalogpose {__version__}, torch 9, diffusers 9"
    assert asked == ["torch", "diffusers"]


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
        TruePosePipeline, "encode_source", lambda *a, **o: encoded.append(None) or encode(*a, **o)
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


def save_mask(path: Path, marked: np.ndarray) -> Path:
    """Write a mask, white where `marked`."""
    Image.fromarray((marked * 255).astype(np.uint8)).save(path)
    return path


def test_a_style_row_knows_its_reference(desk: Desk) -> None:
    """File and outcome name the photo, and its regions or mask; a plain row says none of it."""
    mask = save_mask(desk.folder / "mask.png", np.arange(6000).reshape(100, 60) % 60 < 30)
    jobs = desk.style(("one", "two", ("coat", "pants")), ("one", "two", mask), ("one", "", None))
    outcomes = by_id(desk.worker().work(jobs))
    assert {outcome.status for outcome in outcomes.values()} == {"done"}
    told = [read_provenance(desk.run / str(outcomes[f"s{i}"].output)) for i in range(3)]
    photo, marks = sha256_file(desk.folder / "two.png"), sha256_file(mask)
    names = ("reference_sha256", "reference_regions", "reference_mask_sha256")
    assert [[t.get(name) for name in names] for t in told] == [
        [photo, "coat, pants", None], [photo, None, marks], [None, None, None],
    ]  # fmt: skip
    facts = [outcomes[f"s{i}"].facts for i in range(3)]
    assert [fact.get("reference_sha256") for fact in facts] == [photo, photo, None]
    assert facts[1]["reference_mask_sha256"] == marks
    assert not any("reference_regions" in fact for fact in facts)


def test_a_reference_stays_where_nothing_is_marked(desk: Desk) -> None:
    """With an empty mask the picture is the reference itself; with a full one, the source in the
    reference's pose, as a plain row has it.
    """
    pixels = np.ones((100, 60))
    full, none = (save_mask(desk.folder / f"{v}.png", v * pixels) for v in (1, 0))
    jobs = desk.style(("one", "two", none), ("one", "two", full), ("one", "", None))
    jobs = [replace(job, seed=5) for job in jobs]
    worker = desk.worker()
    found = {o.id: desk.picture(o).astype(int) for o in worker.work(jobs)}
    photo = read_photo(desk.folder / "two.png")
    box = Letterbox.fit(photo.width, photo.height, 88, 128)
    assert np.array_equal(found["s0"], fit_photo(photo.picture, box))
    assert np.abs(found["s1"] - found["s0"]).mean() > 5
    assert np.abs(found["s1"] - found["s2"]).mean() < np.abs(found["s1"] - found["s0"]).mean()


def test_style_rows_do_not_depend_on_their_batch(desk: Desk) -> None:
    """Together with plain rows, in another order and alone a row paints the same."""
    rows = [("one", "two", ("coat",)), ("two", "", None), ("two", "one", ("hair", "pants"))]
    jobs = desk.style(*rows)
    worker = desk.worker()
    together = {o.id: desk.picture(o).astype(int) for o in worker.work(jobs)}
    for job in reversed(jobs):
        (alone,) = worker.work([job])
        assert np.abs(desk.picture(alone) - together[alone.id]).max() <= 2


def test_a_reference_is_looked_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many rows mark whatever of it, one look and one pass through the VAE do."""
    encoded: list[int] = []
    encode = TruePosePipeline.encode_photos
    monkeypatch.setattr(
        TruePosePipeline, "encode_photos", lambda *a: encoded.append(0) or encode(*a)
    )
    mask = save_mask(desk.folder / "mask.png", np.ones((100, 60)))
    jobs = desk.style(
        *[("one", "two", (name,)) for name in ("coat", "hair", "pants")], ("one", "one", mask)
    )
    worker = desk.worker(batch=1)
    assert {o.status for job in jobs for o in worker.work([job])} == {"done"}
    # The source, the reference with its map, and the source once more as a reference with a mask.
    assert (Eyes.looks, len(encoded)) == (2, 3)


def test_references_that_cannot_be_used_fail_their_rows(desk: Desk) -> None:
    """A region that is not there, masks that do not fit and a broken photo: one line each."""
    (desk.folder / "cut.png").write_bytes((desk.folder / "one.png").read_bytes()[:500])
    small = save_mask(desk.folder / "small.png", np.ones((60, 100)))
    jobs = desk.style(
        ("one", "two", ("skirt",)), ("one", "two", small), ("one", "cut", ("coat",)),
        ("one", "two", desk.folder / "gone.png"), ("one", "two", ("coat",)),
    )  # fmt: skip
    outcomes = by_id(desk.worker().work(jobs))
    found = [outcomes[f"s{i}"] for i in range(5)]
    assert [o.status for o in found] == ["failed"] * 4 + ["done"]
    assert {o.stage for o in found[:4]} == {"reference"}
    assert [o.error_class for o in found[:4]] == ["no-region", "size", "truncated", "missing"]
    assert [o.error_message for o in found[:3]] == [
        "the reference shows no skirt; its regions are: hair, coat, pants",
        "the mask has 100x60 pixels, the upright reference 60x100",
        "the reference: the photo's file ends too early",
    ]
