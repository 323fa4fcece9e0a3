"""The options of `model inspect` and `model push`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from catalogpose.config.checks import need


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """What `catalogpose model inspect` shall do: tell what a model folder is and holds."""

    model: str | None = None
    """A model folder or a hub id; None: the model that comes with the package."""
    check: bool = True
    """Whether the weights' hashes are compared with the card's, about a second a gigabyte."""


REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
"""What a hub id looks like: an owner and a name."""


@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """What `catalogpose model push` shall do: publish a model folder on the hub."""

    folder: Path
    """The model folder; its page `README.md` is written or renewed."""
    repo_id: str
    """Where on the hub, `owner/name`; made if it does not exist."""
    private: bool = False
    """Whether a repository that is made is seen by its owner alone; one that exists stays as it
    is."""
    dry_run: bool = False
    """Whether to say what would be published, and write and send nothing."""

    def __post_init__(self) -> None:
        """Raise UsageError naming the first argument that is out of range."""
        need(bool(REPO_ID.fullmatch(self.repo_id)), "REPO_ID", "owner/name", self.repo_id)
