"""The small CLIP: rectangles of studio pictures against their phrases, and against what the phrases
might have said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from catalogpose.catalog.labels import find_regions
from catalogpose.errors import UsageError
from catalogpose.humandiffusion.judging import make_trials
from catalogpose.perception.clip import Clip, make_clip, save_clip, wrap_clip
from catalogpose.records import GARMENTS, LABELS
from catalogpose.training.loop import Progress, Schedule, fit
from catalogpose.training.pictures import Pictures
from catalogpose.training.start import take_weights


@dataclass(frozen=True, kw_only=True)
class ClipObjective:
    """What a batch holds, and what is minimised."""

    garments: float = 0.75
    """Share of regions drawn from garments where a picture shows one, 0..1; the rest from all."""
    exchanged: int = 2
    """0 or more: negatives a region for each of colour and pattern, its phrase with another word
    (after Yuksekgonul et al., ICLR 2023, who exchange words within captions)."""
    near: float = 0.0
    """0 or more: weight of staying near the picture embeddings of the CLIP that is gone on from,
    whose image tower a new one replaces; nets that read those embeddings then need no training
    (after Shen et al., Towards backward-compatible representation learning, CVPR 2020)."""

    def __post_init__(self) -> None:
        """Raise UsageError where a value is out of range."""
        if not 0 <= self.garments <= 1:
            raise UsageError("garments must be 0 to 1")
        if isinstance(self.exchanged, bool) or not isinstance(self.exchanged, int):
            raise UsageError("exchanged must be a whole number")
        if self.exchanged < 0 or not self.near >= 0:
            raise UsageError("exchanged and near must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class DrawnRegions:
    """A batch of regions, each of another picture."""

    pictures: Sequence[Tensor]
    """uint8 (3, H, W) each."""
    boxes: Sequence[tuple[int, int, int, int]]
    """Left, top, right, bottom in pixels."""
    phrases: Sequence[str]
    """What each shows."""

    def crops(self, eyes: Clip) -> Tensor:
        """Return the regions (B, 3, h, w) as a CLIP wants them."""
        pairs = zip(self.pictures, self.boxes, strict=True)
        return torch.cat([eyes.crops(picture, [box]) for picture, box in pairs])


def phrase_of(label: str, caption: str | None) -> str:
    """Return the words for a region: its caption, else its label."""
    return caption or label.replace("-", " ")


def matching_loss(
    image: Tensor, text: Tensor, same: Tensor, scale: Tensor, wrong: Tensor | None = None
) -> Tensor:
    """CLIP's symmetric cross-entropy where several pairs may share a phrase.

    Args:
        image: (B, D), unit length.
        text: (B, D), unit length.
        same: (B, B), 1 where two rows have the same phrase; these share the target.
        scale: () factor of the cosines.
        wrong: (B, K, D), phrases that do not fit each row's picture, unit length, zeros where there
            is none; they stand beside the batch's phrases. None: there are none at all.
    """
    logits = scale * image @ text.T
    target = same / same.sum(dim=1, keepdim=True)
    choices = logits
    if wrong is not None:
        cosine = torch.einsum("bd,bkd->bk", image, wrong)
        there = wrong.any(dim=2)
        choices = torch.cat([logits, (scale * cosine).masked_fill(~there, -torch.inf)], dim=1)
    # Of the choices only the batch's own phrases can be right; -inf times 0 would be no number.
    found = choices.log_softmax(dim=1)[:, : len(text)]
    return (-(target * found).sum(dim=1).mean() + F.cross_entropy(logits.T, target)) / 2


def train_clip(
    pictures: Pictures,
    config: Mapping[str, Any],
    objective: ClipObjective,
    schedule: Schedule,
    folder: Path,
    target: Path,
    *,
    begin: Path | None = None,
    device: str,
    progress: Progress | None = None,
) -> Any:
    """Train a CLIP and write it as an open_clip folder.

    Args:
        pictures: To learn from.
        config: The open_clip model configuration.
        objective: What a batch holds and what counts how much.
        schedule: Steps, batch and rates; a batch is that many regions of different pictures.
        folder: For the checkpoint and the losses.
        target: The folder written.
        begin: Folder of a CLIP to go on from: of all of its weights, or with `near` of its text
            tower's; None: random weights.
        device: Where to train.
        progress: Told the steps done; None: nobody is told.

    Raises:
        UsageError: If `begin` is another net, or `near` has nothing to stay near.
    """
    if objective.near and begin is None:
        raise UsageError("near needs a CLIP to go on from")
    torch.manual_seed(schedule.seed)
    model, tokenizer = make_clip(config, target)
    former: Clip | None = None
    if begin is not None:
        take_weights(model, begin, but="visual." if objective.near else None)
        former = Clip.load(begin, device) if objective.near else None
    model.to(device)
    lesson = _Lesson(
        model=model, tokenizer=tokenizer, eyes=wrap_clip(model.eval()), former=former,
        objective=objective, device=device,
    )  # fmt: skip

    def loss_of(generator: torch.Generator) -> dict[str, Tensor]:
        """Draw a batch and match it."""
        drawn = _draw_regions(pictures, schedule.batch, objective.garments, generator)
        return lesson.losses(drawn, generator)

    fit("clip", model, loss_of, schedule, folder, device=device, progress=progress)
    save_clip(model, target)
    return model


@dataclass(frozen=True, kw_only=True)
class _Lesson:
    """A CLIP in training, and what it learns from."""

    model: Any
    """What is trained."""
    tokenizer: Any
    """Its tokenizer."""
    eyes: Clip
    """How it sees."""
    former: Clip | None
    """Near whose picture embeddings it stays; None: near nobody's."""
    objective: ClipObjective
    """What counts how much."""
    device: str
    """Where it is trained."""

    def losses(self, drawn: DrawnRegions, generator: torch.Generator) -> dict[str, Tensor]:
        """Match a batch of rectangles to their phrases."""
        ids = np.unique(np.array(drawn.phrases), return_inverse=True)[1]
        same = torch.from_numpy(ids[:, None] == ids[None, :]).float().to(self.device)
        crops = drawn.crops(self.eyes).to(self.device)
        image = self.model.encode_image(crops, normalize=True).float()
        text = self._read(drawn.phrases)
        scale = self.model.logit_scale.exp().clamp(max=100)
        wrong = self._exchange(drawn.phrases, generator)
        losses = {"matching": matching_loss(image, text, same, scale, wrong)}
        loss = losses["matching"]
        if self.former is not None:
            with torch.no_grad():
                crops = drawn.crops(self.former).to(self.device)
                before = self.former.model.encode_image(crops, normalize=True).float()
            losses["near"] = 1 - (image * before).sum(dim=1).mean()
            loss = loss + self.objective.near * losses["near"]
        best = (image @ text.T).argmax(dim=1)
        return {"loss": loss, **losses, "top1": same.gather(1, best[:, None]).mean()}

    def _read(self, phrases: Sequence[str]) -> Tensor:
        """Embed phrases (B, D)."""
        tokens = self.tokenizer(list(phrases)).to(self.device)
        found: Tensor = self.model.encode_text(tokens, normalize=True)
        return found.float()

    def _exchange(self, phrases: Sequence[str], generator: torch.Generator) -> Tensor | None:
        """Embed what each phrase might have said (B, K, D), zeros where it names nothing; None
        where nothing is exchanged.
        """
        if not self.objective.exchanged:
            return None
        variants = _exchange_words(phrases, self.objective.exchanged, generator)
        there = torch.tensor([[bool(one) for one in row] for row in variants], device=self.device)
        found = self._read([one for row in variants for one in row])
        return found.view(*there.shape, found.shape[1]) * there[..., None]


