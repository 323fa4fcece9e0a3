import math

import pytest
import torch

from catalogpose.humandiffusion.routing import (
    allowed_tokens,
    contrast,
    level_weights,
    mass_loss,
    pool_regions,
    region_masks,
    region_mass,
    region_shares,
    routed_attention,
)


def belt_map() -> torch.Tensor:
    """Return a map 128 x 88 of a region 1 with a belt, 2, of three rows across it."""
    labels = torch.ones(1, 128, 88, dtype=torch.int64)
    labels[:, 61:64] = 2
    labels[:, :, :8] = 0
    return labels


@pytest.mark.parametrize("size", [(16, 11), (8, 6), (4, 3)])
def test_a_thin_belt_survives_at_every_size(size: tuple[int, int]) -> None:
    """Any coverage allows, where nearest pixels or a majority would lose three rows of 128."""
    allowed = allowed_tokens(region_masks(belt_map(), 3), size, 4)
    assert allowed.shape == (1, size[0] * size[1], 12)
    assert allowed[..., 8:].any()
    shares = region_shares(region_masks(belt_map(), 3), size)
    assert float(shares[..., 2].max()) < 0.5


def test_the_background_is_open_to_all_and_absent_regions_to_nobody() -> None:
    """No pixel's softmax is over nothing, and none attends to what its map does not hold."""
    allowed = allowed_tokens(region_masks(belt_map(), 5), (16, 11), 2)
    assert allowed[..., :2].all()
    assert not allowed[..., 6:].any()


def test_pixels_attend_to_their_own_region_alone() -> None:
    """What another region's tokens hold changes nothing."""
    masks = region_masks(belt_map(), 3)
    allowed = allowed_tokens(masks, (16, 11), 1)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 2, 176, 4, generator=generator)
    key = torch.randn(1, 2, 3, 4, generator=generator)
    value = torch.randn(1, 2, 3, 4, generator=generator)
    before = routed_attention(query, key, value, allowed)
    value[:, :, 2] += 100
    key[:, :, 2] -= 3
    after = routed_attention(query, key, value, allowed)
    off = ~allowed[0, :, 2]
    assert off.sum() > 100
    torch.testing.assert_close(after[:, :, off], before[:, :, off])
    assert not torch.allclose(after[:, :, ~off], before[:, :, ~off])


def test_shares_and_mass_are_distributions() -> None:
    """Both sum to 1 a token, and their squared error is 0 where they agree."""
    masks = region_masks(belt_map(), 3)
    shares = region_shares(masks, (16, 11))
    torch.testing.assert_close(shares.sum(dim=2), torch.ones(1, 176))
    query, key = torch.zeros(1, 1, 176, 4), torch.zeros(1, 1, 6, 4)
    mass = region_mass(query, key, allowed_tokens(masks, (16, 11), 2), 2)
    torch.testing.assert_close(mass.sum(dim=2), torch.ones(1, 176))
    # With equal logits a token inside region 1 halves between it and the open background.
    torch.testing.assert_close(mass[0, 5], torch.tensor([0.5, 0.5, 0.0]))
    assert float(mass_loss(shares, shares)) == 0
    one_off = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    assert float(mass_loss(*one_off)) == 2


def test_pooled_regions_are_weighted_means() -> None:
    """A region's feature is the mean of its tokens by share; an absent region's is zero."""
    hidden = torch.tensor([[[1.0], [3.0], [8.0]]])
    shares = torch.tensor([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]])
    pooled = pool_regions(hidden, shares)
    torch.testing.assert_close(pooled[0, :, 0], torch.tensor([5 / 3, 19 / 3, 0.0]))


def test_contrast_tells_regions_apart() -> None:
    """Right pairs cost nearly nothing, swapped ones much; equal phrases share their target."""
    eye = torch.eye(3)
    groups = torch.arange(3)
    right, swapped = contrast(eye, eye, groups), contrast(eye, eye[[1, 0, 2]], groups)
    assert float(right.max()) < 1e-3
    assert float(swapped[:2].min()) > 9
    same = torch.zeros(3, dtype=torch.int64)
    torch.testing.assert_close(
        contrast(torch.ones(3, 2), torch.ones(3, 2), same), torch.full((3,), math.log(3))
    )


def test_weight_moves_from_coarse_to_fine_as_noise_falls() -> None:
    """All noise: the coarsest level alone; clean: the finest; rows sum to one."""
    noise = torch.tensor([0.0, 0.25, 0.5, 1.0])
    weights = level_weights(3, noise)
    expected = torch.tensor([[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0, 1.0]])
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(level_weights(1, noise), torch.ones(4, 1))
