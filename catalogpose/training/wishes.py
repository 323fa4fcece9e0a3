"""What the rows of a text-driven training ask for, drawn at random: what is kept of the source, and
what stands for the words of the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from catalogpose.errors import UsageError
from catalogpose.humandiffusion.alignment import RegionFeatures
from catalogpose.records import GARMENTS, GROUP_OF, LABEL_ID, LABELS
from catalogpose.training.pairs import PairBatch, Pairs
from catalogpose.training.wording import Wording

GROUPS = torch.tensor([LABEL_ID[GROUP_OF[name]] for name in LABELS])
"""int64 (L,): the label that words for a label name; both shoes are `shoe`."""

WEARABLE = torch.zeros(len(LABELS), dtype=torch.bool).index_fill_(
    0, torch.tensor([LABEL_ID[name] for name in GARMENTS]), value=True
)
"""bool (L,): labels of garments, which words may replace in a row with a source."""

KINDS = ("own", "retrieved", "text", "null")
"""What may stand for a region of words: the true picture's own embedding, what retrieval makes of
its phrase, the phrase alone, or nothing."""


Look = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Takes pictures' rows (S,) and which labels are kept of each, bool (S, L); returns embeddings
(S, L, D) of the kept regions in pictures whose rest is blanked, zero elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """How often rows ask for what; after kNN-Diffusion, which meets in training what it meets in
    use.
    """

    own: float = 0.4
    """Share of words' regions that get the true picture's own embedding, 0..1."""
    retrieved: float = 0.4
    """Share that get what retrieval makes of their phrase, 0..1."""
    text: float = 0.1
    """Share that get the phrase alone, 0..1; what is left of 1 gets the learned null."""
    replaced: float = 0.5
    """How often words replace a garment of a row that has a source, 0..1."""
    sourceless: float = 0.3
    """How often a source is not there, 0..1; words then fill all."""
    posed: float = 0.5
    """How often a row has a skeleton beside its map, 0..1."""

    def __post_init__(self) -> None:
        """Raise UsageError where a value is out of range."""
        if not all(0 <= share <= 1 for share in vars(self).values()):
            raise UsageError("mix: every share must be 0 to 1")
        if self.own + self.retrieved + self.text > 1 + 1e-9:
            raise UsageError("mix: own, retrieved and text together must be 1 or less")


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What B rows of S sources ask for."""

    pairs: PairBatch
    """The pairs, whose joints are gone where a row has none."""
    has_source: Tensor
    """bool (S,)."""
    kept: Tensor
    """bool (S, L): labels kept of each source; none without one."""
    features: RegionFeatures
    """What fills the regions of the targets' maps."""
    worded: Tensor
    """int64 (B, L): labels that words fill, -1 elsewhere."""
    texts: Tensor
    """(B, L, D): embedding of what words say of the target's regions."""
    phrase: Tensor
    """int64 (B, L): number of that phrase; -1 where there is none."""

    def to(self, device: str | torch.device) -> Wishes:
        """Return them on a device."""
        features = RegionFeatures(
            vectors=self.features.vectors.to(device), valid=self.features.valid.to(device)
        )
        return Wishes(
            pairs=self.pairs.to(device),
            has_source=self.has_source.to(device),
            kept=self.kept.to(device),
            features=features,
            worded=self.worded.to(device),
            texts=self.texts.to(device),
            phrase=self.phrase.to(device),
        )


def draw_wishes(
    data: Pairs,
    wording: Wording,
    places: list[int],
    mix: Mix,
    generator: torch.Generator,
    look: Look,
) -> Wishes:
    """Read pairs and draw what their rows ask for; pairs of one source keep the same of it.

    Args:
        data: The pairs.
        wording: Of their pictures.
        places: B numbers of pairs.
        mix: How often what.
        generator: All that is random comes from it.
        look: Embeds what is kept of the sources.
    """
    pairs = data.take(places, share=True)
    rows = np.asarray(data.pairs[np.asarray(places), 1])
    sources, _ = data.sources_of(places)
    has_source = torch.rand(len(pairs.sources), generator=generator) >= mix.sourceless
    replaced = torch.rand(len(pairs.sources), len(LABELS), generator=generator) < mix.replaced
    replaced = (replaced & WEARABLE)[:, GROUPS] | ~has_source[:, None]
    # What no target of a source shows is not kept of it, as in use.
    shown = torch.zeros_like(replaced)
    shown.index_put_((pairs.source_of[:, None], GROUPS[pairs.target_labels.flatten(1)]),
                     torch.tensor(data=True))  # fmt: skip
    kept = ~replaced & shown[:, GROUPS]
    kept[:, 0] = False
    embeddings = torch.from_numpy(look(sources, kept.numpy())).float()
    pairs = replace(pairs, embeddings=embeddings[pairs.source_of])
    posed = torch.rand(len(pairs), generator=generator) < mix.posed
    pairs.joints[~posed, :, 2] = 0
    features, worded = _fill(data, wording, pairs, rows, kept[pairs.source_of], mix, generator)
    return Wishes(
        pairs=pairs,
        has_source=has_source,
        kept=kept,
        features=features,
        worded=worded,
        texts=_read(wording.texts, rows).float(),
        phrase=_read(wording.phrase, rows).long(),
    )


def _fill(
    data: Pairs,
    wording: Wording,
    pairs: PairBatch,
    rows: np.ndarray,
    kept: Tensor,
    mix: Mix,
    generator: torch.Generator,
) -> tuple[RegionFeatures, Tensor]:
    """Return what fills the regions of targets `rows`, and which of them words fill (B, L)."""
    there = torch.zeros(len(rows), len(LABELS), dtype=torch.bool)
    there.scatter_(1, pairs.target_labels.flatten(1), value=True)
    there[:, 0] = False
    draw = torch.rand(there.shape, generator=generator)
    bounds = torch.tensor([mix.own, mix.own + mix.retrieved, mix.own + mix.retrieved + mix.text])
    kind = torch.bucketize(draw, bounds, right=True)  # indices of KINDS
    raw = torch.rand(there.shape, generator=generator) < 0.5
    said = _read(wording.phrase, rows) >= 0
    own, own_known = _read(data.embeddings, rows).float(), _read(data.known, rows)
    text = torch.where(
        raw[..., None], _read(wording.texts, rows).float(), _read(wording.shifted, rows).float()
    )
    choices = torch.stack([own, _read(wording.refined, rows).float(), text, torch.zeros_like(own)])
    allowed = torch.stack([own_known, said, said, torch.zeros_like(said)])
    first = choices.gather(0, kind[None, ..., None].expand(1, *own.shape))[0]
    valid = allowed.gather(0, kind[None])[0]
    found = _read(wording.found, rows).long()
    remembered = torch.from_numpy(wording.memory[found.clamp(min=0).numpy()]).float()
    used = (found >= 0) & (kind == KINDS.index("retrieved"))[..., None] & ~kept[..., None]
    vectors = torch.cat(
        [torch.where(kept[..., None], pairs.embeddings, first)[:, :, None], remembered], dim=2
    )
    filled = there & torch.where(kept, pairs.known, valid)
    every = torch.cat([filled[..., None], used & filled[..., None]], dim=2)
    labels = torch.arange(len(LABELS)).expand_as(there)
    worded = torch.where(filled & ~kept, labels, -1)
    return RegionFeatures(vectors=vectors * every[..., None], valid=every), worded


def _read(array: np.ndarray, rows: np.ndarray) -> Tensor:
    """Copy rows of an array, which may be a memory map, into a tensor."""
    return torch.from_numpy(np.ascontiguousarray(array[rows]))
