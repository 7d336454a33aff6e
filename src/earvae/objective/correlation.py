"""Correlation loss: coherence of phase, within each channel and between Left and Right.

Paper section 3.2. Both parts are one minus a weighted mean cosine of a phase difference. The
cosine comes from complex products, so nothing is unwrapped, and its weights carry no gradient.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from earvae.objective.spectrum import Planes


class Rotation(NamedTuple):
    """X_ours X_target* of a pair of channels: a phasor at the phase difference of each bin.

    Planes [batch, 2, frames, bins]; ``weight`` is its magnitude |X_ours| |X_target|.
    """

    cosine: Tensor
    sine: Tensor
    weight: Tensor


def rotation(ours: Planes, target: Planes) -> Rotation:
    """The rotation of every bin from the target to the reconstruction."""
    cosine = (ours.real * target.real).addcmul_(ours.imag, target.imag)
    # two rounded products: a fused one would leave a residue where the signals are equal
    sine = (ours.imag * target.real).sub_(ours.real * target.imag)
    weight = (cosine * cosine).addcmul_(sine, sine).sqrt_()
    return Rotation(cosine, sine, weight)


def intra(turn: Rotation, energy_floor: float, weight: float, angular: Tensor) -> Tensor:
    """1 - sum(w cos(phase difference)) / sum(w) in each channel, w = |X_ours| |X_target|.

    Args:
        energy_floor: added to the mean of w, so that silence gives 0.
        weight: factor of the derivative.
        angular: the derivative by the reconstruction's phase is added to it,
            [batch, 2, frames, bins].
    Returns: the mean over channels per item, [batch], in [0, 2]; 2 when polarity is flipped.
    """
    energy = turn.weight.mean(dim=(-2, -1))
    lost = energy - turn.cosine.mean(dim=(-2, -1))
    energy = energy + energy_floor
    frames, bins = turn.sine.shape[-2:]
    scale = weight / (energy * (2 * frames * bins))
    angular.addcmul_(turn.sine, scale[..., None, None])
    return (lost / energy).mean(dim=1)


def inter(turn: Rotation, energy_floor: float, weight: float, angular: Tensor) -> Tensor:
    """The same for the Left-Right phase difference; a rotation common to both costs nothing.

    The angle is arg(L_ours R_ours*) - arg(L_target R_target*), which is the rotation of Left
    less that of Right. w is the geometric mean of |L_ours R_ours| and |L_target R_target|, an
    energy like that of ``intra``.
    Args and returns: as for ``intra``; the derivative is opposite in Left and Right.
    """
    (cos_left, cos_right), (sin_left, sin_right) = turn.cosine.unbind(1), turn.sine.unbind(1)
    product = turn.weight[:, 0] * turn.weight[:, 1]
    inverse = product.clamp(min=1e-36).rsqrt_()
    energy = product.mul_(inverse).mean(dim=(-2, -1))  # sqrt of the product, 0 where it is 0
    cosine = (cos_left * cos_right).addcmul_(sin_left, sin_right).mul_(inverse)
    lost = energy - cosine.mean(dim=(-2, -1))
    energy = energy + energy_floor
    scale = weight / (energy * cosine[0].numel())
    sine = (sin_left * cos_right).addcmul_(cos_left, sin_right, value=-1).mul_(inverse)
    sine.mul_(scale[..., None, None])
    angular[:, 0] += sine
    angular[:, 1] -= sine
    return lost / energy
