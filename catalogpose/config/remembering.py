"""The options of `memory build`, `query` and `stats`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from catalogpose.config.checks import need, need_device


@dataclass(frozen=True, kw_only=True)
class BuildMemoryOptions:
    """What `catalogpose memory build` shall do: remember the cloth of a manifest's sources."""

    manifest: Path
    """The manifest, Parquet or CSV; its `product` column says which pictures show one product."""
    out: Path = Path("memory.parquet")
    """The file written; one that is there is replaced."""
    model: str | None = None
    """A model folder or a hub id; None: the model that comes with the package."""
    cache: Path | None = None
    """Folder of parsing maps and embeddings that `parse` fills; None: the user's cache folder."""
    device: str = "auto"
    """One of `DEVICES`."""

    def __post_init__(self) -> None:
        """Raise UsageError naming the first flag that is out of range."""
        need_device(self.device)
        need(self.out.suffix == ".parquet", "--out", "a file that ends in .parquet", self.out)


@dataclass(frozen=True, kw_only=True)
class QueryMemoryOptions:
    """What `catalogpose memory query` shall do: find cloth by words."""

    prompt: str
    """Free words, such as `a red tartan skirt`."""
    memory: Path = Path("memory.parquet")
    """What `memory build` wrote."""
    count: int = 8
    """Regions a phrase, 1 to 1000."""
    without: tuple[str, ...] = ()
    """Products whose regions do not count."""
    sheet: Path | None = None
    """A PNG of what was found, a row a phrase; None: none is written."""
    model: str | None = None
    """The model whose CLIP made the memory, a folder or a hub id; None: the bundled one."""
    device: str = "auto"
    """One of `DEVICES`."""

    def __post_init__(self) -> None:
        """Raise UsageError naming the first flag that is out of range."""
        need_device(self.device)
        need(1 <= self.count <= 1000, "--count", "1 to 1000", self.count)
        need(self.sheet is None or self.sheet.suffix == ".png", "--sheet",
              "a file that ends in .png", self.sheet)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MemoryStatsOptions:
    """What `catalogpose memory stats` shall do: tell what a memory holds."""

    memory: Path = Path("memory.parquet")
    """What `memory build` wrote."""
