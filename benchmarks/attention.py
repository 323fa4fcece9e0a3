"""What TruePose's attention costs in time: plain UNet, hoisted and naive TruePose, side by side.

Run `python benchmarks/attention.py --output attention.json`. All arms share one process, one size
and random weights; each round times every arm once, in turning order, and only ratios within a
round are trusted. `plain` is the UNet with 77 text tokens; `hoisted` does the source once and
leaves HPFA and CAA out of the unconditional half; `naive` does SourceNet, Eq. 7, the keys and
values, HPFA and CAA at every step in both halves.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from catalogpose.records import LABELS
from catalogpose.truepose.conditions import Conditions
from catalogpose.truepose.regions import choose_regions
from catalogpose.truepose.siamese import SourceNet, TargetNet

STEPS = 35
"""Denoising steps over which the one-time part is shared, as in the paper."""

MODELS: dict[str, dict[str, Any]] = {
    "small": {
        "block_out_channels": (80, 160, 320, 320),
        "attention_head_dim": 2,
        "norm_num_groups": 16,
    },
    "stable-diffusion": {"block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8},
}
"""Options by name. Heads are 40, 80 and 160 wide in both; `attention_head_dim` is their number."""

Work = Callable[[], Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """The nets and inputs that all arms share."""

    plain: UNet2DConditionModel
    target: TargetNet
    source: SourceNet
    photo: Tensor
    """z_s, (B, 4, h, w)."""
    noisy: Tensor
    """z_t of both halves, (2B, 4, h, w)."""
    pose: Tensor
    """Features of the target pose, (2B, C_0, h, w)."""
    labels: Tensor
    """Parsing maps, (B, 8h, 8w)."""
    text: Tensor
    """Text tokens of both halves, (2B, 77, 768)."""


def make_case(model: str, size: tuple[int, int], batch: int, device: str, dtype: str) -> Case:
    """Build nets of random weights and random inputs."""
    torch.manual_seed(0)
    plain = UNet2DConditionModel(cross_attention_dim=768, **MODELS[model])
    target, source = TargetNet.start_from(plain), SourceNet.start_from(plain)
    for name, weight in target.named_parameters():
        if name.endswith("hpfa.to_out.weight"):
            # A zero would hide a wrong order of the halves from `check`.
            torch.nn.init.normal_(weight, std=0.02)
    kind = getattr(torch, dtype)
    # ModelMixin's own `to` warns about types that a net of random weights does not have.
    nets = [torch.nn.Module.to(net, device, kind).eval() for net in (plain, target, source)]
    options = {"device": device, "dtype": kind}
    height, width = size
    both = torch.randn(batch, 4, height, width, **options).repeat(2, 1, 1, 1)
    shape = (batch, 8 * height, 8 * width)
    return Case(
        plain=nets[0],
        target=nets[1],
        source=nets[2],
        photo=torch.randn(batch, 4, height, width, **options),
        noisy=both,
        pose=torch.randn(2 * batch, MODELS[model]["block_out_channels"][0], *size, **options),
        labels=torch.randint(0, 12, shape, device=device),
        text=torch.randn(2 * batch, 77, 768, **options),
    )


def prepare(case: Case, repeats: int) -> Conditions:
    """Do what TruePose does of a source once; the naive arm does it for both halves (2)."""
    labels = case.labels.repeat(repeats, 1, 1)
    layers = case.source(case.photo.repeat(repeats, 1, 1, 1))
    chosen = choose_regions(layers, labels, len(LABELS))
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(1, len(LABELS), 768, generator=generator).expand(len(labels), -1, -1)
    return case.target.condition(layers, labels > 6, table.to(case.noisy), chosen)


def make_arms(case: Case) -> dict[str, Work]:
    """Return the timed pieces by name: `once`, and a guided step of each arm."""
    when = torch.tensor(500, device=case.noisy.device)
    batch = len(case.photo)
    hoisted = Conditions.stack([prepare(case, 1)], unconditional=batch)
    keep = torch.arange(2 * batch, device=case.noisy.device) >= batch
    return {
        "once": lambda: prepare(case, 1),
        "plain": lambda: case.plain(case.noisy, when, case.text).sample,
        "hoisted": lambda: case.target(case.noisy, when, case.pose, hoisted),
        "naive": lambda: case.target(case.noisy, when, case.pose, prepare(case, 2).dropped(keep)),
    }


def check(arms: dict[str, Work], dtype: str) -> float:
    """Return the largest difference of hoisted and naive as a share of the largest value.

    Raises:
        SystemExit: If the two compute different things, so that their times say nothing.
    """
    hoisted, naive = arms["hoisted"](), arms["naive"]()
    apart = float((hoisted - naive).abs().max() / naive.abs().max())
    if apart > {"float32": 1e-4, "bfloat16": 5e-2}[dtype]:
        raise SystemExit(f"hoisted and naive differ by {apart:.1e}: nothing was timed")
    return apart


def time_once(work: Work, device: str) -> float:
    """Return the seconds that some work takes, the device's queue included."""
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def time_rounds(arms: dict[str, Work], rounds: int, device: str) -> list[dict[str, float]]:
    """Time every arm once a round, the order turned each round; seconds by arm."""
    names = list(arms)
    samples = []
    for index in range(rounds):
        order = names if index % 2 == 0 else names[::-1]
        seconds = {name: time_once(arms[name], device) for name in order}
        samples.append({name: seconds[name] for name in names})
    return samples


def summarise(samples: list[dict[str, float]]) -> dict[str, object]:
    """Return medians in milliseconds and, within each round, the ratios over a whole picture."""
    medians = {
        f"{name}_ms": 1000 * statistics.median(sample[name] for sample in samples)
        for name in samples[0]
    }
    pictures = [
        (s["plain"] * STEPS, s["once"] + s["hoisted"] * STEPS, s["naive"] * STEPS) for s in samples
    ]
    ratios = {
        "hoisted_over_plain": sorted(hoisted / plain for plain, hoisted, _ in pictures),
        "naive_over_hoisted": sorted(naive / hoisted for _, hoisted, naive in pictures),
    }
    summary: dict[str, object] = dict(medians)
    for name, values in ratios.items():
        summary[name] = {
            "median": statistics.median(values),
            "lowest": values[0],
            "highest": values[-1],
        }
    return summary


def describe_machine(device: str) -> dict[str, object]:
    """Return the versions and the hardware that the times belong to."""
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "diffusers", "catalogpose")},
        "device": gpu or platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
    }


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="small")
    parser.add_argument("--latent", type=int, nargs=2, default=(32, 22), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--output", type=Path, default=None, help="JSON; none is written if absent")
    return parser.parse_args()


@torch.no_grad()
def main() -> None:
    """Check that the arms agree, time them and print or write the ratios."""
    options = parse_arguments()
    size = (options.latent[0], options.latent[1])
    case = make_case(options.model, size, options.batch, options.device, options.dtype)
    arms = make_arms(case)
    apart = check(arms, options.dtype)
    time_rounds(arms, options.warm_up, options.device)
    samples = time_rounds(arms, options.rounds, options.device)
    result = {
        "settings": vars(options),
        "machine": describe_machine(options.device),
        "steps": STEPS,
        "hoisted_against_naive": apart,
        "summary": summarise(samples),
        "seconds": samples,
    }
    text = json.dumps(result, indent=2, default=str)
    if options.output is not None:
        options.output.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
