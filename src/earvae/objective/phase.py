"""Phase terms: the two derivatives of phase, instantaneous frequency and group delay.

Paper section 3.2. The difference of two derivatives is the derivative of the phase difference,
so one plane of differences serves both: along frames (dim -2) a step is a difference in
instantaneous frequency, in radians per hop; along bins (dim -1) one in group delay, in radians
per bin, where a delay of d samples gives 2 pi d / N for a window of N samples. Slopes are by the
phase of the reconstruction.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from earvae.objective.comparison import Comparison, Term


def instantaneous_frequency(seen: Comparison) -> Term:
    """sum(w |step|) / sum(w), the steps of the phase difference from frame to frame."""
    return _derivative(seen, dim=-2)


def group_delay(seen: Comparison) -> Term:
    """sum(w |step|) / sum(w), the steps of the phase difference from bin to bin."""
    return _derivative(seen, dim=-1)


def _derivative(seen: Comparison, dim: int) -> Term:
    """sum(w |step|) / sum(w) along ``dim``, with slope w sign(step) / sum(w) by the step.

    w is the product of the target's strength in the two neighbours. With ``phase_wrap`` a step is
    taken modulo 2 pi into [-pi, pi] first.

    Returns: the mean over channels, at most pi if wrapped, 4 pi if not; 0 in silence.
    """
    difference, config = seen.phase_difference, seen.config
    if difference.shape[dim] == 1:  # a single frame has no neighbour in time
        nothing = torch.zeros_like(difference)
        return Term(nothing.sum(dim=(-3, -2, -1)), nothing, nothing.sum(dim=(-2, -1)))
    step = difference.diff(dim=dim)
    if config.phase_wrap:
        step.sub_((step / math.tau).round_(), alpha=math.tau)
    count = step[0].numel()
    slope = step.sign()
    if config.phase_weighting == "none":
        scale = step.new_full(step.shape[:2], 1 / count)
        return Term(step.abs_().mean(dim=(-3, -2, -1)), _by_phase(slope, dim), scale)
    strength = seen.target_magnitude
    if config.phase_weighting == "amplitude":
        strength = strength.sqrt()
    steps = step.shape[dim]
    weight = strength.narrow(dim, 1, steps) * strength.narrow(dim, 0, steps)
    level = weight.mean(dim=(-2, -1)) + seen.weight_floor
    slope.mul_(weight)
    value = step.mul_(slope).mean(dim=(-2, -1)) / level
    return Term(value.mean(dim=1), _by_phase(slope, dim), 1 / (level * count))


def _by_phase(slope: Tensor, dim: int) -> Tensor:
    """A slope by phase from one by steps: a step rises with the later phase, falls with the earlier."""
    steps = slope.shape[dim]
    shape = list(slope.shape)
    shape[dim] += 1
    plane = slope.new_zeros(shape)
    plane.narrow(dim, 1, steps).copy_(slope)
    plane.narrow(dim, 0, steps).sub_(slope)
    return plane
