"""A GPU paints and sees as a CPU does, and learns: `-m cuda` runs this where there is one."""

import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import DDIMScheduler
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from catalogpose.catalog.labels import find_regions, load_keypoint_table
from catalogpose.catalog.provenance import read_provenance
from catalogpose.perception.clip import Clip
from catalogpose.perception.parser import Parser
from catalogpose.records import LABELS
from catalogpose.studio import SPLITS, draw_view
from catalogpose.training.loop import fit
from catalogpose.training.matcher import train_matcher
from catalogpose.training.nets import TruePoseNets
from catalogpose.training.objective import Objective, denoising_loss
from catalogpose.training.pairs import PairBatch
from catalogpose.training.pictures import draw_pictures
from catalogpose.training.processes import choose_precision, open_accelerator
from catalogpose.training.schedule import Schedule
from catalogpose.truepose.attention import least_attended_regions, reweighted_attention
from catalogpose.truepose.matcher import Matcher, carry_photos, embed_photo
from catalogpose.truepose.model import resolve_model
from catalogpose.truepose.pipeline import TruePosePipeline, load_pipeline
from catalogpose.truepose.regions import selected_labels

pytestmark = [
    pytest.mark.cuda,
    # Libraries built for GPUs warn of what no test here is about.
    pytest.mark.filterwarnings("default"),
]

DEVICE = os.environ.get("CATALOGPOSE_TEST_DEVICE", "cuda:0")
"""What is compared with the CPU. `cpu` lets a machine without GPU run the tests themselves, which
then compare it with itself.
"""

ON_GPU = DEVICE != "cpu"

ROOT = Path(__file__).resolve().parents[1]

UNET: dict[str, Any] = {
    "in_channels": 4, "out_channels": 4, "sample_size": None, "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"],
    "block_out_channels": [16], "attention_head_dim": [2], "cross_attention_dim": 8,
    "norm_num_groups": 4,
}  # fmt: skip
"""A UNet small enough for tests that train."""

Floats = NDArray[np.floating]


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """Compute in true float32: TF32, which cuDNN takes unless told otherwise, keeps 10 bits."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic = False, False, True
    yield
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic = before


@pytest.fixture
def _forgotten() -> Iterator[None]:
    """Let accelerate choose its device anew: for a process's life it keeps the first one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@dataclass(frozen=True, kw_only=True)
class View:
    """A studio picture as the pipeline takes it, as source and as pose."""

    photo: NDArray[np.uint8]
    """(H, W, 3)."""
    labels: NDArray[np.uint8]
    """(H, W)."""
    embeddings: dict[int, NDArray[np.float16]]
    """By label."""
    joints: NDArray[np.float32]
    """(18, 3)."""
    shown: frozenset[int]
    """The labels that the pose shows."""


@pytest.fixture(scope="module")
def views() -> Sequence[Sequence[View]]:
    """Return two views of each of three people; the bundled CLIP embeds them on the CPU."""
    clip, table = Clip.load(resolve_model(None) / "clip"), load_keypoint_table()
    people = []
    for product in range(SPLITS["test"].start + 70, SPLITS["test"].start + 73):
        seen = []
        for view in range(2):
            drawn = draw_view(product, view, height=128, width=88)
            regions = find_regions(drawn.labels)
            vectors = clip.embed(drawn.photo, [region.box for region in regions])
            seen.append(
                View(
                    photo=drawn.photo,
                    labels=drawn.labels,
                    embeddings={r.label: v for r, v in zip(regions, vectors, strict=True)},
                    joints=drawn.joints.astype(np.float32),
                    shown=selected_labels(drawn.joints, table),
                )
            )
        people.append(seen)
    return people


@pytest.fixture(scope="module")
def on_cpu() -> TruePosePipeline:
    """Return the bundled model on the CPU."""
    return load_pipeline(resolve_model(None), "cpu")


