import numpy as np
import pytest
import torch
from torch import Tensor

from catalogpose.studio import Picture, draw_view
from catalogpose.studio.parts import PART_ID
from catalogpose.training.correspondence import sample_surface, true_attention, true_matches

SIZE = (16, 11)


def row(*points: tuple[int, int, int]) -> Tensor:
    """Return one surface (1, 1, w, 3) of these points side by side."""
    return torch.tensor(points, dtype=torch.uint8)[None, None]


def test_sampling_takes_the_middle_of_each_cell() -> None:
    """Cells of four pixels give the pixel right below their middle, uneven ones the nearest."""
    surface = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    assert (sample_surface(surface, 2, 2) == surface[2::4, 2::4]).all()
    assert (sample_surface(surface, 8, 8) == surface).all()
    assert (sample_surface(surface, 3, 8) == surface[[1, 4, 6]]).all()


def test_a_token_looks_at_its_own_surface() -> None:
    """Points that moved between two pictures find each other, and background finds nothing."""
    source = row((1, 50, 128), (2, 50, 128), (0, 0, 0), (1, 200, 128))
    target = row((2, 50, 128), (1, 200, 128), (1, 50, 128), (0, 0, 0))
    truth, known = true_attention(source, target, (1, 4))
    assert known.tolist() == [[True, True, True, False]]
    expected = torch.zeros(4, 4)
    expected[[0, 1, 2], [1, 3, 0]] = 1
    torch.testing.assert_close(truth[0], expected, atol=1e-4, rtol=0)


def test_the_angle_is_cyclic() -> None:
    """Angles 250 and 5 are neighbours, 250 and 180 are not."""
    truth, known = true_attention(row((1, 9, 250), (1, 9, 180)), row((1, 9, 5), (1, 9, 5)), (1, 2))
    assert known.all()
    assert (truth[0, :, 0] > 0.99).all()


def test_what_the_source_hides_is_unknown() -> None:
    """Another part, the far side and a place beyond the tolerance have no truth."""
    target = row((1, 100, 128), (2, 100, 0), (3, 160, 128), (3, 130, 128))
    source = row((4, 100, 128), (2, 100, 128), (3, 100, 128), (0, 0, 0))
    truth, known = true_attention(source, target, (1, 4))
    assert known.tolist() == [[False, False, False, True]]
    assert truth[0, :3].abs().max() == 0


def test_a_token_is_known_by_its_points() -> None:
    """A token is known where enough of its points are; only these count."""
    source = row((1, 10, 128), (1, 200, 128))
    target = row((1, 10, 128), (0, 0, 0), (0, 0, 0), (9, 0, 0))
    for share, expected in ((0.5, True), (0.6, False)):
        truth, known = true_attention(source, target, (1, 2), share=share)
        assert known.tolist() == [[expected, False]]
    assert truth.sum() == 0


def test_a_picture_without_a_person_has_no_truth() -> None:
    """Empty pictures give zeros, not NaN."""
    empty = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    truth, known = true_attention(empty, empty, (2, 2))
    assert not known.any()
    assert truth.abs().max() == 0


@pytest.mark.parametrize("size", [(4, 3), (3, 5), (7, 6)])
def test_it_is_the_plain_sum(size: tuple[int, int]) -> None:
    """The matrix form equals loops over points, also where tokens and points do not divide."""
    rng = np.random.default_rng(1)
    values = rng.integers(0, 256, (2, 1, 6, 6, 3)) * (0, 1, 1)
    values[..., 0] = rng.integers(0, 3, (2, 1, 6, 6))
    source, target = (torch.from_numpy(v) for v in values)
    truth, known = true_attention(source, target, size, tolerance=60, softness=20)
    n = size[0] * size[1]
    sums, counts, total = np.zeros((n, n)), np.zeros(n), np.zeros(n)

    def token(i: int, j: int) -> int:
        """Return the token that sample row i, column j lies in."""
        return int((i + 0.5) * size[0] / 6) * size[1] + int((j + 0.5) * size[1] / 6)

    for i, j in np.ndindex(6, 6):
        point = values[1, 0, i, j]
        total[token(i, j)] += 1
        weights = np.zeros(n)
        nearest = np.inf
        for k, m in np.ndindex(6, 6):
            other = values[0, 0, k, m]
            if other[0] == point[0] > 0:
                turn = 2 * np.pi * (point[2] - other[2]) / 256
                chord = 256 / np.pi * np.sin(turn / 2)
                squared = (point[1] - other[1]) ** 2 + chord**2
                nearest = min(nearest, squared**0.5)
                weights[token(k, m)] += np.exp(-squared / 800)
        if nearest <= 60:
            sums[token(i, j)] += weights / weights.sum()
            counts[token(i, j)] += 1
    expected = (counts > 0) & (counts >= total / 2)
    assert expected.sum() > 0
    assert (known[0].numpy() == expected).all()
    mean = np.where(expected[:, None], sums / np.maximum(counts, 1)[:, None], 0)
    np.testing.assert_allclose(truth[0].numpy(), mean, atol=1e-4)


