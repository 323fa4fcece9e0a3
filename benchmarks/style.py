"""Style transfer on studio pairs whose truth is known: the reference's product drawn anew, its top
made of the source's cloth.

    python benchmarks/style.py --pairs 50        # prints the bundled model's figures
    python benchmarks/style.py --samples manifests   # draws what manifests/style.csv needs beside
                                                     # the photos of manifests/studio
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from skimage.color import deltaE_ciede2000, rgb2lab

from catalogpose.catalog.labels import find_regions, load_keypoint_table
from catalogpose.catalog.manifest import write_manifest
from catalogpose.catalog.sheets import fit_on
from catalogpose.perception.clip import Clip
from catalogpose.records import LABEL_ID, Reference, Row
from catalogpose.studio import SPLITS, Picture, Product, draw, make_product, make_scene
from catalogpose.truepose.model import BUNDLED
from catalogpose.truepose.pipeline import TruePosePipeline, load_pipeline
from catalogpose.truepose.regions import selected_labels

UPPER = LABEL_ID["upper-clothes"]
"""The label of the garment that is transferred."""

FRONT = 45.0
"""Both people are turned away from the viewer by less than this, in degrees."""

LEAST = 0.04
"""Smallest share of a picture that the garment covers in both photos."""

FAR = 16
"""Pixels from the mask at which `far` begins: two cells of the latent."""

SAMPLES = ((58, 0, 62, 0), (60, 3, 59, 1), (59, 1, 62, 3), (62, 0, 58, 3))
"""The sample rows: source product, its view, reference product, its view; products from 2000000."""

SIZE = (256, 176)
"""Height and width of the sample's photos, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A source, a reference and what shall become of it."""

    source: Picture
    """Whose cloth is transferred."""
    reference: Picture
    """Who takes it."""
    truth: Picture
    """The reference in the source's cloth."""


def top_of(product: Product) -> Any:
    """Return a product's top; None where it wears none, or a coat over it."""
    worn = {garment.slot: garment for garment in product.outfit}
    return None if "coat" in worn else worn.get("top")


def front_view(product_id: int) -> int:
    """Return the first view of a product that shows its front."""
    return next(v for v in count() if abs(make_scene(product_id, v).yaw) < FRONT)


def draw_truth(source: int, reference: int, view: int, *, height: int, width: int) -> Picture:
    """Draw a view of the reference's product with its top made of the source's cloth."""
    product = make_product(reference)
    given, top = top_of(make_product(source)), top_of(product)
    outfit = tuple(replace(g, cloth=given.cloth) if g is top else g for g in product.outfit)
    scene = make_scene(reference, view)
    return draw(replace(product, outfit=outfit), scene, height=height, width=width)


def draw_pairs(height: int, width: int) -> Iterator[Pair]:
    """Yield the pairs of neighbours in the test split that both show enough of a top."""
    size = {"height": height, "width": width}
    numbers = SPLITS["test"]
    for source, reference in zip(numbers[::2], numbers[1::2], strict=True):
        if top_of(make_product(source)) is None or top_of(make_product(reference)) is None:
            continue
        view = front_view(reference)
        pair = Pair(
            source=draw(make_product(source), make_scene(source, front_view(source)), **size),
            reference=draw(make_product(reference), make_scene(reference, view), **size),
            truth=draw_truth(source, reference, view, **size),
        )
        if min((p.labels == UPPER).mean() for p in (pair.source, pair.reference)) >= LEAST:
            yield pair