@pytest.fixture(scope="module")
def on_device() -> TruePosePipeline:
    """Return the bundled model on the GPU, all in float32."""
    pipe = TruePosePipeline.from_pretrained(None, dtype=torch.float32)
    pipe.to(DEVICE)
    return pipe


@pytest.fixture(scope="module")
def as_used() -> TruePosePipeline:
    """Return the bundled model on the GPU as `catalogpose generate` loads it: in bfloat16."""
    return load_pipeline(resolve_model(None), DEVICE)


def paint(pipe: TruePosePipeline, people: Sequence[Sequence[View]]) -> NDArray[np.uint8]:
    """Paint each person's first view in the pose of the second, all in one batch."""
    conditions = [
        pipe.condition(pipe.encode_source(one.photo, one.labels, one.embeddings), other.shown)
        for one, other in people
    ]
    joints = np.stack([other.joints for _, other in people])
    # A row's noise is its person's, whatever stands beside it.
    seeds = [int(one.photo[0].sum()) for one, _ in people]
    return pipe.generate(conditions, joints, seeds)


def apart(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return how many levels pictures differ by, everywhere."""
    return np.abs(left.astype(np.int64) - right.astype(np.int64))


def test_a_gpu_paints_what_a_cpu_paints(
    views: Sequence[Sequence[View]], on_cpu: TruePosePipeline, on_device: TruePosePipeline
) -> None:
    """In float32 the bundled model's pictures are the CPU's but for rounding."""
    expected, found = paint(on_cpu, views), paint(on_device, views)
    assert expected.std(axis=(1, 2)).min() > 10
    away = apart(found, expected)
    # Sums in another order differ by a level here and there: weights off by 1e-6 change 1 of 10,000
    # values. Where two places of the source are as likely as one another, the photo is carried from
    # either, which may change a few tokens.
    assert away.mean() < 0.05
    assert (away > 4).mean() < 0.002


def test_bfloat16_paints_nearly_the_same(
    views: Sequence[Sequence[View]], on_cpu: TruePosePipeline, as_used: TruePosePipeline
) -> None:
    """As a run loads it on a GPU, the model paints what looks the same."""
    away = apart(paint(as_used, views), paint(on_cpu, views))
    # bfloat16 keeps 8 bits, so likely places change more often. On a CPU: 0.23, and 0.0002.
    assert away.mean() < 1
    assert (away > 32).mean() < 0.005


def test_a_picture_does_not_depend_on_its_neighbours(
    views: Sequence[Sequence[View]], on_device: TruePosePipeline
) -> None:
    """Alone and in any place of a batch, a row has the same picture within 2 of 255."""
    together = paint(on_device, views)
    for index in range(len(views)):
        assert apart(paint(on_device, views[index : index + 1])[0], together[index]).max() <= 2
    turned = paint(on_device, list(reversed(views)))
    assert apart(turned[::-1], together).max() <= 2
    assert apart(together[0], together[1]).max() > 100


def test_neighbours_hardly_show_in_bfloat16(
    views: Sequence[Sequence[View]], as_used: TruePosePipeline
) -> None:
    """Other kernels for another number of rows round otherwise, by no more than bfloat16 does."""
    together = paint(as_used, views)
    alone = np.concatenate([paint(as_used, views[i : i + 1]) for i in range(len(views))])
    away = apart(alone, together)
    # On a CPU: 0.01, and none.
    assert away.mean() < 0.25
    assert (away > 16).mean() < 0.002


def test_the_carried_photo_is_the_same(
    views: Sequence[Sequence[View]], on_cpu: TruePosePipeline, on_device: TruePosePipeline
) -> None:
    """A matcher finds the same places, but where two are as likely as one another."""
    found = []
    for pipe in (on_cpu, on_device):
        photos = [embed_photo(pipe.matcher, one.photo, one.labels, None) for one, _ in views]
        drawn = pipe.draw_poses(np.stack([other.joints for _, other in views]))
        carried = carry_photos(pipe.matcher, [*photos[:2], None], drawn)
        assert carried is not None
        found.append(carried.float().cpu())
    assert not found[1][2].any(), "a row without a photo carries nothing"
    away = (found[0] - found[1]).abs()[:2]
    assert found[0][:2].std() > 0.1
    # Of colours in -1..1, and of how sure they are; 0.02 is less than three levels.
    assert (away > 0.02).float().mean() < 0.01


def tokens(count: int = 300) -> list[Tensor]:
    """Return Q', K' and V' (2, 4, count, 16), rounded to bfloat16 so that it holds them exactly."""
    draw = torch.Generator().manual_seed(0)
    return list(torch.randn(3, 2, 4, count, 16, generator=draw).bfloat16().float())


def attend(device: str, dtype: torch.dtype, parts: Sequence[Tensor]) -> list[Tensor]:
    """Return H' on a device, and the gradients of its sum of squares, on the CPU in float32."""
    leaves = [part.to(device, dtype, copy=True).requires_grad_() for part in parts]
    selected = torch.arange(parts[0].shape[2]).expand(2, -1) % 3 == 0
    out = reweighted_attention(leaves[0], leaves[1], leaves[2], selected.to(device))
    assert out.dtype == dtype
    grads = torch.autograd.grad(out.float().square().sum(), leaves)
    return [value.detach().float().cpu() for value in (out, *grads)]


@pytest.mark.parametrize("count", [40, 300])
def test_reweighted_attention_agrees(count: int) -> None:
    """Eq. 6-7 and its gradients are the CPU's, whether logits are kept or made twice; bfloat16 is
    as near as it can say.
    """
    expected = attend("cpu", torch.float32, tokens(count))
    exact = attend(DEVICE, torch.float32, tokens(count))
    half = attend(DEVICE, torch.bfloat16, tokens(count))
    assert len(expected) == len(exact) == len(half) == 4
    for one, other, rounded in zip(expected, exact, half, strict=True):
        torch.testing.assert_close(other, one, atol=2e-4, rtol=1e-3)
        # Logits are float32 for both: what is rounded is the output, 2**-9 of it, and with it the
        # gradients.
        assert (rounded - one).norm() < 0.01 * one.norm()


def test_least_attended_regions_agree() -> None:
    """Eq. 9 chooses the same regions everywhere, of bfloat16 tokens too: it counts in float64."""
    query, key, _ = tokens()
    labels = torch.randint(9, (2, 300), generator=torch.Generator().manual_seed(1))
    chosen = [
        least_attended_regions(
            query.to(device, dtype), key.to(device, dtype), labels.to(device), regions=12
        ).cpu()
        for device, dtype in (
            ("cpu", torch.float32),
            (DEVICE, torch.float32),
            (DEVICE, torch.bfloat16),
        )
    ]
    assert (chosen[0] > 0).all()
    assert torch.equal(chosen[0], chosen[1])
    assert torch.equal(chosen[0], chosen[2])


def test_the_eyes_see_the_same(views: Sequence[Sequence[View]]) -> None:
    """Parser and CLIP give a GPU's maps and embeddings as they give the CPU's."""
    folder = resolve_model(None)
    parsers = [Parser.load(folder / "parser", device) for device in ("cpu", DEVICE)]
    clips = [Clip.load(folder / "clip", device) for device in ("cpu", DEVICE)]
    for one, _ in views:
        maps = [parser.parse(one.photo) for parser in parsers]
        assert len(np.unique(maps[0])) > 3
        assert (maps[0] == maps[1]).mean() > 0.99
        boxes = [region.box for region in find_regions(one.labels)]
        left, right = (clip.embed(one.photo, boxes).astype(np.float64) for clip in clips)
        norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        assert ((left * right).sum(axis=1) / norms).min() > 0.999
    words = [clip.embed_texts(["a red dress", "blue jeans"]) for clip in clips]
    assert (words[0] * words[1]).sum(axis=1).min() > 0.999


@pytest.mark.usefixtures("_forgotten")
def test_a_matcher_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some steps in the GPU's own precision find two products' views in one another."""
    import catalogpose.training.matcher as taught

    losses: list[float] = []
    plain = taught.matching_loss

    def note(*arguments: Any, **options: Any) -> dict[str, Tensor]:
        """Keep the loss."""
        found = plain(*arguments, **options)
        losses.append(float(found["loss"].detach()))
        return found

    monkeypatch.setattr(taught, "matching_loss", note)
    pictures = draw_pictures(tmp_path / "pictures", "train", 2, 3, (64, 48), workers=1)
    torch.manual_seed(0)
    made: Any = Matcher(channels=(16, 16), width=8, stride=4, groups=4, nowhere=True, attends=True)
    schedule = Schedule(steps=40, batch=2, learning_rate=0.005, warmup=1)
    train_matcher(pictures, made, "rgb", schedule, tmp_path / "work", device=DEVICE)
    assert len(losses) == 40
    assert all(map(math.isfinite, losses))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    assert all(bool(weight.isfinite().all()) for weight in made.parameters())


def make_batch() -> PairBatch:
    """Return four pairs of noise with sources of their own."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(len(LABELS), (4, 4, 3), generator=draw)
    labels = labels.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    joints = torch.rand(4, 18, 3, generator=draw) * torch.tensor([24.0, 32.0, 0.0])
    return PairBatch(
        sources=torch.randn(4, 4, 4, 3, generator=draw),
        source_of=torch.arange(4),
        target=torch.randn(4, 4, 4, 3, generator=draw),
        labels=labels,
        target_labels=labels,
        known=torch.ones(4, len(LABELS), dtype=torch.bool),
        embeddings=torch.randn(4, len(LABELS), 6, generator=draw),
        shown=torch.rand(4, len(LABELS), generator=draw) < 0.5,
        joints=joints + torch.tensor([0.0, 0.0, 1.0]),
        source_surface=None,
        target_surface=None,
    )


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a short training of small nets left."""

    nets: TruePoseNets
    """With the averaged weights."""
    losses: list[float]
    """Of the steps that ran."""
    moved: float
    """How far all weights moved, as a norm."""

    def away(self, other: "Trained") -> float:
        """Return how far another training ended from this one, as a share of `moved`."""
        pairs = zip(self.nets.parameters(), other.nets.parameters(), strict=True)
        total = sum(float((a.detach() - b.detach()).square().sum()) for a, b in pairs)
        return math.sqrt(total) / self.moved


def train(
    folder: Path, precision: str, progress: Callable[[str, int, int], None] | None = None
) -> Trained:
    """Fit small nets to four pairs, from the same weights each time."""
    torch.manual_seed(1)
    nets = TruePoseNets(UNET, {"widths": [4, 4, 4], "in_channels": 3}, 6).to(DEVICE)
    before = [weight.detach().clone() for weight in nets.parameters()]
    kind = "cuda" if ON_GPU else "cpu"
    batch, losses = make_batch().to(DEVICE), list[float]()

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Denoise the four pairs."""
        found = denoising_loss(batch, nets, DDIMScheduler(), "rgb", Objective(), generator, DEVICE)
        losses.append(float(found["loss"].detach()))
        return found

    fit(
        "test", nets, loss_of,
        Schedule(steps=24, batch=4, learning_rate=0.01, warmup=1, decay=0, average=0.5),
        folder, device=DEVICE, save_seconds=0.0, progress=progress,
        accelerator=open_accelerator(kind, choose_precision(precision, kind)),
    )  # fmt: skip
    pairs = zip(nets.parameters(), before, strict=True)
    moved = math.sqrt(sum(float((a.detach() - b).square().sum()) for a, b in pairs))
    return Trained(nets=nets, losses=losses, moved=moved)


class KilledError(Exception):
    """Stands for kill -9."""


@pytest.mark.usefixtures("_forgotten")
def test_a_killed_training_goes_on(tmp_path: Path) -> None:
    """Resumed, it has the losses and ends with the average of one that was not stopped."""
    whole = train(tmp_path / "whole", "float32")

    def kill(name: str, done: int, total: int) -> None:
        """Stop after the checkpoint of step 11."""
        if done == 12:
            raise KilledError

    with pytest.raises(KilledError):
        train(tmp_path / "killed", "float32", kill)
    state = torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True, map_location="cpu")
    assert state["step"] == 11
    resumed = train(tmp_path / "killed", "float32")
    assert len(whole.losses) == 24
    assert len(resumed.losses) == 13
    # Gradients are summed in no fixed order on a GPU, and every step carries that on.
    assert resumed.losses == pytest.approx(whole.losses[-13:], rel=0.01)
    assert max(whole.losses) > 1.1 * min(whole.losses)
    assert whole.away(resumed) < 0.05


