"""Multi-scale magnitude loss: L1 on linear plus L1 on log magnitude (EnCodec's pair).

Paper section 3.3; Défossez et al., "High fidelity neural audio compression", 2022. And, not in
the paper, L1 on log mel magnitudes, as in Kumar et al., "High-fidelity audio compression with
improved RVQGAN", 2023: a band has a level where its bins have only chance.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from earvae.mel import mel_filters
from earvae.objective.spectrum import Planes


class MagnitudeTerms(NamedTuple):
    """Values per item, [batch], and the derivative by log magnitude, [batch, 2, frames, bins]."""

    linear: Tensor
    log: Tensor
    radial: Tensor


def magnitude_terms(
    ours: Planes, target_magnitude: Tensor, level: Tensor, weight_linear: float, weight_log: float
) -> MagnitudeTerms:
    """Compare magnitudes m = sqrt(|X|^2 + floor^2) of one pair of channels at one resolution.

    linear = mean |m - m_target| / level, log = mean |ln m - ln m_target| (nepers). The
    derivative is that of weight_linear * linear + weight_log * log.

    Args:
        ours: the reconstruction.
        target_magnitude: m_target, [batch, 2, frames, bins].
        level: the target's mean magnitude, [batch]; divides the linear term so that it does
            not change when both signals get louder.
    """
    count = target_magnitude[0].numel()
    dims = (-3, -2, -1)
    magnitude = ours.power.sqrt()
    log = (magnitude / target_magnitude).log_().abs_().mean(dim=dims)
    error = magnitude - target_magnitude
    sign = error.sign()
    linear = error.abs_().mean(dim=dims) / level
    per_bin = (weight_linear / (count * level))[:, None, None, None]
    radial = magnitude.mul_(per_bin).add_(weight_log / count).mul_(sign)
    return MagnitudeTerms(linear, log, radial)


def mel_term(
    ours: Planes, target_magnitude: Tensor, filters: Tensor, weight: float
) -> tuple[Tensor, Tensor]:
    """mean |ln b - ln b_target| over mel bands b of magnitudes, of one pair of channels.

    Args:
        filters: [bins, bands], of ``widest_mel_filters``.
    Returns the value per item, [batch], and ``weight`` times its derivative by log magnitude,
    [batch, 2, frames, bins].
    """
    magnitude = ours.power.sqrt()
    bands = magnitude @ filters
    difference = (bands / (target_magnitude @ filters)).log_()
    count = difference[0].numel()
    slope = difference.sign().mul_(weight / count).div_(bands)
    return difference.abs_().mean(dim=(-3, -2, -1)), magnitude.mul_(slope @ filters.T)


def widest_mel_filters(sample_rate: float, length: int) -> Tensor:
    """As many of 64, 32, … mel bands as windows of ``length`` resolve: [length / 2 + 1, bands]."""
    bands = 64
    while bands > 1:
        try:
            return mel_filters(sample_rate, length, bands).T.contiguous()
        except ValueError:  # a band without a bin
            bands //= 2
    return torch.ones(length // 2 + 1, 1)
