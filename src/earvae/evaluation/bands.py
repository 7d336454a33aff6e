"""Views of a reconstruction by frequency band: the treble, and the stereo image per octave."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from earvae.evaluation.blocks import Block, blocks
from earvae.evaluation.metrics import checked_pair, si_sdr_of_track
from earvae.evaluation.spectral_distance import POWER_FLOOR

OCTAVES = (63, 125, 250, 500, 1000, 2000, 4000, 8000, 16000)
"""Nominal centres in Hz (IEC 61260-1)."""
TREBLE_HZ = 8_000.0
TREBLE_LENGTH = 2048
TREBLE_BAND_HZ = 500.0
IMAGE_LENGTH = 4096
COUNTED = 1e-6  # a frame's band of less power than this in a channel of the target has no image


@torch.no_grad()
def band_metrics(
    reconstruction: Tensor, target: Tensor, sample_rate: float = 44_100
) -> dict[str, float]:
    """Figures of one track by band; NaN where the target gives one no meaning.

    Args:
        reconstruction: ``[channels, samples]``, float32, full scale = 1.
        target: the same shape.
        sample_rate: Hz.
    Returns:
        ``treble_lsd`` in dB: log-spectral distance above 8 kHz (Gray and Markel 1976): the root
        of the mean square over bins, mean over frames and channels in which the target sounds.
        ``treble_band_lsd`` in dB: the same of power in bands 500 Hz wide, so of the envelope
        alone. A noise of the right levels has 8 dB of the former, since no two noises are alike
        bin by bin, and 2 of the latter. ``treble_level`` in dB: all power above 8 kHz, over the
        target's; NaN where that has none.

        Of stereo tracks also ``mid_si_sdr`` and ``side_si_sdr`` in dB, and, for each octave
        from 63 Hz to 16 kHz, how far the spatial cues (Breebaart et al. 2005, "Parametric
        coding of stereo audio", section 2) are from the target's:
        ``level_error_<octave>`` in dB, ``phase_error_<octave>`` in radians (0 to pi),
        ``coherence_error_<octave>`` (0 to 1); mean absolute errors over frames, weighted with
        the target's power.
    Raises:
        ValueError: shapes differ, a value is not finite, or the signals are too short.
    """
    pair = checked_pair(reconstruction, target)
    stereo = target.shape[0] == 2
    treble, image = _TrebleSums(sample_rate), _ImageSums(sample_rate)
    for block in blocks(pair, IMAGE_LENGTH):
        treble.add(block)
        if stereo:
            image.add(block)
    figures = treble.values()
    if stereo:
        for name, mix in (("mid", (0.5, 0.5)), ("side", (0.5, -0.5))):
            row = torch.tensor([mix], dtype=torch.float64, device=target.device)
            figures[f"{name}_si_sdr"] = si_sdr_of_track(reconstruction, target, row)
        figures |= image.values()
    return figures


class _TrebleSums:
    def __init__(self, sample_rate: float) -> None:
        self.first = math.ceil(TREBLE_HZ / sample_rate * TREBLE_LENGTH)
        self.band = round(TREBLE_BAND_HZ / sample_rate * TREBLE_LENGTH)  # bins
        self.bins, self.bands, self.frames = 0.0, 0.0, 0
        self.power = torch.zeros(2, dtype=torch.float64)

    def add(self, block: Block) -> None:
        spectrum = block.spectrum(TREBLE_LENGTH)[..., self.first :]
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
            "treble_lsd": self.bins / frames,
            "treble_band_lsd": self.bands / frames,
            "treble_level": level,
        }


def _distance(power: Tensor) -> Tensor:
    """Log-spectral distance in dB of ``[2, channels, frames, bins]``: ``[channels, frames]``."""
    ours, theirs = power.clamp(min=POWER_FLOOR)
    return (10 * (ours / theirs).log10_()).square_().mean(-1).sqrt_()


class _ImageSums:
    def __init__(self, sample_rate: float) -> None:
        bin_hz = sample_rate / IMAGE_LENGTH
        exact = [1000 * 2.0**step for step in range(-4, 5)]
        edges = [[centre * 2.0**half for half in (-0.5, 0.5)] for centre in exact]
        self.bands = {
            name: slice(math.ceil(low / bin_hz), math.ceil(high / bin_hz))
            for name, (low, high) in zip(OCTAVES, edges, strict=True)
            if low < sample_rate / 2
        }
        self.sums = torch.zeros(len(self.bands), 4, dtype=torch.float64)

    def add(self, block: Block) -> None:
        left, right = block.spectrum(IMAGE_LENGTH).unbind(1)  # [2, frames, bins] each
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
        for column, name in enumerate(("level_error", "phase_error", "coherence_error")):
            for band, sums in zip(self.bands, self.sums, strict=True):
                figures[f"{name}_{band}"] = float(sums[column] / sums[3])  # 0 / 0 is NaN
        return figures
