"""`catalogpose report`: score a run's pictures against the true ones and show them, worst first."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from catalogpose import __version__
from catalogpose.catalog.files import write_atomically
from catalogpose.catalog.labels import to_common
from catalogpose.config import RUNS, Progress, ReportOptions
from catalogpose.quality.gallery import make_examples, make_failures
from catalogpose.quality.intervals import INTERVAL
from catalogpose.quality.page import Page, Tile, format_number, render_page
from catalogpose.quality.pairs import METRICS, WORDED
from catalogpose.quality.run_folder import Finished, RunFolder, newest_run, read_run
from catalogpose.quality.scoring import Parse, score_rows
from catalogpose.quality.summary import Spread, histogram, spread, worst_first
from catalogpose.run.devices import find_devices

if TYPE_CHECKING:  # torch takes seconds to import, and a report without a judge needs none
    from catalogpose.commands.report_judge import ModelJudge

SCHEMA_VERSION = 1
"""Of `summary.json`; it grows when a key changes its meaning or goes."""

CANVAS = "The target is letterboxed to the output's size and compared whole, bars included"
"""What is compared with what."""


@dataclass(frozen=True, kw_only=True)
class ReportSummary:
    """What a report found and where it lies."""

    page: Path
    """`index.html`."""
    metrics: Path
    """`metrics.parquet`: one line a finished row."""
    summary: Path
    """`summary.json`."""
    counts: Mapping[str, int]
    """Number of rows `total`, `done`, `failed`, `pending` and `scored`."""
    spreads: Mapping[str, Spread]
    """Each metric's numbers, by its name."""
    real: Mapping[str, Spread]
    """The true pictures' own numbers, of metrics of rows with prompts."""

    def __str__(self) -> str:
        """Tell a person the numbers, a line a metric, and where the page is."""
        counts = self.counts
        lines = [
            f"{counts['total']} rows: {counts['done']} done, {counts['failed']} failed, "
            f"{counts['pending']} pending; {counts['scored']} scored against a true picture"
        ]
        for metric in METRICS:
            found = self.spreads[metric.name]
            mean, low, high = (
                format_number(number, metric.digits)
                for number in (found.mean, found.low, found.high)
            )
            between = f" (95%: {low} to {high})" if found.low is not None else ""
            unit = f" {metric.unit}" if metric.unit else ""
            real = self.real.get(metric.name)
            beside = ""
            if real is not None and real.n:
                beside = f"; true pictures {format_number(real.mean, metric.digits)}, n = {real.n}"
            if found.n:
                lines.append(f"{metric.title}: {mean}{unit}{between}, n = {found.n}{beside}")
        return "\n".join([*lines, f"See {self.page}"])


@dataclass(frozen=True, kw_only=True)
class _Findings:
    """All that the summary and the page tell."""

    run: RunFolder
    """The run."""
    scores: pd.DataFrame
    """A line a finished row, in the manifest's order."""
    counts: Mapping[str, int]
    """Number of rows, as in `ReportSummary`."""
    spreads: Mapping[str, Spread]
    """Each metric's numbers."""
    real: Mapping[str, Spread]
    """The same of the true pictures, by each name of `WORDED`."""
    label_set: str | None
    """The parser's label set; None where no map was made."""
    notes: Sequence[str]
    """What a reader must know before trusting the numbers."""