def studio_pairs() -> list[tuple[Picture, Picture]]:
    """Return two views of some products, with surfaces."""
    return [
        (draw_view(p, 0, height=64, width=44, surface=True),
         draw_view(p, 1, height=64, width=44, surface=True)) for p in range(7000, 7024)
    ]  # fmt: skip


def surfaces(pictures: list[tuple[Picture, Picture]], which: int) -> Tensor:
    """Return the sampled surfaces (B, 32, 22, 3) of one side of the pairs."""
    found = [pair[which].surface for pair in pictures]
    return torch.from_numpy(np.stack([sample_surface(s, 32, 22) for s in found if s is not None]))


def test_the_truth_warps_photos() -> None:
    """Source cells warped by the truth are near the target's colours; shuffled ones are not."""
    pairs = studio_pairs()
    source, target = surfaces(pairs, 0), surfaces(pairs, 1)
    truth, known = true_attention(source, target, SIZE)
    cells = [
        torch.from_numpy(np.stack([
            pair[i].photo.reshape(16, 4, 11, 4, 3).mean(axis=(1, 3)) for pair in pairs
        ])).float().flatten(1, 2) for i in (0, 1)
    ]  # fmt: skip
    shown = (source[..., 0] > 0).float().reshape(-1, 16, 2, 11, 2).mean((2, 4)).flatten(1) >= 0.5
    generator = torch.Generator().manual_seed(0)
    picks = torch.multinomial(shown.float(), 176, replacement=True, generator=generator)
    shuffled = cells[0].gather(1, picks[..., None].expand(-1, -1, 3))
    warped = truth @ cells[0]
    error, chance = ((x - cells[1]).abs().mean(-1)[known].mean() for x in (warped, shuffled))
    assert known.float().mean() > 0.1
    torch.testing.assert_close(truth.sum(-1), known.float())
    assert error < 0.65 * chance


def test_half_precision_changes_nothing() -> None:
    """Inside autocast the truth is that of full precision."""
    pairs = studio_pairs()[:4]
    source, target = surfaces(pairs, 0), surfaces(pairs, 1)
    plain, _ = true_attention(source, target, SIZE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halved, _ = true_attention(source, target, SIZE)
    assert halved.dtype == torch.float32
    assert (plain == halved).all()


def find(point: tuple[int, int, int], *others: tuple[int, int, int]) -> int | None:
    """Return which of some points a mirrored one finds; None: no one."""
    truth = true_matches(row(*others), row(point), (1, len(others)), tolerance=24, mirrored=True)
    return int(truth.places[0, truth.weights[0, 0].argmax()]) if truth.known[0, 0] else None


def test_what_is_hidden_finds_its_mirror_image() -> None:
    """The back of cloth finds its front at the same height and side, a left sleeve the right one, a
    cheek the other one and no back of the head; what the source shows finds itself, though its
    mirror image is there.
    """
    skirt, face = PART_ID["skirt skirt"], PART_ID["head"]
    left, right = PART_ID["top left sleeve"], PART_ID["top right sleeve"]
    assert find((skirt, 90, 20), (skirt, 90, 64), (skirt, 90, 108), (skirt, 10, 108)) == 1
    assert find((skirt, 90, 20), (skirt, 90, 108), (skirt, 90, 22)) == 1
    assert find((left, 30, 100), (right, 30, 100), (right, 30, 156)) == 1
    assert find((left, 30, 100), (right, 30, 228)) == 0
    assert find((face, 90, 20), (face, 90, 108)) is None
    assert find((face, 90, 150), (face, 90, 108), (face, 90, 20)) == 0
    assert find((skirt, 90, 20), (left, 90, 108)) is None
