"""Where tokens are found, and what is carried from there."""

import numpy as np
import torch
from torch import Tensor

from catalogpose.truepose.carrying import (
    EDGE,
    carry_pixels,
    find_places,
    refine_places,
    similarity,
    smooth_places,
    spread_person,
)

SIZE = (6, 5)
"""Height and width in tokens."""


def peaks(*places: tuple[int, int, float]) -> Tensor:
    """Return logits (30, 30): every token has these weights at (row, column), none elsewhere."""
    logits = torch.full((30, *SIZE), -30.0)
    for row, column, weight in places:
        logits[:, row, column] = float(np.log(weight))
    return logits.flatten(1)


EVERYWHERE = torch.arange(30)
"""Every token of a source may be found."""


def test_a_place_between_two_tokens_is_found() -> None:
    """Neighbours share a place by their weights; it is wholly sure."""
    places, sure = find_places(peaks((2, 1, 0.75), (2, 2, 0.25)), EVERYWHERE, SIZE)
    assert places.shape == (6, 5, 2)
    torch.testing.assert_close(places, torch.tensor([1.25, 2.0]).expand_as(places))
    torch.testing.assert_close(sure, torch.ones(SIZE))


def test_of_two_distant_places_the_likelier_is_taken() -> None:
    """Two arms are not mixed: the place is the likelier one's, as sure as its weight."""
    places, sure = find_places(peaks((0, 0, 0.4), (5, 4, 0.6)), EVERYWHERE, SIZE)
    torch.testing.assert_close(places, torch.tensor([4.0, 5.0]).expand_as(places))
    torch.testing.assert_close(sure, torch.full(SIZE, 0.6))


def test_weights_beyond_reach_count_nothing() -> None:
    """A place two tokens off moves the mean where the reach is two, and not where it is one."""
    logits = peaks((2, 1, 0.75), (2, 3, 0.25))
    for reach, x, share in ((1, 1.0, 0.75), (2, 1.5, 1.0)):
        places, sure = find_places(logits, EVERYWHERE, SIZE, reach)
        torch.testing.assert_close(places, torch.tensor([x, 2.0]).expand_as(places))
        torch.testing.assert_close(sure, torch.full(SIZE, share))


def test_nowhere_takes_its_share_and_moves_no_place() -> None:
    """A logit as high as all places together halves how sure they are; a huge one takes all."""
    logits = peaks((2, 1, 0.75), (2, 2, 0.25))
    for logit, share in ((0.0, 0.5), (200.0, 0.0)):
        nowhere = torch.full((30,), logit)
        places, sure = find_places(logits, EVERYWHERE, SIZE, nowhere=nowhere)
        torch.testing.assert_close(places, torch.tensor([1.25, 2.0]).expand_as(places))
        torch.testing.assert_close(sure, torch.full(SIZE, share))


def test_only_tokens_that_are_places_are_found() -> None:
    """Neighbours of the likeliest that are no places, or lie in the next row, count nothing."""
    logits = peaks((2, 4, 0.5), (3, 4, 0.25), (1, 4, 0.25), (3, 0, 0.5))
    tokens = EVERYWHERE[EVERYWHERE != 3 * 5 + 4]
    places, sure = find_places(logits[:, tokens], tokens, SIZE)
    torch.testing.assert_close(places, torch.tensor([4.0, 5 / 3]).expand_as(places))
    torch.testing.assert_close(sure, torch.full(SIZE, 0.75 / 1.25))


def test_equal_tokens_find_each_other() -> None:
    """The similarity of embeddings to themselves is highest on the diagonal, and scaled."""
    tokens = 8 * torch.eye(30).view(1, 30, *SIZE)
    logits = similarity(tokens, tokens)
    torch.testing.assert_close(logits[0], 64 / 30**0.5 * torch.eye(30))


def test_carrying_to_the_same_place_changes_nothing() -> None:
    """Where every token is found at itself the photo inside the outer tokens' middles stays."""
    photo = torch.rand(1, 3, 24, 20)
    own = torch.stack(torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="xy"), dim=-1)
    carried = carry_pixels(photo, own[None], torch.full((1, *SIZE), 0.5))
    assert carried.shape == (1, 4, 24, 20)
    inner = slice(2, -2)
    torch.testing.assert_close(carried[:, :3, inner, inner], photo[:, :, inner, inner])
    torch.testing.assert_close(carried[:, 3], torch.full((1, 24, 20), 0.5))


