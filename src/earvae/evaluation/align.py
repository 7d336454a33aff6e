"""Removing the delay that a codec, or whoever made a reconstruction, has put in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from earvae.errors import EarvaeError

MAX_LAG = 22_050  # samples searched on both sides: half a second
MAX_MISSING = 44_100  # samples that a reconstruction may lack: a second, and of short ones
MISSING_SHARE = 4  # no more than a quarter
BLOCK = 65_536  # samples of the reference per transform
STANDS_OUT = 40.0  # times the median; chance alone reaches some 20 among all lags
PERIODIC = 0.95  # of the highest peak: peaks of a periodic signal, of which the nearest counts


class AlignmentError(EarvaeError):
    """A reconstruction that is no reconstruction of the reference's length."""


@dataclass(frozen=True)
class Aligned:
    """A reconstruction on its reference's time line."""

    audio: Tensor
    """``[channels, samples]`` of the reference; zeros where the reconstruction has nothing."""
    lag: int
    """Samples by which it came late (negative: early); they are removed."""
    first: int
    """Sample at which the reconstruction begins."""
    last: int
    """Sample before which it ends."""


def align(reconstruction: Tensor, reference: Tensor, lead: int = 0) -> Aligned:
    """The reconstruction moved by a whole number of samples so that it fits the reference.

    Args:
        reconstruction: ``[channels, any samples]``.
        reference: ``[channels, samples]``.
        lead: samples that the reconstruction holds ahead of the reference's first.
    Raises:
        AlignmentError: another number of channels, or over a second of it is missing, or over
            a quarter.
    """
    if reconstruction.ndim != 2 or reconstruction.shape[0] != reference.shape[0]:
        raise AlignmentError(
            f"the reconstruction is {list(reconstruction.shape)}, the reference "
            f"{list(reference.shape)}: channels and samples"
        )
    samples = reference.shape[1]
    lag = find_lag(reconstruction, reference, lead)
    offset = lead + lag  # sample of the reconstruction that belongs to the reference's first
    first, last = max(0, -offset), min(samples, reconstruction.shape[1] - offset)
    if last - first < samples - min(MAX_MISSING, samples // MISSING_SHARE):
        raise AlignmentError(
            f"the reconstruction has {max(0, last - first)} of the reference's {samples} samples; "
            "make it again from the whole track"
        )
    if (first, last, offset) == (0, samples, 0):
        return Aligned(reconstruction[:, :samples], lag, 0, samples)
    audio = torch.zeros_like(reference)
    audio[:, first:last] = reconstruction[:, first + offset : last + offset]
    return Aligned(audio, lag, first, last)


@torch.no_grad()
def find_lag(reconstruction: Tensor, reference: Tensor, lead: int = 0) -> int:
    """Samples by which ``[channels, samples]`` come later than the reference, up to ``MAX_LAG``.

    The peak of the cross-correlation after the smoothed coherence transform (Carter, Nuttall and
    Cable 1973): each frequency is weighted by its power in both signals, averaged over blocks,
    so that what the two do not share counts little and the peak is sharp. Polarity does not
    matter, of no channel. 0 where nothing stands out (silence, unrelated signals, steady tones)
    or where the peak fits the waveform no better than no lag does.
    """
    cross, powers = _spectra(reconstruction, reference, lead)
    floor = 1e-9 * powers.amax(-1, keepdim=True) + 1e-30
    weight = (powers + floor).prod(0).rsqrt()  # [channels, bins]
    score = _lags(cross * weight).square().sum(0)  # [lags]
    median = float(score.median())
    if not math.isfinite(median) or not float(score.max()) > STANDS_OUT * median > 0:
        return 0
    inner = score[1:-1]
    peaks = (inner >= score[:-2]) & (inner >= score[2:]) & (inner >= PERIODIC * score.max())
    candidates = [int(i) + 1 - MAX_LAG for i in peaks.nonzero()[:, 0]]
    if not candidates:
        return 0
    lag = min(candidates, key=abs)
    plain = _lags(cross).square().sum(0)
    return lag if plain[lag + MAX_LAG] > plain[MAX_LAG] else 0


def _spectra(reconstruction: Tensor, reference: Tensor, lead: int) -> tuple[Tensor, Tensor]:
    """Cross-spectrum ``[channels, bins]`` and both power spectra ``[2, channels, bins]``, summed
    over blocks of the reference and what the reconstruction has around them; float64."""
    size = 1 << (BLOCK + 2 * MAX_LAG - 1).bit_length()
    channels, samples = reference.shape
    cross = torch.zeros(channels, size // 2 + 1, dtype=torch.complex128)
    powers = torch.zeros(2, channels, size // 2 + 1, dtype=torch.float64)
    for start in range(0, samples, BLOCK):
        theirs = torch.fft.rfft(reference[:, start : start + BLOCK].cpu().float(), n=size)
        low = start + lead - MAX_LAG
        high = min(low + BLOCK + 2 * MAX_LAG, reconstruction.shape[1])
        piece = reconstruction[:, max(0, low) : max(0, high)].cpu().float()
        piece = torch.nn.functional.pad(piece, (max(0, -low), 0))
        ours = torch.fft.rfft(piece, n=size) if piece.shape[1] else torch.zeros_like(theirs)
        cross += theirs.conj() * ours
        powers[0] += ours.abs().square()
        powers[1] += theirs.abs().square()
    return cross, powers


def _lags(cross: Tensor) -> Tensor:
    """Correlation at the lags from -MAX_LAG to MAX_LAG, ``[channels, lags]``."""
    return torch.fft.irfft(cross)[:, : 2 * MAX_LAG + 1]
