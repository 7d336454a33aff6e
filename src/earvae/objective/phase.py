"""Phase loss by the two derivatives of phase: instantaneous frequency and group delay."""

from __future__ import annotations

import torch
from torch import Tensor

from earvae.objective.spectrum import power, unit


def instantaneous_frequency(reconstruction: Tensor, target: Tensor, level_floor: float) -> Tensor:
    """Wrapped difference of phase advance from frame to frame, in radians (paper section 3.2).

    Args:
        reconstruction, target: complex [batch, channels, frames, bins].
        level_floor: RMS level whose energy is added to the denominator, so silence counts 0.
    Returns: a scalar in [0, pi], the mean weighted by the target's energy.
    """
    return _derivative_difference(reconstruction, target, -2, level_floor)


def group_delay(reconstruction: Tensor, target: Tensor, level_floor: float) -> Tensor:
    """Wrapped difference of phase advance from bin to bin, in radians (paper section 3.2).

    A delay of d samples shifts it by 2 pi d / N for a window of N samples.

    Args and returns: as in ``instantaneous_frequency``.
    """
    return _derivative_difference(reconstruction, target, -1, level_floor)


def _derivative_difference(
    reconstruction: Tensor, target: Tensor, dim: int, level_floor: float
) -> Tensor:
    steps = target.shape[dim] - 1
    ratio = unit(reconstruction) * unit(target).conj()  # e^(j phase difference)
    turn = ratio.narrow(dim, 1, steps) * ratio.narrow(dim, 0, steps).conj()
    energy = power(target).sqrt()
    weight = energy.narrow(dim, 1, steps) * energy.narrow(dim, 0, steps)
    silent = (turn == 0).detach()
    angle = torch.atan2(turn.imag, turn.real.masked_fill(silent, 1.0)).abs()
    total = (weight * angle).mean(dim=(-2, -1))
    return (total / (weight.mean(dim=(-2, -1)) + level_floor**2)).mean()
