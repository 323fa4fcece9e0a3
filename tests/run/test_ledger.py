import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from catalogpose.catalog.manifest import check_manifest, read_rows
from catalogpose.errors import UsageError
from catalogpose.records import Outcome
from catalogpose.run.ledger import Ledger, write_results

MakeShop = Callable[..., Any]

DONE = Outcome(
    id="a",
    digest="d",
    status="done",
    output="images/a.png",
    output_sha256="o",
    source_sha256="s",
    seed=7,
    seconds=1.5,
    device="cpu",
    fingerprint="f",
    facts={"steps": 3, "guidance": 2.5, "model": "tiny", "shown": ["hat", "face"]},
)
FAILED = Outcome(
    id="b",
    digest="d",
    status="failed",
    stage="photo",
    error_class="truncated",
    error_message="the photo's file ends too early",
    attempts=2,
)


def test_outcomes_come_back_and_the_latest_counts(tmp_path: Path) -> None:
    """What is recorded is read back whole, in another process too; a later record of an id wins."""
    with Ledger(tmp_path) as ledger:
        for outcome in (replace(DONE, status="failed"), FAILED, DONE):
            ledger.record(outcome)
        assert Ledger(tmp_path).outcomes() == {"a": DONE, "b": FAILED}
    with Ledger(tmp_path) as ledger:
        ledger.record(replace(FAILED, attempts=3))
    assert Ledger(tmp_path).outcomes()["b"].attempts == 3
    assert len((tmp_path / "ledger.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("id_", ["zwei\nzeilen", "\u2028", "名", "\udc80", '"', "😀"])
def test_any_id_is_one_line(tmp_path: Path, id_: str) -> None:
    """No id can tear the ledger."""
    with Ledger(tmp_path) as ledger:
        ledger.record(replace(DONE, id=id_))
        ledger.record(FAILED)
    assert set(Ledger(tmp_path).outcomes()) == {id_, "b"}


@pytest.mark.parametrize("torn", [b'{"id": "c", "dig', b"\0\0\0", b"x" * 200_000])
@pytest.mark.parametrize("whole", [(), (DONE, FAILED)])
def test_a_torn_last_line_is_left_out_and_cut_off(
    tmp_path: Path, torn: bytes, whole: tuple[Outcome, ...]
) -> None:
    """What a crash left half written disturbs neither reading nor the next record."""
    with Ledger(tmp_path) as ledger:
        for outcome in whole:
            ledger.record(outcome)
    with (tmp_path / "ledger.jsonl").open("ab") as file:
        file.write(torn)
    known = {outcome.id: outcome for outcome in whole}
    assert Ledger(tmp_path).outcomes() == known
    with Ledger(tmp_path) as ledger:
        ledger.record(replace(DONE, id="n"))
    assert Ledger(tmp_path).outcomes() == known | {"n": replace(DONE, id="n")}


@pytest.mark.parametrize("line", ["not JSON", "[]", '{"id": "a"}', "7"])
def test_a_spoilt_line_in_the_middle_is_named(tmp_path: Path, line: str) -> None:
    """A line that somebody edited is not skipped in silence."""
    with Ledger(tmp_path) as ledger:
        ledger.record(DONE)
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UsageError, match=r"ledger\.jsonl, line 2: .* delete the line"):
        Ledger(tmp_path).outcomes()


def test_a_ledger_of_a_newer_version_can_be_read(tmp_path: Path) -> None:
    """Fields that this version does not know are passed over."""
    line = json.dumps({"id": "a", "digest": "d", "status": "done", "novelty": 1})
    (tmp_path / "ledger.jsonl").write_text(f"{line}\n")
    assert Ledger(tmp_path).outcomes() == {"a": Outcome(id="a", digest="d", status="done")}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_results_join_the_manifest_with_the_outcomes(make_shop: MakeShop, suffix: str) -> None:
    """Every row is there with the manifest's columns, its outcome, its seed and rebased paths."""
    shop = make_shop(["a", "b", "c"], suffix=suffix, model=["x", "y", "z"], price=[1, 2, None])
    write_results(shop.run, shop.manifest, {"a": DONE, "b": FAILED}, seed=0)
    table = pq.read_table(shop.run / "results.parquet")
    done, failed, pending = table.to_pylist()
    price = 1 if suffix == ".parquet" else "1"
    assert done == {
        "id": "a",
        "source": "../photo-0.png",
        "pose": "../pose.json",
        "seed": 2308061035095187437,
        "model": "x",
        "price": price,
        "status": "done",
        "output": "images/a.png",
        "output_sha256": "o",
        "source_sha256": "s",
        "stage": None,
        "error_class": None,
        "error_message": None,
        "attempts": 1,
        "seconds": 1.5,
        "device": "cpu",
        "fingerprint": "f",
        "steps": 3,
        "guidance": 2.5,
        "picture_model": "tiny",
        "shown": '["hat", "face"]',
    }
    assert (failed["status"], failed["output"], failed["stage"]) == ("failed", None, "photo")
    assert (failed["error_class"], failed["attempts"]) == ("truncated", 2)
    assert (pending["status"], pending["attempts"], pending["price"]) == ("pending", 0, None)


def test_failed_rows_become_a_manifest_of_their_own(make_shop: MakeShop) -> None:
    """`failures.parquet` is a valid manifest with all columns, and goes when no row failed."""
    shop = make_shop(["a", "b", "c"], colour=["red", "green", "blue"])
    write_results(shop.run, shop.manifest, {"a": DONE, "b": FAILED}, seed=0)
    failures = shop.run / "failures.parquet"
    assert check_manifest(failures) == 1
    (row,) = read_rows(failures)
    assert (row.id, row.extra, row.seed) == ("b", {"colour": "green"}, None)
    assert row.source.samefile(shop.folder / "photo-0.png")
    write_results(shop.run, shop.manifest, {"a": DONE}, seed=0)
    assert not failures.exists()
