"""The options of `parse`, `generate` and `report`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from catalogpose.config.checks import need, need_device
from catalogpose.errors import UsageError

RUNS = Path("runs")
"""Where runs lie unless their user says otherwise, relative to the working folder."""


@dataclass(frozen=True, kw_only=True)
class ParseOptions:
    """What `catalogpose parse` shall do: maps and embeddings of every source, into the cache."""

    manifest: Path
    """The manifest, Parquet or CSV."""
    model: str | None = None
    """A model folder or a hub id; None: the model that comes with the package."""
    cache: Path | None = None
    """Folder of parsing maps and embeddings; None: the user's cache folder."""
    device: str = "auto"
    """One of `DEVICES`."""

    def __post_init__(self) -> None:
        """Raise UsageError naming the first flag that is out of range."""
        need_device(self.device)


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What `catalogpose generate` shall do: a picture for every row of a manifest, or one of what a
    prompt says.
    """

    manifest: Path | None = None
    """The manifest, Parquet or CSV; None: `prompt` says what to paint."""
    prompt: str | None = None
    """A sentence of free words, for one picture without a manifest; None: the manifest says."""
    pose_map: Path | None = None
    """With `prompt`: a PNG of label ids that says what shall be where; None without."""
    label_set: str = "common"
    """With `prompt`: what the ids of `pose_map` mean."""
    source: Path | None = None
    """With `prompt`: a photo that keeps what the prompt does not speak of; None: nobody is kept."""
    pose: Path | None = None
    """With `prompt`: the pose beside the map, a JSON file; None: the map says enough."""
    out: Path | None = None
    """The run folder; None: `runs/` and the manifest's name without its suffix, or `prompt-` and
    eight letters that the prompt and its files decide."""
    model: str | None = None
    """A model folder or a hub id; None: the model that comes with the package."""
    cache: Path | None = None
    """Folder of parsing maps and embeddings that `parse` fills; None: the user's cache folder."""
    device: str = "auto"
    """One of `DEVICES`."""
    gpus: int | None = None
    """Number of GPUs, 1 or more, one process each; None: one if there is any."""
    workers: int = 1
    """Number of processes on the CPU, 1 or more; they share the cores."""
    batch: int | None = None
    """Rows sampled together, 1 or more; None: 1 on a CPU, where a row's picture then never depends
    on its neighbours, and 8 on a GPU."""
    steps: int | None = None
    """Sampling steps, 1 to 1000; None: the model folder's."""
    guidance: float | None = None
    """Guidance scale ω, 0 or more, without unit; None: the model folder's."""
    seed: int = 0
    """The run's seed, 0 to 2**63 - 1; with a row's id it gives the row's own."""
    max_failures: int | None = None
    """Failed rows, 0 or more, that the run bears; one more stops it. None: no limit."""
    retry_failed: bool = True
    """Whether rows that failed in an earlier run are tried again."""
    memory: Path | None = None
    """What `memory build` wrote: cloth for the words of text-driven rows; None: the words stand for
    themselves."""
    keypoint_table: Path | None = None
    """Which labels each joint shows, a JSON file; None: the table that comes with the package."""

    def __post_init__(self) -> None:
        """Raise UsageError naming the first flag that is out of range."""
        need_device(self.device)
        gpus, batch, steps, guidance, bears = (
            self.gpus, self.batch, self.steps, self.guidance, self.max_failures
        )  # fmt: skip
        on_cpu = self.device == "cpu"
        need(gpus is None or gpus >= 1, "--gpus", "1 or more", gpus)
        need(gpus is None or not on_cpu, "--gpus", "left out with --device cpu", gpus)
        need(self.workers >= 1, "--workers", "1 or more", self.workers)
        many = self.workers > 1 and (self.device == "cuda" or gpus is not None)
        need(not many, "--workers", "1 on GPUs, where --gpus counts the processes", self.workers)
        need(batch is None or batch >= 1, "--batch", "1 or more", batch)
        need(steps is None or 1 <= steps <= 1000, "--steps", "1 to 1000", steps)
        need(guidance is None or 0 <= guidance < float("inf"), "--guidance", "0 or more", guidance)
        need(0 <= self.seed < 2**63, "--seed", "0 to 2**63 - 1", self.seed)
        need(bears is None or bears >= 0, "--max-failures", "0 or more", bears)
        self._need_one_origin()

    def _need_one_origin(self) -> None:
        """Raise UsageError unless a manifest or a prompt with its map says what to paint."""
        worded = self.prompt is not None
        if worded == (self.manifest is not None):
            raise UsageError("give --manifest FILE, or --prompt and --pose-map for one picture")
        if worded and self.pose_map is None:
            raise UsageError("--prompt goes with --pose-map, which says what shall be where")
        for flag, value in (("--pose-map", self.pose_map), ("--source", self.source),
                            ("--pose", self.pose)):  # fmt: skip
            if value is not None and not worded:
                raise UsageError(f"{flag} goes with --prompt; a manifest has columns for it")


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What `catalogpose report` shall do: score a run's pictures and show them on one page."""

    run: Path | None = None
    """The run folder; None: the newest under `runs/`."""
    device: str = "auto"
    """One of `DEVICES`; the parser works there."""
    judge: Path | None = None
    """Folder of a second `clip` and `parser`, which judge what text-driven rows made; None: their
    agreement with the map alone is measured, with the model's own parser."""
    shown: int = 200
    """Rows shown on the page, worst first, and failed rows, 0 or more each; a row adds three small
    pictures to the page. Every row is in `metrics.parquet`."""

    def __post_init__(self) -> None:
        """Raise UsageError naming the first flag that is out of range."""
        need_device(self.device)
        need(self.shown >= 0, "--shown", "0 or more", self.shown)
