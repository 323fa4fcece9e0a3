"""The frozen options of every command; the command line's defaults equal these, by test."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from catalogpose.errors import UsageError

Progress = Callable[[int, int], None]
"""What a command calls as it goes: how many of its rows (or steps) are done, and of how many."""

DEVICES = ("auto", "cpu", "cuda")
"""What `--device` may say; `auto` is a GPU if there is one, else the CPU."""


def _need(holds: bool, flag: str, rule: str, value: object) -> None:
    """Raise UsageError naming the flag, what it must be and what it was, unless `holds`."""
    if not holds:
        raise UsageError(f"{flag} must be {rule}, not {value}")


def _need_device(device: str) -> None:
    """Raise UsageError unless `device` is one of `DEVICES`."""
    _need(device in DEVICES, "--device", f"one of {', '.join(DEVICES)}", device)


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
        _need_device(self.device)


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What `catalogpose generate` shall do: one picture for every row of a manifest."""

    manifest: Path
    """The manifest, Parquet or CSV."""
    out: Path | None = None
    """The run folder; None: `runs/` and the manifest's name without its suffix."""
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
    keypoint_table: Path | None = None
    """Which labels each joint shows, a JSON file; None: the table that comes with the package."""

    def __post_init__(self) -> None:
        """Raise UsageError naming the first flag that is out of range."""
        _need_device(self.device)
        gpus, batch, steps, guidance, bears = (
            self.gpus, self.batch, self.steps, self.guidance, self.max_failures
        )  # fmt: skip
        on_cpu = self.device == "cpu"
        _need(gpus is None or gpus >= 1, "--gpus", "1 or more", gpus)
        _need(gpus is None or not on_cpu, "--gpus", "left out with --device cpu", gpus)
        _need(self.workers >= 1, "--workers", "1 or more", self.workers)
        many = self.workers > 1 and (self.device == "cuda" or gpus is not None)
        _need(not many, "--workers", "1 on GPUs, where --gpus counts the processes", self.workers)
        _need(batch is None or batch >= 1, "--batch", "1 or more", batch)
        _need(steps is None or 1 <= steps <= 1000, "--steps", "1 to 1000", steps)
        _need(guidance is None or 0 <= guidance < float("inf"), "--guidance", "0 or more", guidance)
        _need(0 <= self.seed < 2**63, "--seed", "0 to 2**63 - 1", self.seed)
        _need(bears is None or bears >= 0, "--max-failures", "0 or more", bears)


PRECISIONS = ("auto", "float32", "bf16", "fp16")
"""What `--precision` may say: what is computed in; weights stay float32. `auto` is bf16 where the
device multiplies it in hardware, else fp16 on a GPU and float32 on a CPU."""


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What `catalogpose train` shall do: make a model folder, in resumable steps."""

    out: Path
    """Folder for the checkpoints and the finished model; a stopped training goes on there."""
    recipe: str = "bundled"
    """Name of a shipped recipe, or the path of a JSON file."""
    manifest: Path | None = None
    """Pairs of photos to learn from, a manifest whose rows all have a target; None: a studio
    recipe, which draws its own."""
    validation: Path | None = None
    """Manifest of which a few fixed rows are painted and scored on the way; None: none are."""
    model: str | None = None
    """Where the weights come from: hub id or folder of a Stable Diffusion 1.5, or a model folder of
    ours; None: what the recipe says."""
    prepare: bool = False
    """Whether to stop once all that training needs of the photos is computed."""
    dry_run: bool = False
    """Whether to check one batch and tell memory, steps and hours instead of training."""
    cache: Path | None = None
    """Folder of parsing maps and embeddings that `parse` fills; None: the user's cache folder."""
    device: str = "auto"
    """One of `DEVICES`."""
    precision: str = "auto"
    """One of `PRECISIONS`; studio recipes take `auto` alone."""
    accumulate: int = 1
    """Micro-batches a step in each process, 1 or more; the recipe's batch is divided by them and by
    the processes."""
    compile_nets: bool = False
    """Whether torch compiles the nets: minutes at the start, faster steps on a GPU."""
    licence: str | None = None
    """The licence of the weights, which inherit the photos'; None: the card names none, and the
    model cannot be pushed."""
    seed: int = 0
    """Seed of the first weights and of the batches, 0 to 2**31 - 1."""
    only: str | None = None
    """Name of the one part of a studio recipe to train; None: every part in turn."""

    def __post_init__(self) -> None:
        """Raise UsageError naming the first flag that is out of range."""
        _need_device(self.device)
        _need(self.precision in PRECISIONS, "--precision", f"one of {', '.join(PRECISIONS)}",
              self.precision)  # fmt: skip
        _need(1 <= self.accumulate <= 256, "--accumulate", "1 to 256", self.accumulate)
        _need(0 <= self.seed < 2**31, "--seed", "0 to 2**31 - 1", self.seed)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What `catalogpose report` shall do: score a run's pictures and show them on one page."""

    run: Path | None = None
    """The run folder; None: the newest under `runs/`."""
    device: str = "auto"
    """One of `DEVICES`; the parser works there."""
    shown: int = 200
    """Rows shown on the page, worst first, and failed rows, 0 or more each; a row adds three small
    pictures to the page. Every row is in `metrics.parquet`."""

    def __post_init__(self) -> None:
        """Raise UsageError naming the first flag that is out of range."""
        _need_device(self.device)
        _need(self.shown >= 0, "--shown", "0 or more", self.shown)


