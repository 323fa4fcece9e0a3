"""Real training steps at Stable Diffusion 1.5's true sizes: on a CPU, all in bfloat16, or on a GPU.

    python benchmarks/full_size.py --output full_size.json
    python benchmarks/full_size.py --device cuda --batch 12 --steps 6

builds TargetNet, SourceNet, the pose encoder and a frozen VAE with random weights, takes `--steps`
AdamW steps of the recipe `truepose-512` on one studio pair at 512 x 352 (latents 64 x 44), or on
`--batch` copies of it, with gradient checkpointing and random region embeddings, and prints JSON:
parameters, seconds, memory, and which parameters got a gradient. What it does on a GPU is in
`full_size_gpu.py`; the rest is about a CPU. Seconds beside other work are a hint: the load is in
the JSON, and `cpu_seconds` are the process's own. Weights, gradients and both of AdamW's moments
are bfloat16: 8 bytes a parameter, 14 GB, where float32 needs 28 GB. In bfloat16 most updates of
1e-5 are rounded away (`share_changed`): it proves gradients and memory, and trains nothing well.
Linux; it refuses to start without the memory, and gives up rather than squeeze what runs beside it.

Layers that start at zero (HPFA's last, the pose encoder's last) hold back all gradients behind
them in the first step, SourceNet's among them, so it takes two steps to see them all.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor, nn

from catalogpose.catalog.labels import load_keypoint_table
from catalogpose.pixels import to_floats
from catalogpose.records import LABELS
from catalogpose.studio import SPLITS, draw_view
from catalogpose.training.nets import TruePoseNets
from catalogpose.training.objective import Objective, denoising_loss
from catalogpose.training.pairs import PairBatch, Pairs
from catalogpose.training.recipes import load_recipe
from catalogpose.truepose.pose_encoder import STYLE_CHANNELS
from catalogpose.truepose.regions import selected_labels

UNET: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}
"""Stable Diffusion 1.5's UNet; its block types are diffusers' defaults."""

VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
"""Stable Diffusion 1.5's VAE."""

RECIPE = "truepose-512"
"""The recipe whose pose encoder, noise levels, objective and learning rate are taken."""

CLIP_WIDTH = 768
"""Width of a region's embedding, as CLIP ViT-L/14 gives it."""

SAMPLE = 16
"""Every so many weights of a tensor are compared with their values before training."""

GIB = 2**30

STATM = Path("/proc/self/statm")
"""Where Linux says how many pages of memory this process occupies."""

LossOf = Callable[[nn.Module, int], Mapping[str, Tensor]]
"""The training objective of some nets for the batch and noise that a seed gives."""


