from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalogpose.catalog.files import sha256_file, sha256_json
from catalogpose.records import Outcome, Reference
from catalogpose.run.plan import FileHashes, Job, Plan, make_plan, model_fingerprint, row_digest
from catalogpose.run.plan import row_seed as seed_of
from catalogpose.truepose.model import ModelCard

MakeShop = Callable[..., Any]


def plan_of(shop: Any, outcomes: dict[str, Outcome] | None = None, **changes: Any) -> Plan:
    """Plan a shop's rows."""
    plain: dict[str, Any] = {"run_folder": shop.run, "fingerprint": "f", "seed": 0}
    return make_plan(shop.rows, outcomes or {}, **(plain | changes))


def outcome_of(job: Job, shop: Any, status: str = "done") -> Outcome:
    """Return a job's outcome, its picture written."""
    outcome = Outcome(id=job.row.id, digest=job.digest, status=status)  # type: ignore[arg-type]
    if status == "failed":
        return replace(outcome, stage="photo", error_class="truncated")
    path = shop.run / "images" / f"{job.row.number}.png"
    path.write_bytes(b"picture")
    output = f"images/{path.name}"
    return replace(outcome, output=output, output_sha256=sha256_file(path))


def test_a_seed_depends_on_the_runs_seed_and_the_id_alone() -> None:
    """A row's seed is a fixed function: these numbers must never change, or pictures would."""
    assert seed_of(0, "a") == 2308061035095187437
    assert len({seed_of(0, "a"), seed_of(1, "a"), seed_of(0, "b"), seed_of(10, "a")}) == 4
    assert all(0 <= seed_of(7, str(number)) < 2**63 for number in range(100))


def test_permuted_rows_keep_their_seeds_and_digests(make_shop: MakeShop) -> None:
    """Neither a row's place nor its neighbours decide its picture."""
    shop = make_shop(["a", "b", "c"])
    backwards = make_plan(reversed(shop.rows), {}, run_folder=shop.run, fingerprint="f", seed=0)
    there = {job.row.id: (job.seed, job.digest) for job in plan_of(shop).jobs}
    assert {job.row.id: (job.seed, job.digest) for job in backwards.jobs} == there


def test_a_rows_own_seed_wins(make_shop: MakeShop) -> None:
    """A seed in the manifest replaces the derived one."""
    shop = make_shop(["a"])
    row = replace(shop.rows[0], seed=5)
    plan = make_plan([row], {}, run_folder=shop.run, fingerprint="f", seed=9)
    assert plan.jobs[0].seed == 5


def test_all_that_decides_a_picture_is_in_its_digest(make_shop: MakeShop, tmp_path: Path) -> None:
    """A changed photo, pose, canvas, map, label set, seed or fingerprint gives another digest."""
    row = make_shop(["a"]).rows[0]
    for name in ("photo", "pose", "map"):
        (tmp_path / f"other-{name}").write_text(name)
    changes: list[dict[str, Any]] = [
        {},
        {"source": tmp_path / "other-photo"},
        {"source": tmp_path / "missing"},
        {"pose": tmp_path / "other-pose"},
        {"pose_size": (10, 20)},
        {"parsing": tmp_path / "other-map", "label_set": "atr"},
        {"parsing": tmp_path / "other-map", "label_set": "lip"},
    ]
    digests = [row_digest(replace(row, **change), 1, "f", FileHashes()) for change in changes]
    digests += [row_digest(row, 2, "f", FileHashes()), row_digest(row, 1, "g", FileHashes())]
    assert len(set(digests)) == len(digests)
    reference = Reference(photo=tmp_path / "other-photo", regions=("coat", "skirt"))
    styles: list[dict[str, Any]] = [
        {},
        {"photo": row.source},
        {"regions": ("coat",)},
        {"regions": (), "mask": tmp_path / "other-map"},
        {"regions": (), "mask": tmp_path / "other-pose"},
        {"parsing": tmp_path / "other-map", "label_set": "atr"},
    ]
    for style in styles:
        styled = replace(row, reference=replace(reference, **style))
        digests.append(row_digest(styled, 1, "f", FileHashes()))
    turned = replace(row, reference=replace(reference, regions=("skirt", "coat")))
    assert row_digest(turned, 1, "f", FileHashes()) == digests[-len(styles)]
    assert len(set(digests)) == len(digests)
    same = replace(row, id="b", number=7, target=tmp_path / "t", product="p", extra={"x": 1})
    assert row_digest(same, 1, "f", FileHashes()) == digests[0]


def test_a_done_row_is_left_out_while_its_picture_stands(make_shop: MakeShop) -> None:
    """The ledger's word counts only together with the picture's bytes."""
    shop = make_shop(["a", "b", "c"])
    outcomes = {job.row.id: outcome_of(job, shop) for job in plan_of(shop).jobs}
    assert plan_of(shop, outcomes) == Plan(jobs=(), known=outcomes, changed=0)
    (shop.run / "images" / "1.png").unlink()
    (shop.run / "images" / "2.png").write_bytes(b"cut")
    plan = plan_of(shop, outcomes)
    assert [(job.row.id, job.attempt) for job in plan.jobs] == [("a", 1), ("b", 1)]
    assert set(plan.known) == {"c"}


