"""One output against its true picture: every metric, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from catalogpose.quality.agreement import mean_iou
from catalogpose.quality.colour import SMALLEST_SHARE, garment_colour_error
from catalogpose.quality.metrics import DATA_RANGE, SIGMA, psnr, ssim
from catalogpose.quality.pattern import SMALLEST_SHARE as SMALLEST_PATTERN
from catalogpose.quality.pattern import pattern_error


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What one number means."""

    name: str
    """Column in `metrics.parquet` and key in `summary.json`."""
    title: str
    """Heading on the page."""
    unit: str
    """Unit behind the number; empty for a plain ratio."""
    better: Literal["higher", "lower"]
    """Which way is good."""
    digits: int
    """Decimals on the page."""
    definition: str
    """How it is measured, in one or two sentences."""


PAIR_METRICS = (
    Metric(
        name="ssim",
        title="SSIM",
        unit="",
        better="higher",
        digits=3,
        definition=(
            f"Structural similarity over the whole canvas: Gaussian window of sigma {SIGMA}, "
            f"population covariance, mean over RGB, data range {DATA_RANGE} (papers in this field "
            "take the range from the output instead)."
        ),
    ),
    Metric(
        name="psnr",
        title="PSNR",
        unit="dB",
        better="higher",
        digits=2,
        definition=(
            f"Peak signal-to-noise ratio over the whole canvas, 8-bit RGB, peak {DATA_RANGE}. "
            "Identical pictures are infinite: left out of the mean and counted apart."
        ),
    ),
    Metric(
        name="garment_colour_error",
        title="Garment colour error",
        unit="ΔE00",
        better="lower",
        digits=2,
        definition=(
            "CIEDE2000 between the mean Lab colour of each garment in the output and in the "
            "target, averaged over the garments that the target's map shows on at least "
            f"{SMALLEST_SHARE:.2%} of the canvas. The output's region is that of its own map, or "
            "the target's where its own map misses the garment."
        ),
    ),
    Metric(
        name="pattern_error",
        title="Pattern error",
        unit="",
        better="lower",
        digits=3,
        definition=(
            "0 the same pattern, 1 nothing alike, wherever the pattern lies: for each garment that "
            f"covers at least {SMALLEST_PATTERN:.1%} of the canvas, the distributions of Lab "
            "contrast by octave and of edges by direction, less the region's mean colour, are "
            "compared with the target's; the mean over garments by area. The region is where the "
            "output's and the target's maps agree."
        ),
    ),
    Metric(
        name="parsing_agreement",
        title="Parsing agreement",
        unit="",
        better="higher",
        digits=3,
        definition=(
            "Mean intersection over union of the output's and the target's parsing maps, over the "
            "labels that either shows, background left out."
        ),
    ),
)
"""What is measured of an output and its true picture, in the order shown."""

METRICS = (
    *PAIR_METRICS,
    Metric(
        name="map_agreement",
        title="Map agreement",
        unit="",
        better="higher",
        digits=3,
        definition=(
            "Of rows with a prompt: mean intersection over union of the output's parsing map and "
            "the map that was asked for, over the labels that either shows, both shoes and all "
            "skin put together, background left out."
        ),
    ),
    Metric(
        name="region_text",
        title="Region-text precision",
        unit="",
        better="higher",
        digits=3,
        definition=(
            "Of rows with a prompt, by a judge that did not condition them: the share of worded "
            "regions, cut out by the judge's own map, whose phrase is nearer than up to 15 hard "
            "negatives: another colour, another pattern, another region's colour and pattern. A "
            "region that the judge does not find counts as wrong."
        ),
    ),
    Metric(
        name="colour_accuracy",
        title="Colour accuracy",
        unit="",
        better="higher",
        digits=3,
        definition="As region-text precision, among the same phrase in 15 basic colours.",
    ),
    Metric(
        name="pattern_accuracy",
        title="Pattern accuracy",
        unit="",
        better="higher",
        digits=3,
        definition="As region-text precision, among the same phrase with other patterns.",
    ),
    Metric(
        name="binding_error",
        title="Binding error",
        unit="",
        better="lower",
        digits=3,
        definition=(
            "As region-text precision: the share of pairs of regions whose first one looks more "
            "like its phrase with the second one's colour and pattern than like its own phrase."
        ),
    ),
    Metric(
        name="retrieval_precision",
        title="Retrieval precision",
        unit="",
        better="higher",
        digits=3,
        definition=(
            "Of rows whose words looked into a memory: the share of the remembered regions that "
            "they found in which the judge sees the phrase's colour among others and its pattern "
            "among others. Beside it: the same of the true picture's regions."
        ),
    ),
    Metric(
        name="copy_similarity",
        title="Copy similarity",
        unit="",
        better="lower",
        digits=3,
        definition=(
            "The judge's cosine of a worded region to the nearest of the remembered regions that "
            "its words found, the mean over regions: far above the true picture's, cloth was "
            "copied and not only its look."
        ),
    ),
    Metric(
        name="kept_identity",
        title="Identity of kept regions",
        unit="",
        better="higher",
        digits=3,
        definition=(
            "Of rows with a prompt and a source: the judge's cosine of a region that was kept to "
            "the same region of the source, each cut out by the judge's own map, the mean over the "
            "regions that both show."
        ),
    ),
)
"""Every metric of the report, in the order shown."""

WORDED = ("map_agreement", "region_text", "colour_accuracy", "pattern_accuracy", "binding_error",
          "retrieval_precision", "copy_similarity", "kept_identity")  # fmt: skip
"""Metrics of rows with a prompt; `real_` and their name is the true picture's own value."""


def score_pair(
    output: NDArray[np.uint8],
    target: NDArray[np.uint8],
    output_labels: NDArray[np.integer] | None,
    target_labels: NDArray[np.integer] | None,
) -> dict[str, float | None]:
    """Return a value for each name in `PAIR_METRICS`; all pictures and maps lie on one canvas.

    Pictures are uint8 (H, W, 3), maps integers (H, W) in `records.LABELS`. Without the target's map
    there is no error of colour or pattern, without either map no agreement: None. PSNR is infinite
    for identical pictures. Raises ValueError where sizes or types do not fit.
    """
    colour = pattern = agreement = None
    if target_labels is not None:
        colour = garment_colour_error(output, target, output_labels, target_labels)
        pattern = pattern_error(output, target, output_labels, target_labels)
        if output_labels is not None:
            agreement = mean_iou(output_labels, target_labels)
    return {
        "ssim": ssim(output, target),
        "psnr": psnr(output, target),
        "garment_colour_error": colour,
        "pattern_error": pattern,
        "parsing_agreement": agreement,
    }
