"""Magnitude terms: L1 on linear, on log and on log mel magnitudes.

Linear plus log are the paper's pair (section 3.3; Défossez et al., "High fidelity neural audio
compression", 2022). The mel term is not in the paper (Kumar et al., "High-fidelity audio
compression with improved RVQGAN", 2023): a band has a level where its bins have only chance.

m is the magnitude of the reconstruction, t that of the target, [batch, 2, frames, bins].
"Mean" is over channels, frames and bins. Slopes are by ln m.
"""

from __future__ import annotations

import torch
from torch import Tensor

from earvae.mel import mel_filters
from earvae.objective.comparison import EACH, Magnitudes, Term


def magnitude_linear(magnitudes: Magnitudes) -> Term:
    """mean |m - t| / mean t, with slope m sign(m - t) / mean t.

    The target's mean magnitude divides, so that the term does not change when both signals get
    louder.
    """
    m, t, level, _ = magnitudes
    error = m - t
    sign = error.sign()
    value = error.abs_().mean(dim=EACH) / level
    return Term(value, sign.mul_(m), 1 / (level * m[0].numel()))


def magnitude_log(magnitudes: Magnitudes) -> Term:
    """mean |ln m - ln t|, with slope sign(m - t)."""
    difference = (magnitudes.ours / magnitudes.target).log_()
    sign = difference.sign()
    value = difference.abs_().mean(dim=EACH)
    return Term(value, sign, torch.full_like(value, 1 / sign[0].numel()))


def magnitude_mel(magnitudes: Magnitudes) -> Term:
    """mean |ln b - ln b_target| over mel bands b = sum(filter m), with slope by ln m through b."""
    m, t, _, filters = magnitudes
    filters = filters.to(m.dtype)
    bands = m @ filters
    difference = (bands / (t @ filters)).log_()
    by_band = difference.sign().div_(bands)  # slope of the sum by each band
    value = difference.abs_().mean(dim=EACH)
    plane = (by_band @ filters.T).mul_(m)
    return Term(value, plane, torch.full_like(value, 1 / difference[0].numel()))


def widest_mel_filters(sample_rate: float, length: int) -> Tensor:
    """As many of 64, 32, … mel bands as windows of ``length`` resolve: [length / 2 + 1, bands]."""
    bands = 64
    while bands > 1:
        try:
            return mel_filters(sample_rate, length, bands).T.contiguous()
        except ValueError:  # a band without a bin
            bands //= 2
    return torch.ones(length // 2 + 1, 1)