def _draw_regions(
    pictures: Pictures, count: int, garments: float, generator: torch.Generator
) -> DrawnRegions:
    """Pick one region of each of `count` pictures, of its garments in that share of cases."""
    products, views = pictures.photos.shape[:2]
    photos: list[Tensor] = []
    boxes: list[tuple[int, int, int, int]] = []
    phrases: list[str] = []
    while len(boxes) < count:
        p, v, r = (
            int(torch.randint(n, (), generator=generator)) for n in (products, views, 1 << 20)
        )
        cloth = bool(torch.rand((), generator=generator) < garments)
        regions = find_regions(pictures.labels[p, v])
        worn = [region for region in regions if LABELS[region.label] in GARMENTS]
        if cloth and worn:
            regions = tuple(worn)
        if not regions:
            continue
        region = regions[r % len(regions)]
        photos.append(torch.from_numpy(pictures.photos[p, v]).permute(2, 0, 1))
        boxes.append(region.box)
        name = LABELS[region.label]
        phrases.append(phrase_of(name, pictures.captions[p][v].get(name)))
    return DrawnRegions(pictures=photos, boxes=boxes, phrases=phrases)


def _exchange_words(
    phrases: Sequence[str], count: int, generator: torch.Generator
) -> list[list[str]]:
    """Return `count` variants of each phrase in other colours and as many with other patterns,
    empty where it names none.
    """
    found = []
    for phrase in phrases:
        row = []
        for variants in _variants(phrase):
            for _ in range(count):
                # Drawn in any case, so that a word more in the lexicon moves no other draw.
                place = int(torch.randint(1 << 20, (), generator=generator))
                row.append(variants[place % len(variants)] if variants else "")
        found.append(row)
    return found


@cache
def _variants(phrase: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return a phrase in other colours, and with other patterns."""
    trials = make_trials({0: phrase})
    return (trials[0].colours, trials[0].patterns) if trials else ((), ())
