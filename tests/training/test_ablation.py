"""The ablation: its shipped plan, and two arms from a common start to a table."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from catalogpose.errors import UsageError
from catalogpose.perception.clip import Clip
from catalogpose.training import ablation, ablation_table
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


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Compute on one thread: nets this small only wait for the others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Eyes:
    """Stands for a parser: everything is hair."""

    label_set = "common"

    def parse(self, picture: np.ndarray) -> np.ndarray:
        """Return a map of the picture's size."""
        return np.full(picture.shape[:2], 2, dtype=np.uint8)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> ablation.Bench:
    """Return a bench of two products, on the bundled model's VAE and CLIP."""
    folder = tmp_path_factory.mktemp("ablation")
    vae = AutoencoderKL.from_pretrained(str(BUNDLED / "vae"), dtype=torch.float32)
    clip = Clip.load(BUNDLED / "clip")
    pictures = draw_pictures(folder, "train", 2, 2, (128, 88), workers=1)
    made = ablation.Bench(
        plan=ablation.fit_plan(tiny_plan(), vae),
        pairs=studio_pairs(pictures, vae, clip, folder / "pairs"),
        pictures=pictures,
        held_out=hold_out(draw_pictures(folder, "test", 2, 2, (128, 88), workers=1), clip, 2),
        vae=vae,
        parser=Eyes(),  # type: ignore[arg-type]
        facts={"products": 2},
        work=folder / "work",
        results=folder / "results",
    )
    made.results.mkdir()
    return made


def test_the_shipped_plan_has_every_arm_of_the_paper() -> None:
    """Each fusion but the start's has an arm of its name without switches, and each is valid."""
    plan = ablation.read_plan(PLAN)
    for name in set(FUSIONS) - {"none"}:
        assert plan.arms[name] == ablation.Arm(fusion=name)
    for arm in plan.arms.values():
        Objective(**{**plan.objective, **arm.objective})


def vae_of(factor: int, channels: int) -> AutoencoderKL:
    """Return a VAE of a latent's side in pixels and its channels."""
    levels = factor.bit_length()
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=channels,
        norm_num_groups=4,
    )


def test_a_plan_is_fitted_to_the_latents() -> None:
    """A VAE of other channels and another factor changes both nets and the strides; the shipped
    plan's own, nothing, so that finished results stay finished.
    """
    plan = ablation.read_plan(PLAN)
    assert ablation.fit_plan(plan, vae_of(8, 16)) == plan
    fitted = ablation.fit_plan(plan, vae_of(4, 6))
    assert (fitted.unet["in_channels"], fitted.unet["out_channels"]) == (6, 6)
    assert fitted.pose == {**plan.pose, "strides": [2, 2, 1]}
    nets = ablation.make_nets(fitted, "none", 12, 0)
    assert nets.pose_encoder.factor == 4


def test_an_arm_with_a_matcher_trains_it_once(bench: ablation.Bench, tmp_path: Path) -> None:
    """Both seeds of an arm read one matcher, whose seconds its results name; others have none."""
    schedule = {"steps": 2, "batch": 2, "learning_rate": 0.01}
    model = {"channels": [8, 8], "width": 4, "stride": 4, "groups": 4}
    arm = ablation.Arm(fusion="hpfa+caa", matcher={"model": model, "schedule": schedule})
    plan = dataclasses.replace(bench.plan, arms={**bench.plan.arms, "carried": arm})
    made = dataclasses.replace(bench, plan=plan, results=tmp_path)
    for seed in (0, 1):
        ablation.run_arm(made, "carried", seed)
        found = json.loads((tmp_path / f"carried-{seed}.json").read_text())
        assert found["matcher"] == {"model": model, "schedule": schedule}
        assert isinstance(found["matcher_seconds"], int)
    assert len(list(bench.work.glob("matcher-*"))) == 1
    assert ablation.common_hash(made) == ablation.common_hash(bench)


def test_arms_share_their_start_and_differ_in_their_fusion(bench: ablation.Bench) -> None:
    """Both nets of every arm start from the same pose-only weights, and CAA adds nothing yet."""
    begun = ablation.train_start(bench)
    start = begun.unet.state_dict()
    width = bench.pairs.embeddings.shape[-1]
    for fusion in ("hpfa+caa", "concat"):
        nets = ablation.make_nets(bench.plan, fusion, width, seed=1)
        start_from(nets, begun)
        for net in (nets.unet, nets.source_unet):
            shared = {name: w for name, w in net.state_dict().items() if name in start}
            assert len(shared) > 100
            assert all(torch.equal(weight, start[name]) for name, weight in shared.items())
        block = nets.unet.down_blocks[0].attentions[0].transformer_blocks[0]
        if fusion == "hpfa+caa":
            assert not block.attn2.to_out[0].weight.any()
            assert not block.hpfa.to_out.weight.any()


def test_finished_arms_become_a_table(bench: ablation.Bench) -> None:
    """Two arms leave results with n values a metric; another plan, arm or data begins anew."""
    for name in bench.plan.arms:
        assert not ablation.is_finished(bench, name, 0)
        ablation.run_arm(bench, name, 0)
        assert ablation.is_finished(bench, name, 0)
    ablation.measure_bounds(bench)
    other_data = dataclasses.replace(bench, facts={"products": 3})
    assert not ablation.is_finished(other_data, "concat", 0)
    arms = {**bench.plan.arms, "concat": ablation.Arm(fusion="concat", objective={"noises": 2})}
    other_arm = dataclasses.replace(bench.plan, arms=arms)
    assert not ablation.is_finished(dataclasses.replace(bench, plan=other_arm), "concat", 0)
    results = ablation_table.read_results(bench.results)
    assert [result["arm"] for result in results] == ["concat", "copy", "hpfa+caa", "vae"]
    table = ablation_table.summarize(results, METRICS)
    for result in results:
        values = np.array(result["scores"]["mse"])
        assert table[result["arm"]]["mse"].mean == pytest.approx(values.mean())
        assert (table[result["arm"]]["mse"].n, table[result["arm"]]["seeds"]) == (2, 1)
        psnr = list(10 * np.log10(255**2 / values))
        assert result["scores"]["psnr"] == pytest.approx(psnr, abs=1e-2)
    paired = ablation_table.compare(results, "copy", "vae", "mse")
    assert paired is not None
    assert paired.mean == pytest.approx(table["copy"]["mse"].mean - table["vae"]["mse"].mean)
    assert ablation_table.compare(results, "copy", "absent", "mse") is None
    with pytest.raises(UsageError, match="one plan and data"):
        ablation_table.summarize([*results, {**results[0], "common": "another"}], METRICS)


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
