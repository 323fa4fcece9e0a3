"""The human parser: a SegFormer that says which label each pixel of a photo shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor
from transformers.utils import logging as transformers_logging

from catalogpose.errors import UsageError, first_line
from catalogpose.perception.weights import describe_folder


def parser_settings(folder: Path) -> Mapping[str, object]:
    """Return everything about a parser that changes its maps, without loading it."""
    if not (folder / "config.json").is_file():
        raise UsageError(
            f"{folder} holds no parser; give the manifest a `parsing` column, or another --model"
        )
    described = dict(describe_folder(folder, "config.json"))
    described["processor"] = describe_folder(folder, "preprocessor_config.json")["config"]
    return {**described, "upsampling": "bilinear logits, then argmax"}


@dataclass(frozen=True, kw_only=True)
class Parser:
    """A loaded parser; `load` makes one."""

    model: SegformerForSemanticSegmentation
    """In evaluation mode."""
    processor: SegformerImageProcessor
    """Scales and normalises as the model was trained."""
    label_set: str
    """The label set of the maps."""

    @classmethod
    def load(cls, name: str | Path, device: str = "cpu", *, label_set: str | None = None) -> Parser:
        """Load a SegFormer from a folder or hub id; weights are safetensors only.

        Args:
            name: For instance `mattmdjaga/segformer_b2_clothes`, whose label set is `atr`.
            device: Where it runs.
            label_set: The label set of its classes. None: what its configuration names.

        Raises:
            UsageError: If it cannot be loaded, or its label set is unknown.
        """
        quiet = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        try:
            model = SegformerForSemanticSegmentation.from_pretrained(
                str(name), use_safetensors=True, dtype=torch.float32
            )
            processor = SegformerImageProcessor.from_pretrained(str(name))
        except (OSError, ValueError) as error:
            reason = first_line(error)
            raise UsageError(f"no parser could be loaded from {name}: {reason}") from None
        finally:
            if quiet:
                transformers_logging.enable_progress_bar()
        known = label_set or getattr(model.config, "label_set", None)
        if known is None:
            raise UsageError(
                f"the parser {name} does not say its label set; set `label_set` in its config.json"
            )
        return cls(model=model.to(device).eval(), processor=processor, label_set=known)

    def parse(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the label map (H, W) of a picture (H, W, 3), in the parser's own label set."""
        labels: NDArray[np.uint8] = self.parse_all(picture[None])[0]
        return labels

    @torch.no_grad()
    def parse_all(self, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the label maps (n, H, W) of pictures (n, H, W, 3) at once: faster than one by one,
        and alike but for rounding where two labels are as likely as one another.
        """
        inputs = self.processor(images=list(pictures), return_tensors="pt").to(self.model.device)
        outputs = self.model(**inputs)
        sizes = [pictures.shape[1:3]] * len(pictures)
        maps = self.processor.post_process_semantic_segmentation(outputs, sizes)
        labels: NDArray[np.uint8] = torch.stack(maps).cpu().numpy().astype(np.uint8)
        return labels


def make_parser(
    size: tuple[int, int], names: Mapping[int, str], label_set: str, **options: Any
) -> Parser:
    """Build an untrained parser.

    Args:
        size: Height and width that photos are scaled to.
        names: A class's name by its id.
        label_set: The label set that these classes are.
        **options: Of `SegformerConfig`.
    """
    config = SegformerConfig(
        id2label=dict(names), label2id={name: index for index, name in names.items()}, **options
    )
    config.label_set = label_set
    processor = SegformerImageProcessor(
        size={"height": size[0], "width": size[1]}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return Parser(
        model=SegformerForSemanticSegmentation(config), processor=processor, label_set=label_set
    )


def save_parser(parser: Parser, folder: Path) -> None:
    """Write a parser as a folder that `Parser.load` reads."""
    parser.model.save_pretrained(str(folder))
    parser.processor.save_pretrained(str(folder))
