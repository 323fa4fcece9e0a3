"""`catalogpose generate`: one picture for every row of a manifest, resumable at any moment."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from catalogpose import __version__
from catalogpose.catalog.cache import default_cache_folder
from catalogpose.catalog.files import sha256_file, sha256_json, write_atomically
from catalogpose.catalog.labels import keypoint_table_hash, load_keypoint_table
from catalogpose.catalog.manifest import check_manifest, has_column, read_rows
from catalogpose.commands.one_row import default_folder, settle_row, trial_manifest
from catalogpose.config import RUNS, GenerateOptions, Progress
from catalogpose.errors import FailureLimitError, ManifestError, UsageError
from catalogpose.humandiffusion.wanted import check_descriptions
from catalogpose.records import Outcome
from catalogpose.run.describing import check_memory
from catalogpose.run.devices import find_devices
from catalogpose.run.ledger import Ledger, write_results
from catalogpose.run.local import catch_signals, run_rows
from catalogpose.run.lock import hold
from catalogpose.run.plan import (
    PICTURE_VERSION,
    Plan,
    make_plan,
    model_fingerprint,
    words_fingerprint,
)
from catalogpose.run.process import IMAGES, WORKER, WorkerSettings, as_fault
from catalogpose.run.summary import GenerateSummary, summarise
from catalogpose.truepose.model import ALIGNMENT, ModelCard, read_card, resolve_model

RUN_SCHEMA = 1
"""Of `run.json`; it grows when a key changes its meaning or goes."""

GPU_BATCH = 8
"""Rows sampled together on a GPU unless the user says otherwise."""

LIBRARIES = ("torch", "diffusers", "transformers", "open_clip_torch", "numpy", "pillow", "pyarrow")
"""Distributions whose versions `run.json` names."""

_LEFTOVER = re.compile(r"\.[0-9a-f]{32}\.tmp")


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A run with everything resolved that can be before a model is loaded."""

    options: GenerateOptions
    """What the user asked for."""
    rows: int
    """Rows of the manifest."""
    run_folder: Path
    """The run folder."""
    model: Path
    """The model folder."""
    card: ModelCard
    """What the model folder says of itself."""
    steps: int
    """Sampling steps."""
    guidance: float
    """Guidance scale ω."""
    fingerprint: str
    """Hash of the model and of all settings that decide pictures."""
    memory_sha256: str | None
    """Hash of the memory's file; None: there is none."""
    words: str
    """What text-driven rows use beside the rest; see `words_fingerprint`."""


@dataclass(frozen=True, kw_only=True)
class _Ended:
    """How the work ended."""

    known: Mapping[str, Outcome]
    """What is known of the rows, by id; a row that is not here is pending."""
    signal: int | None = None
    """The signal that stopped it; None: none came."""
    over_limit: bool = False
    """Whether more rows failed than the options bear."""


def generate_pictures(
    options: GenerateOptions, progress: Progress | None = None, *, factory: str = WORKER
) -> GenerateSummary:
    """Make a picture for every row of the manifest that has none yet, and write the run folder.

    `progress` is called after every row; `factory` names what does the rows. Raises ManifestError
    or UsageError before anything is written, LockedError where another process works in the run
    folder, FailureLimitError where more rows fail than the options bear, EnvironmentFault where the
    machine lacks something. Whatever ends a run, the same call goes on with it.
    """
    started = time.monotonic()
    manifest = options.manifest
    if manifest is None:
        options = dataclasses.replace(options, out=options.out or default_folder(options))
        with trial_manifest(options) as checked:
            task = _resolve(options, checked)
    else:
        task = _resolve(options, manifest)
    try:
        with hold(task.run_folder):
            _sweep(task.run_folder)
            manifest = manifest or settle_row(options, task.run_folder)
            _write_run_card(task, manifest)
            plan = make_plan(
                read_rows(manifest),
                Ledger(task.run_folder).outcomes(),
                run_folder=task.run_folder,
                fingerprint=task.fingerprint,
                seed=options.seed,
                retry_failed=options.retry_failed,
                words=task.words,
            )
            ended = _work(task, plan, progress, factory)
            write_results(task.run_folder, manifest, ended.known, options.seed)
    except OSError as error:
        fault = as_fault(error)
        if fault is None:
            raise
        raise fault from error
    summary = summarise(
        options,
        task.run_folder,
        plan,
        ended.known,
        rows=task.rows,
        seconds=time.monotonic() - started,
        signal=ended.signal,
    )
    if ended.over_limit:
        raise FailureLimitError(
            f"stopped: more than {options.max_failures} rows failed (--max-failures)\n{summary}"
        )
    return summary


