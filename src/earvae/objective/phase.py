"""Phase loss by the two derivatives of phase: instantaneous frequency and group delay.

Paper section 3.2. The derivative of the phase difference is the difference of the derivatives,
so one angle per bin, that of X_ours X_target*, serves both, and wrapping is exact.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def derivative_difference(
    angle: Tensor,
    target_magnitude: Tensor,
    dim: int,
    energy_floor: float,
    weight: float,
    angular: Tensor,
) -> Tensor:
    """Mean wrapped |difference| of the phase step along ``dim``, weighted by the target's energy.

    Along frames (dim -2) it is the difference in instantaneous frequency, in radians per hop;
    along bins (dim -1) that in group delay, in radians per bin: a delay of d samples gives
    2 pi d / N for a window of N samples.

    Args:
        angle: phase difference of reconstruction and target, radians, [batch, 2, frames, bins].
        target_magnitude: of the same shape; w is the product of two neighbours.
        energy_floor: added to the mean of w, so that silence gives 0.
        weight: factor of the derivative.
        angular: the derivative by the reconstruction's phase is added to it.
    Returns: the mean over channels per item, [batch], in [0, pi].
    """
    steps = angle.shape[dim] - 1
    if steps == 0:  # a single frame has no neighbour in time
        return angle.new_zeros(angle.shape[0])
    later, earlier = angle.narrow(dim, 1, steps), angle.narrow(dim, 0, steps)
    step = later - earlier
    step.sub_((step / math.tau).round_(), alpha=math.tau)
    energy = target_magnitude.narrow(dim, 1, steps) * target_magnitude.narrow(dim, 0, steps)
    mean_energy = energy.mean(dim=(-2, -1)) + energy_floor
    slope = energy.mul_(step.sign())
    value = step.mul_(slope).mean(dim=(-2, -1)) / mean_energy
    slope.mul_((weight / (mean_energy * (2 * slope[0, 0].numel())))[..., None, None])
    angular.narrow(dim, 1, steps).add_(slope)
    angular.narrow(dim, 0, steps).sub_(slope)
    return value.mean(dim=1)


def angle(cosine: Tensor, sine: Tensor) -> Tensor:
    """The angle of a phasor, 0 for the phasor 0."""
    return torch.atan2(sine, cosine + 0.0)  # -0 + 0 is 0; the angle of -0 would be pi
