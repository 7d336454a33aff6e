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

from earvae.objective.comparison import EACH, Phases, Term


def instantaneous_frequency(phases: Phases) -> Term:
    """sum(w |step|) / sum(w), the steps of the phase difference from frame to frame."""
    return _derivative(phases, dim=-2)


def group_delay(phases: Phases) -> Term:
    """sum(w |step|) / sum(w), the steps of the phase difference from bin to bin."""
    return _derivative(phases, dim=-1)


def _derivative(phases: Phases, dim: int) -> Term:
    """sum(w |step|) / sum(w) along ``dim``, with slope w sign(step) / sum(w) by the step.

    w is the product of the target's strength in the two neighbours. With ``phase_wrap`` a step is
    taken modulo 2 pi into [-pi, pi] first.

    Returns: the mean over channels, at most pi if wrapped, 4 pi if not; 0 in silence.
    """
    difference, config = phases.difference, phases.config
    steps = difference.shape[dim] - 1
    if steps == 0:  # a single frame has no neighbour in time
        nothing = torch.zeros_like(difference)
        return Term(nothing.sum(dim=EACH), nothing, nothing.sum(dim=(-2, -1)))
    step = difference.narrow(dim, 1, steps) - difference.narrow(dim, 0, steps)
    if config.phase_wrap:
        step.sub_((step / math.tau).round_(), alpha=math.tau)
    if config.phase_weighting == "none":
        scale = step.new_full(step.shape[:2], 1 / step[0].numel())
        return Term(step.abs().mean(dim=EACH), step.sign_(), scale, dim)
    strength = phases.target_magnitude
    if config.phase_weighting == "amplitude":
        strength = strength.sqrt()
    weight = strength.narrow(dim, 1, steps) * strength.narrow(dim, 0, steps)
    level = weight.mean(dim=(-2, -1)) + phases.weight_floor
    slope = weight.mul_(step.sign())
    value = step.mul_(slope).mean(dim=(-2, -1)) / level
    return Term(value.mean(dim=1), slope, 1 / (level * step[0].numel()), dim)
