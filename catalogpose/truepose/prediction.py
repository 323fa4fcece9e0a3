"""TargetNet as the sampler asks it: a prediction for each step, guided (TruePose, Eq. 5 and 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from catalogpose.truepose.conditions import Conditions
from catalogpose.truepose.sampling import Predict, guide
from catalogpose.truepose.siamese import TargetNet


def make_predictor(
    unet: TargetNet,
    conditions: Sequence[Conditions],
    pose: Tensor,
    carried: Tensor | None,
    scale: float,
) -> Predict:
    """Return the guided prediction of a batch; at scale 1 of its conditional half alone.

    Args:
        unet: What predicts.
        conditions: C, one a picture.
        pose: Features of the poses, (B, C_0, h, w).
        carried: See `carried_latents`, (B, c + 1, h, w); None: nothing is carried.
        scale: Of Eq. 11.
    """
    halves = 1 if scale == 1 else 2
    poses = pose.repeat(halves, 1, 1, 1)
    stacked = Conditions.stack(conditions, unconditional=len(pose) if halves == 2 else 0)
    stacked = replace(stacked, carried=carried)

    def predict(latent: Tensor, timestep: Tensor) -> Tensor:
        """Run both halves in one batch and guide (Eq. 11)."""
        both = latent.to(unet.dtype).repeat(halves, 1, 1, 1)
        output: Tensor = unet(both, timestep.to(latent.device), poses, stacked).float()
        if halves == 1:
            return output
        unconditional, conditional = output.chunk(2)
        return guide(unconditional, conditional, scale)

    return predict