def available() -> int:
    """Return the bytes that Linux can give without swapping."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


class Meter:
    """Times the phases of a step and notes the largest resident memory in each."""

    def __init__(self) -> None:
        """Begin without phases."""
        self.peak, self.phases = 0, dict[str, dict[str, float]]()

    def _look(self) -> None:
        """Read the resident size once, where the system is Linux."""
        if STATM.exists():
            pages = int(STATM.read_text(encoding="ascii").split()[1])
            self.peak = max(self.peak, pages * resource.getpagesize())

    def watch(self, leave: int) -> None:
        """Look every 50 ms from now on, and end the process if fewer than `leave` bytes are free.

        A training that runs beside it is worth more than a benchmark.
        """

        def look() -> None:
            """Look for as long as the process lives."""
            while available() >= leave:
                self._look()
                time.sleep(0.05)
            print("gave up: the machine is short of memory", file=sys.stderr, flush=True)
            os._exit(1)

        threading.Thread(target=look, daemon=True).start()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what is done within."""
        self.peak = 0
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._look()
        self.phases[name] = {
            "seconds": round(time.perf_counter() - wall, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "peak_resident_gib": round(self.peak / GIB, 3),
        }
        print(name, self.phases[name], file=sys.stderr, flush=True)


@contextmanager
def default_type(kind: torch.dtype) -> Iterator[None]:
    """Make new weights in this type at once, so that no float32 copy of them ever exists."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def recipe_of(name: str = RECIPE) -> Mapping[str, Any]:
    """Return what a recipe says of TruePose."""
    return load_recipe(name).truepose


def make_nets(unet: Mapping[str, Any] = UNET) -> TruePoseNets:
    """Build the trained nets with random weights and gradient checkpointing in both UNets."""
    options = recipe_of()
    pose = {**options["pose"], "in_channels": STYLE_CHANNELS[options["pose_style"]]}
    nets = TruePoseNets(unet, pose, CLIP_WIDTH, options["net"]["fusion"]).train()
    nets.unet.enable_gradient_checkpointing()
    nets.source_unet.enable_gradient_checkpointing()
    return nets


def make_vae(options: Mapping[str, Any] = VAE) -> AutoencoderKL:
    """Build the frozen VAE with random weights."""
    return AutoencoderKL(**options).requires_grad_(False).eval()


def make_pair(vae: AutoencoderKL, size: tuple[int, int]) -> Pairs:
    """Draw two views of a studio product and encode them where the VAE is; embeddings are random
    unit vectors.
    """
    product = SPLITS["train"].start
    views = [draw_view(product, view, height=size[0], width=size[1]) for view in range(2)]
    photos = torch.from_numpy(to_floats(np.stack([view.photo for view in views])))
    floats = photos.to(vae.device, vae.dtype)
    latents = vae.encode(floats).latent_dist.mean * vae.config.scaling_factor
    table = load_keypoint_table()
    shown = [selected_labels(view.joints, table) for view in views]
    labels = np.stack([view.labels for view in views])
    embeddings = np.random.default_rng(0).standard_normal((2, len(LABELS), CLIP_WIDTH))
    known = np.array([np.isin(range(len(LABELS)), view[view > 0]) for view in labels])
    embeddings *= known[..., None] / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return Pairs(
        latents=latents.float().cpu().numpy(),
        labels=labels,
        joints=np.stack([view.joints for view in views]).astype(np.float32),
        shown=np.array([[label in names for label in range(len(LABELS))] for names in shown]),
        embeddings=embeddings.astype(np.float16),
        known=known,
        pairs=np.array([[0, 1]], dtype=np.int32),
    )


def bind_loss(
    pairs: Pairs, objective: Objective | None = None, count: int = 1, device: str = "cpu"
) -> LossOf:
    """Return the training code's own loss on batches of `count` times the first pair, each with a
    source of its own; None: the recipe's objective.
    """
    options = recipe_of()
    scheduler, batch = DDIMScheduler(**options["scheduler"]), pairs.take([0] * count)
    wanted = objective or Objective(**options["objective"])

    def loss_of(nets: nn.Module, seed: int) -> Mapping[str, Tensor]:
        """Draw with the seed alone, as the training loop does with that of a step."""
        generator = torch.Generator().manual_seed(seed)
        return denoising_loss(
            batch, nets, scheduler, options["pose_style"], wanted, generator, device
        )

    return loss_of


class _Silent(nn.Module):
    """Stands in for the nets where only what the loss draws is of interest."""

    def forward(
        self, batch: PairBatch, noisy: Tensor, *rest: Tensor, watch: bool
    ) -> tuple[Tensor, list[Any], list[Any]]:
        """Predict zeros for the noisy latents, as `TruePoseNets` predicts."""
        assert not watch
        return torch.zeros_like(noisy), [], []


def seeds_with_conditions(loss_of: LossOf) -> Iterator[int]:
    """Yield seeds that keep the conditions: a dropped C (Eq. 10) shows nothing of SourceNet."""
    silent = _Silent()
    return (s for s in itertools.count() if "with_c" in loss_of(silent, s))


def kept_for_backward(nets: nn.Module, forward: Callable[[], object]) -> int:
    """Return the bytes, weights aside, that a forward pass keeps for the backward pass."""
    weights = {p.untyped_storage().data_ptr() for p in nets.parameters()}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        """Count a storage once, and hold it so that its address stays its own."""
        address = tensor.untyped_storage().data_ptr()
        if address not in weights:
            kept[address] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def compare_checkpointing(
    nets: TruePoseNets, forward: Callable[[], object], meter: Meter
) -> dict[str, float]:
    """Return the MiB that a forward pass keeps with gradient checkpointing and without it."""
    kept = {}
    for way in ("with_checkpointing", "without_checkpointing"):
        for unet in (nets.unet, nets.source_unet):
            if way == "with_checkpointing":
                unet.enable_gradient_checkpointing()
            else:
                unet.disable_gradient_checkpointing()
        with meter.phase(f"forward at half the size, {way}"):
            kept[f"{way}_mib"] = round(kept_for_backward(nets, forward) / 2**20, 1)
    for unet in (nets.unet, nets.source_unet):
        unet.enable_gradient_checkpointing()
    return kept


def group_of(name: str) -> str:
    """Return the part of the nets that a parameter belongs to."""
    if ".hpfa." in name:
        return "unet: HPFA's last layer" if "hpfa.to_out" in name else "unet: HPFA, all but last"
    if name.startswith("pose_encoder."):
        return "pose_encoder: last" if ".out." in name else "pose_encoder: all but last"
    return name.partition(".")[0]


def count_parameters(nets: TruePoseNets, vae: nn.Module | None = None) -> dict[str, int]:
    """Return the parameters of each part; `vae` None: there is none."""
    counts: Counter[str] = Counter()
    for name, parameter in nets.named_parameters():
        counts[name.partition(".")[0]] += parameter.numel()
        if ".hpfa." in name or name.startswith("unet.region_proj."):
            counts["unet, not of Stable Diffusion"] += parameter.numel()
    counts["trainable"] = sum(p.numel() for p in nets.parameters() if p.requires_grad)
    if vae is not None:
        counts["vae (frozen)"] = sum(p.numel() for p in vae.parameters())
    return dict(counts)


def look_at_gradients(nets: nn.Module, frozen: nn.Module | None = None) -> dict[str, Any]:
    """Say which trainable parameters have a gradient, and that no frozen one has.

    Gradients that are zero throughout are counted by part, and named unless the whole part's are.
    """
    named = {name: p for name, p in nets.named_parameters() if p.requires_grad}
    found = {name: p.grad for name, p in named.items() if p.grad is not None}
    zero = [name for name, grad in found.items() if not grad.any()]
    sizes, zeros = Counter(map(group_of, named)), Counter(map(group_of, zero))
    others = [p for p in nets.parameters() if not p.requires_grad]
    others += [] if frozen is None else list(frozen.parameters())
    return {
        "trainable": len(named),
        "with_gradient": len(found),
        "without_gradient": sorted(set(named) - set(found)),
        "not_finite": [name for name, grad in found.items() if not grad.isfinite().all()],
        "not_zero": len(found) - len(zero),
        "zero_throughout_by_part": {part: f"{n} of {sizes[part]}" for part, n in zeros.items()},
        "zero_throughout": [n for n in zero if zeros[group_of(n)] < sizes[group_of(n)]],
        "frozen": len(others),
        "frozen_with_gradient": sum(p.grad is not None for p in others),
    }


class Snapshot:
    """The weights before training: a checksum of every tensor, and a sixteenth of the values."""

    def __init__(self, nets: nn.Module) -> None:
        """Remember the nets as they are."""
        self.before = {name: self._look(p) for name, p in nets.named_parameters()}

    @staticmethod
    def _look(weight: Tensor) -> tuple[int, Tensor]:
        """Return the checksum of the bytes, and every `SAMPLE`-th weight."""
        flat = weight.detach().flatten()
        return zlib.crc32(flat.view(torch.uint8).numpy()), flat[::SAMPLE].clone()

    def compare(self, nets: nn.Module) -> dict[str, Any]:
        """Say which tensors changed at all, and what share of the sampled weights did."""
        unchanged, moved, seen = Counter[str](), Counter[str](), Counter[str]()
        for name, weight in nets.named_parameters():
            (old_sum, old), (new_sum, new) = self.before[name], self._look(weight)
            if old_sum == new_sum:
                kind = "weight" if weight.ndim > 1 else name.rpartition(".")[2]
                unchanged["norm" if ".norm" in name else kind] += 1
            for key in ("all", group_of(name)):
                moved[key] += int((old != new).sum())
                seen[key] += len(old)
        return {
            "tensors": len(self.before),
            "tensors_unchanged": unchanged.total(),
            "tensors_unchanged_by_kind": dict(unchanged),
            "weights_sampled": seen["all"],
            "share_changed": {key: round(moved[key] / seen[key], 4) for key in seen},
        }


def make_optimizer(nets: nn.Module, rate: float | None = None) -> torch.optim.AdamW:
    """Return AdamW, one tensor at a time: several at once would hold several temporaries.

    The `rate` is the recipe's where it is None.
    """
    fixed = recipe_of()["schedule"]["learning_rate"] if rate is None else rate
    return torch.optim.AdamW(nets.parameters(), lr=fixed, foreach=False)


def take_step(
    nets: TruePoseNets, loss_of: LossOf, seed: int, optimizer: torch.optim.Optimizer, meter: Meter
) -> dict[str, Any]:
    """Take one training step; return its loss, gradients, times and memory."""
    before = set(meter.phases)
    optimizer.zero_grad(set_to_none=True)
    with meter.phase("forward"):
        losses = loss_of(nets, seed)
    with meter.phase("backward"):
        losses["loss"].backward()
    with meter.phase("clip the norm"):
        norm = torch.nn.utils.clip_grad_norm_(nets.parameters(), 1.0, foreach=False)
    with meter.phase("optimizer"):
        optimizer.step()
    phases = {name: meter.phases.pop(name) for name in list(meter.phases) if name not in before}
    seconds = sum(phase["seconds"] for phase in phases.values())
    return {
        "seed": seed,
        "loss": float(losses["loss"].detach()),
        "gradient_norm": float(norm),
        "seconds": round(seconds, 2),
        "steps_per_second": round(1 / seconds, 5),
        "load_average": round(os.getloadavg()[0], 2),
        "phases": phases,
    }


def measure(size: tuple[int, int], batch: int, steps: int, meter: Meter) -> dict[str, Any]:
    """Build everything, take the steps and return what was seen."""
    torch.manual_seed(0)
    with meter.phase("build"), default_type(torch.bfloat16):
        nets, vae = make_nets(), make_vae()
    with meter.phase("draw and encode the pair"):
        loss_of = bind_loss(make_pair(vae, size), count=batch)
        loss_of_half = bind_loss(make_pair(vae, (size[0] // 2, size[1] // 2)), count=batch)
    seeds = list(itertools.islice(seeds_with_conditions(loss_of), steps))
    kept = compare_checkpointing(nets, lambda: loss_of_half(nets, seeds[0])["loss"], meter)
    snapshot, optimizer = Snapshot(nets), make_optimizer(nets)
    taken = []
    for seed in seeds:
        step = take_step(nets, loss_of, seed, optimizer, meter)
        taken.append({**step, "gradients": look_at_gradients(nets, vae)})
    moments = [state["exp_avg"] for state in optimizer.state.values()]
    return {
        "latent": [side // 8 for side in size],
        "parameters": count_parameters(nets, vae),
        "types": sorted({str(t.dtype) for t in (*nets.parameters(), *moments)}),
        "moments_not_zero": sum(bool(moment.any()) for moment in moments),
        "kept_for_backward_at_half_the_size": kept,
        "before": meter.phases,
        "steps": taken,
        "weights_after": snapshot.compare(nets),
    }


def check_memory(leave: int, batch: int) -> None:
    """Refuse to start without room, and be the first to go should the machine run short.

    Raises:
        SystemExit: If less is free than the steps need.
    """
    with torch.device("meta"):
        trainable = count_parameters(make_nets())["trainable"]
    # Weights, gradients and two moments of 2 bytes; 2 GiB hold a pair's activations and the
    # libraries, and more pairs are guessed to need as much each.
    needed = 8 * trainable + 2 * GIB * batch + leave
    if available() < needed:
        raise SystemExit(
            f"needs {needed / GIB:.1f} GiB of free memory, {available() / GIB:.1f} GiB are free: "
            "end something else, or run it on a larger machine"
        )
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def read_options() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 352), metavar=("H", "W"))
    parser.add_argument(
        "--batch", type=int, default=None, help="pairs; if absent 1 on a CPU, the recipe's on a GPU"
    )
    parser.add_argument("--steps", type=int, default=2, help="on a GPU behind two that warm it up")
    parser.add_argument(
        "--threads", type=int, default=None, help="of torch; its own choice if absent"
    )
    parser.add_argument(
        "--leave", type=float, default=1.0, help="GiB left to other processes, on a CPU"
    )
    parser.add_argument("--output", type=Path, default=None, help="JSON; none is written if absent")
    options = parser.parse_args()
    if options.batch is None:
        options.batch = 1 if options.device == "cpu" else recipe_of()["schedule"]["batch"]
    if min(options.batch, options.steps) < 1:
        parser.error("--batch and --steps must be 1 or more")
    return options


def measure_cpu(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a CPU, if there is memory for them."""
    leave = int(options.leave * GIB)
    check_memory(leave, options.batch)
    meter = Meter()
    meter.watch(leave)
    return {
        **measure(tuple(options.size), options.batch, options.steps, meter),
        "peak_resident_gib": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB, 3
        ),
        "machine": {
            **{name: version(name) for name in ("torch", "diffusers")},
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
        },
    }


def main() -> None:
    """Print the figures, and write them where asked."""
    options = read_options()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    if options.device == "cpu":
        found = measure_cpu(options)
    else:
        # It imports this module, and lies beside it: only a script finds it.
        from full_size_gpu import measure_gpu

        found = measure_gpu(tuple(options.size), options.batch, options.steps)
    result = {"recipe": RECIPE, "size": list(options.size), "batch": options.batch, **found}
    text = json.dumps(result, indent=2)
    if options.output is not None:
        options.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
