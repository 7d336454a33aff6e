"""Octave bands of what the ear hears as tone, and how well each is kept: SDR and level of Mid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BANDS_HZ = {
    "0.2-1": (200.0, 1_000.0),
    "1-2": (1_000.0, 2_000.0),
    "2-4": (2_000.0, 4_000.0),
    "4-8": (4_000.0, 8_000.0),
    "8-16": (8_000.0, 16_000.0),
}
"""By name in kHz, lower edge included, upper edge not. The first is wider than an octave."""
WINDOW, HOP = 8192, 2048  # samples
SILENCE = 1e-12  # power of a full-scale sine = 1; a band below it has no figures


def band_bins(length: int, sample_rate: float) -> dict[str, slice]:
    """Bins of each of ``BANDS_HZ`` in a transform of ``length`` samples; bands that begin above
    the Nyquist frequency are left out."""
    return {
        name: slice(math.ceil(low * length / sample_rate), math.ceil(high * length / sample_rate))
        for name, (low, high) in BANDS_HZ.items()
        if low < sample_rate / 2
    }


def stft(audio: Tensor, length: int, hop: int) -> Tensor:
    """Complex ``[..., frames, length / 2 + 1]`` of ``[..., samples]`` under a periodic Hann
    window; the ends are not padded. A bin on a sine of full scale has the magnitude 1.

    Raises ValueError for fewer samples than the window has.
    """
    if audio.shape[-1] < length:
        raise ValueError(
            f"a signal of {audio.shape[-1]} samples is too short: the measures need {length}"
        )
    window = torch.hann_window(length, dtype=audio.dtype, device=audio.device)
    return torch.fft.rfft(audio.unfold(-1, length, hop) * (window * (2 / window.sum())))


def mid_spectrum(audio: Tensor) -> Tensor:
    """Complex ``[frames, bins]`` of Mid, (Left + Right) / 2, of ``[channels, samples]``, in
    windows of 8192 samples every 2048. Some 0.7 MB for a second of audio."""
    return stft(audio.float().mean(0), WINDOW, HOP)


def sdr_and_level(ours: Tensor, theirs: Tensor, sample_rate: float) -> dict[str, float]:
    """Signal-to-distortion ratio and level of each band, of Mid spectra of both signals.

    ``sdr_<band>`` in dB: power of the target over power of the difference, both summed over the
    track, so no gain is forgiven; noise in the place of noise has −3 dB, nothing at all 0 dB, the
    target itself infinity. ``level_<band>`` in dB: power of the reconstruction over the target's, 0
    is best. Both are NaN where the target's band is silent. Definitions: SPEC.md, section 8.

    Args:
        ours: of the reconstruction, as ``mid_spectrum`` gives it.
        theirs: of the target, the same shape.
        sample_rate: Hz.
    """
    figures = {}
    for band, bins in band_bins(WINDOW, sample_rate).items():
        x, y = ours[:, bins], theirs[:, bins]
        power, own, error = (float(_power(part)) for part in (y, x, x - y))
        heard = power > SILENCE * y.shape[0]
        figures[f"sdr_{band}"] = _db(power, error) if heard else math.nan
        figures[f"level_{band}"] = _db(own, power) if heard else math.nan
    return figures


def _power(spectrum: Tensor) -> Tensor:
    return torch.view_as_real(spectrum).square().sum((-1, -2)).double().sum()


def _db(above: float, below: float) -> float:
    if below == 0:
        return math.inf
    return 10 * math.log10(above / below) if above > 0 else -math.inf
