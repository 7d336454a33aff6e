"""The likelihood of music under what a decoder expects: a mean, and noise for the rest.

A decoder that knows a part of every coefficient and no more says so: the part as a mean, the rest
as the variance of noise. The likelihood of the music then teaches both at once. The mean becomes
what can be told of a waveform, at any level, for errors count against the variance that is
expected there; and the variance becomes the power of what is left, so that mean and noise together
have the music's level in every band and in each ear. No distance of magnitudes tells these two
apart: it takes a smooth pattern for better than any noise, and too little for better than enough.

How much is not known is itself not known well. A normal law would take the mean of all powers that
are possible, which the loudest make: noise would fill what lies between two lines, and the time
before an attack. So errors far beyond the variance count as their logarithm only (as in robust
statistics, Huber 1964), and the variance becomes about the power in the middle, which the ear, with
its decibels, finds right; noise that is normal keeps its power (SEEN).

Errors that one does not hear bring nothing. Noise of MASKING times the music's own band power, in
each ear, is therefore part of both sides (as if the recording had it), and every critical band
counts alike (Moore and Glasberg 1983).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from earvae.model.envelope import EarBands
from earvae.model.layers import Constants
from earvae.model.tones import StoredTones
from earvae.model.transform import MDCT, TwoResolutions, mid_side

MASKING = 0.03  # of a band's power: -15 dB, about what music masks of noise in its own band
FINE, FINE_HOP = 8, 2  # frames of a fine spectrum, and from one to the next
MASKED_FINE = 4  # long bins to both sides over which a fine spectrum's masking is measured
QUIET_POWER = 1e-8  # of a coefficient: -80 dB of full scale
SURPRISING = 5.0  # squared error over its variance above which it counts as its logarithm only
SEEN = 1 - math.exp(-SURPRISING)  # share of the power of normal noise that still counts then


class Expected(NamedTuple):
    """Frames ``[batch, frames, features]`` as a decoder expects them.

    ``mean`` is in Mid and Side. What is not known is ``exp(texture)`` times noise of unit variance
    in Mid and Side, and in the long blocks ``exp(pitch) [batch, frames, 2, tones]`` times
    tones of unit power and any phase, in the short ones ``exp(high_pitch) [batch, frames, 2,
    tones]`` times such, then ``exp(level)`` times both in Left and Right: so what is drawn can be
    alike in both ears, of opposite sign or neither, and as quiet in one of them as it was.
    """

    mean: Tensor
    texture: Tensor
    pitch: Tensor
    high_pitch: Tensor
    level: Tensor


class Surprise(Constants):
    """Negative log likelihood of music, in nats for a pair of coefficients of Left and Right, a
    mean over critical bands, without the constant log 2π.

    Args:
        bands: those of frames of Left and Right, over which masking is measured.
        frequencies: of each coefficient of one ear, in Hz, ``[features / 2]``. All stand for as
            much of time and band as each other.
        tones: those that stand beside the noise in the long blocks, and those in the short ones.
    """

    share: Tensor

    def __init__(
        self, bands: EarBands, frequencies: Tensor, tones: tuple[StoredTones, StoredTones]
    ) -> None:
        super().__init__()
        density = 1 / critical_bandwidth(frequencies)  # critical bands a hertz
        self.register_buffer("share", density / density.sum(), persistent=False)
        self.bands, (self.tones, self.high_tones) = bands, tones

    def forward(self, expected: Expected, frames: Tensor) -> Tensor:
        """A scalar, for frames ``[batch, frames, features]`` of Mid and Side."""
        music = mid_side(frames, -1)
        masked = MASKING * self.bands.spread(self.bands.power(frames)) + QUIET_POWER
        error = music - mid_side(expected.mean, -1)
        middle, side = mid_side(error / expected.level.exp(), -1).square().chunk(2, -1)
        variance_middle, variance_side = self.variances(expected)
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
        ratio = _milder(form / determinant / 2)  # a mean over two coefficients
        return ((SEEN * determinant.log() / 2 + ratio) * self.share).sum(dim=-1).mean()

    def variances(self, expected: Expected) -> tuple[Tensor, Tensor]:
        """Of what is drawn in Mid and in Side, ``[batch, frames, features / 2]`` each."""
        low = self.tones.power((2 * expected.pitch).exp())
        high = self.high_tones.power((2 * expected.high_pitch).exp())
        noise = (2 * expected.texture).exp().unflatten(-1, (2, -1))
        variance = noise + torch.cat([low, high], dim=-1)
        return variance[..., 0, :], variance[..., 1, :]


class FineSurprise(Constants):
    """Negative log likelihood of the fine spectrum of music, whatever its phases, up to where
    there are tones: what tells them from noise, which the coefficients of single frames cannot.

    Power spectra over FINE frames are taken to be exponentially distributed around what noise,
    tones and levels give on average (Whittle 1953); in each ear, of what the mean leaves. Errors
    that noise of the band MASKING below would hide count little, as in :class:`Surprise`. In nats
    a bin, a mean over critical bands.

    Args:
        transform: that of the frames.
        tones: those in the long blocks, and those in the short ones.
        sample_rate: Hz.
    """

    def __init__(
        self,
        transform: TwoResolutions,
        tones: tuple[StoredTones, StoredTones],
        sample_rate: int,
    ) -> None:
        super().__init__()
        hop, (low, high) = transform.long.block, tones
        self.sections, self.tones, self.high_tones = transform.sections, low, high
        window = torch.hann_window(FINE * hop, dtype=torch.float64)
        # Half a bin more than the long blocks have would already hold some of the short ones.
        end = high.end if high.count else max(1, low.end - 1)
        fine = torch.arange(FINE // 2, end * FINE // 2)  # FINE / 2 to a long bin
        frequency = torch.cat([low.frequencies, high.frequencies]).double()
        apart = fine - frequency[:, None] * FINE / 2
        one, around = torch.special.sinc(apart), torch.special.sinc(apart + 1)
        of_tones = FINE / 2 * (one + (around + torch.special.sinc(apart - 1)) / 2)  # Hann window
        self.register_buffer("of_tones", (of_tones.square() * hop / 2).float(), persistent=False)
        weights = window.square().unflatten(0, (FINE, hop)).mean(dim=1)
        noise = torch.cat([
            _powers_of_bins(mdct, own, window)
            for mdct, own in ((transform.long, low), (transform.short, high))
            if own.count
        ])  # fmt: skip
        noise = noise[:, fine] * weights.sum() / weights[FINE // 2]
        self.register_buffer("of_noise", noise.float(), persistent=False)  # [all kept, fine]
        self.register_buffer("weights", (weights / weights.sum()).float(), persistent=False)
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("fine", fine, persistent=False)
        density = 1 / critical_bandwidth(fine * sample_rate / (FINE * hop))
        self.register_buffer("share", density / density.sum(), persistent=False)

    def forward(self, expected: Expected, left_over: Tensor, music: Tensor) -> Tensor:
        """A scalar, for ``left_over [batch, 2, frames·hop]``, the music less the mean, and the
        ``music``, Left and Right. Nothing, 0, where there are fewer than FINE frames, or all is
        above the split."""
        if music.shape[-1] < len(self.window) or not len(self.fine):
            return expected.mean.new_zeros(())
        power = self.powers(expected)
        spectrum, whole = self._spectra(left_over), self._spectra(music)
        around = MASKED_FINE * FINE // 2
        bands = F.avg_pool1d(
            whole.flatten(0, 1), 2 * around + 1, 1, around, count_include_pad=False
        ).view_as(whole)
        masked = MASKING * bands + QUIET_POWER
        ratio = _milder((spectrum + masked) / (power + masked))
        return ((SEEN * (power + masked).log() + ratio) * self.share).sum(dim=-1).mean()

    def powers(self, expected: Expected) -> Tensor:
        """Fine spectra of what is drawn, on average, ``[batch, windows, 2, fine]``."""
        gain = (2 * expected.level).exp().unflatten(-1, (2, -1))  # [.., 2, features / 2]
        noise = gain * (2 * expected.texture).exp().unflatten(-1, (2, -1)).mean(-2, keepdim=True)
        noises, tones = [], []
        for own, pitch, gains, powers in zip(
            (self.tones, self.high_tones),
            (expected.pitch, expected.high_pitch),
            gain.split(self.sections, dim=-1),
            noise.split(self.sections, dim=-1),
            strict=True,
        ):
            noises.append(own.by_bin(powers))
            gains = own.by_bin(gains)[..., own.owner]
            tones.append(gains * (2 * pitch).exp().mean(dim=-2, keepdim=True))
        noise, tones = torch.cat(noises, dim=-1), torch.cat(tones, dim=-1)
        return self._over_time(noise) @ self.of_noise + self._over_time(tones) @ self.of_tones

    def _over_time(self, power: Tensor) -> Tensor:
        """``[batch, frames, 2, n]`` to means under the windows, ``[batch, windows, 2, n]``."""
        return power.unfold(1, FINE, FINE_HOP) @ self.weights

    def _spectra(self, audio: Tensor) -> Tensor:
        """``[batch, 2, samples]`` to powers ``[batch, windows, 2, fine]``."""
        size = len(self.window)
        parts = audio.unfold(-1, size, FINE_HOP * size // FINE) * self.window
        return torch.fft.rfft(parts)[..., self.fine].abs().square().transpose(1, 2)


def _powers_of_bins(mdct: MDCT, tones: StoredTones, window: Tensor) -> Tensor:
    """Power spectra ``[kept, frequencies]`` of one frame in the middle of the window that has
    noise of unit variance in all its blocks, in one bin at a time where tones have coefficients."""
    bins, blocks = tones.kept, tones.blocks
    single = torch.zeros(bins, blocks, FINE * blocks, mdct.bins)
    bin_, block = torch.arange(bins)[:, None], torch.arange(blocks)
    single[bin_, block, FINE // 2 * blocks + block, bin_] = 1
    spectra = torch.fft.rfft(mdct.inverse(single).double() * window)
    return spectra.abs().square().sum(dim=1)


def _milder(ratio: Tensor) -> Tensor:
    """The same up to SURPRISING, and from there on its logarithm."""
    return torch.where(ratio > SURPRISING, SURPRISING * (1 + (ratio / SURPRISING).log()), ratio)


def critical_bandwidth(frequency: Tensor) -> Tensor:
    """Equivalent rectangular bandwidth in Hz at ``frequency`` in Hz (Glasberg and Moore 1990)."""
    return 24.7 * (4.37 * frequency / 1000 + 1)
