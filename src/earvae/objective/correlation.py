"""Correlation loss: coherence of phase, within each channel and between Left and Right.

Paper section 3.2. Both parts are one minus a weighted mean cosine of a phase difference. The
cosine comes from complex products, so nothing is unwrapped, and the weights carry no gradient.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from earvae.objective.spectrum import Planes, Term

EPSILON = 1e-8
"""Added to |X_ours| |X_target| of spectra under a window with peak 1, as in the released loss."""

SILENCE = 1e-16
"""|X_ours| |X_target| below which a bin has no phase to compare: two signals at -160 dB."""

Weighting = Literal["none", "amplitude", "energy"]


class Rotation(NamedTuple):
    """A phasor per bin, ``weight`` long, at a phase difference; planes [batch, ..., frames, bins].

    ``cosine`` and ``sine`` are the phasor's two parts.
    """

    cosine: Tensor
    sine: Tensor
    weight: Tensor


def rotation(ours: Planes, target: Planes) -> Rotation:
    """X_ours X_target* of a channel pair: the turn from the target to the reconstruction.

    Planes [batch, 2, frames, bins]; the weight is an energy, |X_ours| |X_target|.
    """
    cosine = (ours.real * target.real).addcmul_(ours.imag, target.imag)
    # two rounded products: a fused one would leave a residue where the signals are equal
    sine = (ours.imag * target.real).sub_(ours.real * target.imag)
    weight = (cosine * cosine).addcmul_(sine, sine).sqrt_()
    return Rotation(cosine, sine, weight)


def between(turn: Rotation) -> Rotation:
    """The rotation of Left less that of Right: [batch, 1, frames, bins].

    Its angle is arg(L_ours R_ours*) - arg(L_target R_target*), so a rotation common to both
    channels is none. Its weight is the geometric mean of |L_ours R_ours| and |L_target R_target|,
    an energy like that of ``rotation``.
    """
    cos_left, cos_right = turn.cosine[:, :1], turn.cosine[:, 1:]
    sin_left, sin_right = turn.sine[:, :1], turn.sine[:, 1:]
    product = turn.weight[:, :1] * turn.weight[:, 1:]
    inverse = product.clamp(min=1e-36).rsqrt_()
    cosine = (cos_left * cos_right).addcmul_(sin_left, sin_right).mul_(inverse)
    sine = (sin_left * cos_right).addcmul_(cos_left, sin_right, value=-1).mul_(inverse)
    return Rotation(cosine, sine, product.mul_(inverse))  # sqrt of the product, 0 where it is 0


def weighted(turn: Rotation, weighting: Weighting, epsilon: float, scale: float) -> Rotation:
    """The same angles with the weights of the config instead of energies.

    ``energy`` leaves them. ``amplitude`` takes their square root. ``none``, the released loss,
    divides by energy + epsilon: every bin weighs 1, and its phasor shrinks to 0 below epsilon.
    A bin below ``SILENCE`` weighs 0.

    Args:
        epsilon: ``EPSILON`` in the units of these spectra, which have a window of unit energy.
        scale: factor by which both spectra are too large (Mid and Side are held times sqrt 2).
    """
    if weighting == "energy":
        return turn
    if weighting == "amplitude":
        factor = turn.weight.clamp(min=1e-36).rsqrt_()
        weight = turn.weight * factor
    else:
        factor = (turn.weight + epsilon * scale**2).reciprocal_()
        weight = (turn.weight > SILENCE * scale**2).to(factor.dtype)
    return Rotation(turn.cosine * factor, turn.sine * factor, weight)


def incoherence(turn: Rotation, floor: float) -> Term:
    """1 - sum(w cos) / sum(w) over frames and bins, and its slope by the angle: w sin / sum(w).

    Args:
        turn: [batch, channels, frames, bins]; w is its weight.
        floor: added to the mean of w, so that silence gives 0.
    Returns: values in [0, 2], the mean over channels; 2 when polarity is flipped.
    """
    level = turn.weight.mean(dim=(-2, -1))
    lost = level - turn.cosine.mean(dim=(-2, -1))
    level = level + floor
    return Term((lost / level).mean(dim=1), turn.sine, 1 / (level * turn.sine[0].numel()))
