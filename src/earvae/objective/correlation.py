"""Correlation loss: coherence of phase, within each channel and between Left and Right."""

from __future__ import annotations

from torch import Tensor

from earvae.objective.spectrum import power, unit


def correlation_intra(reconstruction: Tensor, target: Tensor, level_floor: float) -> Tensor:
    """1 - sum(w cos(phase difference)) / sum(w), per item and channel, then the mean.

    The cosine is the real part of a product of unit phasors, so nothing is unwrapped. The
    weights w = |reconstruction| |target| carry no gradient (paper section 3.2).

    Args:
        reconstruction, target: complex [batch, channels, frames, bins].
        level_floor: RMS level whose energy is added to the denominator, so silence counts 0.
    Returns: a scalar in [0, 2]; 0 for equal phases, 2 for opposite ones.
    """
    weight = (power(reconstruction) * power(target)).detach().sqrt()
    cosine = (unit(reconstruction) * unit(target).conj()).real
    return _incoherence(weight, cosine, level_floor).mean()


def correlation_inter(reconstruction: Tensor, target: Tensor, level_floor: float) -> Tensor:
    """1 - sum(w cos(difference of the Left-Right phase differences)) / sum(w), per item.

    w is the geometric mean of |L||R| of both signals: an energy, as within a channel. A phase
    rotation common to Left and Right costs nothing.

    Args:
        reconstruction, target: complex [batch, 2, frames, bins], Left and Right.
        level_floor: as in ``correlation_intra``.
    Returns: a scalar in [0, 2].
    """
    left, right = unit(reconstruction).unbind(1)
    target_left, target_right = unit(target).unbind(1)
    cosine = (left * right.conj() * (target_left * target_right.conj()).conj()).real
    ours = power(reconstruction).detach().prod(dim=1)
    theirs = power(target).prod(dim=1)
    weight = (ours.sqrt() * theirs.sqrt()).sqrt()
    return _incoherence(weight, cosine, level_floor).mean()


def _incoherence(weight: Tensor, cosine: Tensor, level_floor: float) -> Tensor:
    lost = (weight * (1 - cosine)).mean(dim=(-2, -1))
    return lost / (weight.mean(dim=(-2, -1)) + level_floor**2)
