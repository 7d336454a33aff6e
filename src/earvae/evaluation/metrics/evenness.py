"""Evenness: whether power is spread within small tiles of time and frequency as it should be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from earvae.evaluation.metrics.octaves import BANDS_HZ, band_bins, stft
from earvae.evaluation.metrics.signal import Signal

WINDOW, HOP = 512, 256  # samples: so short that a tile holds some 50 powers
TILE_HZ = 500.0
TILE_SECONDS = 0.05
DEEPEST = 1e-3  # of a tile's mean power: the rest of the tile masks what is below
APART = 10**-1.2  # of the other channel's power: what is lower is panning's
FLOOR = 1e-9  # mean power (of a full-scale sine: 1) from which on a tile counts
BLOCK = 128  # tiles along time that are computed at once


def flatness(audio: Tensor, sample_rate: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Spectral flatness of tiles of 500 Hz and 50 ms, by band, in dB, and which of them count.

    ``[channels, samples]`` to float32 and bool ``[tiles of the band, channels, moments]``: mean
    log over log mean of power. Noise has -2.5 dB (10 / ln 10 times Euler's constant), a tile whose
    power is alike everywhere 0, one with a lone sine or click far less. Those count that sound and
    are not 12 dB or more below the other channel's: there, a leak is what matters (``panning``).
    Bands above the Nyquist frequency are left out.
    Raises ValueError for signals shorter than 512 samples.
    """
    frames = max(1, round(TILE_SECONDS * sample_rate / HOP))  # of a moment
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    step = frames * HOP * BLOCK
    for start in range(0, max(1, audio.shape[1] - WINDOW + 1), step):
        spectrum = stft(audio[:, start : start + step + WINDOW - HOP].float(), WINDOW, HOP)
        power = torch.view_as_real(spectrum).square().sum(-1)
        moments = power.shape[1] // frames
        power = power[:, : moments * frames].unflatten(1, (moments, frames))
        for band, bins in band_bins(WINDOW, sample_rate).items():
            if bins.start < bins.stop:
                parts.setdefault(band, []).append(_flatness(power[..., bins], band))
    return {
        band: tuple(torch.cat(each, dim=-1) for each in zip(*blocks, strict=True))
        for band, blocks in parts.items()
    }


def _flatness(power: Tensor, band: str) -> tuple[Tensor, Tensor]:
    """The same of a band's power ``[channels, moments, frames, bins]``."""
    low, high = BANDS_HZ[band]
    tiles = power.tensor_split(round((high - low) / TILE_HZ), dim=-1)
    mean = torch.stack([tile.mean((2, 3)) for tile in tiles])
    floor = mean.clamp(min=FLOOR) * DEEPEST  # silence is even
    log = [
        torch.maximum(tile, least[..., None, None]).log10_().mean((2, 3))
        for tile, least in zip(tiles, floor, strict=True)
    ]
    sounds = mean > (APART * mean.amax(1, keepdim=True)).clamp(min=FLOOR)
    return 10 * (torch.stack(log) - torch.maximum(mean, floor).log10_()), sounds


@torch.no_grad()
def evenness_figures(reconstruction: Signal, target: Signal) -> dict[str, float]:
    """Flatness beyond the target's in each band: ``evenness_<band>`` in dB, 0 is best.

    The mean over the tiles of both channels that count in the target: above -90 dB of a full-scale
    sine, and less than 12 dB below the other channel's. Above 0: power is too even, a smooth
    pattern where there was noise or tone. Below 0: too uneven, holes or needles within what was
    one. NaN where the target has no such tile.
    Raises ValueError for signals shorter than 512 samples.
    """
    ours, theirs = (signal.once(flatness) for signal in (reconstruction, target))
    figures = dict.fromkeys((f"evenness_{band}" for band in BANDS_HZ), math.nan)
    for band, (value, sounds) in theirs.items():
        figures[f"evenness_{band}"] = float((ours[band][0] - value)[sounds].mean())
    return figures
