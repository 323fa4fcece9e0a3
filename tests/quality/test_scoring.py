"""Rows scored against their true pictures and their words."""

from pathlib import Path

import numpy as np
from PIL import Image

from catalogpose.quality.run_folder import Asked, Finished
from catalogpose.quality.scoring import score_rows
from catalogpose.records import LABEL_ID


def test_a_row_with_words_and_a_truth_parses_each_picture_once(tmp_path: Path) -> None:
    """Output and target are parsed once though pixels, cloth and map are all compared; where the
    maps are as asked, both agree fully.
    """
    picture = np.full((40, 24, 3), 200, dtype=np.uint8)
    picture[10:30, 6:18] = (200, 30, 30)
    labels = np.where(picture[..., 1] < 100, LABEL_ID["coat"], 0).astype(np.uint8)
    for name, pixels in (("output", picture), ("target", picture), ("map", labels)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    asked = Asked(
        prompt="a red coat", pose_map=tmp_path / "map.png", label_set="common",
        phrases={"coat": "a red coat"}, cloth={}, kept=frozenset(),
    )  # fmt: skip
    row = Finished(
        id="one", source=None, pose=None, asked=asked, pose_size=None,
        target=tmp_path / "target.png", reference=None, product=None, group="a red coat",
        output=tmp_path / "output.png",
    )  # fmt: skip
    looks: list[np.ndarray] = []

    def parse(shown: np.ndarray) -> np.ndarray:
        """Note the look and return the map."""
        looks.append(shown)
        return labels

    scores = score_rows([row], parse, lambda: None)
    assert len(looks) == 2
    assert scores.loc[0, "map_agreement"] == scores.loc[0, "real_map_agreement"] == 1
    assert scores.loc[0, "ssim"] == 1
