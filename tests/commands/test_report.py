import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from catalogpose.catalog.poses import write_pose
from catalogpose.commands.report import ReportSummary, write_report
from catalogpose.config import ReportOptions
from catalogpose.errors import UsageError
from catalogpose.records import LABEL_ID, Pose

RED, PINK, BLUE, WALL = (190, 30, 40), (200, 60, 70), (30, 50, 190), (225, 225, 220)
HOSTILE = "<script>alert(1)</script>\"'><img src=https://evil.example/x onerror=alert(2)>"


def photo(colour: tuple[int, int, int], left: int = 16) -> np.ndarray:
    """Return a picture (64, 48, 3): a garment of one colour before a wall."""
    picture = np.full((64, 48, 3), WALL, dtype=np.uint8)
    picture[16:48, left : left + 16] = colour
    return picture


@dataclass(frozen=True)
class FakeParser:
    """Sees clothes wherever a picture is not the wall."""

    label_set: str = "common"

    @classmethod
    def load(cls, folder: Path, device: str) -> "FakeParser":
        """Load nothing."""
        assert folder.name == "parser"
        assert device == "cpu"
        return cls()

    def parse(self, picture: np.ndarray) -> np.ndarray:
        """Return the map (H, W)."""
        far = np.abs(picture.astype(int) - WALL).max(axis=-1) > 40
        return (far * LABEL_ID["upper-clothes"]).astype(np.uint8)


class Run:
    """A run folder made by hand."""

    def __init__(self, folder: Path) -> None:
        """Make the folder with one pose, one source and a model folder with a parser."""
        self.folder, self.rows = folder, list[dict[str, Any]]()
        (folder / "images").mkdir(parents=True)
        (folder / "model" / "parser").mkdir(parents=True)
        joints = np.stack([np.linspace(8, 40, 18), np.linspace(4, 60, 18), np.ones(18)], axis=1)
        write_pose(
            folder / "pose.json", Pose(joints=joints.astype(np.float32), width=48, height=64)
        )
        self.save("source.png", photo(RED))

    def path(self, name: str) -> Path:
        """Return a file of the report."""
        return self.folder / "report" / name

    def save(self, name: str, picture: np.ndarray) -> str:
        """Write a picture into the run folder; return its relative path."""
        Image.fromarray(picture).save(self.folder / name)
        return name

    def add(
        self,
        name: str,
        output: np.ndarray | None,
        target: np.ndarray | None = None,
        **cells: Any,
    ) -> None:
        """Add a row; without an output it failed."""
        number = len(self.rows)
        row = {"id": name, "source": "source.png", "pose": "pose.json"}
        row |= dict.fromkeys(("product", "target"))
        row |= {"status": "done" if output is not None else "failed", "output": None}
        row |= {"stage": None, "error_class": None, "error_message": None}
        row |= {"seconds": 2.5, "device": "cpu"}
        if output is not None:
            row["output"] = self.save(f"images/{number}.png", output)
        if target is not None:
            row["target"] = self.save(f"target-{number}.png", target)
        self.rows.append(row | cells)

    def write(self) -> None:
        """Write `results.parquet` and `run.json`."""
        pd.DataFrame(self.rows).to_parquet(self.folder / "results.parquet", index=False)
        facts = {
            "model_folder": str(self.folder / "model"),
            "model": "bundled",
            "fingerprint": "f00d",
            "options": {"steps": 20, "guidance": 3.5, "seed": 7},
            "version": "0.0.1",
            "versions": {"torch": "9.9"},
        }
        (self.folder / "run.json").write_text(json.dumps(facts))

    def report(self, **options: Any) -> ReportSummary:
        """Write the run and its report."""
        self.write()
        return write_report(replace(ReportOptions(run=self.folder, device="cpu"), **options))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return an empty run folder, with a parser that needs no weights."""
    fake = SimpleNamespace(Parser=FakeParser)
    monkeypatch.setitem(sys.modules, "catalogpose.perception.parser", fake)
    return Run(tmp_path / "spring drop")


@pytest.fixture
def small(run: Run) -> Run:
    """Return a run of good, faded and wrong rows, one of no target, one failed, one pending."""
    run.add("good", photo(RED), photo(RED), product="dress")
    run.add("faded", photo(PINK), photo(RED), product="dress")
    run.add("wrong", photo(BLUE, left=4), photo(RED), product="coat")
    run.add("alone", photo(RED))
    reason = {"stage": "photo", "error_class": "truncated", "error_message": "ends too early"}
    run.add("broken", None, **reason)
    run.add("later", None, status="pending")
    return run


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, html: str) -> None:
        """Read the page."""
        super().__init__()
        self.html, self.tags, self.text = html, list[tuple[str, dict[str, str | None]]](), ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep a tag with its attributes."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Keep text."""
        self.text += data


