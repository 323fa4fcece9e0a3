"""Whether the garments kept their patterns: stripes, checks, dots and prints, wherever they lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2lab
from skimage.filters import gaussian

from catalogpose.quality.pictures import check_map, check_pictures
from catalogpose.records import GARMENTS, LABEL_ID

SMALLEST_SHARE = 1 / 200
"""Share of the picture that a garment must cover to show a pattern: 57 pixels at 128 x 88."""
COARSEST = 1 / 16
"""Widest blur that tells coarse from fine, as a share of the picture's height."""
QUANTILES = 32
"""How finely the distribution of a band's responses is kept."""
DIRECTIONS = 6
"""Directions of edges that are told apart, 30 degrees from each other."""
FLOOR = 1.0
"""Contrast a band, in units of CIE Lab, that counts as no pattern: about what is just seen."""
AGREED = 0.5
"""Share of the true region that both maps must call the garment for the rest to be left out."""

Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True, eq=False)
class Texture:
    """How a region is patterned, regardless of where in it what lies, and of its mean colour."""

    responses: Floats
    """(bands, 3, QUANTILES): the sorted responses of L, a and b in each octave, finest first."""
    edges: Floats
    """(bands - 1, DIRECTIONS): the mean strength of edges by direction in each octave."""


def pattern_error(
    output: NDArray[np.uint8],
    target: NDArray[np.uint8],
    output_labels: NDArray[np.integer] | None,
    target_labels: NDArray[np.integer],
) -> float | None:
    """Return how far the garments' patterns are from the true ones: 0 the same, 1 nothing alike.

    For each garment that the target's map shows, the textures of one region in both pictures are
    compared (`texture_distance`); the result is the mean over garments, weighted by area, since a
    small region holds too few repeats to weigh as much as a large one. The region is where both
    maps show the garment, so that a parser's mistakes at its rim cost nothing; where they agree on
    less than half of the target's region, or the output has no map, it is the target's, so that a
    missing pattern is charged with what stands in its place.

    A shifted pattern costs next to nothing, a slightly larger one little, a blurred one the
    contrast that it lost; plain cloth for a striped one costs nearly 1. A region's mean colour does
    not count, the colours of a pattern against each other do.

    Pictures are sRGB uint8 (H, W, 3), maps integers (H, W) in `records.LABELS`. None: the target
    shows no garment of `SMALLEST_SHARE`. Raises ValueError where sizes or types do not fit.
    """
    check_pictures(output, target)
    for labels in (output_labels, target_labels):
        if labels is not None:
            check_map(labels, target.shape[:2])
    distances, areas = [], []
    for name in GARMENTS:
        region = target_labels == LABEL_ID[name]
        area = int(region.sum())
        if area < max(1.0, region.size * SMALLEST_SHARE):
            continue
        if output_labels is not None:
            both = region & (output_labels == LABEL_ID[name])
            region = both if both.sum() >= AGREED * area else region
        textures = measure_texture(output, region), measure_texture(target, region)
        distances.append(texture_distance(*textures))
        areas.append(area)
    return float(np.average(distances, weights=areas)) if distances else None


def measure_texture(picture: NDArray[np.uint8], region: NDArray[np.bool_]) -> Texture:
    """Measure the texture of a region bool (H, W), not empty, in a picture sRGB uint8 (H, W, 3).

    In CIE Lab, less the region's mean, the picture is split into octaves by blurs of 1, 2, 4 ...
    pixels, up to `COARSEST`; the last band is what the widest blur leaves. Blurs know nothing
    outside the region (normalised convolution), so its rim is no edge. Edges are the colour
    gradients (Di Zenzo 1986) of the blurred pictures, times the blur's width.
    """
    rows, columns = np.nonzero(region)
    box = tuple(
        slice(max(int(places.min()) - 2, 0), int(places.max()) + 3) for places in (rows, columns)
    )
    region = region[box]
    lab = rgb2lab(picture[box]).astype(np.float32)
    level = np.where(region[..., None], lab - lab[region].mean(axis=0), np.float32(0))
    flat, inside = level, region.astype(np.float32)
    levels = np.arange(QUANTILES) / QUANTILES + 0.5 / QUANTILES
    bands, edges = [], []
    for width in _widths(picture.shape[0]):
        weight = gaussian(inside, width, mode="constant", truncate=3)
        blurred = gaussian(flat, width, mode="constant", truncate=3, channel_axis=-1)
        blurred /= np.maximum(weight, 1e-3)[..., None]
        bands.append((level - blurred)[region])
        edges.append(_edges(blurred, width)[region].mean(axis=0))
        level = blurred
    bands.append(level[region])
    responses = [np.quantile(band, levels, axis=0).T for band in bands]
    return Texture(responses=np.stack(responses), edges=np.stack(edges))


def _widths(height: int) -> list[int]:
    """Return the widths of the blurs in pixels for a picture of this height; 1 is always there."""
    return [2**octave for octave in range(16) if octave == 0 or 2**octave <= height * COARSEST]


def _edges(blurred: Floats, width: int) -> Floats:
    """Return the strength of edges (h, w, DIRECTIONS) in a picture (h, w, 3) of this blur.

    A pixel's edge counts in each direction with the fourth power of the cosine to it, so that a
    small turn moves little and a right angle everything.
    """
    down, across = np.gradient(blurred, axis=(0, 1))
    xx, yy, xy = (across**2).sum(axis=-1), (down**2).sum(axis=-1), (across * down).sum(axis=-1)
    angle = 0.5 * np.arctan2(2 * xy, xx - yy)
    directions = np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    share = np.cos(angle[..., None] - directions) ** 4
    return np.asarray(width * np.sqrt(xx + yy)[..., None] * share)


def texture_distance(first: Texture, second: Texture) -> float:
    """Return how far two textures of one picture size are apart, 0 to 1; it is symmetric.

    Half of it is for contrast and half for direction. Contrast: the earth mover's distance between
    the distributions of responses, over all bands and channels. Direction: the difference of edge
    strengths, over all bands and directions. Either is divided by the most that it could be (as in
    Ruzicka's distance), plus `FLOOR` a band, so that two plain cloths with faint folds are alike.
    """
    pairs = (
        (first.responses / QUANTILES, second.responses / QUANTILES),
        (first.edges, second.edges),
    )
    return float(np.mean([_share_apart(a, b) for a, b in pairs]))


def _share_apart(first: Floats, second: Floats) -> float:
    """Return the summed difference, divided by the largest that such amounts allow."""
    most = np.maximum(np.maximum(first, second), 0) + np.maximum(np.maximum(-first, -second), 0)
    return float(np.abs(first - second).sum() / (most.sum() + FLOOR * len(first)))
