"""The treble: log-spectral distance and level above 8 kHz."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from earvae.evaluation.metrics.blocks import blocks
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
    first = math.ceil(TREBLE_HZ / target.sample_rate * WINDOW)
    band = round(BAND_HZ / target.sample_rate * WINDOW)  # bins
    powers = torch.zeros(2, dtype=torch.float64)
    in_bins = in_bands = 0.0
    frames = 0
    for block in blocks((reconstruction.audio, target.audio), WINDOW):
        spectrum = block.spectrum(WINDOW)[..., first:]
        power = torch.view_as_real(spectrum).square().sum(-1)  # [2, channels, frames, bins]
        powers += power.double().sum((1, 2, 3)).cpu()
        sounds = power[1].amax(-1) > POWER_FLOOR
        whole = power.shape[-1] // band * band
        of_bands = power[..., :whole].unflatten(-1, (-1, band)).mean(-1)
        in_bins += float((_distance(power) * sounds).sum())
        in_bands += float((_distance(of_bands) * sounds).sum())
        frames += int(sounds.sum())
    if not frames:
        return dict.fromkeys(("lsd_high", "band_lsd_high", "level_high"), math.nan)
    ours, theirs = powers.tolist()
    return {
        "lsd_high": in_bins / frames,
        "band_lsd_high": in_bands / frames,
        "level_high": 10 * math.log10(max(ours, POWER_FLOOR) / theirs),
    }


def _distance(power: Tensor) -> Tensor:
    """Log-spectral distance in dB of ``[2, channels, frames, bins]``: ``[channels, frames]``."""
    ours, theirs = power.clamp(min=POWER_FLOOR)
    return (10 * (ours / theirs).log10_()).square_().mean(-1).sqrt_()