def _resolve(options: GenerateOptions, manifest: Path) -> _Task:
    """Check all that can be checked before a model is loaded or anything is written."""
    rows = check_manifest(manifest)
    run_folder = options.out or RUNS / manifest.stem
    if run_folder.exists() and not run_folder.is_dir():
        raise UsageError(f"--out must be a folder; {run_folder} is a file")
    model = resolve_model(options.model)
    card = read_card(model)
    for name in card.weights:
        if not (model / name).is_file():
            raise UsageError(f"model folder {model} is not whole: missing file {name}")
    _check_texts(manifest, options.memory, model)
    steps = card.steps if options.steps is None else options.steps
    guidance = card.guidance if options.guidance is None else options.guidance
    return _Task(
        options=options,
        rows=rows,
        run_folder=run_folder,
        model=model,
        card=card,
        steps=steps,
        guidance=guidance,
        memory_sha256=None if options.memory is None else sha256_file(options.memory),
        words=words_fingerprint(model, options.memory),
        fingerprint=sha256_json(
            {
                "pictures": PICTURE_VERSION,
                "model": model_fingerprint(model, card),
                "steps": steps,
                "guidance": guidance,
                "keypoint_table": keypoint_table_hash(load_keypoint_table(options.keypoint_table)),
            }
        ),
    )


def _check_texts(manifest: Path, memory: Path | None, model: Path) -> None:
    """Check what text-driven rows ask for, and that model and memory can give it.

    Raises:
        ManifestError: With every wish that a row's map cannot fulfil.
        UsageError: If the model has no alignment, or another CLIP made the memory.
    """
    if memory is not None:
        check_memory(memory, model)
    if not has_column(manifest, "prompt"):
        return
    first, faults = check_descriptions(read_rows(manifest))
    if faults:
        raise ManifestError(faults)
    if first is not None and not (model / ALIGNMENT / "config.json").is_file():
        raise UsageError(
            f"row {first} has a prompt, and the model {model} has no alignment of words "
            "and picture: train one with `catalogpose train --recipe bundled-text --model "
            f"{model}`, or name a model that has one"
        )


def _sweep(run_folder: Path) -> None:
    """Remove what a killed run left half written; only names that our own writing makes."""
    for folder in (run_folder, run_folder / IMAGES):
        for path in folder.glob(".*.tmp"):
            if _LEFTOVER.fullmatch(path.name):
                path.unlink(missing_ok=True)


def _write_run_card(task: _Task, manifest: Path) -> None:
    """Write `run.json`: what decides the pictures, and where it came from."""
    options = dataclasses.asdict(task.options) | {
        "out": task.run_folder,
        "steps": task.steps,
        "guidance": task.guidance,
    }
    if task.options.memory is not None:
        # A report may be asked for from another folder.
        options["memory"] = task.options.memory.resolve()
    card = {
        "schema": RUN_SCHEMA,
        "version": __version__,
        "fingerprint": task.fingerprint,
        "manifest": str(manifest.resolve()),
        "manifest_sha256": sha256_file(manifest),
        "rows": task.rows,
        "model": task.card.name,
        "model_folder": str(task.model.resolve()),
        "weights": dict(task.card.weights),
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in options.items()},
        "versions": _versions(),
    }
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    write_atomically(task.run_folder / "run.json", lambda file: file.write(text.encode()))


def _versions() -> dict[str, str]:
    """Return the versions of what makes pictures, read from package metadata alone."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _work(task: _Task, plan: Plan, progress: Progress | None, factory: str) -> _Ended:
    """Do a plan's jobs until none is left, a signal comes or too many rows fail."""
    known = dict(plan.known)
    if not plan.jobs:
        return _Ended(known=known)
    tell = progress or (lambda done, total: None)
    bears = task.options.max_failures
    count, failed, over_limit = 0, 0, False
    with (
        catch_signals() as stop,
        Ledger(task.run_folder) as ledger,
        closing(run_rows(plan.jobs, _workers(task, factory), stop)) as outcomes,
    ):
        tell(0, len(plan.jobs))
        for count, outcome in enumerate(outcomes, start=1):
            ledger.record(outcome)
            known[outcome.id] = outcome
            tell(count, len(plan.jobs))
            failed += outcome.status == "failed"
            over_limit = bears is not None and failed > bears
            if over_limit:
                break
    # A signal that came when nothing was left to do interrupted nothing.
    signal = stop.number if count < len(plan.jobs) else None
    return _Ended(known=known, signal=signal, over_limit=over_limit)


def _workers(task: _Task, factory: str) -> list[WorkerSettings]:
    """Return what each worker process is told."""
    options = task.options
    return [
        WorkerSettings(
            model=task.model,
            cache=options.cache or default_cache_folder(),
            device=device.name,
            visible=device.visible,
            threads=device.threads,
            batch=options.batch or (1 if device.name == "cpu" else GPU_BATCH),
            steps=task.steps,
            guidance=task.guidance,
            run_folder=task.run_folder,
            fingerprint=task.fingerprint,
            keypoint_table=options.keypoint_table,
            memory=options.memory,
            memory_sha256=task.memory_sha256,
            words=task.words,
            factory=factory,
        )
        for device in find_devices(options.device, options.gpus, options.workers)
    ]
