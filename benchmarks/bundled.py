"""The bundled model's figures on held-out studio pairs, generated with the default settings.

    python benchmarks/bundled.py --pairs 200 --out runs/figures

draws the pairs (one source and one target of each of `--pairs` products of the test split), runs
`catalogpose generate` on them and prints every figure with n, as JSON and as a Markdown table.
Photos are drawn `--fine` times as high and wide as the canvas, by default twice, as those in
`manifests/` are; `--fine 1` draws those on which versions 0 to 9 were first measured, whose pixels
are points. All pictures are compared at the output's size, and of a model whose outputs are finer
than its canvas a second time fitted onto that.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from catalogpose.catalog.canvas import fit_map
from catalogpose.catalog.labels import read_parsing_map, to_common
from catalogpose.catalog.sheets import fit_on
from catalogpose.commands.generate import generate_pictures
from catalogpose.commands.studio import write_studio
from catalogpose.config import GenerateOptions, StudioOptions
from catalogpose.perception.parser import Parser
from catalogpose.quality.pairs import score_pair
from catalogpose.quality.scoring import fit_target
from catalogpose.records import Letterbox
from catalogpose.truepose.model import read_card, resolve_model
from catalogpose.truepose.pipeline import TruePosePipeline, load_pipeline

Photo = NDArray[np.uint8]


def read_pairs(run: Path) -> tuple[list[Photo], list[Photo], list[Photo], list[Photo]]:
    """Return sources, outputs, targets and the targets' true maps of all done rows, each whole on a
    canvas of its output's size, as `generate` fits them.
    """
    rows = pd.read_parquet(run / "results.parquet").query("status == 'done'")
    outputs = [np.array(Image.open(run / path).convert("RGB")) for path in rows["output"]]
    sources, targets = (
        [fit_target(run / path, made) for path, made in zip(rows[name], outputs, strict=True)]
        for name in ("source", "target")
    )
    pairs = zip(rows["target"], outputs, strict=True)
    return sources, outputs, targets, [fit_true_map(run / path, made) for path, made in pairs]


def fit_true_map(photo: Path, canvas: Photo) -> Photo:
    """Return the map (h, w) of a studio catalogue's photo, whole on a canvas (h, w, 3)."""
    path = photo.resolve()
    labels = read_parsing_map(path.parent.parent / "maps" / path.name, "common")
    height, width = canvas.shape[:2]
    return fit_map(labels, Letterbox.fit(labels.shape[1], labels.shape[0], width, height))


def photo_size(catalogue: Path) -> str:
    """Return height x width of a catalogue's first source, as it lies on disk."""
    source = pd.read_parquet(catalogue / "manifest.parquet")["source"].iloc[0]
    with Image.open(catalogue / source) as photo:
        return f"{photo.height} x {photo.width}"


def mean_scores(
    pictures: Sequence[Photo],
    targets: Sequence[Photo],
    maps: Sequence[Photo],
    parse: Callable[[Photo], Photo],
) -> dict[str, float]:
    """Return the mean of every metric of `pictures` against their targets, whose true maps are
    known.
    """
    scores = [
        score_pair(picture, target, parse(picture), labels)
        for picture, target, labels in zip(pictures, targets, maps, strict=True)
    ]
    frame = pd.DataFrame(scores).astype(float).replace(np.inf, np.nan)
    return {name: round(float(value), 4) for name, value in frame.mean().items()}


def through_vae(pipe: TruePosePipeline, picture: Photo) -> Photo:
    """Return what the VAE gives back of a picture on its canvas, at the picture's size."""
    fitted = fit_on((pipe.card.height, pipe.card.width), picture)
    return fit_on(picture.shape[:2], pipe.decode_latents(pipe.encode_photos(fitted[None]))[0])