def test_the_table_has_a_line_a_finished_row(small: Run) -> None:
    """metrics.parquet scores each row with a target and leaves the others empty."""
    table = pd.read_parquet(small.report().metrics).set_index("id")
    assert list(table.index) == ["good", "faded", "wrong", "alone"]
    assert table.loc["good", "psnr"] == np.inf
    assert table.loc["good", "ssim"] == pytest.approx(1.0)
    errors = table["garment_colour_error"]
    assert errors["good"] == pytest.approx(0)
    assert 0 < errors["faded"] < errors["wrong"] / 2
    assert table.loc["faded", "parsing_agreement"] == 1.0
    assert table.loc["wrong", "parsing_agreement"] == pytest.approx(4 / 28)
    assert table.loc["alone"].drop("group").isna().all()


def test_the_summary_counts_and_means(small: Run) -> None:
    """summary.json has the counts, each metric's numbers over its rows, and how they were made."""
    summary = json.loads(small.report().summary.read_text())
    assert summary["schema_version"] == 1
    assert summary["rows"] == {"total": 6, "done": 4, "failed": 1, "pending": 1, "scored": 3}
    assert summary["failures"] == {"truncated": 1}
    agreement = summary["metrics"]["parsing_agreement"]
    assert (agreement["n"], agreement["groups"]) == (3, 2)
    assert agreement["mean"] == pytest.approx((1 + 1 + 4 / 28) / 3)
    assert agreement["low"] <= agreement["mean"] <= agreement["high"]
    assert (summary["metrics"]["psnr"]["n"], summary["metrics"]["psnr"]["infinite"]) == (2, 1)
    assert summary["protocol"]["target_maps"] == "parser"
    assert summary["versions"]["scikit-image"]


def test_the_summary_can_be_read_aloud(small: Run) -> None:
    """As text it has the counts, a line for each metric that has a number, and the page."""
    lines = str(small.report()).splitlines()
    assert lines[0].startswith("6 rows: 4 done, 1 failed, 1 pending; 3 scored")
    assert re.fullmatch(r"Parsing agreement: 0\.714 \(95%: 0\.\d+ to 1\.000\), n = 3", lines[5])
    assert lines[-1] == f"See {small.path('index.html')}"


def test_infinity_is_null_in_json(run: Run) -> None:
    """A run of identical pictures has no mean PSNR: null, and the file is strict JSON."""
    run.add("same", photo(RED), photo(RED))
    text = run.report().summary.read_text()
    psnr = json.loads(text, parse_constant=pytest.fail)["metrics"]["psnr"]
    assert (psnr["mean"], psnr["n"], psnr["infinite"]) == (None, 0, 1)


def test_the_page_shows_the_worst_row_first(small: Run) -> None:
    """Rows come worst first, the row without a target last, and the failed one with its reason."""
    html = small.report().page.read_text()
    found = re.findall(r'<bdi class="mono">(\w+)</bdi>', html)
    assert found == ["wrong", "faded", "good", "alone"]
    assert "ends too early" in Page(html).text


def test_the_page_needs_nothing_else(small: Run) -> None:
    """Pictures are inside the page, each says what it shows, and no address leads out of it."""
    page = Page(small.report().page.read_text())
    pictures = [tag for name, tag in page.tags if name == "img"]
    assert len(pictures) == 3 * 3 + 2
    assert all(str(tag["src"]).startswith("data:image/webp;base64,") for tag in pictures)
    assert all(tag["alt"] for tag in pictures)
    assert {"script", "link", "iframe", "a"}.isdisjoint({name for name, _ in page.tags})
    assert "://" not in page.html
    policy = next(tag for _, tag in page.tags if tag.get("http-equiv"))
    assert str(policy["content"]).startswith("default-src 'none'; img-src data:;")


def test_the_pose_is_drawn(small: Run) -> None:
    """Each row shows its pose as lines between its joints."""
    page = Page(small.report().page.read_text())
    assert sum(name == "line" for name, _ in page.tags) == 4 * 17


def test_hostile_text_stays_text(run: Run) -> None:
    """Markup in an id, a product or a reason is shown, never obeyed."""
    run.add(HOSTILE, photo(PINK), photo(RED), product=HOSTILE)
    kind = {"stage": "photo", "error_class": HOSTILE, "error_message": HOSTILE}
    run.add(HOSTILE + "2", None, **kind)
    page = Page(run.report().page.read_text())
    assert "script" not in {name for name, _ in page.tags}
    assert not [tag for _, tag in page.tags if "onerror" in tag]
    assert all(str(tag["src"]).startswith("data:") for name, tag in page.tags if name == "img")
    assert page.text.count(HOSTILE) == 6


def test_rows_left_out_are_counted(small: Run) -> None:
    """With room for two rows the page shows the two worst and says that two are left out."""
    page = Page(small.report(shown=2).page.read_text())
    assert sum(tag.get("class") == "card row" for _, tag in page.tags) == 2
    assert "2 of 4 finished rows are shown; the other 2 are left out" in page.text


def test_a_missing_picture_is_a_note(small: Run) -> None:
    """A result deleted after the run is a row unscored, with the reason, on a whole page."""
    (small.folder / "images" / "1.png").unlink()
    summary = small.report()
    table = pd.read_parquet(summary.metrics).set_index("id")
    assert "missing photo" in table.loc["faded", "note"]
    assert summary.counts["scored"] == 2
    assert "Not scored: missing photo" in Page(summary.page.read_text()).text


