"""Phase loss by the two derivatives of phase: instantaneous frequency and group delay.

Paper section 3.2. The difference of two derivatives is the derivative of the phase difference,
so one plane of differences serves both: along frames (dim -2) a step is a difference in
instantaneous frequency, in radians per hop; along bins (dim -1) one in group delay, in radians
per bin, where a delay of d samples gives 2 pi d / N for a window of N samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from earvae.objective.correlation import Rotation
from earvae.objective.spectrum import Planes, Term


def derivative_difference(
    difference: Tensor, strength: Tensor | None, dim: int, wrap: bool, floor: float
) -> Term:
    """sum(w |step|) / sum(w), and its slope by the step: w sign(step) / sum(w).

    ``add_steps`` takes the slope by the step to that by the phase.

    Args:
        difference: phase of the reconstruction less that of the target, radians,
            [batch, channels, frames, bins].
        strength: of the same shape; w is the product of two neighbours. None: w = 1.
        dim: -2 or -1.
        wrap: take a step modulo 2 pi into [-pi, pi] first.
        floor: added to the mean of w, so that silence gives 0.
    Returns: the mean over channels; at most pi if wrapped, 4 pi if not.
    """
    steps = difference.shape[dim] - 1
    if steps == 0:  # a single frame has no neighbour in time
        empty = difference.narrow(dim, 0, 0)
        return Term(empty.sum(dim=(-3, -2, -1)), empty, empty.sum(dim=(-2, -1)))
    step = difference.narrow(dim, 1, steps) - difference.narrow(dim, 0, steps)
    if wrap:
        step.sub_((step / math.tau).round_(), alpha=math.tau)
    count = step[0].numel()
    if strength is None:
        slope = step.sign()
        scale = step.new_full(step.shape[:2], 1 / count)
        return Term(step.abs_().mean(dim=(-3, -2, -1)), slope, scale)
    weight = strength.narrow(dim, 1, steps) * strength.narrow(dim, 0, steps)
    level = weight.mean(dim=(-2, -1)) + floor
    slope = weight.mul_(step.sign())
    value = step.mul_(slope).mean(dim=(-2, -1)) / level
    return Term(value.mean(dim=1), slope, 1 / (level * count))


def add_steps(total: Tensor, slope: Tensor, dim: int, scale: Tensor) -> None:
    """Adds ``scale`` times a slope by steps along ``dim`` to a slope by phase, in place.

    A step rises with the later phase and falls with the earlier one.
    """
    steps = slope.shape[dim]
    total.narrow(dim, 1, steps).addcmul_(slope, scale)
    total.narrow(dim, 0, steps).addcmul_(slope, scale, value=-1)


def wrapped_difference(turn: Rotation) -> Tensor:
    """The angle of the rotation, in [-pi, pi]; 0 where either signal is silent."""
    return torch.atan2(turn.sine, turn.cosine + 0.0)  # -0 + 0 is 0; the angle of -0 would be pi


def difference_of_wrapped(ours: Planes, target: Planes) -> Tensor:
    """The phase of one less the phase of the other, each wrapped, as released: (-2 pi, 2 pi)."""
    return _angle(ours).sub_(_angle(target))


def _angle(signal: Planes) -> Tensor:
    """Minus the angle of the conjugate, in [-pi, pi): a negative real bin has -pi, as released.

    It tells at 0 Hz and at half the sample rate, where every bin is real. Silence has 0.
    """
    return torch.atan2(0.0 - signal.imag, signal.real + 0.0).neg_()
