"""The likelihood of music under what a decoder expects: a mean, and noise for the rest.

A decoder that knows a part of every coefficient and no more says so: the part as a mean, the rest
as the variance of noise. The likelihood of the music then teaches both at once. The mean becomes
what can be told of a waveform, at any level, for errors count against the variance that is
expected there; and the variance becomes the power of what is left, so that mean and noise together
have the music's level in every band and in each ear. No distance of magnitudes tells these two
apart: it takes a smooth pattern for better than any noise, and too little for better than enough.

Errors that one does not hear bring nothing. Noise of MASKING times the music's own band power, in
each ear, is therefore part of both sides (as if the recording had it), and every critical band
counts alike (Moore and Glasberg 1983).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from earvae.model.envelope import EarBands
from earvae.model.layers import Constants
from earvae.model.transform import mid_side

MASKING = 0.06  # of a band's power: -12 dB, about what music masks of noise in its own band
QUIET_POWER = 1e-8  # of a coefficient: -80 dB of full scale
UNHEARD_OF = 50.0  # squared error over its variance above which it counts as its logarithm only


class Expected(NamedTuple):
    """Frames ``[batch, frames, features]`` as a decoder expects them.

    ``mean`` is in Mid and Side. What is not known is ``exp(texture)`` times noise of unit variance
    in Mid and Side, then ``exp(level)`` times that in Left and Right: so the noise of both ears can
    be alike, of opposite sign or neither, and as quiet in one of them as it was.
    """

    mean: Tensor
    texture: Tensor
    level: Tensor

    def drawn(self, noise: Tensor) -> Tensor:
        """The mean with ``noise`` of unit variance, ``[..., frames, features]``; Mid and Side."""
        ears = mid_side(self.texture.exp() * noise, -1) * self.level.exp()
        return self.mean + mid_side(ears, -1)


class Surprise(Constants):
    """Negative log likelihood of music, in nats for a pair of coefficients of Left and Right, a
    mean over critical bands, without the constant log 2π.

    Args:
        bands: those of frames of Left and Right, over which masking is measured.
        frequencies: of each coefficient of one ear, in Hz, ``[features / 2]``. All stand for as
            much of time and band as each other.
    """

    share: Tensor

    def __init__(self, bands: EarBands, frequencies: Tensor) -> None:
        super().__init__()
        density = 1 / critical_bandwidth(frequencies)  # critical bands a hertz
        self.register_buffer("share", density / density.sum(), persistent=False)
        self.bands = bands

    def forward(self, expected: Expected, frames: Tensor) -> Tensor:
        """A scalar, for frames ``[batch, frames, features]`` of Mid and Side."""
        music = mid_side(frames, -1)
        masked = MASKING * self.bands.spread(self.bands.power(frames)) + QUIET_POWER
        error = music - mid_side(expected.mean, -1)
        middle, side = mid_side(error / expected.level.exp(), -1).square().chunk(2, -1)
        variance_middle, variance_side = (2 * expected.texture).exp().chunk(2, -1)
        gain_left, gain_right = (2 * expected.level).exp().chunk(2, -1)
        masked_left, masked_right = masked.chunk(2, -1)
        error_left, error_right = error.square().chunk(2, -1)
        both = (variance_middle + variance_side) / 2
        left, right = gain_left * both, gain_right * both  # variances of the noise in each ear
        # Determinant and quadratic form of the covariance [[left, c], [c, right]] with the masked
        # noise on its diagonal, written so that nothing cancels where the ears are alike.
        common = masked_right * left + masked_left * right + masked_left * masked_right
        determinant = gain_left * gain_right * variance_middle * variance_side + common
        form = gain_left * gain_right * (variance_middle * side + variance_side * middle)
        form = form + masked_right * error_left + masked_left * error_right
        # The music's own masked noise, as it is on average.
        form = form + common + masked_left * masked_right
        ratio = form / determinant
        ratio = torch.where(
            ratio > UNHEARD_OF, UNHEARD_OF * (1 + (ratio / UNHEARD_OF).log()), ratio
        )
        return ((determinant.log() + ratio) / 2 * self.share).sum(dim=-1).mean()


def critical_bandwidth(frequency: Tensor) -> Tensor:
    """Equivalent rectangular bandwidth in Hz at ``frequency`` in Hz (Glasberg and Moore 1990)."""
    return 24.7 * (4.37 * frequency / 1000 + 1)