def test_a_changed_photo_makes_its_rows_new(make_shop: MakeShop) -> None:
    """Other bytes behind the same path are noticed, and the summary can say how many rows."""
    shop = make_shop(["a", "b", "c"])
    outcomes = {job.row.id: outcome_of(job, shop) for job in plan_of(shop).jobs}
    (shop.folder / "photo-0.png").write_bytes(b"another")
    plan = plan_of(shop, outcomes)
    assert [job.row.id for job in plan.jobs] == ["a", "b"]
    assert (set(plan.known), plan.changed) == ({"c"}, 2)


@pytest.mark.parametrize("retry", [True, False])
def test_failed_rows_are_tried_again_if_wished(make_shop: MakeShop, retry: bool) -> None:
    """A failed row stays known as failed, and is a job, one attempt on, only with a retry."""
    shop = make_shop(["a"])
    outcomes = {"a": outcome_of(plan_of(shop).jobs[0], shop, "failed")}
    plan = plan_of(shop, outcomes, retry_failed=retry)
    assert [job.attempt for job in plan.jobs] == ([2] if retry else [])
    assert plan.known == outcomes


def test_rows_of_one_source_share_its_key(make_shop: MakeShop) -> None:
    """Features are kept by the content of photo and map, not by row."""
    keys = [job.source_key for job in plan_of(make_shop(["a", "b", "c"])).jobs]
    assert keys[0] == keys[1] != keys[2]


def test_a_file_is_hashed_again_only_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One photo with many poses is read once; a changed one again; a missing one has no hash."""
    read: list[Path] = []
    monkeypatch.setattr(
        "catalogpose.run.plan.sha256_file", lambda path: read.append(path) or "hash"
    )
    path, hashes = tmp_path / "a", FileHashes()
    path.write_text("one")
    assert [hashes(path), hashes(path)] == ["hash", "hash"]
    assert len(read) == 1
    path.write_text("longer")
    hashes(path)
    assert len(read) == 2
    assert hashes(tmp_path / "missing") is None


def test_a_models_fingerprint_skips_words_for_people(tmp_path: Path) -> None:
    """The name, the licence and the training notes decide no picture; the rest of the card does."""
    card = ModelCard(name="a", height=8, width=8)
    told = replace(card, name="b", licence="x", training={"hours": 1})
    known = model_fingerprint(tmp_path, card)
    assert model_fingerprint(tmp_path, told) == known
    changes: list[dict[str, Any]] = [{"width": 9}, {"weights": {"x": "1"}}, {"pose_style": "other"}]
    for change in changes:
        assert model_fingerprint(tmp_path, replace(card, **change)) != known


def test_a_models_configurations_are_part_of_its_fingerprint(tmp_path: Path) -> None:
    """Another scheduler or another strength of Equation 6 gives other pictures."""
    card = ModelCard(name="a", height=8, width=8)
    (tmp_path / "unet").mkdir()
    found = set()
    for text in ("{}", '{"delta": 0.5}'):
        (tmp_path / "unet" / "config.json").write_text(text)
        found.add(model_fingerprint(tmp_path, card))
    (tmp_path / "catalogpose.json").write_text("{}")
    found.add(model_fingerprint(tmp_path, card))
    assert len(found) == 2


def test_digests_of_rows_without_a_reference_stay(make_shop: MakeShop) -> None:
    """Runs that were made before there were references stay done."""
    row = make_shop(["a"]).rows[0]
    content = {
        "source": sha256_file(row.source),
        "pose": sha256_file(row.pose),
        "pose_size": None,
        "parsing": None,
        "label_set": None,
        "seed": 1,
        "fingerprint": "f",
    }
    assert row_digest(row, 1, "f", FileHashes()) == sha256_json(content)


def test_rows_of_one_reference_share_its_key(make_shop: MakeShop) -> None:
    """What a row marks of it is not part of the key; whether a map is needed is."""
    shop = make_shop(["a", "b", "c", "d"])
    photo, other = shop.rows[0].source, shop.rows[2].source
    references = [
        Reference(photo=photo, regions=("coat",)),
        Reference(photo=photo, regions=("skirt", "hat")),
        Reference(photo=photo, mask=other),
        Reference(photo=other, regions=("coat",)),
    ]
    rows = [replace(r, reference=ref) for r, ref in zip(shop.rows, references, strict=True)]
    plan = make_plan(rows, {}, run_folder=shop.run, fingerprint="f", seed=0)
    keys = [job.reference_key for job in plan.jobs]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert [job.mask_sha256 for job in plan.jobs] == [None, None, sha256_file(other), None]
    assert plan_of(shop).jobs[0].reference_key is None
