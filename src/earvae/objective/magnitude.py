"""Multi-scale magnitude loss: L1 on linear plus L1 on log magnitude (EnCodec's pair).

Paper section 3.3; Défossez et al., "High fidelity neural audio compression", 2022. And, not in
the paper, L1 on log mel magnitudes, as in Kumar et al., "High-fidelity audio compression with
improved RVQGAN", 2023: a band has a level where its bins have only chance.

Magnitudes are m = sqrt(|X|^2 + floor^2), [batch, 2, frames, bins]; slopes are by ln m.
"""

from __future__ import annotations

import torch
from torch import Tensor

from earvae.mel import mel_filters
from earvae.objective.spectrum import Term


def linear_and_log(magnitude: Tensor, target: Tensor, level: Tensor) -> tuple[Term, Term]:
    """mean |m - t| / level, with slope m sign(m - t); mean |ln m - ln t|, with slope sign(m - t).

    Args:
        magnitude: m of the reconstruction; overwritten.
        target: t, that of the target.
        level: the target's mean magnitude, [batch]; divides the linear term so that it does
            not change when both signals get louder.
    """
    each = magnitude.new_full(level.shape, 1 / magnitude[0].numel())
    log = (magnitude / target).log_().abs_().mean(dim=(-3, -2, -1))
    error = magnitude - target
    sign = error.sign()
    linear = error.abs_().mean(dim=(-3, -2, -1)) / level
    return Term(linear, magnitude.mul_(sign), each / level), Term(log, sign, each)


def mel(magnitude: Tensor, target: Tensor, filters: Tensor) -> Term:
    """mean |ln b - ln b_target| over mel bands b = sum(filter m).

    Args:
        magnitude, target: of the reconstruction and of the target.
        filters: [bins, bands], of ``widest_mel_filters``.
    """
    bands = magnitude @ filters
    difference = (bands / (target @ filters)).log_()
    by_band = difference.sign().div_(bands)  # slope of the sum by each band
    value = difference.abs_().mean(dim=(-3, -2, -1))
    each = value.new_full(value.shape, 1 / difference[0].numel())
    return Term(value, (by_band @ filters.T).mul_(magnitude), each)


def widest_mel_filters(sample_rate: float, length: int) -> Tensor:
    """As many of 64, 32, … mel bands as windows of ``length`` resolve: [length / 2 + 1, bands]."""
    bands = 64
    while bands > 1:
        try:
            return mel_filters(sample_rate, length, bands).T.contiguous()
        except ValueError:  # a band without a bin
            bands //= 2
    return torch.ones(length // 2 + 1, 1)
