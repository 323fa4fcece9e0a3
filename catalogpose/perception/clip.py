"""CLIP over the rectangles around a picture's regions (TruePose, Eq. 4), through open_clip."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torchvision.transforms.v2.functional as vision
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from catalogpose.errors import UsageError, first_line
from catalogpose.perception.weights import describe_folder

CONFIG_NAME = "open_clip_config.json"
CROP_CHUNK = 256
"""Rectangles embedded at once."""

TEXT_CHUNK = 256
"""Texts embedded at once."""


def clip_settings(folder: Path) -> Mapping[str, object]:
    """Return everything about a CLIP folder that changes its embeddings, without loading it."""
    if not (folder / CONFIG_NAME).is_file():
        raise UsageError(f"{folder} holds no CLIP: it has no {CONFIG_NAME}; use another --model")
    described = describe_folder(folder, CONFIG_NAME)
    return {
        **described,
        "resize": "squash, bicubic, antialiased",
        "outside": "kept",
        "precision": "float32",
    }


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A loaded CLIP; `load` makes one."""

    model: Any
    """An open_clip model in evaluation mode."""
    size: tuple[int, int]
    """Height and width of what it sees, in pixels."""
    mean: tuple[float, ...]
    """Mean of the colours it was trained on, 0..1."""
    std: tuple[float, ...]
    """Their standard deviation."""
    width: int
    """D, the width of an embedding."""
    source: str | None = None
    """open_clip's name of where it lies, for the tokenizer; None: only pictures are embedded."""

    @classmethod
    def load(cls, name: str | Path, device: str = "cpu") -> Clip:
        """Load an open_clip folder or hub id.

        Raises:
            UsageError: If it cannot be loaded, weights included.
        """
        source = f"local-dir:{name}" if Path(name).is_dir() else f"hf-hub:{name}"
        try:
            # Without require_pretrained a folder without weights gives a random model.
            model = open_clip.create_model(source, require_pretrained=True, device=device)
        except (OSError, RuntimeError, ValueError) as error:
            reason = first_line(error)
            raise UsageError(f"no CLIP could be loaded from {name}: {reason}") from None
        return replace(wrap_clip(model.eval()), source=source)

    @cached_property
    def _tokenizer(self) -> Any:
        """What turns texts into numbers; a CLIP may come without one and still see pictures.

        Raises:
            UsageError: If it cannot be loaded.
        """
        assert self.source is not None  # `load` sets it
        try:
            return open_clip.get_tokenizer(self.source)
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            raise UsageError(
                f"the CLIP {self.source} has no tokenizer that loads, which words need: "
                f"{first_line(error)}"
            ) from None

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts, each of unit length, float32 (len(texts), D); long ones are cut off.

        Raises:
            UsageError: If the CLIP comes without a tokenizer.
        """
        device = next(self.model.parameters()).device
        parts = [
            self.model.encode_text(
                self._tokenizer(list(texts[first : first + TEXT_CHUNK])).to(device), normalize=True
            )
            for first in range(0, len(texts), TEXT_CHUNK)
        ]
        if not parts:
            return np.zeros((0, self.width), dtype=np.float32)
        embeddings: NDArray[np.float32] = torch.cat(parts).float().cpu().numpy()
        return embeddings

    @torch.no_grad()
    def embed(
        self, picture: NDArray[np.uint8], boxes: Sequence[tuple[int, int, int, int]]
    ) -> NDArray[np.float16]:
        """Embed rectangles of a picture (Eq. 4).

        Args:
            picture: (H, W, 3).
            boxes: Left, top, right, bottom in pixels, right and bottom exclusive.

        Returns:
            float16 (len(boxes), D), each of unit length.
        """
        if not boxes:
            return np.zeros((0, self.width), dtype=np.float16)
        device = next(self.model.parameters()).device
        crops = self.crops(torch.from_numpy(picture).permute(2, 0, 1).to(device), boxes)
        parts = [
            self.model.encode_image(part, normalize=True) for part in torch.split(crops, CROP_CHUNK)
        ]
        embeddings: NDArray[np.float16] = torch.cat(parts).float().cpu().numpy().astype(np.float16)
        return embeddings

    def crops(self, picture: Tensor, boxes: Sequence[tuple[int, int, int, int]]) -> Tensor:
        """Cut rectangles out of a uint8 picture (3, H, W), squashed and normalised for CLIP.

        Squashed, because the usual centre crop loses half of a long thin region such as a leg.
        """
        floats = picture.float() / 255
        squashed = [
            vision.resize(
                floats[:, top:bottom, left:right],
                list(self.size),
                interpolation=vision.InterpolationMode.BICUBIC,
                antialias=True,
            )
            for left, top, right, bottom in boxes
        ]
        normal: Tensor = vision.normalize(
            torch.stack(squashed).clamp(0, 1), list(self.mean), list(self.std)
        )
        return normal


def wrap_clip(model: Any) -> Clip:
    """Take an open_clip model with the preprocessing that it names."""
    seen = model.visual.preprocess_cfg
    size = model.visual.image_size
    pair = (size, size) if isinstance(size, int) else tuple(size)
    with torch.no_grad():
        blank = torch.zeros(1, 3, *pair, device=next(model.parameters()).device)
        width = model.encode_image(blank).shape[-1]
    return Clip(
        model=model, size=pair, mean=tuple(seen["mean"]), std=tuple(seen["std"]), width=width
    )


def make_clip(config: Mapping[str, Any], folder: Path) -> tuple[Any, Any]:
    """Build an untrained CLIP of this open_clip model configuration, and its tokenizer.

    Args:
        config: `embed_dim`, `vision_cfg`, `text_cfg`.
        folder: Gets the configuration, under which `Clip.load` finds it once weights are saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=2)
    (folder / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
    source = f"local-dir:{folder}"
    model = open_clip.create_model(source, load_weights=False)
    return model, open_clip.get_tokenizer(source)


def save_clip(model: nn.Module, folder: Path) -> None:
    """Write float16 weights beside the configuration that `make_clip` wrote."""
    state = {
        # Counts, as of batches that a norm has seen, stay whole numbers.
        name: (value.half() if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in model.state_dict().items()
    }
    save_file(state, str(folder / "open_clip_model.safetensors"))