def write_report(options: ReportOptions, progress: Progress | None = None) -> ReportSummary:
    """Write `metrics.parquet`, `summary.json` and `index.html` into the run folder's `report/`.

    `progress` is called after each finished row. A row whose pictures cannot be read is noted, not
    an error. Raises UsageError where there is no run to report on.
    """
    run = read_run(options.run or newest_run(RUNS))
    rows = list(run.finished())
    findings = _find(run, rows, options, progress)
    folder = run.folder / "report"
    metrics, summary, page = (
        folder / name for name in ("metrics.parquet", "summary.json", "index.html")
    )
    write_atomically(metrics, lambda file: findings.scores.to_parquet(file, index=False))
    facts = json.dumps(_summary(findings), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(summary, lambda file: file.write(facts.encode() + b"\n"))
    html = render_page(_page(findings, rows, options.shown))
    write_atomically(page, lambda file: file.write(html.encode()))
    return ReportSummary(
        page=page,
        metrics=metrics,
        summary=summary,
        counts=findings.counts,
        spreads=findings.spreads,
        real=findings.real,
    )


def _find(
    run: RunFolder, rows: Sequence[Finished], options: ReportOptions, progress: Progress | None
) -> _Findings:
    """Score every finished row and count."""
    parse, label_set, trouble = None, None, None
    if any(row.target or row.asked for row in rows):
        parse, label_set, trouble = _open_parser(run, options.device)
    judge = None if options.judge is None else _open_judge(run, options.judge, options.device)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(rows))

    scores = score_rows(rows, parse, step, judge)
    counts = {
        "total": len(run.results),
        "done": len(rows),
        "failed": run.count("failed"),
        "pending": run.count("pending"),
        "scored": int(scores["ssim"].notna().sum()),
    }
    groups = scores["group"].to_list()
    spreads = {
        metric.name: spread(scores[metric.name].to_numpy(dtype=np.float64), groups)
        for metric in METRICS
    }
    real = {
        name: spread(scores[f"real_{name}"].to_numpy(dtype=np.float64), groups) for name in WORDED
    }
    return _Findings(
        run=run,
        scores=scores,
        counts=counts,
        spreads=spreads,
        real=real,
        label_set=label_set,
        notes=[*_notes(counts, scores, label_set, trouble), *_notes_of(judge)],
    )


def _open_judge(run: RunFolder, folder: Path, device: str) -> ModelJudge:
    """Load who judges rows with prompts, unless it is the model that made them."""
    from catalogpose.commands.report_judge import open_judge

    name = run.facts.get("model_folder")
    model = None if name is None or not Path(str(name)).is_dir() else Path(str(name))
    remembered = run.facts.get("options", {}).get("memory")
    memory = None if remembered is None else Path(str(remembered))
    return open_judge(folder, model, find_devices(device, gpus=None, workers=1)[0].name, memory)