SPLITS = ("train", "validation", "test")
"""What `--split` may say; the studio keeps a range of product numbers for each."""


@dataclass(frozen=True, kw_only=True)
class StudioOptions:
    """What `catalogpose studio` shall do: draw a catalogue, its true pictures and a manifest."""

    out: Path
    """Folder of the catalogue, new or empty."""
    products: int = 8
    """Number of products, 1 to 100000; each is one person in one outfit."""
    poses: int = 3
    """Target poses a product, 1 to 100; with `products` they make the manifest's rows."""
    seed: int = 0
    """Which products of the split, 0 to 2**63 - 1; 0 begins with its first. Two seeds with as many
    products share none, as long as the split's million lasts."""
    height: int = 256
    """Photo height in pixels, 32 to 4096."""
    width: int = 176
    """Photo width in pixels, 32 to 4096."""
    split: str = "test"
    """One of `SPLITS`; they share no person, garment or pattern."""

    def __post_init__(self) -> None:
        """Raise UsageError naming the first flag that is out of range."""
        _need(1 <= self.products <= 100_000, "--products", "1 to 100000", self.products)
        _need(1 <= self.poses <= 100, "--poses", "1 to 100", self.poses)
        _need(0 <= self.seed < 2**63, "--seed", "0 to 2**63 - 1", self.seed)
        for flag, side in (("--height", self.height), ("--width", self.width)):
            _need(32 <= side <= 4096, flag, "32 to 4096", side)
        _need(self.split in SPLITS, "--split", f"one of {', '.join(SPLITS)}", self.split)


DATASETS = ("deepfashion", "deepfashion-multimodal", "wpose")
"""What `catalogpose import` can read."""

KEYPOINTS_REMEDY = (
    "give --poses FOLDER with OpenPose's or DWPose's JSON, NAME.json or NAME_keypoints.json for "
    "the picture NAME.jpg"
)
"""What to do about a data set whose own keypoints do not do."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What `catalogpose import` shall do: make manifests of a data set's folder."""

    dataset: str
    """One of `DATASETS`."""
    root: Path
    """The data set's folder, as its owners distribute it."""
    out: Path
    """Folder for the manifests, the poses and `LICENCE.txt`; an earlier import there is renewed."""
    allow_partial: bool = False
    """Whether to import what is there where files are missing or counts are not the known ones."""
    poses: Path | None = None
    """Folder of poses, a JSON file a picture; None: the data set's own keypoints. `wpose` has none
    and needs it; `deepfashion` does not take it."""
    keypoint_order: Path | None = None
    """JSON list of 21 joint names or nulls, which of our joints each keypoint of
    `deepfashion-multimodal` is: its owners say so in a picture alone. None: `poses` are used."""
    test_share: float = 0.1
    """Share of the items of `deepfashion-multimodal` that go to the test split, 0 to 1."""
    raw: Path | None = None
    """Folder of the pictures of `wpose` as downloaded, to be cut out by `bbox.txt`; None: all are
    in `images/`, where the owners' script puts them."""

    def __post_init__(self) -> None:
        """Raise UsageError naming the first flag that is out of range or missing."""
        _need(self.dataset in DATASETS, "DATASET", f"one of {', '.join(DATASETS)}", self.dataset)
        _need(0 <= self.test_share <= 1, "--test-share", "0 to 1", self.test_share)
        if self.dataset == "deepfashion" and self.poses is not None:
            raise UsageError("--poses does not go with deepfashion, whose lists have the keypoints")
        if self.dataset == "wpose" and self.poses is None:
            raise UsageError(f"wpose ships DensePose and no keypoints: {KEYPOINTS_REMEDY}")
        if self.dataset == "deepfashion-multimodal":
            if self.poses is None and self.keypoint_order is None:
                raise UsageError(
                    "the order of deepfashion-multimodal's 21 keypoints is published in a picture "
                    "alone (assets/keypoints_definition.png in its repository): give "
                    "--keypoint-order FILE, a JSON list of 21 joint names or nulls read off it, or "
                    + KEYPOINTS_REMEDY
                )
            if self.poses is not None and self.keypoint_order is not None:
                raise UsageError("--poses and --keypoint-order: give one of them")
        for flag, value, owner in (
            ("--keypoint-order", self.keypoint_order, "deepfashion-multimodal"),
            ("--raw", self.raw, "wpose"),
        ):
            if value is not None and self.dataset != owner:
                raise UsageError(f"{flag} goes with {owner} alone")


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
        _need(bool(REPO_ID.fullmatch(self.repo_id)), "REPO_ID", "owner/name", self.repo_id)


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
        _need_device(self.device)
        _need(self.out.suffix == ".parquet", "--out", "a file that ends in .parquet", self.out)


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
        _need_device(self.device)
        _need(1 <= self.count <= 1000, "--count", "1 to 1000", self.count)


@dataclass(frozen=True, kw_only=True)
class MemoryStatsOptions:
    """What `catalogpose memory stats` shall do: tell what a memory holds."""

    memory: Path = Path("memory.parquet")
    """What `memory build` wrote."""
