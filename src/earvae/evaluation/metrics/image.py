"""The stereo image: Mid and Side, and the spatial cues by octave."""

from __future__ import annotations

import math

import torch

from earvae.evaluation.metrics.blocks import Block, blocks
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
    sums = _Sums(target.sample_rate)
    for block in blocks(pair, WINDOW):
        sums.add(block)
    mid, side = ([(x[:1] + sign * x[1:]) / 2 for x in pair] for sign in (1, -1))
    return {
        "mid_si_sdr": sounding_si_sdr(*mid),
        "side_si_sdr": sounding_si_sdr(*side),
        **sums.values(),
    }


class _Sums:
    def __init__(self, sample_rate: float) -> None:
        bin_hz = sample_rate / WINDOW
        exact = [1000 * 2.0**step for step in range(-4, 5)]
        edges = [[centre * 2.0**half for half in (-0.5, 0.5)] for centre in exact]
        self.bands = {
            name: slice(math.ceil(low / bin_hz), math.ceil(high / bin_hz))
            for name, (low, high) in zip(OCTAVES, edges, strict=True)
            if low < sample_rate / 2
        }
        self.sums = torch.zeros(len(self.bands), 4, dtype=torch.float64)

    def add(self, block: Block) -> None:
        left, right = block.spectrum(WINDOW).unbind(1)  # [2, frames, bins] each
        for row, band in enumerate(self.bands.values()):
            of_left, of_right = left[..., band], right[..., band]
            powers = [x.abs().square_().sum(-1) + POWER_FLOOR for x in (of_left, of_right)]
            cross = (of_left * of_right.conj()).sum(-1)
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
            self.sums[row] += torch.stack([(e * weight).double().sum() for e in errors]).cpu()

    def values(self) -> dict[str, float]:
        figures = {}
        for name, errors in zip(CUES, (self.sums[:, :3] / self.sums[:, 3:]).T, strict=True):
            figures[name] = float(errors.nanmean())  # 0 / 0 is NaN
            figures |= {
                f"{name}_{band}": float(e) for band, e in zip(self.bands, errors, strict=True)
            }
        return figures