def _open_parser(run: RunFolder, device: str) -> tuple[Parse | None, str | None, str | None]:
    """Return the run's own parser and its label set; or why there is none, as the third."""
    model_folder = run.facts.get("model_folder")
    if model_folder is None:
        return None, None, "run.json names no model folder"
    folder = Path(str(model_folder)) / "parser"
    if not folder.is_dir():
        return None, None, f"the run's parser is not at {folder}"
    # Torch and transformers take seconds to import, and a run without targets needs neither.
    from catalogpose.perception.parser import Parser

    parser = Parser.load(folder, find_devices(device, gpus=None, workers=1)[0].name)

    def parse(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return to_common(parser.parse(picture), parser.label_set)

    return parse, parser.label_set, None


def _notes(
    counts: Mapping[str, int], scores: pd.DataFrame, label_set: str | None, trouble: str | None
) -> tuple[str, ...]:
    """Say what limits the numbers, a sentence each."""
    notes = []
    unreadable = int(scores["note"].notna().sum())
    if not counts["scored"] and not unreadable and not scores["map_agreement"].notna().any():
        notes.append("No finished row names a true picture (column target), so none is scored.")
    if label_set is not None:
        notes.append(
            "No true parsing maps are known: the targets' maps are the parser's own, so its errors "
            "are in the garments' errors of colour and pattern and in the parsing agreement."
        )
    if trouble is not None:
        notes.append(f"No error of colour or pattern and no parsing agreement: {trouble}.")
    if unreadable:
        notes.append(
            f"Rows that could not be scored: {unreadable}; see column note of metrics.parquet."
        )
    if counts["pending"]:
        notes.append(f"Rows still pending: {counts['pending']}; the run has not ended.")
    return tuple(notes)


def _notes_of(judge: ModelJudge | None) -> list[str]:
    """Say what a judge could not look at; None: nobody judged."""
    gone, asked = (0, 0) if judge is None else judge.cloth_gone()
    if not gone:
        return []
    return [
        f"Photos of the memory that are gone or not known: those of {gone} of {asked} regions that "
        "words found; they count in no precision of retrieval and no nearness to a copy."
    ]


def _summary(findings: _Findings) -> dict[str, Any]:
    """Return the content of `summary.json`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run": {name: findings.run.facts.get(name) for name in ("fingerprint", "model", "version")},
        "rows": dict(findings.counts),
        "failures": _failure_counts(findings.run),
        "metrics": {
            metric.name: asdict(findings.spreads[metric.name])
            | {"unit": metric.unit, "better": metric.better, "definition": metric.definition}
            for metric in METRICS
        },
        "true_pictures": {name: asdict(found) for name, found in findings.real.items() if found.n},
        "protocol": {
            "canvas": CANVAS,
            "interval": INTERVAL,
            "groups": "product, else source photo, else prompt",
            "target_maps": "none" if findings.label_set is None else "parser",
            "parser_label_set": findings.label_set,
        },
        "notes": list(findings.notes),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    """Return the versions of what decides the numbers."""
    libraries = ("numpy", "pandas", "pillow", "scikit-image", "torch", "transformers")
    return {"catalogpose": __version__, "python": platform.python_version()} | {
        name: version(name) for name in libraries
    }


def _facts(run: RunFolder) -> dict[str, str]:
    """Return what the page's card says of the run; local folders stay out of it."""
    options = run.facts.get("options", {})
    settings = [
        f"{name} {options[name]}" for name in ("steps", "guidance", "seed") if name in options
    ]
    done = run.results[run.results["status"] == "done"]
    seconds, devices = done["seconds"].mean(), done["device"].dropna().unique()
    pace = f"{seconds:.2f} s a row on {', '.join(devices)}" if len(devices) else "unknown"
    made = {"catalogpose": run.facts.get("version", "unknown")} | run.facts.get("versions", {})
    return {
        "Model": str(run.facts.get("model", "unknown")),
        "Settings": ", ".join(settings) or "unknown",
        "Fingerprint": str(run.facts.get("fingerprint", "unknown")),
        "Pace": pace,
        "Made with": ", ".join(f"{name} {number}" for name, number in made.items()),
        "Scored with": ", ".join(f"{name} {number}" for name, number in _versions().items()),
    }


def _failure_counts(run: RunFolder) -> dict[str, int]:
    """Return the number of failed rows of each kind, most frequent first."""
    failed = run.results[run.results["status"] == "failed"]
    kinds = failed["error_class"].fillna("unknown").value_counts()
    return {str(kind): int(number) for kind, number in kinds.items()}


def _page(findings: _Findings, rows: Sequence[Finished], shown: int) -> Page:
    """Return the content of the page, with the `shown` worst rows and the first failed ones."""
    run, scores = findings.run, findings.scores
    worst = [int(place) for place in worst_first(scores)[:shown]]
    failed = run.results[run.results["status"] == "failed"]
    return Page(
        title=run.folder.resolve().name,
        counts=findings.counts,
        facts=_facts(run),
        notes=findings.notes,
        canvas=CANVAS,
        interval=INTERVAL,
        tiles=[
            Tile(
                metric=metric,
                spread=findings.spreads[metric.name],
                bars=histogram(scores[metric.name].to_numpy(dtype=np.float64)),
            )
            for metric in METRICS
        ],
        examples=list(make_examples((rows[at], scores.iloc[at].to_dict()) for at in worst)),
        failures=list(make_failures(failed.head(shown))),
        failure_counts=_failure_counts(run),
    )
