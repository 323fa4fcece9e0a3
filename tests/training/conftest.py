"""What the tests of training on photos share: tiny weights to start from and a small catalogue."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

TINY_CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}
"""Sizes of a CLIP that knows nothing."""

TINY_PARSER = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 8, 8, 8],
    "num_attention_heads": [1, 1, 1, 1],
    "decoder_hidden_size": 8,
}
"""Sizes of a parser that knows nothing."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a training on photos starts from."""

    weights: Path
    """A folder laid out as Stable Diffusion 1.5 is."""
    parser: Path
    """A SegFormer with the label set `atr`, which its configuration does not say."""
    clip: Path
    """An open_clip folder, 12 wide."""
    manifest: Path
    """Four rows of two products, all with targets; the sources have ready maps."""

    def write_recipe(self, path: Path, shipped: str, **schedule: object) -> str:
        """Write a shipped recipe with these tiny parts, 64 x 48 pixels and two pairs a step."""
        from catalogpose.training.recipes import FOLDER

        recipe = json.loads((FOLDER / f"{shipped}.json").read_text(encoding="utf-8"))
        recipe.update(height=64, width=48, start=str(self.weights), save_minutes=0)
        recipe["parser"]["name"], recipe["clip"]["name"] = str(self.parser), str(self.clip)
        recipe["truepose"].update(steps=2, pose={"widths": [8, 8, 8]})
        recipe["truepose"]["schedule"].update({"batch": 2, "learning_rate": 1e-3} | schedule)
        recipe["validation"] = {"every": 2, "pairs": 2}
        path.write_text(json.dumps(recipe), encoding="utf-8")
        return str(path)


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Return tiny random weights and a studio catalogue; treat them as read-only."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from catalogpose.catalog.labels import LABEL_SETS
    from catalogpose.commands.studio import write_studio
    from catalogpose.config import StudioOptions
    from catalogpose.perception.clip import make_clip, save_clip
    from catalogpose.perception.parser import make_parser, save_parser

    folder = tmp_path_factory.mktemp("start")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 16, 16, 16),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=8,
        ).save_pretrained(str(folder / "sd" / "unet"))
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            norm_num_groups=4,
        ).save_pretrained(str(folder / "sd" / "vae"))
        clip, _ = make_clip(TINY_CLIP, folder / "clip")
        save_clip(clip, folder / "clip")
        names = dict(enumerate(LABEL_SETS["atr"].labels))
        parser = make_parser((64, 48), names, "atr", **TINY_PARSER)
        save_parser(parser, folder / "parser")
    config = json.loads((folder / "parser" / "config.json").read_text(encoding="utf-8"))
    del config["label_set"]
    (folder / "parser" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    drawn = StudioOptions(out=folder / "shop", products=2, poses=2, height=64, width=48)
    write_studio(drawn, with_parsing=True)
    manifest = next((folder / "shop").glob("*.parquet"))
    return Start(
        weights=folder / "sd",
        parser=folder / "parser",
        clip=folder / "clip",
        manifest=manifest,
    )
