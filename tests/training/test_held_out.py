"""Held-out pairs: painted the same however many at once, and what previews and checks tell."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from catalogpose.records import LABEL_ID, LABELS
from catalogpose.training.held_out import HeldOut, hold_out_pairs, paint, score
from catalogpose.training.pairs import Pairs, pairs_of_views
from catalogpose.training.pictures import Pictures
from catalogpose.training.prepare import PhotoPairs
from catalogpose.training.previews import make_preview
from catalogpose.training.validation import Validation, describe
from catalogpose.truepose.pipeline import TruePosePipeline, load_pipeline

SIZE = (128, 88)
"""The tiny model's canvas."""


@pytest.fixture
def pipe(tiny_model: Path) -> TruePosePipeline:
    """Return the tiny random pipeline."""
    return load_pipeline(tiny_model, "cpu")


@pytest.fixture
def pictures() -> Pictures:
    """Return three products of noise seen twice, in a top and a skirt."""
    rng = np.random.default_rng(0)
    labels = np.zeros((3, 2, *SIZE), dtype=np.uint8)
    labels[:, :, 20:70, 20:60], labels[:, :, 70:110, 20:60] = LABEL_ID["face"], LABEL_ID["skirt"]
    return Pictures(
        photos=rng.integers(0, 256, (3, 2, *SIZE, 3), dtype=np.uint8),
        labels=labels,
        joints=rng.uniform(10, 80, (3, 2, 18, 3)).astype(np.float32),
        surface=np.zeros((3, 2, 64, 44, 3), dtype=np.uint8),
        captions=[],
    )


def test_attention_has_a_point_for_each_four_pixels(pictures: Pictures) -> None:
    """Pairs keep every second cell of every second row of surfaces, picture after picture."""
    pictures.surface[1, 0, 10, 6] = 7
    pictures.surface[1, 0, 11, 7] = 9
    found = pictures.coarse_surface
    assert found.shape == (6, 32, 22, 3)
    assert np.argwhere(found[..., 0]).tolist() == [[2, 5, 3]]


@pytest.fixture
def pairs(pictures: Pictures) -> Pairs:
    """Return the products' pairs; every pose shows the face, every other one the skirt too."""
    known = np.zeros((6, len(LABELS)), dtype=np.bool_)
    known[:, [LABEL_ID["face"], LABEL_ID["skirt"]]] = True
    shown = known.copy()
    shown[::2, LABEL_ID["skirt"]] = False
    vectors = np.random.default_rng(1).standard_normal((6, len(LABELS), 12))
    return Pairs(
        latents=np.zeros((6, 4, 16, 11), dtype=np.float32),
        labels=pictures.labels.reshape(6, *SIZE),
        joints=pictures.joints.reshape(6, 18, 3),
        shown=shown,
        known=known,
        embeddings=(vectors * known[..., None]).astype(np.float16),
        pairs=pairs_of_views(3, 2),
    )


@pytest.fixture
def held_out(pictures: Pictures, pairs: Pairs) -> HeldOut:
    """Return the first views with the second ones."""
    places = np.array([[0, 1], [2, 3], [4, 5]])
    return hold_out_pairs(pairs, pictures.photos.reshape(6, *SIZE, 3), places)


def test_a_pair_does_not_depend_on_its_batch(pipe: TruePosePipeline, held_out: HeldOut) -> None:
    """Pair i has the noise of seed + i, and each batch its own context to compute in."""
    entered = []

    @contextmanager
    def context() -> Iterator[None]:
        """Count."""
        entered.append(1)
        yield

    together = paint(pipe, held_out)
    apart = paint(pipe, held_out, batch=2, precision=context)
    assert len(entered) == 2
    assert together.shape == (3, *SIZE, 3)
    assert np.abs(together.astype(int) - apart).max() <= 1
    assert np.abs(together.astype(int) - paint(pipe, held_out, seed=1)).max() > 1
    assert held_out.shown[0] == {LABEL_ID["face"], LABEL_ID["skirt"]}


def test_a_preview_shows_source_result_and_target(
    pipe: TruePosePipeline, pictures: Pictures, pairs: Pairs, held_out: HeldOut, tmp_path: Path
) -> None:
    """The sheet's rows and the PSNR are those of the painted pairs; the net trains on."""
    pipe.unet.train()
    make_preview(tmp_path, pipe, pictures, pairs)(7)
    assert pipe.unet.training
    sheet = np.asarray(Image.open(tmp_path / "preview.png"))
    rows = sheet.reshape(3, SIZE[0], 3, SIZE[1], 3).swapaxes(1, 2)
    results = paint(pipe, held_out)
    assert np.array_equal(rows[0], pictures.photos[:, 0])
    assert np.array_equal(rows[1], results)
    assert np.array_equal(rows[2], pictures.photos[:, 1])
    step, psnr = (tmp_path / "preview.csv").read_text(encoding="utf-8").strip().split(",")
    scores = [row["psnr"] for row in score(results, held_out, None)]
    assert step == "7"
    assert float(psnr) == pytest.approx(np.mean([value or 0 for value in scores]), abs=1e-3)


def test_a_check_scores_what_it_paints(
    pipe: TruePosePipeline, pictures: Pictures, pairs: Pairs, tmp_path: Path
) -> None:
    """Every metric has its mean; without a parser those of maps are not there."""
    photos = pictures.photos.reshape(6, *SIZE, 3)
    found = PhotoPairs(pairs=pairs, photos=photos, failures=(), rows=6, bytes=0)
    validation = Validation(
        pipe=pipe, held_out=found, parser=None, folder=tmp_path, precision=contextmanager(_nothing)
    )
    values = validation.measure(40)
    painted = paint(pipe, hold_out_pairs(pairs, photos, pairs.pairs))
    scores = [row["psnr"] or 0 for row in score(painted, validation._pairs, None)]
    assert values["psnr"] == pytest.approx(np.mean(scores), abs=0.01)
    assert math.isnan(values["garment_colour_error"])
    assert math.isnan(values["parsing_agreement"])
    assert (tmp_path / "00000040.png").is_file()
    told = describe({"step": 40.0, **values})
    assert list(told) == ["step", "ssim", "psnr"]
    assert str(told["step"]) == "40"


def _nothing() -> Iterator[None]:
    """Change nothing."""
    yield
