"""What TruePose's nets are trained for: the denoising loss (Eq. 2 and 10), and what we add to it.

Every switch costs nothing at inference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from catalogpose.errors import UsageError
from catalogpose.records import GARMENTS, LABEL_ID, LABELS
from catalogpose.training.correspondence import true_attention
from catalogpose.training.pairs import PairBatch
from catalogpose.truepose.blocks import FUSIONS
from catalogpose.truepose.conditions import LayerConditions
from catalogpose.truepose.pose_encoder import draw_pose

TIMESTEPS = ("uniform", "high")
"""How timesteps are drawn; `high`: 1 - u**3 of them, more of the noisy (as CFLD)."""

TOLERANCE = 60.0
"""Of `true_attention`: three quarters of a studio person's points then have a known source."""

WATCHED_TOKENS = 1024
"""Most tokens of a layer whose attention is supervised: a finer one's would fill the memory at 512
x 352, and the coarser ones are enough to find a place."""

TRUSTED = (0.25, 0.4)
"""How sure a place must be for what is carried from it to count at all, and to count in full."""

COLOUR_SIDE = 5
"""Latent cells, a square's side, whose mean is a place's colour, its pattern left out."""

COLOUR_REACH = 0.6
"""Squared distance of two colours, a mean over channels of a latent, at which what is carried
counts 1/e."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is minimised; the defaults are the paper's words."""

    noises: int = 1
    """Noises and timesteps a pair and step, 1 or more; they share what the source gives."""
    condition_dropout: float = 0.3
    """Eta of Eq. 10, 0..1: how often C is set to zero while the pose stays."""
    timesteps: Literal["uniform", "high"] = "uniform"
    """One of `TIMESTEPS`."""
    person_weight: float = 0.0
    """0 or more: how much more a latent of nothing but person counts than one of background, by the
    target's parsing map; faces and garments count twice that."""
    truth_weight: float = 0.0
    """0 or more: weight of HPFA's attention against the true correspondences, which the studio
    alone knows."""
    flow_weight: float = 0.0
    """0 or more: weight of what HPFA's attention makes of the source's latent against the target's,
    in the person: Leffa's idea, without a flow field; for photos too."""
    carried_weight: float = 0.0
    """0..1: how far the target becomes what a matcher carries to it, where that can be trusted; see
    `carried_target`."""

    def __post_init__(self) -> None:
        """Raise UsageError where a value is out of range."""
        for name in ("person_weight", "truth_weight", "flow_weight"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"objective: {name} must be 0 or more")
        if self.noises < 1 or not 0 <= self.condition_dropout <= 1:
            raise UsageError("objective: noises must be 1 or more, condition_dropout 0 to 1")
        if not 0 <= self.carried_weight <= 1:
            raise UsageError("objective: carried_weight must be 0 to 1")
        if self.timesteps not in TIMESTEPS:
            raise UsageError(f"objective: timesteps must be one of {', '.join(TIMESTEPS)}")

    @property
    def watches(self) -> bool:
        """Whether HPFA's attention is looked at."""
        return self.truth_weight > 0 or self.flow_weight > 0

    def check_parts(self, fusion: str, *, matched: bool) -> None:
        """Raise UsageError where HPFA's attention is to be watched and the fusion has none, or
        where what is carried is to be learnt and no matcher carries anything.
        """
        if self.carried_weight and not matched:
            raise UsageError("objective: carried_weight needs a matcher; set it to 0")
        if self.watches and not FUSIONS[fusion].source.startswith("hpfa"):
            raise UsageError(
                f"objective: truth_weight and flow_weight need a fusion with HPFA, not {fusion}; "
                "set both to 0"
            )