@pytest.mark.usefixtures("_forgotten")
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_every_precision_trains(tmp_path: Path, precision: str) -> None:
    """Losses are finite and fall, and float16's scaler goes into the checkpoint."""
    if precision == "fp16" and not ON_GPU:
        pytest.skip("a CPU has no float16 training")
    done = train(tmp_path, precision)
    assert all(map(math.isfinite, done.losses))
    assert np.mean(done.losses[-6:]) < 0.97 * np.mean(done.losses[:6])
    assert math.isfinite(done.moved)
    assert done.moved > 0.1
    assert {str(weight.dtype) for weight in done.nets.parameters()} == {"torch.float32"}
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True, map_location="cpu")
    assert ("scaler" in state) == (precision == "fp16")


def write_rows(folder: Path, count: int) -> Path:
    """Write a manifest of the sample catalogue's first rows."""
    with (ROOT / "manifests" / "studio.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:count]
    for row in rows:
        row.update({key: str(ROOT / "manifests" / row[key]) for key in ("source", "pose")})
    manifest = folder / "rows.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("id", "source", "pose"), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return manifest


def start(manifest: Path, name: str, *words: str) -> subprocess.Popen[str]:
    """Start `catalogpose generate` as a user would, with a cache of its own."""
    folder = manifest.parent
    command = [sys.executable, "-m", "catalogpose", "generate", "--manifest", str(manifest)]
    command += ["--out", str(folder / name), "--cache", str(folder / f"{name}-cache"), *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    """Return a run's outcomes by id."""
    lines = (folder / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    return {outcome["id"]: outcome for outcome in map(json.loads, lines)}


def test_the_command_works_on_a_gpu(tmp_path: Path) -> None:
    """`generate --gpus 1` does every row, says where, and paints what a CPU's run paints."""
    manifest = write_rows(tmp_path, 4)
    names = {
        "there": ["--gpus", "1"] if ON_GPU else ["--device", "cpu"],
        "cpu": ["--device", "cpu"],
    }
    processes = [start(manifest, name, *words) for name, words in names.items()]
    told = [process.communicate(timeout=200) for process in processes]
    for process, (out, err) in zip(processes, told, strict=True):
        assert process.returncode == 0, err
        assert out.startswith("4 rows: 4 done (0 of them before), 0 failed, 0 pending")
    there, here = (outcomes(tmp_path / name) for name in names)
    assert sorted(there) == sorted(here)
    assert len(there) == 4
    for row, outcome in there.items():
        assert (outcome["status"], outcome["device"]) == ("done", DEVICE)
        picture = tmp_path / "there" / outcome["output"]
        settings = json.loads(read_provenance(picture)["settings"])
        assert settings["device"] == DEVICE.partition(":")[0]
        other = tmp_path / "cpu" / here[row]["output"]
        away = apart(np.asarray(Image.open(picture)), np.asarray(Image.open(other)))
        # bfloat16 nets, and maps that may differ in a few pixels of a region's edge.
        assert away.mean() < 1.5
        assert (away > 32).mean() < 0.01
