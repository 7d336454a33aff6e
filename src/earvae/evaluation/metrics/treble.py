"""The treble: log-spectral distance and level above 8 kHz."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from earvae.evaluation.metrics.blocks import Block, blocks
from earvae.evaluation.metrics.signal import Signal
from earvae.evaluation.metrics.spectral_distance import POWER_FLOOR

TREBLE_HZ = 8_000.0
WINDOW = 2048  # samples
BAND_HZ = 500.0


@torch.no_grad()
def treble_figures(reconstruction: Signal, target: Signal) -> dict[str, float]:
    """Figures of what is above 8 kHz, in dB; NaN where the target has nothing there.

    ``lsd_high``: log-spectral distance (Gray and Markel 1976), the root of the mean square over
    bins, mean over frames and channels in which the target sounds. ``band_lsd_high``: the same of
    power in bands 500 Hz wide, so of the envelope alone. A noise of the right levels has 8 dB of
    the former, since no two noises are alike bin by bin, and 2 of the latter. ``level_high``: all
    power above 8 kHz, over the target's.
    Raises ValueError for signals of 1024 samples or fewer.
    """
    sums = _Sums(target.sample_rate)
    for block in blocks((reconstruction.audio, target.audio), WINDOW):
        sums.add(block)
    return sums.values()


class _Sums:
    def __init__(self, sample_rate: float) -> None:
        self.first = math.ceil(TREBLE_HZ / sample_rate * WINDOW)
        self.band = round(BAND_HZ / sample_rate * WINDOW)  # bins
        self.bins, self.bands, self.frames = 0.0, 0.0, 0
        self.power = torch.zeros(2, dtype=torch.float64)

    def add(self, block: Block) -> None:
        spectrum = block.spectrum(WINDOW)[..., self.first :]
        power = torch.view_as_real(spectrum).square().sum(-1)  # [2, channels, frames, bins]
        self.power += power.double().sum((1, 2, 3)).cpu()
        sounds = power[1].amax(-1) > POWER_FLOOR
        whole = power.shape[-1] // self.band * self.band
        in_bands = power[..., :whole].unflatten(-1, (-1, self.band)).mean(-1)
        self.bins += float((_distance(power) * sounds).sum())
        self.bands += float((_distance(in_bands) * sounds).sum())
        self.frames += int(sounds.sum())

    def values(self) -> dict[str, float]:
        frames = self.frames or math.nan
        ours, theirs = self.power.tolist()
        level = 10 * math.log10(max(ours, POWER_FLOOR) / theirs) if self.frames else math.nan
        return {
            "lsd_high": self.bins / frames,
            "band_lsd_high": self.bands / frames,
            "level_high": level,
        }


def _distance(power: Tensor) -> Tensor:
    """Log-spectral distance in dB of ``[2, channels, frames, bins]``: ``[channels, frames]``."""
    ours, theirs = power.clamp(min=POWER_FLOOR)
    return (10 * (ours / theirs).log10_()).square_().mean(-1).sqrt_()
