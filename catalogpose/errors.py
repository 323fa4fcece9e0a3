"""Every error that catalogpose raises on purpose, and the exit code each one becomes.

```
CatalogposeError            1
├── UsageError              2   an option, a configuration or a model folder is wrong
│   └── ManifestError       2   one or more faults in a manifest, each on one line
├── FailureLimitError       4   too many failed rows; the run stopped itself
├── LockedError             5   another live process owns the run folder
├── EnvironmentFault        6   the machine lacks something: a GPU, disk space
└── RowError                -   one row cannot be done; it becomes a record, never an exit
```
"""

from __future__ import annotations

from collections.abc import Sequence


class CatalogposeError(Exception):
    """An error with a message for the user and an exit code for the shell."""

    exit_code = 1


class UsageError(CatalogposeError):
    """The request cannot be met as it stands: an option, a configuration, a model folder."""

    exit_code = 2


class ManifestError(UsageError):
    """The faults of one manifest; `str(error)` has one line a fault."""

    def __init__(self, faults: Sequence[str]) -> None:
        """Keep every fault; each is a whole line such as `row 3, column source: missing file
        a.png`.
        """
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class FailureLimitError(CatalogposeError):
    """More rows failed than the run allows."""

    exit_code = 4


class LockedError(CatalogposeError):
    """Another live process works in this run folder."""

    exit_code = 5


class EnvironmentFault(CatalogposeError):  # noqa: N818  # EnvironmentError is Python's own
    """The machine lacks something that the run needs."""

    exit_code = 6


class RowError(CatalogposeError):
    """One row cannot be done; the run records it and goes on.

    `stage` says where in the row's journey: `photo`, `reference`, `parsing`, `pose`, `embedding`,
    `generate`, `write`, `worker`.
    `error_class` is a short fixed word to count by, such as `truncated` or `too-large`.
    """

    def __init__(self, stage: str, error_class: str, message: str) -> None:
        """Say where, of what kind and, for a person on one line, why."""
        super().__init__(message)
        self.stage = stage
        self.error_class = error_class
        self.message = message


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].strip()
