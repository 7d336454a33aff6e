"""Multi-resolution spectral distance of A-weighted audio (docs/paper.md: Mel and STFT distance).

The definitions are those of auraloss's ``MultiResolutionSTFTLoss`` (Steinmetz and Reiss, DMRN+15,
2020) with its perceptual weighting: per resolution, spectral convergence (Arik et al. 2018)
plus the mean absolute difference of log magnitudes, and then the mean over resolutions.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from earvae.evaluation.metrics.blocks import Pair, blocks, unfiltered
from earvae.mel import mel_filters

POWER_FLOOR = 1e-8  # least power of a bin
TAPS = 101  # of the weighting filter
FIT_POINTS = 512  # frequencies at which the weighting filter is fitted


def a_weighting_taps(sample_rate: float) -> np.ndarray:
    """The linear-phase FIR A-weighting of the published evaluation, float64 ``[101]``.

    The analogue curve (IEC 61672-1) through the bilinear transform, sampled at 512 frequencies
    and fitted by least squares, straight lines over every second interval (Parks and Burrus,
    "Digital filter design", 1987, section 3.3.1). Wright and Välimäki 2019 put such a filter
    ahead of a loss. Its gain below some 400 Hz is not that of the standard.
    """
    edges = np.arange(FIT_POINTS) / FIT_POINTS  # of half the sample rate
    hz = sample_rate / math.pi * np.tan(math.pi / 2 * edges)  # bilinear transform
    s = np.square(hz)
    f1, f2, f3, f4 = (np.square(f) for f in (20.598997, 107.65265, 737.86223, 12194.217))
    gain = 10 ** (1.9997 / 20) * f4 * s**2
    gain /= (s + f4) * (s + f1) * np.sqrt((s + f2) * (s + f3))

    low, high = edges[0::2, None], edges[1::2, None]  # bands
    level, slope = gain[0::2, None], ((gain[1::2] - gain[0::2])[:, None]) / (high - low)
    n = np.arange(1, TAPS)  # cos(pi n f) integrated over the bands, alone and times the line
    upper, lower = np.sin(math.pi * n * high), np.sin(math.pi * n * low)
    plain = np.sum(upper - lower, axis=0) / (math.pi * n)
    line = np.sum((level + slope * (high - low)) * upper - level * lower, axis=0) / (math.pi * n)
    cosines = np.cos(math.pi * n * high) - np.cos(math.pi * n * low)
    line += np.sum(slope * cosines, axis=0) / (math.pi * n) ** 2
    plain = np.concatenate([[np.sum(high - low)], plain])
    line = np.concatenate([[np.sum((level + slope * (high - low) / 2) * (high - low))], line])

    half = TAPS // 2
    i, j = np.indices((half + 1, half + 1))
    normal = (plain[np.abs(i - j)] + plain[i + j]) / 2
    cosine_series = np.linalg.solve(normal, line[: half + 1])
    return np.concatenate([cosine_series[:0:-1] / 2, cosine_series[:1], cosine_series[1:] / 2])


class AWeightingFIR:
    """The A-weighting above as a filter of blocks; silence is assumed outside of the signal.

    Args:
        sample_rate: Hz.
    """

    def __init__(self, sample_rate: float) -> None:
        self.size = 4096
        taps = torch.from_numpy(a_weighting_taps(sample_rate))
        self.response = torch.fft.rfft(taps, n=self.size).to(torch.complex64)

    def __call__(self, pair: Pair, start: int, end: int) -> Tensor:
        """The filtered samples from start to end ``[2, ..., end - start]``, by overlap-save."""
        half, step = TAPS // 2, self.size - TAPS + 1
        runs = -(-(end - start) // step)
        first, last = start - half, start - half + runs * step + TAPS - 1
        wanted = unfiltered(pair, max(0, first), last)
        missing = last - max(0, first) - wanted.shape[-1]
        wanted = torch.nn.functional.pad(wanted, (max(0, -first), missing))
        spectrum = torch.fft.rfft(wanted.unfold(-1, self.size, step))
        spectrum *= self.response.to(spectrum.device)
        wet = torch.fft.irfft(spectrum, n=self.size)[..., TAPS - 1 :]
        return wet.flatten(-2)[..., : end - start]


class DistanceSums:
    """The sums over blocks that one distance at one resolution is made of."""

    def __init__(self) -> None:
        self.error: Tensor | float = 0.0  # sum of (target - reconstruction)^2
        self.energy: Tensor | float = 0.0  # sum of target^2
        self.log_ratio: Tensor | float = 0.0  # sum of |ln (reconstruction / target)|
        self.count = 0

    def add(self, reconstruction: Tensor, target: Tensor) -> None:
        """Magnitudes, above 0, ``[..., channels, frames, bins]`` each."""
        ours, theirs = reconstruction.flatten(-3), target.flatten(-3)
        self.log_ratio += (ours / theirs).log_().abs_().sum(-1).double()
        self.error += (ours - theirs).square_().sum(-1).double()
        self.energy += theirs.square().sum(-1).double()
        self.count += ours.shape[-1]

    def value(self) -> Tensor:
        """float64 ``[...]``."""
        return (self.error / self.energy).sqrt() + self.log_ratio / self.count


def magnitude(spectrum: Tensor) -> Tensor:
    """|X|, not below the floor."""
    return spectrum.abs().clamp_(min=math.sqrt(POWER_FLOOR))


@torch.no_grad()
def distances(
    pair: Pair, sample_rate: float, linear: tuple[int, ...], mel: tuple[int, ...], bands: int
) -> tuple[Tensor | None, Tensor | None]:
    """The distance of spectra and that of mel spectra, float64 ``[...]``, from one pass.

    Args:
        pair: ``[..., channels, samples]`` each; channels count as one spectrum.
        sample_rate: Hz.
        linear, mel: window lengths of either distance; None is returned where there are none.
        bands: of the mel scale.
    """
    of_bins = {length: DistanceSums() for length in linear}
    of_bands = {length: DistanceSums() for length in mel}
    device = pair[0].device
    filters = {length: mel_filters(sample_rate, length, bands).T.to(device) for length in mel}
    lengths = sorted({*linear, *mel})
    for block in blocks(pair, lengths[-1], AWeightingFIR(sample_rate)):
        for length in lengths:
            levels = magnitude(block.spectrum(length))  # [2, ..., channels, frames, bins]
            if length in of_bins:
                of_bins[length].add(*levels)
            if length in of_bands:
                with torch.autocast(device.type, enabled=False):
                    of_bands[length].add(*(levels @ filters[length]))
    return _mean(of_bins), _mean(of_bands)


def _mean(sums: dict[int, DistanceSums]) -> Tensor | None:
    return torch.stack([each.value() for each in sums.values()]).mean(0) if sums else None