def test_carrying_moves_whole_tokens() -> None:
    """Places one token to the right bring pixels one token's side to the left."""
    photo = torch.rand(1, 3, 24, 20)
    own = torch.stack(torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="xy"), dim=-1)
    carried = carry_pixels(photo, own[None] + torch.tensor([1.0, 0.0]), torch.ones(1, *SIZE))
    torch.testing.assert_close(carried[:, :3, 2:-2, 2:14], photo[:, :, 2:-2, 6:18])


def test_pixels_between_tokens_have_places_between_theirs() -> None:
    """Places that grow by half a token a token grow evenly from pixel to pixel."""
    own = torch.stack(torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="xy"), dim=-1)
    fine = refine_places(1.5 * own[None], 4)
    steps = fine[0, 2:-2, 2:-2].diff(dim=1)
    torch.testing.assert_close(steps, torch.tensor([0.375, 0.0]).expand_as(steps))


def test_between_an_arm_and_the_trunk_there_is_no_place() -> None:
    """Where neighbours have moved far apart, each pixel goes with the token it lies in."""
    own = torch.stack(torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="xy"), dim=-1)
    moved = torch.where(own[..., :1] < 2, 3.0, -3.0)
    fine = refine_places((own + moved)[None], 4)
    x = (torch.arange(20) + 0.5) / 4 - 0.5
    expected = x + torch.where(torch.arange(20) < 8, 3.0, -3.0)
    torch.testing.assert_close(fine[0, :, :, 0], expected.expand(24, 20))


def test_a_person_spreads_into_the_background_beside_it() -> None:
    """Each background pixel takes the mean of what lies beside it, edge by edge; the person and
    what is farther off stay, and so does a photo without any.
    """
    photo = torch.rand(2, 3, 12, 20)
    labels = torch.zeros(2, 12, 20, dtype=torch.long)
    labels[0, :, 8:10], labels[0, :, 10:12] = 1, 2
    photo[0, :, :, 8:10], photo[0, :, :, 10:12] = 0.25, -0.5
    spread = spread_person(photo, labels)
    assert spread.shape == photo.shape
    torch.testing.assert_close(spread[0, :, :, 8 - EDGE : 10], torch.full((3, 12, EDGE + 2), 0.25))
    torch.testing.assert_close(spread[0, :, :, 10 : 12 + EDGE], torch.full((3, 12, EDGE + 2), -0.5))
    for far in (slice(0, 8 - EDGE), slice(12 + EDGE, None)):
        assert torch.equal(spread[0, :, :, far], photo[0, :, :, far])
    assert torch.equal(spread[1], photo[1])
    labels[1, 5, 5] = labels[1, 5, 7] = 1
    between = spread_person(photo, labels)[1, :, 5, 6]
    torch.testing.assert_close(between, (photo[1, :, 5, 5] + photo[1, :, 5, 7]) / 2)


def test_a_finer_photo_s_wall_spreads_nowhere() -> None:
    """Where a person's edge lies within a pixel of the map, half of which is wall in the photo, the
    person and not the wall spreads, as far as on the canvas.
    """
    photo = torch.full((1, 3, 24, 40), 0.5)
    photo[..., 17:24] = -0.25
    labels = torch.zeros(1, 12, 20, dtype=torch.long)
    labels[..., 8:12] = 1  # the photo's columns 16 to 23, and 16 is wall
    spread = spread_person(photo, labels)
    near = slice(16 - 2 * EDGE, 24 + 2 * EDGE)
    torch.testing.assert_close(spread[..., near], torch.full_like(spread[..., near], -0.25))
    for far in (slice(0, near.start), slice(near.stop, None)):
        assert torch.equal(spread[..., far], photo[..., far])


def moving(rows: int, columns: int) -> Tensor:
    """Return places (1, rows, columns, 2) of tokens that have not moved."""
    across, down = torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy")
    return torch.stack([across, down], dim=-1)[None].float()