def transfer(pipe: TruePosePipeline, clip: Clip, pair: Pair, seed: int) -> np.ndarray:
    """Put the source's top on the reference, with true maps and the model's own settings; a picture
    finer than the canvas is fitted onto it, where the truth is.
    """
    source, reference = pair.source, pair.reference
    regions = find_regions(source.labels)
    vectors = clip.embed(source.photo, [region.box for region in regions])
    embeddings = {r.label: v for r, v in zip(regions, vectors, strict=True)}
    features = pipe.encode_source(source.photo, source.labels, embeddings)
    shown = selected_labels(reference.joints, load_keypoint_table())
    latent = pipe.encode_photos(reference.photo[None])
    painted = (reference.labels == UPPER).astype(np.float32)
    height, width = painted.shape
    photo = fit_on((height * pipe.scale, width * pipe.scale), reference.photo)
    kept = pipe.keep_reference(latent, painted, photo)
    joints = reference.joints[None]
    found = pipe.generate([pipe.condition(features, shown)], joints, [seed], references=[kept])[0]
    return fit_on(source.labels.shape, found)


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB over the pixels `where`."""
    return float(
        10 * np.log10(255**2 / max(((a[where] - b[where].astype(float)) ** 2).mean(), 1e-9))
    )


def colour(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    """Return CIEDE2000 between the mean Lab colours of the pixels `where`."""
    means = [rgb2lab(picture)[where].mean(axis=0) for picture in (a, b)]
    return float(deltaE_ciede2000(*means))


def far_from(inside: np.ndarray) -> np.ndarray:
    """Return the pixels (H, W) that are more than `FAR` away from a mask in x or y."""
    grown = Image.fromarray(inside.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * FAR + 1))
    return np.asarray(grown) == 0


def measure(pipe: TruePosePipeline, pair: Pair, result: np.ndarray) -> dict[str, float]:
    """Return one pair's figures."""
    photo, truth = pair.reference.photo, pair.truth.photo
    inside = pair.reference.labels == UPPER
    far = far_from(inside)
    pictures = np.stack([photo, truth])
    height, width = inside.shape
    vae, best = (
        # Enlarged and fitted as the result is, which loses a little too.
        fit_on(inside.shape, fit_on((height * pipe.scale, width * pipe.scale), picture))
        for picture in pipe.decode_latents(pipe.encode_photos(pictures))
    )
    nearer = colour(result, truth, inside) < colour(result, photo, inside)
    return {
        "outside, PSNR to the reference, dB: result": psnr(result, photo, ~inside),
        "outside, PSNR to the reference, dB: VAE alone": psnr(vae, photo, ~inside),
        "far outside, PSNR to the reference, dB: result": psnr(result, photo, far),
        "far outside, PSNR to the reference, dB: VAE alone": psnr(vae, photo, far),
        "inside, PSNR to the truth, dB: result": psnr(result, truth, inside),
        "inside, PSNR to the truth, dB: reference": psnr(photo, truth, inside),
        "inside, PSNR to the truth, dB: truth through the VAE": psnr(best, truth, inside),
        "inside, colour error to the truth: result": colour(result, truth, inside),
        "inside, colour error to the truth: reference": colour(photo, truth, inside),
        "share of pairs whose colour is nearer to the source's cloth": float(nearer),
    }


def write_samples(folder: Path) -> None:
    """Write `style.csv` with its true targets and one mask, all else from the studio's samples."""
    rows = []
    for number, (source, view, reference, reference_view) in enumerate(SAMPLES, start=1):
        names = [
            f"studio-2{n:06d}-view{v}" for n, v in ((source, view), (reference, reference_view))
        ]
        truth = draw_truth(
            2_000_000 + source, 2_000_000 + reference, reference_view, height=SIZE[0], width=SIZE[1]
        )
        target = folder / "style" / f"{names[1]}-top-of-2{source:06d}.png"
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(truth.photo).save(target, optimize=True)
        # The last row shows how a mask file says where.
        mask = folder / "style" / f"{names[1]}-mask.png" if number == len(SAMPLES) else None
        if mask is not None:
            Image.fromarray(truth.labels == UPPER).save(mask, optimize=True)
        rows.append(
            Row(
                number=number,
                id=f"{reference}-in-the-top-of-{source}",
                source=folder / "studio/photos" / f"{names[0]}.png",
                pose=folder / "studio/poses" / f"{names[1]}.json",
                target=target,
                reference=Reference(
                    photo=folder / "studio/photos" / f"{names[1]}.png",
                    regions=("upper-clothes",) if mask is None else (),
                    mask=mask,
                ),
            )
        )
    write_manifest(folder / "style.csv", rows)


def main() -> None:
    """Print the figures, or draw the samples."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--samples", type=Path)
    options = parser.parse_args()
    if options.samples is not None:
        write_samples(options.samples)
        return
    pipe = load_pipeline(BUNDLED, "cpu")
    clip = Clip.load(BUNDLED / "clip", "cpu")
    pairs = islice(draw_pairs(pipe.card.height, pipe.card.width), options.pairs)
    lines = [
        measure(pipe, pair, transfer(pipe, clip, pair, seed)) for seed, pair in enumerate(pairs)
    ]
    means = {name: round(float(np.mean([line[name] for line in lines])), 2) for name in lines[0]}
    print(json.dumps({"pairs": len(lines), **means}, indent=2))


if __name__ == "__main__":
    main()
