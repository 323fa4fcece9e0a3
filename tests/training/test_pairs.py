"""The arrays of training: pairs of pictures, read row by row."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from catalogpose.training.pairs import Pairs, open_pairs, pairs_of_views, write_pairs


def make_pairs(*, surface: bool = True) -> Pairs:
    """Return six pictures whose arrays say which picture they belong to."""
    number = np.arange(6)
    return Pairs(
        latents=np.tile(number[:, None, None, None], (1, 2, 4, 3)).astype(np.float16),
        labels=np.tile(number[:, None, None], (1, 32, 24)).astype(np.uint8),
        joints=np.tile(number[:, None, None], (1, 18, 3)).astype(np.float32),
        shown=number[:, None] == np.arange(8),
        known=number[:, None] == np.arange(8),
        embeddings=np.tile(number[:, None, None], (1, 8, 5)).astype(np.float16),
        pairs=pairs_of_views(2, 3),
        surface=np.tile(number[:, None, None, None], (1, 8, 6, 3)).astype(np.uint8)
        if surface
        else None,
    )


def test_all_ordered_pairs_of_a_product_are_made_once() -> None:
    """Two products of three views have 2 * 3 * 2 pairs, none across products or of a view alone."""
    pairs = pairs_of_views(2, 3)
    assert len(pairs) == len({tuple(pair) for pair in pairs.tolist()}) == 12
    assert all(a != b and a // 3 == b // 3 for a, b in pairs.tolist())


@pytest.mark.parametrize("surface", [True, False])
def test_pairs_come_back_from_disk_and_batches_take_each_side(
    tmp_path: Path, surface: bool
) -> None:
    """Maps and embeddings are the source's, poses and shown labels the target's."""
    write_pairs(tmp_path, make_pairs(surface=surface))
    pairs = open_pairs(tmp_path)
    assert len(pairs) == 12
    assert isinstance(pairs.latents, np.memmap)
    source, target = pairs.pairs[7]
    batch = pairs.take([7, 0])
    of_source = (batch.sources[batch.source_of], batch.labels, batch.embeddings)
    of_target = (batch.target, batch.target_labels, batch.joints)
    assert [float(tensor[0].float().mean()) for tensor in of_source] == [source] * 3
    assert [float(tensor[0].float().mean()) for tensor in of_target] == [target] * 3
    assert bool(batch.known[0, source])
    assert bool(batch.shown[0, target])
    assert (batch.source_surface is None) == (not surface)
    if batch.source_surface is not None and batch.target_surface is not None:
        assert int(batch.source_surface[0].max()) == source
        assert int(batch.target_surface[0].max()) == target


def test_a_parser_is_asked_of_sources_alone() -> None:
    """Sources are looked at by a parser's maps, where there are any; targets keep the true ones."""
    pairs = make_pairs()
    assert pairs.source_labels is pairs.labels
    parsed = dataclasses.replace(pairs, parsed=pairs.labels + np.uint8(10))
    batch = parsed.take([7])
    source, target = pairs.pairs[7]
    assert (int(batch.labels[0, 0, 0]), int(batch.target_labels[0, 0, 0])) == (source + 10, target)


def test_a_source_of_several_pairs_is_there_once() -> None:
    """A batch holds each distinct source's latent once and says which pair has which."""
    pairs = make_pairs()
    batch = pairs.take([7, 0, 6, 1, 7], share=True)
    assert len(batch) == 5
    assert len(pairs.take([7, 0, 6, 1, 7]).sources) == 5
    assert batch.sources.shape == (2, 2, 4, 3)
    found = batch.sources[batch.source_of].float().mean(dim=(1, 2, 3))
    assert found.tolist() == pairs.pairs[[7, 0, 6, 1, 7], 0].tolist()


def test_sources_that_nobody_shares_stay_in_the_pairs_order() -> None:
    """Asked to share, pairs of different sources keep each its own, whichever comes first."""
    pairs = make_pairs()
    places = [7, 0]
    assert pairs.pairs[7, 0] > pairs.pairs[0, 0]
    batch = pairs.take(places, share=True)
    assert batch.source_of.tolist() == [0, 1]
    found = batch.sources.float().mean(dim=(1, 2, 3))
    assert found.tolist() == pairs.pairs[places, 0].tolist()


def test_sources_are_named_in_the_order_in_which_they_are_read() -> None:
    """Sorted where pairs share them, else as the pairs come; either way as `take` reads them."""
    pairs = make_pairs()
    backwards = [int(np.flatnonzero(pairs.pairs[:, 0] == row)[0]) for row in (5, 1, 3)]
    for indices, expected in ((backwards, [5, 1, 3]), ([*backwards, backwards[0]], [1, 3, 5])):
        rows, source_of = pairs.sources_of(indices)
        assert rows.tolist() == expected
        assert rows[source_of].tolist() == pairs.pairs[indices, 0].tolist()
        taken = pairs.take(indices, share=True)
        assert taken.sources[:, 0, 0, 0].tolist() == expected
        assert taken.source_of.tolist() == source_of.tolist()
