"""What a term of the objective sees, and what it gives back.

A term with a hand-written slope is a function of ``Magnitudes`` or ``Phases`` that returns a
``Term``: its value, and its slope by log |X| or by the phase of X of every bin of the
reconstruction. Weights and the way back to audio are the caller's (``spectral.py``), so a term is
a formula of a few lines, and all terms share one pass back through the transform.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from earvae.config import ObjectiveConfig
from earvae.objective.spectrum import Planes

EACH = (-3, -2, -1)  # dimensions of an item's channels, frames and bins


class Term(NamedTuple):
    """One term of the objective: plain mathematics, without its weight in the sum.

    The slope is ``scale * plane``. The two are kept apart so that ``add_to`` passes over the plane
    once.
    """

    value: Tensor
    """Per item, [batch]."""
    plane: Tensor
    """[batch, 2, frames, bins]; it is only read."""
    scale: Tensor
    """[batch] or [batch, 2]."""
    along: int | None = None
    """-2 or -1 if ``plane`` is the slope by steps from frame to frame, or from bin to bin."""

    def add_to(self, slope: Tensor | None, weight: Tensor) -> Tensor:
        """``slope``, if there is one yet, plus ``weight`` times the term's own, in place."""
        scale = weight * self.scale
        scale = scale.reshape(*scale.shape, *(1,) * (self.plane.ndim - scale.ndim))
        if self.along is None:
            return self.plane * scale if slope is None else slope.addcmul_(self.plane, scale)
        steps = self.plane.shape[self.along]  # each rises with the later phase
        if slope is None:
            shape = list(self.plane.shape)
            shape[self.along] += 1
            slope = self.plane.new_zeros(shape)
        slope.narrow(self.along, 1, steps).addcmul_(self.plane, scale)
        slope.narrow(self.along, 0, steps).addcmul_(self.plane, scale, value=-1)
        return slope


class Magnitudes(NamedTuple):
    """Magnitudes m = sqrt(|X|^2 + log_floor^2) of a channel pair, [batch, 2, frames, bins]."""

    ours: Tensor
    target: Tensor
    level: Tensor
    """The target's mean over all compared channels, [batch]; ``level_floor`` at least."""
    filters: Tensor | None
    """Mel filters [bins, bands], if a term needs them."""


class Rotation(NamedTuple):
    """A phasor per bin, ``weight`` long, at a phase difference; planes [batch, ..., frames, bins].

    ``cosine`` and ``sine`` are the phasor's two parts.
    """

    cosine: Tensor
    sine: Tensor
    weight: Tensor


class _once:
    """A property computed when first asked for (that of functools takes a lock, which does not
    compile)."""

    def __init__(self, compute: Callable) -> None:
        self.compute = compute

    def __get__(self, instance, owner=None):
        value = self.compute(instance)
        setattr(instance, self.compute.__name__, value)
        return value


@dataclass(eq=False)
class Phases:
    """Spectra of a channel pair, [batch, 2, frames, bins], with what several phase terms need.

    Args:
        ours, target: of the reconstruction and of the target.
        target_magnitude: that of ``Magnitudes``.
        config: the options of the phase terms.
    """

    ours: Planes
    target: Planes
    target_magnitude: Tensor
    config: ObjectiveConfig

    @_once
    def turn(self) -> Rotation:
        """X_ours X_target*: the turn from the target to the reconstruction.

        The weight is an energy, |X_ours| |X_target|.
        """
        ours, target = self.ours, self.target
        zero = ours.real.new_zeros(())  # 0 - 0 is 0; a bin of -0 would have the angle pi
        cosine = torch.addcmul(zero, ours.real, target.real).addcmul_(ours.imag, target.imag)
        # two rounded products: a fused one would leave a residue where the signals are equal
        sine = (ours.imag * target.real).sub_(ours.real * target.imag)
        weight = (cosine * cosine).addcmul_(sine, sine).sqrt_()
        return Rotation(cosine, sine, weight)

    @_once
    def difference(self) -> Tensor:
        """The phase of the reconstruction less that of the target, radians.

        It is the angle of ``turn`` in [-pi, pi], 0 where either signal is silent; or with
        ``phase_wrap`` off, as released, one wrapped phase less the other, in (-2 pi, 2 pi).
        """
        if self.config.phase_wrap:
            return torch.atan2(self.turn.sine, self.turn.cosine)
        return _angle(self.ours).sub_(_angle(self.target))

    @property
    def weight_floor(self) -> float:
        """What is added to the mean weight of the bins, so that silence gives 0.

        It is ``level_floor`` in the units of the weights: an energy, an amplitude, or a mere count.
        """
        level = self.config.level_floor
        return {"energy": level**2, "amplitude": level, "none": 1e-12}[self.config.phase_weighting]


def _angle(signal: Planes) -> Tensor:
    """Minus the angle of the conjugate, in [-pi, pi): a negative real bin has -pi, as released.

    It matters at 0 Hz and at half the sample rate, where every bin is real. Silence has 0.
    """
    return torch.atan2(0.0 - signal.imag, signal.real + 0.0).neg_()
