"""Multi-scale magnitude loss: L1 on linear plus L1 on log magnitude (EnCodec's pair).

Paper section 3.3; Défossez et al., "High fidelity neural audio compression", 2022.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

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