def prediction_target(scheduler: Any, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """Return what the net must predict, by the scheduler's configuration: noise (Eq. 2), velocity
    or the clean latent.
    """
    kind = scheduler.config.prediction_type
    if kind == "v_prediction":
        velocity: Tensor = scheduler.get_velocity(clean, noise, timestep)
        return velocity
    return clean if kind == "sample" else noise


def draw_timesteps(
    objective: Objective, count: int, total: int, generator: torch.Generator
) -> Tensor:
    """Draw `count` timesteps, int64, below `total`."""
    share = torch.rand(count, generator=generator)
    if objective.timesteps == "high":
        share = 1 - share**3
    return (share * total).long().clamp(max=total - 1)


def latent_weights(labels: Tensor, size: tuple[int, int], strength: float) -> Tensor:
    """Return what each latent counts, from the target's map (B, H, W): (B, 1, h, w), mean 1 a row.

    A latent's weight is 1 + strength * (its share of person + its share of face and garments).
    """
    precious = torch.ones(len(LABELS), device=labels.device)
    precious[0] = 0.0
    precious[[LABEL_ID[name] for name in ("face", *GARMENTS)]] = 2.0
    share = F.adaptive_avg_pool2d(precious[labels][:, None], size)
    weights = 1 + strength * share
    return weights / weights.mean(dim=(2, 3), keepdim=True)


def carried_trust(target: Tensor, carried: Tensor, labels: Tensor) -> Tensor:
    """Say how far what a matcher carried may stand for the truth: on the person, where its place is
    sure and its colour, over `COLOUR_SIDE` cells, is the truth's.

    Args:
        target: The true latents, (B, c, h, w).
        carried: See `carried_latents`, (B, c + 1, h, w).
        labels: Parsing maps of the targets, int64 (B, H, W).

    Returns:
        (B, 1, h, w), 0..1.
    """
    latent, sure = carried[:, :-1].to(target.dtype), carried[:, -1:].to(target.dtype)
    size = (target.shape[2], target.shape[3])
    person = F.adaptive_avg_pool2d((labels > 0).to(target.dtype)[:, None], size)
    colour, other = (
        F.avg_pool2d(z, COLOUR_SIDE, 1, COLOUR_SIDE // 2, count_include_pad=False)
        for z in (latent, target)
    )
    apart = (colour - other).square().mean(dim=1, keepdim=True)
    least, enough = TRUSTED
    trust = ((sure - least) / (enough - least)).clamp(0, 1) * (person > 0.5)
    return trust * torch.exp(-((apart / COLOUR_REACH) ** 2))


def carried_target(target: Tensor, carried: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Move latents towards what a matcher carried to them, by `weight`, 0..1, where that can be
    trusted (ours); the other arguments are those of `carried_trust`.

    Where what is carried lies a little off the truth, squared error is least for the mean colour of
    the stripes. The carried stripes themselves can be learnt; and for who looks at the cloth they
    are right.

    Returns:
        (B, c, h, w).
    """
    trust = weight * carried_trust(target, carried, labels)
    return torch.lerp(target, carried[:, :-1].to(target.dtype), trust.expand_as(target))


def denoising_loss(
    batch: PairBatch,
    nets: Any,
    scheduler: Any,
    pose_style: str,
    objective: Objective,
    generator: torch.Generator,
    device: str | torch.device,
) -> dict[str, Tensor]:
    """Denoise the targets of a batch, each given its source (Eq. 2 and 10).

    Args:
        batch: B pairs.
        nets: `TruePoseNets`, or what wraps them.
        scheduler: The diffusers scheduler whose noise and kind of prediction count.
        pose_style: How the pose is drawn.
        objective: What counts how much.
        generator: A CPU generator; all that is random comes from it.
        device: Where the nets are.

    Returns:
        `loss`, what is minimised; `with_c`, the plain squared error of the rows that kept C, where
        there are any; and `truth` and `flow`, unweighted, where the objective has them.
    """
    batch, times = batch.to(device), objective.noises
    rows = len(batch) * times
    clean = batch.target.repeat(times, 1, 1, 1)
    noise = torch.randn(clean.shape, generator=generator).to(device)
    total = scheduler.config.num_train_timesteps
    timestep = draw_timesteps(objective, rows, total, generator).to(device)
    kept = torch.rand(rows, generator=generator) >= objective.condition_dropout
    keep = kept.to(device)
    height, width = batch.labels.shape[1:]
    pose = draw_pose(batch.joints, height, width, pose_style)
    if objective.carried_weight and batch.carried is not None:
        maps = batch.target_labels
        drawn = carried_target(batch.target, batch.carried, maps, objective.carried_weight)
        clean = torch.where(keep[:, None, None, None], drawn.repeat(times, 1, 1, 1), clean)
    noisy = scheduler.add_noise(clean, noise, timestep)
    predicted, seen, layers = nets(batch, noisy, timestep, pose, keep, watch=objective.watches)
    seen = [(index, query) for index, query in seen if query.shape[2] <= WATCHED_TOKENS]
    error = (predicted.float() - prediction_target(scheduler, clean, noise, timestep)).square()
    # `kept` is on the CPU: a GPU would be waited for.
    losses = {"with_c": error[keep].mean().detach()} if bool(kept.any()) else {}
    if objective.person_weight:
        size = tuple(error.shape[2:])
        weights = latent_weights(batch.target_labels, size, objective.person_weight)
        error = error * weights.repeat(times, 1, 1, 1)
    loss = error.mean()
    if objective.truth_weight:
        losses["truth"] = _truth_loss(batch, seen, layers, keep)
        loss = loss + objective.truth_weight * losses["truth"]
    if objective.flow_weight:
        losses["flow"] = _flow_loss(batch, seen, layers, keep)
        loss = loss + objective.flow_weight * losses["flow"]
    return {"loss": loss, **losses}


def layer_sizes(layers: Sequence[LayerConditions], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return height and width of each layer's tokens, from their number and the latent's size."""
    sizes: dict[int, tuple[int, int]] = {}
    while size[0] * size[1] not in sizes:
        sizes[size[0] * size[1]] = size
        size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    return [sizes[layer.key.shape[2]] for layer in layers]


def _size_of(batch: PairBatch) -> tuple[int, int]:
    """Return height and width of a batch's latents."""
    height, width = batch.target.shape[2:]
    return height, width


def _attention(query: Tensor, key: Tensor) -> Tensor:
    """Return HPFA's attention (B, N, N'), the mean over heads, in float32."""
    logits = query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
    weights: Tensor = logits.softmax(dim=-1).mean(dim=1)
    return weights


def _truth_loss(
    batch: PairBatch, seen: Sequence[tuple[int, Tensor]], layers: Sequence[Any], keep: Tensor
) -> Tensor:
    """Return the cross-entropy of HPFA's attention to the true one where that is known, a mean over
    layers.

    Raises:
        UsageError: If the pairs have no surfaces.
    """
    if batch.source_surface is None or batch.target_surface is None:
        raise UsageError("objective: truth_weight needs studio pictures; photos have no surfaces")
    times = len(keep) // len(batch)
    sizes = layer_sizes(layers, _size_of(batch))
    surfaces = batch.source_surface, batch.target_surface
    watched = {sizes[index] for index, _ in seen}
    truths = {size: true_attention(*surfaces, size, tolerance=TOLERANCE) for size in watched}
    losses = []
    for index, query in seen:
        truth, known = truths[sizes[index]]
        counts = (known.repeat(times, 1) & keep[:, None]).float()
        # Few tokens of a picture have a known source; the others' attention need not be made.
        most = max(1, int(counts.sum(dim=1).max()))
        rows = counts.argsort(dim=1, descending=True, stable=True)[:, :most]
        counts, wide = counts.gather(1, rows), rows[:, None, :, None]
        asked = query.gather(2, wide.expand(-1, query.shape[1], -1, query.shape[3]))
        wanted = truth.repeat(times, 1, 1).gather(1, rows[..., None].expand(-1, -1, truth.shape[2]))
        attention = _attention(asked, layers[index].key)
        entropy = -(wanted * (attention + 1e-6).log()).sum(dim=-1)
        losses.append((entropy * counts).sum() / counts.sum().clamp(min=1))
    return _mean_of(losses, keep)


def _flow_loss(
    batch: PairBatch, seen: Sequence[tuple[int, Tensor]], layers: Sequence[Any], keep: Tensor
) -> Tensor:
    """Return the squared error between the source's latent as HPFA's attention carries it over and
    the target's, in the target's person, a mean over layers (after Leffa, which carries pixels).
    """
    times = len(keep) // len(batch)
    losses = []
    sizes = layer_sizes(layers, _size_of(batch))
    for index, query in seen:
        size = sizes[index]
        source, target = (
            F.adaptive_avg_pool2d(latent, size).flatten(2).transpose(1, 2)
            for latent in (batch.sources[batch.source_of], batch.target)
        )
        person = F.adaptive_avg_pool2d((batch.target_labels > 0).float()[:, None], size)
        counts = person.flatten(1).repeat(times, 1) * keep[:, None]
        carried = _attention(query, layers[index].key) @ source.repeat(times, 1, 1)
        error = (carried - target.repeat(times, 1, 1)).square().mean(dim=-1)
        losses.append((error * counts).sum() / counts.sum().clamp(min=1))
    return _mean_of(losses, keep)


def _mean_of(losses: Sequence[Tensor], like: Tensor) -> Tensor:
    """Return the mean over layers; 0, beside `like`, where every layer was too fine to watch."""
    return torch.stack(list(losses)).mean() if losses else torch.zeros((), device=like.device)
