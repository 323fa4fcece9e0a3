"""The ablation: its shipped plan, and two arms from a common start to a table."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from catalogpose.errors import UsageError
from catalogpose.perception.clip import Clip
from catalogpose.perception.parser import Parser
from catalogpose.training import ablation
from catalogpose.training.held_out import hold_out
from catalogpose.training.objective import Objective
from catalogpose.training.pictures import draw_pictures
from catalogpose.training.truepose import start_from, studio_pairs
from catalogpose.truepose.blocks import FUSIONS
from catalogpose.truepose.model import BUNDLED

PLAN = Path(__file__).parents[2] / "benchmarks/ablation.json"
METRICS = ("psnr", "ssim", "mse")


def tiny_plan() -> ablation.AblationPlan:
    """Return the shipped plan with two steps of tiny nets and two arms."""
    plan = ablation.read_plan(PLAN)
    schedule = {"steps": 2, "batch": 2, "learning_rate": 0.01}
    unet = {**plan.unet, "block_out_channels": [32, 32], "attention_head_dim": [1, 1]}
    return dataclasses.replace(
        plan,
        unet=unet,
        pose={"widths": [8, 8, 8], "in_channels": 21},
        start=schedule,
        schedule=schedule,
        arms={name: plan.arms[name] for name in ("hpfa+caa", "concat")},
    )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> ablation.Bench:
    """Return a bench of two products, on the bundled model's eyes."""
    folder = tmp_path_factory.mktemp("ablation")
    vae = AutoencoderKL.from_pretrained(str(BUNDLED / "vae"), dtype=torch.float32)
    clip, parser = Clip.load(BUNDLED / "clip"), Parser.load(BUNDLED / "parser")
    pictures = draw_pictures(folder, "train", 2, 2, (128, 88), workers=1)
    return ablation.Bench(
        plan=tiny_plan(),
        pairs=studio_pairs(pictures, vae, clip, folder / "pairs"),
        held_out=hold_out(draw_pictures(folder, "test", 2, 2, (128, 88), workers=1), clip, 2),
        vae=vae,
        parser=parser,
        work=folder / "work",
        results=folder / "results",
    )


def test_the_shipped_plan_has_every_arm_of_the_paper() -> None:
    """Each fusion but the start's has an arm of its name without switches, and each is valid."""
    plan = ablation.read_plan(PLAN)
    for name in set(FUSIONS) - {"none"}:
        assert plan.arms[name] == ablation.Arm(fusion=name)
    for arm in plan.arms.values():
        Objective(**{**plan.objective, **arm.objective})


def test_arms_share_their_start_and_differ_in_their_fusion(bench: ablation.Bench) -> None:
    """Both nets of every arm start from the same pose-only weights; new parts from the seed."""
    start = ablation.train_start(bench).unet.state_dict()
    width = bench.pairs.embeddings.shape[-1]
    for fusion in ("hpfa+caa", "concat"):
        nets = ablation.make_nets(bench.plan, fusion, width, seed=1)
        start_from(nets, ablation.train_start(bench))
        for net in (nets.unet, nets.source_unet):
            shared = {name: w for name, w in net.state_dict().items() if name in start}
            assert len(shared) > 100
            assert all(torch.equal(weight, start[name]) for name, weight in shared.items())


def test_finished_arms_become_a_table(bench: ablation.Bench) -> None:
    """Two arms leave results with n values a metric, and the table means and intervals of them."""
    bench.results.mkdir(exist_ok=True)
    for name in bench.plan.arms:
        ablation.run_arm(bench, name, 0)
    results = ablation.read_results(bench.results)
    assert [result["arm"] for result in results] == ["concat", "hpfa+caa"]
    table = ablation.summarize(results, METRICS)
    for result in results:
        values = np.array(result["scores"]["mse"])
        assert table[result["arm"]]["mse"].mean == pytest.approx(values.mean())
        assert (table[result["arm"]]["mse"].n, table[result["arm"]]["seeds"]) == (2, 1)
        assert result["scores"]["psnr"] == pytest.approx(
            list(10 * np.log10(255**2 / values)), abs=1e-2
        )
    mixed = [*results, {**results[0], "plan": "another"}]
    with pytest.raises(UsageError, match="different plans"):
        ablation.summarize(mixed, METRICS)


def test_a_broken_plan_is_refused(tmp_path: Path) -> None:
    """A file that is no plan, or names an unknown fusion, is one plain line."""
    path = tmp_path / "plan.json"
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match="not an ablation plan"):
        ablation.read_plan(path)
    values = json.loads(PLAN.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**values, "arms": {"x": {"fusion": "sum"}}}), encoding="utf-8")
    with pytest.raises(UsageError, match="unknown fusion 'sum'"):
        ablation.read_plan(path)
