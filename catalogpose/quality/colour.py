"""Whether the garments kept their colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000, rgb2lab

from catalogpose.quality.pictures import check_map, check_pictures
from catalogpose.records import GARMENTS, LABEL_ID

SMALLEST_SHARE = 1 / 2000
"""Share of the picture that a garment must cover to count: 25 pixels at 256 x 192."""


def garment_colour_error(
    output: NDArray[np.uint8],
    target: NDArray[np.uint8],
    output_labels: NDArray[np.integer] | None,
    target_labels: NDArray[np.integer],
) -> float | None:
    """Return how far the garments' colours are from the true ones, in CIEDE2000.

    0 is equal, about 2 is just visible, 100 is black for white. For each garment that the target's
    map shows, the mean CIE Lab colour of its region in the output is compared with that of its
    region in the target by CIEDE2000; the result is the mean over garments, each counting the same.
    Means come before the difference, so a sleeve that is somewhere else costs nothing and a sleeve
    of another red does. The output's region is where its own map shows the garment; where that map
    is None or shows too little of it, it is the target's region, so a garment that is missing is
    charged with the colour that stands in its place.

    Pictures are sRGB uint8 (H, W, 3), maps integers (H, W) in `records.LABELS`. None: the target
    shows no garment. Raises ValueError where sizes or types do not fit.
    """
    check_pictures(output, target)
    for labels in (output_labels, target_labels):
        if labels is not None:
            check_map(labels, target.shape[:2])
    floor = max(1.0, target_labels.size * SMALLEST_SHARE)
    output_lab, target_lab = rgb2lab(output), rgb2lab(target)
    errors = []
    for name in GARMENTS:
        true_region = target_labels == LABEL_ID[name]
        if true_region.sum() < floor:
            continue
        region = true_region
        if output_labels is not None:
            own_region = output_labels == LABEL_ID[name]
            region = own_region if own_region.sum() >= floor else true_region
        colours = output_lab[region].mean(axis=0), target_lab[true_region].mean(axis=0)
        errors.append(float(deltaE_ciede2000(*colours)))
    return float(np.mean(errors)) if errors else None
