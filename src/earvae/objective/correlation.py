"""Correlation terms: coherence of phase, within each channel and between Left and Right.

Paper section 3.2. Both are one minus a weighted mean cosine of a phase difference, in [0, 2]; 2
when polarity is flipped. The cosine comes from complex products, so nothing is unwrapped, and the
weights carry no gradient. Slopes are by the phase of the reconstruction.
"""

from __future__ import annotations

import torch

from earvae.objective.comparison import Phases, Rotation, Term

EPSILON = 1e-8
"""Added to |X_ours| |X_target| of spectra under a window with peak 1, as in the released loss."""

SILENCE = 1e-16
"""|X_ours| |X_target| below which a bin has no phase to compare: two signals at -160 dB."""


def correlation_intra(phases: Phases) -> Term:
    """1 - sum(w cos a) / sum(w) for each channel, a = arg(X_ours X_target*); mean of channels."""
    return _incoherence(phases.turn, phases)


def correlation_inter(phases: Phases) -> Term:
    """1 - sum(w cos a) / sum(w), a = arg(L_ours R_ours*) - arg(L_target R_target*).

    The slope rises with Left's phase and falls with Right's.
    """
    value, plane, scale, _ = _incoherence(_between(phases.turn), phases)
    return Term(value, plane.expand(-1, 2, -1, -1), torch.cat((scale, -scale), dim=1))


def _between(turn: Rotation) -> Rotation:
    """The rotation of Left less that of Right: [batch, 1, frames, bins].

    A rotation common to both channels is none. The weight is the geometric mean of
    |L_ours R_ours| and |L_target R_target|, an energy like that of ``turn``.
    """
    (cos_left, cos_right), (sin_left, sin_right), (left, right) = (
        plane.split(1, dim=1) for plane in turn
    )
    product = left * right
    inverse = product.clamp(min=1e-36).rsqrt_()
    cosine = (cos_left * cos_right).addcmul_(sin_left, sin_right).mul_(inverse)
    sine = (sin_left * cos_right).addcmul_(cos_left, sin_right, value=-1).mul_(inverse)
    return Rotation(cosine, sine, product.mul_(inverse))  # sqrt of the product, 0 where it is 0


def _weighted(turn: Rotation, weighting: str) -> Rotation:
    """The same angles with the weights of the config instead of energies.

    ``energy`` leaves them. ``amplitude`` takes their square root. ``none``, the released loss,
    divides by energy + epsilon: every bin weighs 1, and its phasor shrinks to 0 below epsilon.
    A bin below ``SILENCE`` weighs 0.
    """
    if weighting == "energy":
        return turn
    if weighting == "amplitude":
        factor = turn.weight.clamp(min=1e-36).rsqrt_()
        weight = turn.weight * factor
    else:
        length = 2 * (turn.weight.shape[-1] - 1)  # a Hann window of peak 1 has energy 3/8 length
        factor = (turn.weight + EPSILON / (0.375 * length)).reciprocal_()
        weight = (turn.weight > SILENCE).to(factor.dtype)
    return Rotation(turn.cosine * factor, turn.sine * factor, weight)


def _incoherence(turn: Rotation, phases: Phases) -> Term:
    """1 - sum(w cos) / sum(w) over frames and bins, and its slope by the angle: w sin / sum(w).

    Returns: the mean over channels; 0 in silence, as the mean of w has a floor.
    """
    cosine, sine, weight = _weighted(turn, phases.config.phase_weighting)
    level = weight.mean(dim=(-2, -1))
    lost = level - cosine.mean(dim=(-2, -1))
    level = level + phases.weight_floor
    return Term((lost / level).mean(dim=1), sine, 1 / (level * sine[0].numel()))
