"""The stereo image: Mid and Side, and the spatial cues by octave."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from earvae.evaluation.metrics.blocks import blocks
from earvae.evaluation.metrics.published import sounding_si_sdr
from earvae.evaluation.metrics.signal import Signal
from earvae.evaluation.metrics.spectral_distance import POWER_FLOOR

OCTAVES = (63, 125, 250, 500, 1000, 2000, 4000, 8000, 16000)
"""Nominal centres in Hz (IEC 61260-1)."""
WINDOW = 4096  # samples
COUNTED = 1e-6  # a frame's band of less power than this in a channel of the target has no image
CUES = ("level_error", "phase_error", "coherence_error")


@torch.no_grad()
def image_figures(reconstruction: Signal, target: Signal) -> dict[str, float]:
    """Figures of a stereo track ``[2, samples]``; NaN where the target gives one no meaning.

    ``mid_si_sdr`` and ``side_si_sdr`` in dB; and how far the spatial cues (Breebaart et al. 2005,
    "Parametric coding of stereo audio", section 2) are from the target's: ``level_error`` in dB,
    ``phase_error`` in radians (0 to pi), ``coherence_error`` (0 to 1); mean absolute errors over
    frames, weighted with the target's power, of each octave from 63 Hz to 16 kHz
    (``level_error_<octave>`` …) and as means over the octaves that have a value.
    Raises ValueError for signals of 2048 samples or fewer.
    """
    pair = reconstruction.audio, target.audio
    bands = _octave_bins(target.sample_rate)
    sums = torch.zeros(len(bands), len(CUES) + 1, dtype=torch.float64)  # of errors, of weights
    for block in blocks(pair, WINDOW):
        left, right = block.spectrum(WINDOW).unbind(1)  # [2, frames, bins] each
        for row, bins in zip(sums, bands.values(), strict=True):
            row += _weighted_errors(left[..., bins], right[..., bins]).cpu()
    mid, side = ([(x[:1] + sign * x[1:]) / 2 for x in pair] for sign in (1, -1))
    figures = {"mid_si_sdr": sounding_si_sdr(*mid), "side_si_sdr": sounding_si_sdr(*side)}
    for cue, errors in zip(CUES, (sums[:, :-1] / sums[:, -1:]).T, strict=True):
        figures[cue] = float(errors.nanmean())  # 0 / 0 is NaN
        figures |= {f"{cue}_{band}": float(e) for band, e in zip(bands, errors, strict=True)}
    return figures


def _octave_bins(sample_rate: float) -> dict[int, slice]:
    """The bins of each octave that begins below half the sample rate."""
    edges = [1000 * 2.0 ** (step - 0.5) * WINDOW / sample_rate for step in range(-4, 6)]
    bins = zip(OCTAVES, edges, edges[1:], strict=False)
    return {name: slice(math.ceil(a), math.ceil(b)) for name, a, b in bins if a < WINDOW / 2}


def _weighted_errors(left: Tensor, right: Tensor) -> Tensor:
    """Sums over frames of one band's errors by cue, each times its frame's weight, and of the
    weights: float64 ``[4]``. Spectra of reconstruction and target, ``[2, frames, bins]``."""
    powers = [x.abs().square_().sum(-1) + POWER_FLOOR for x in (left, right)]
    cross = (left * right.conj()).sum(-1)
    level = 10 * torch.log10(powers[0] / powers[1])
    phase = cross.angle()
    coherence = cross.abs() / (powers[0] * powers[1]).sqrt()
    weight = powers[0][1] + powers[1][1]
    weight = weight * ((powers[0][1] > COUNTED) & (powers[1][1] > COUNTED))
    turn = (phase[0] - phase[1]).abs()
    errors = (
        (level[0] - level[1]).abs(),
        torch.minimum(turn, 2 * math.pi - turn),
        (coherence[0] - coherence[1]).abs(),
        torch.ones_like(weight),
    )
    return torch.stack([(e * weight).double().sum() for e in errors])
