"""The options of `train` and `studio`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from catalogpose.config.checks import need, need_device

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
    ours; a studio recipe takes a model of its own kind alone. None: what the recipe says."""
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
    refine: tuple[str, ...] = ()
    """Parts of `model` that a studio recipe trains on before TruePose: `vae`, `clip`, `parser`;
    the others are taken as they are."""
    only: str | None = None
    """Name of the one part of a studio recipe to train; None: every part in turn."""

    def __post_init__(self) -> None:
        """Raise UsageError naming the first flag that is out of range."""
        need_device(self.device)
        need(self.precision in PRECISIONS, "--precision", f"one of {', '.join(PRECISIONS)}",
              self.precision)  # fmt: skip
        need(1 <= self.accumulate <= 256, "--accumulate", "1 to 256", self.accumulate)
        need(0 <= self.seed < 2**31, "--seed", "0 to 2**31 - 1", self.seed)


SPLITS = ("train", "validation", "test")
"""What `--split` may say; the studio keeps a range of product numbers for each."""


ROWS = ("pose", "text", "edit", "mixed")
"""What `--rows` may say of a manifest's rows: `pose`, the source in another pose; `text`, words and
a map alone; `edit`, the source in another pose with one garment that words describe; `mixed`, the
three in turn."""


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
    rows: str = "pose"
    """One of `ROWS`."""

    def __post_init__(self) -> None:
        """Raise UsageError naming the first flag that is out of range."""
        need(1 <= self.products <= 100_000, "--products", "1 to 100000", self.products)
        need(1 <= self.poses <= 100, "--poses", "1 to 100", self.poses)
        need(0 <= self.seed < 2**63, "--seed", "0 to 2**63 - 1", self.seed)
        for flag, side in (("--height", self.height), ("--width", self.width)):
            need(32 <= side <= 4096, flag, "32 to 4096", side)
        need(self.rows in ROWS, "--rows", f"one of {', '.join(ROWS)}", self.rows)
        need(self.split in SPLITS, "--split", f"one of {', '.join(SPLITS)}", self.split)