def test_an_affine_map_is_smooth_already() -> None:
    """A cloth that is shifted and a little stretched and sheared stays where it was found; at the
    picture's edges a fit that would rather not stretch is a little off.
    """
    own = moving(20, 16)
    places = own @ torch.tensor([[1.1, 0.05], [-0.1, 0.95]]) + torch.tensor([2.0, -1.0])
    smooth = smooth_places(places, torch.ones(1, 20, 16), torch.ones(1, 40, 32).long(), 3)
    away = (smooth - places).abs()
    assert away[:, 6:-6, 6:-6].max() < 1e-4  # two fits, each of three tokens around
    assert away.max() < 0.2


def test_torn_cloth_is_mended() -> None:
    """Places that are off by up to a token each come nearer to the truth, least where all are
    sure; one that is sure of nothing takes its neighbours' word.
    """
    places, draw = moving(14, 12) + 3.0, torch.Generator().manual_seed(0)
    labels, sure = torch.ones(1, 28, 24).long(), torch.ones(1, 14, 12)
    torn = places + torch.rand(places.shape, generator=draw) * 2 - 1
    smooth = smooth_places(torn, sure, labels, 3)
    assert (smooth - places).abs().mean() < 0.35 * (torn - places).abs().mean()
    torn = places.clone()
    torn[0, 6, 5] += 2.0
    errors = []
    for word in (1.0, 0.0):
        sure[0, 6, 5] = word
        errors.append((smooth_places(torn, sure, labels, 3) - places)[0, 6, 5].abs().max())
    assert errors[1] < errors[0] < 1.0
    assert errors[1] < 0.01


def test_what_lies_apart_stays_apart() -> None:
    """An arm before a trunk has moved far from it, and a face little from the hair, which is
    another region of the source: neither is drawn to its neighbour.
    """
    places, sure = moving(14, 12), torch.ones(1, 14, 12)
    labels = torch.ones(1, 28, 24).long()
    arm = places.clone()
    arm[:, :, 6:, 0] += 20.0
    wide = torch.ones(1, 28, 80).long()
    torch.testing.assert_close(smooth_places(arm, sure, wide, 3), arm, atol=1e-3, rtol=0)
    # The face is found from the columns 7 on of a source where it begins there.
    face = places.clone()
    face[:, :, 6:, 0] += 1.0
    assert smooth_places(face, sure, labels, 3)[0, 7, 5, 0] > 5.05
    labels[:, :, 14:] = 2
    torch.testing.assert_close(smooth_places(face, sure, labels, 3), face, atol=1e-4, rtol=0)


def test_nearer_neighbours_count_more() -> None:
    """Of two halves that moved a little differently, a token on either side stays nearer to its
    own; and where nothing is sure of anything all is smoothed as if all were.
    """
    places, labels = moving(14, 12), torch.ones(1, 28, 24).long()
    places[:, :, 6:, 0] += 1.0
    smooth = smooth_places(places, torch.ones(1, 14, 12), labels, 3)
    moved = (smooth - moving(14, 12))[0, 7, :, 0]
    assert (moved[1:] - moved[:-1] > -0.15).all()
    assert moved[5] < 0.45
    assert moved[6] > 0.55
    assert moved[8] > 0.8
    unsure = smooth_places(places, torch.zeros(1, 14, 12), labels, 3)
    torch.testing.assert_close(unsure, smooth, atol=1e-4, rtol=0)


def test_each_picture_is_smoothed_on_its_own() -> None:
    """A batch gives what its pictures give alone."""
    draw = torch.Generator().manual_seed(0)
    places = moving(9, 8) + torch.rand(3, 9, 8, 2, generator=draw) * 3
    sure = torch.rand(3, 9, 8, generator=draw)
    labels = torch.randint(3, (3, 36, 32), generator=draw)
    alone = [
        smooth_places(*(part[n : n + 1] for part in (places, sure, labels)), 2) for n in range(3)
    ]
    torch.testing.assert_close(smooth_places(places, sure, labels, 2), torch.cat(alone))