def test_without_the_parser_pixels_are_compared(small: Run) -> None:
    """Where the model folder is gone, SSIM and PSNR remain and the page says why no more."""
    (small.folder / "model" / "parser").rmdir()
    summary = small.report()
    assert summary.spreads["ssim"].n == 3
    assert summary.spreads["garment_colour_error"].n == 0
    assert "No error of colour or pattern and no parsing agreement" in summary.page.read_text()


def test_a_run_without_targets_is_shown(run: Run) -> None:
    """Without a target column there are no numbers, and a page of pictures all the same."""
    run.add("alone", photo(RED))
    for row in run.rows:
        del row["target"], row["product"]
    summary = run.report()
    assert all(spread.n == 0 for spread in summary.spreads.values())
    page = Page(summary.page.read_text())
    assert "none is scored" in page.text
    assert sum(name == "img" for name, _ in page.tags) == 2


def test_a_target_of_another_size_is_letterboxed(run: Run) -> None:
    """A target twice as large is compared on the output's canvas."""
    run.add("large", photo(RED), np.kron(photo(RED), np.ones((2, 2, 1), dtype=np.uint8)))
    assert run.report().spreads["ssim"].mean == pytest.approx(1, abs=0.05)


def test_a_run_of_failures_is_reported(run: Run) -> None:
    """Where every row failed there are no pictures and no numbers, but the reasons."""
    run.add("broken", None, stage="photo", error_class="empty", error_message="the file is empty")
    summary = run.report()
    assert dict(summary.counts) == {"total": 1, "done": 0, "failed": 1, "pending": 0, "scored": 0}
    assert len(pd.read_parquet(summary.metrics)) == 0
    text = Page(summary.page.read_text()).text
    assert "No row is finished" in text
    assert "the file is empty" in text


def test_the_card_says_what_was_run(small: Run) -> None:
    """The page names model, settings, fingerprint, pace and versions, and no local folder."""
    page = Page(small.report().page.read_text())
    for fact in ("bundled", "steps 20, guidance 3.5, seed 7", "f00d", "2.50 s a row on cpu",
                 "catalogpose 0.0.1, torch 9.9"):  # fmt: skip
        assert fact in page.text
    assert str(small.folder.parent) not in page.html


def test_progress_counts_finished_rows(small: Run) -> None:
    """The callback hears of every finished row, and of how many there are."""
    small.write()
    heard: list[tuple[int, int]] = []
    note: Callable[[int, int], None] = lambda done, total: heard.append((done, total))  # noqa: E731
    write_report(ReportOptions(run=small.folder, device="cpu"), note)
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_report_repeats(small: Run) -> None:
    """Two reports on one run are the same bytes."""
    small.report()
    first = {path.name: path.read_bytes() for path in small.path("").iterdir()}
    small.report()
    assert {path.name: path.read_bytes() for path in small.path("").iterdir()} == first


def test_the_newest_run_is_found(small: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a run folder the report is on the newest one under runs/."""
    small.write()
    home = small.folder.parent
    (home / "runs").mkdir()
    small.folder.rename(home / "runs" / "new")
    older = home / "runs" / "old"
    older.mkdir()
    (older / "run.json").write_text("{}")
    os.utime(older / "run.json", (1, 1))
    monkeypatch.chdir(home)
    assert write_report(ReportOptions(device="cpu")).page == Path("runs/new/report/index.html")


def test_no_run_is_a_plain_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No runs at all, a folder that is no run, and a run that has not ended say what to do."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no run under runs/"):
        write_report(ReportOptions())
    with pytest.raises(UsageError, match=r"no run\.json"):
        write_report(ReportOptions(run=tmp_path))
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UsageError, match=r"no results\.parquet yet"):
        write_report(ReportOptions(run=tmp_path))
    (tmp_path / "results.parquet").write_bytes(b"not parquet")
    with pytest.raises(UsageError, match="cannot be read"):
        write_report(ReportOptions(run=tmp_path))


@pytest.mark.parametrize("wrong", [{"device": "tpu"}, {"shown": -1}])
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    """A device that we do not know or a negative number of rows is a UsageError naming the flag."""
    with pytest.raises(UsageError, match="--"):
        ReportOptions(**wrong)


def test_a_style_row_shows_its_reference(run: Run) -> None:
    """Source, reference, the reference's pose, result and target stand side by side."""
    run.save("reference.png", photo(BLUE))
    run.add("plain", photo(RED), photo(RED))
    run.add("styled", photo(PINK), photo(PINK), pose=None, reference="reference.png",
            reference_pose="pose.json")  # fmt: skip
    run.report()
    rows = run.path("index.html").read_text().split("<article")[1:]
    by_id = {"styled" if "styled" in row else "plain": row for row in rows}
    assert "Reference photo of styled" in by_id["styled"]
    assert "Reference" not in by_id["plain"]
    assert "cannot be read" not in by_id["styled"]
    assert by_id["styled"].count("<img") == by_id["plain"].count("<img") + 1 == 4
