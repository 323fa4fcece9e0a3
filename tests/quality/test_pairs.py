import numpy as np

from catalogpose.quality.pairs import PAIR_METRICS, score_pair
from catalogpose.records import LABEL_ID


def test_every_metric_has_its_value() -> None:
    """With both maps a pair has a number under each metric's name, in their order."""
    picture = np.random.default_rng(0).integers(0, 256, (32, 24, 3), dtype=np.uint8)
    labels = np.full((32, 24), LABEL_ID["dress"], dtype=np.uint8)
    scores = score_pair(picture, picture[::-1], labels, labels)
    assert list(scores) == [metric.name for metric in PAIR_METRICS]
    assert all(isinstance(value, float) for value in scores.values())
    assert scores["parsing_agreement"] == 1.0


def test_without_maps_the_pixels_remain() -> None:
    """Colour and pattern need the target's map, agreement both; SSIM and PSNR need neither."""
    picture = np.zeros((32, 24, 3), dtype=np.uint8)
    labels = np.full((32, 24), LABEL_ID["dress"], dtype=np.uint8)
    bare = score_pair(picture, picture, None, None)
    assert {name for name, value in bare.items() if value is None} == {
        "garment_colour_error", "pattern_error", "parsing_agreement",
    }  # fmt: skip
    half = score_pair(picture, picture, None, labels)
    assert (half["garment_colour_error"], half["parsing_agreement"]) == (0.0, None)
    assert half["pattern_error"] == 0.0
