"""Octave bands of what the ear hears as tone, and how well each is kept: SDR and level of Mid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from earvae.evaluation.metrics.signal import Signal

BANDS_HZ = {
    "0.2-1": (200.0, 1_000.0),
    "1-2": (1_000.0, 2_000.0),
    "2-4": (2_000.0, 4_000.0),
    "4-8": (4_000.0, 8_000.0),
    "8-16": (8_000.0, 16_000.0),
}
"""By name in kHz, lower edge included, upper edge not. The first is wider than an octave."""
WINDOW, HOP = 8192, 2048  # samples
BLOCK = 128 * HOP
SILENCE = 1e-12  # power of a full-scale sine = 1; a band below it has no figures


def band_bins(
    length: int, sample_rate: float, bands: Iterable[str] = tuple(BANDS_HZ)
) -> dict[str, slice]:
    """Bins of each band in a transform of ``length`` samples; those above the Nyquist frequency
    hold none."""
    top = length // 2 + 1
    return {
        band: slice(*(min(top, math.ceil(hz * length / sample_rate)) for hz in BANDS_HZ[band]))
        for band in bands
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


def mid_spectra(*signals: Signal) -> Iterator[list[Tensor]]:
    """Complex ``[frames, bins]`` of Mid, (Left + Right) / 2, of signals of one length, in windows
    of 8192 samples every 2048: all frames, some six seconds at a time.

    Raises ValueError for signals shorter than a window.
    """
    last = signals[0].audio.shape[-1] - WINDOW  # sample at which a window may begin
    for start in range(0, max(last, 0) + 1, BLOCK):
        end = start + BLOCK + WINDOW - HOP
        mids = (signal.audio[:, start:end].float().mean(0) for signal in signals)
        yield [stft(mid, WINDOW, HOP) for mid in mids]


@torch.no_grad()
def octave_figures(reconstruction: Signal, target: Signal) -> dict[str, float]:
    """Signal-to-distortion ratio and level of Mid in each band.

    ``sdr_<band>`` in dB: power of the target over power of the difference, both summed over the
    track, so no gain is forgiven; noise in the place of noise has −3 dB, nothing at all 0 dB, the
    target itself infinity. ``level_<band>`` in dB: power of the reconstruction over the target's, 0
    is best. Both are NaN where the target's band is silent.
    Raises ValueError for signals shorter than 8192 samples.
    """
    bands = band_bins(WINDOW, target.sample_rate)
    powers = torch.zeros(len(bands), 3, dtype=torch.float64)  # of target, reconstruction, error
    frames = 0
    for x, y in mid_spectra(reconstruction, target):
        frames += len(y)
        for row, bins in zip(powers, bands.values(), strict=True):
            row += torch.stack([_power(part[:, bins]) for part in (y, x, x - y)])
    figures = {}
    for band, (power, own, error) in zip(bands, powers.tolist(), strict=True):
        heard = power > SILENCE * frames
        figures[f"sdr_{band}"] = _db(power, error) if heard else math.nan
        figures[f"level_{band}"] = _db(own, power) if heard else math.nan
    return figures


def _power(spectrum: Tensor) -> Tensor:
    return torch.view_as_real(spectrum).square().sum((-1, -2)).double().sum()


def _db(above: float, below: float) -> float:
    if below == 0:
        return math.inf
    return 10 * math.log10(above / below) if above > 0 else -math.inf