def measure(run: Path, model: Path) -> dict[str, object]:
    """Score outputs, copies, ceilings and floors of a finished run, at the outputs' size and, where
    that is another, on the canvas.
    """
    sources, outputs, targets, maps = read_pairs(run)
    parser = Parser.load(model / "parser")
    pipe = load_pipeline(model, "cpu")

    def parse(picture: Photo) -> Photo:
        """Return the parser's map in the common vocabulary."""
        return to_common(parser.parse(picture), parser.label_set)

    table = {
        "output": outputs,
        "source copied": sources,
        "target through the VAE": [through_vae(pipe, target) for target in targets],
        "true target": targets,
        "another product's target": [*targets[1:], targets[0]],
    }
    shown = outputs[0].shape[:2]
    found: dict[str, object] = {"n": len(outputs)}
    for name, size in (("means", shown), ("on_canvas", (pipe.card.height, pipe.card.width))):
        if name == "means" or size != shown:
            letterbox = Letterbox.fit(shown[1], shown[0], size[1], size[0])
            fitted = {row: [fit_on(size, p) for p in rows] for row, rows in table.items()}
            fitted_maps = [fit_map(labels, letterbox) for labels in maps]
            found[name] = {
                row: mean_scores(rows, fitted["true target"], fitted_maps, parse)
                for row, rows in fitted.items()
            }
    return found


def derive(means: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the shares that say how far the output has come from floor to ceiling."""
    out, copy, vae = (
        means[k]["psnr"] for k in ("output", "source copied", "target through the VAE")
    )
    agreement = {k: means[k]["parsing_agreement"] for k in means}
    floor, ceiling = agreement["another product's target"], agreement["true target"]
    colour = {k: means[k]["garment_colour_error"] for k in means}
    return {
        "psnr_closed": round((out - copy) / (vae - copy), 3),
        "agreement_closed": round((agreement["output"] - floor) / (ceiling - floor), 3),
        "colour_of_wrong": round(colour["output"] / colour["another product's target"], 3),
    }


def as_table(means: dict[str, dict[str, float]]) -> str:
    """Return the means as a Markdown table."""
    names = {
        "psnr": "PSNR, dB",
        "ssim": "SSIM",
        "parsing_agreement": "mean IoU",
        "garment_colour_error": "colour error",
        "pattern_error": "pattern error",
    }
    lines = ["| picture | " + " | ".join(names.values()) + " |", "|---|" + "---|" * len(names)]
    for row, values in means.items():
        cells = ["-" if np.isnan(values[k]) else f"{values[k]:.3f}" for k in names]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Draw, generate, measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--pairs", type=int, default=200)
    arguments.add_argument("--fine", type=int, default=2, help="size of photos, in canvases")
    arguments.add_argument("--out", type=Path, default=Path("runs/figures"))
    arguments.add_argument("--model", default=None, help="model folder; the bundled one by default")
    options = arguments.parse_args()
    model = resolve_model(options.model)
    card = read_card(model)
    catalogue = options.out / "catalogue"
    height, width = card.height * options.fine, card.width * options.fine
    if not (catalogue / "manifest.parquet").exists():
        write_studio(
            StudioOptions(
                out=catalogue,
                products=options.pairs,
                poses=1,
                split="test",
                height=height,
                width=width,
            )
        )
    size = photo_size(catalogue)
    if size != f"{height} x {width}":
        raise SystemExit(f"{catalogue} has photos of {size}: name a new --out, or another --fine")
    run = options.out / "run"
    summary = generate_pictures(
        GenerateOptions(
            manifest=catalogue / "manifest.parquet",
            out=run,
            model=options.model,
            cache=options.out / "cache",
            device="cpu",
        )
    )
    figures = measure(run, model)
    means = figures["means"]
    figures["shares"] = derive(means)
    on_canvas = figures.get("on_canvas")
    if on_canvas is not None:
        figures["shares_on_canvas"] = derive(on_canvas)
    figures["seconds_generating"] = summary.seconds
    figures["protocol"] = (
        f"studio test split, seed 0, one pair a product, photos of {size}, "
        "default steps and guidance"
    )
    figures["model"] = {"name": card.name, "steps": card.steps, "guidance": card.guidance}
    figures["versions"] = {
        name: version(name)
        for name in (
            "torch",
            "diffusers",
            "transformers",
            "open_clip_torch",
            "scikit-image",
            "numpy",
        )
    }
    figures["machine"] = f"{platform.machine()}, CPU"
    (options.out / "figures.json").write_text(
        json.dumps(figures, indent=2) + "\n", encoding="utf-8"
    )
    print(json.dumps(figures, indent=2))
    print(as_table(means))
    if on_canvas is not None:
        print(f"\nFitted onto the canvas, {card.height} x {card.width}:\n\n{as_table(on_canvas)}")


if __name__ == "__main__":
    main()
