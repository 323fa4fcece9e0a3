"""What a run tells its user at the end: what became of the rows, and the command that goes on."""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from catalogpose.config import GenerateOptions
from catalogpose.records import Outcome
from catalogpose.run.ledger import FAILURES, RESULTS
from catalogpose.run.plan import Plan


@dataclass(frozen=True, kw_only=True)
class GenerateSummary:
    """What became of a run."""

    run_folder: Path
    """The run folder."""
    rows: int
    """Rows of the manifest."""
    done: int
    """Rows with a picture, those of earlier runs included."""
    already_done: int
    """Rows that had theirs before this run."""
    failed: int
    """Rows that failed, those of earlier runs that were not tried again included."""
    pending: int
    """Rows not tried yet, because the run was stopped."""
    changed: int
    """Rows that the ledger knew, but with other files, another seed, model or other settings."""
    failures: Mapping[str, int]
    """Number of failed rows by the stage at which they failed, most frequent first."""
    seconds: float
    """Time that the run took."""
    retry: str
    """The command that tries what is left."""
    signal: int | None = None
    """Number of the signal that left rows pending; None: no signal did."""

    @property
    def exit_code(self) -> int:
        """The shell's exit code: 0 all done, 3 some failed, 128 and the signal if interrupted."""
        if self.signal is not None:
            return 128 + self.signal
        return 3 if self.failed else 0

    def __str__(self) -> str:
        """Tell a person what became of the run and what to do next."""
        results, failures = self.run_folder / RESULTS, self.run_folder / FAILURES
        lines = [
            f"{self.rows} rows: {self.done} done ({self.already_done} of them before), "
            f"{self.failed} failed, {self.pending} pending, in {self.seconds:.1f} s. See {results}"
        ]
        if self.changed:
            lines.append(
                f"{self.changed} rows were known with other files, seeds, model or settings, and "
                "counted as new"
            )
        if self.failed:
            stages = ", ".join(f"{number} {stage}" for stage, number in self.failures.items())
            lines.append(f"{self.failed} failed: {stages}. See {failures}")
        if self.pending or self.failed:
            lines.append(f"{'go on' if self.pending else 'retry'}: {self.retry}")
        else:
            lines.append(f"next: {shlex.join(['catalogpose', 'report', str(self.run_folder)])}")
        return "\n".join(lines)


def summarise(
    options: GenerateOptions,
    run_folder: Path,
    plan: Plan,
    known: Mapping[str, Outcome],
    *,
    rows: int,
    seconds: float,
    signal: int | None,
) -> GenerateSummary:
    """Count what became of a manifest's `rows`; `known` holds the outcomes by id at the end."""
    stages = Counter(str(o.stage) for o in known.values() if o.status == "failed")
    failed = stages.total()
    return GenerateSummary(
        run_folder=run_folder,
        rows=rows,
        done=len(known) - failed,
        already_done=sum(outcome.status == "done" for outcome in plan.known.values()),
        failed=failed,
        pending=rows - len(known),
        changed=plan.changed,
        failures=dict(stages.most_common()),
        seconds=round(seconds, 3),
        retry=_command_line(options),
        signal=signal,
    )


def _command_line(options: GenerateOptions) -> str:
    """Return the command that goes on with a run: every option that is not the default."""
    words = ["catalogpose", "generate"]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value != field.default and field.name != "retry_failed":
            words += [f"--{field.name.replace('_', '-')}", str(value)]
    return shlex.join(words)
