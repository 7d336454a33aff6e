"""Spectral envelopes: levels of a frame by band.

Where a waveform cannot be kept, its level by band and block still can. The levels of
neighbouring bands and blocks go together, so a few numbers tell most of what ~200 bands hold.
"""

from __future__ import annotations

from bisect import bisect_right

import torch
from torch import Tensor, nn

from earvae.model.layers import Constants
from earvae.model.transform import TwoResolutions, mid_side

QUIET = 1e-4  # coefficient below which levels are told no further: about -80 dB of music
LEAST_SHARE = 0.02  # of the mean power of Mid and Side
NARROWEST, WIDEST = 150.0, 600.0  # Hz between centres of bands
RELATIVE = 0.12  # share of its frequency that a centre is apart, between these


class Bands(Constants):
    """Levels of frames by block and band, about an eighth of an octave wide.

    Args:
        bins: how many a block of the transform has, from 0 to half of ``sample_rate`` (Hz).
        blocks: how many a frame has, of both channels together.
        kept: those of the bins that are there; all if not given.

    Attributes:
        levels: how many a frame has, blocks · bands.
    """

    weights: Tensor

    def __init__(self, bins: int, blocks: int, sample_rate: int, kept: slice = slice(None)) -> None:
        super().__init__()
        there = range(bins)[kept]
        lowest, highest = ((bin_ + 0.5) * sample_rate / 2 / bins for bin_ in (there[0], there[-1]))
        centres = band_centres(bins, sample_rate)
        bands = slice(bisect_right(centres, lowest) - 1, bisect_right(centres, highest) + 1)
        weights = band_weights(bins, sample_rate)[bands, kept]
        self.register_buffer("weights", weights, persistent=False)  # [bands, bins]
        self.blocks, self.levels = blocks, blocks * len(weights)

    def power(self, frames: Tensor) -> Tensor:
        """Mean power of each band, ``[..., blocks·bins]`` to ``[..., blocks·bands]``."""
        power = frames.unflatten(-1, (self.blocks, -1)).square()
        return (power @ (self.weights / self.weights.sum(dim=1, keepdim=True)).T).flatten(-2)

    def spread(self, levels: Tensor) -> Tensor:
        """Values of bands ``[..., blocks·bands]`` interpolated to ``[..., blocks·bins]``."""
        return (levels.unflatten(-1, (self.blocks, -1)) @ self.weights).flatten(-2)


class EarBands(nn.Module):
    """Bands of Left and Right, measured on frames ``[..., features]`` of Mid and Side that
    ``transform`` makes: of the long block of each ear, then of its short ones.

    Attributes:
        levels: how many a frame has, of both ears together.
    """

    def __init__(self, transform: TwoResolutions, sample_rate: int) -> None:
        super().__init__()
        long, short = transform.long.block, transform.short.block
        self.low = Bands(long, 1, sample_rate, slice(transform.long.bins))
        self.high = Bands(short, transform.blocks, sample_rate, slice(-transform.short.bins, None))
        self.sections = transform.sections
        self.levels = 2 * (self.low.levels + self.high.levels)

    def power(self, frames: Tensor) -> Tensor:
        """Mean power of each band, ``[..., levels]``."""
        low, high = mid_side(frames, -1).unflatten(-1, (2, -1)).split(self.sections, dim=-1)
        return torch.cat([self.low.power(low), self.high.power(high)], dim=-1).flatten(-2)

    def spread(self, levels: Tensor) -> Tensor:
        """Values of bands ``[..., levels]`` interpolated to ``[..., features]``, of each ear."""
        each = [self.low.levels, self.high.levels]
        low, high = levels.unflatten(-1, (2, -1)).split(each, dim=-1)
        return torch.cat([self.low.spread(low), self.high.spread(high)], dim=-1).flatten(-2)

    def measure(self, frames: Tensor) -> Tensor:
        """Log RMS of each band, ``[..., levels]``, scaled to ±1 for levels down to QUIET."""
        return (self.power(frames) / QUIET**2 + 1).log() / 10 - 1

    def shares(self, frames: Tensor) -> Tensor:
        """Log amplitude of Mid and of Side in each band, ``[..., levels]``, where their powers are
        1 on average; LEAST_SHARE of it is taken to be there."""
        power = self.power(mid_side(frames, -1)).unflatten(-1, (2, -1)) + QUIET**2
        share = power / power.mean(dim=-2, keepdim=True)
        return share.clamp_min(LEAST_SHARE).log().flatten(-2) / 2


def band_weights(bins: int, sample_rate: int) -> Tensor:
    """Triangular weights that interpolate between band centres, ``[bands, bins]``, columns
    summing to 1.

    Centres are 12 % of their frequency apart, but at least 150 and at most 600 Hz. The latter
    lets an envelope follow the steep edge where lossy coding has cut the treble off.
    """
    centres = band_centres(bins, sample_rate)
    frequency = (torch.arange(bins) + 0.5) * sample_rate / 2 / bins
    centre = torch.tensor(centres)
    right = torch.searchsorted(centre, frequency).clamp(1, len(centres) - 1)
    share = (frequency - centre[right - 1]) / (centre[right] - centre[right - 1])
    weights = torch.zeros(len(centres), bins)
    weights[right - 1, torch.arange(bins)] = 1 - share
    weights[right, torch.arange(bins)] = share
    return weights


def band_centres(bins: int, sample_rate: int) -> list[float]:
    """Hz, from 0 to half of ``sample_rate`` or the next above it."""
    top = sample_rate / 2
    centres = [0.0]
    while centres[-1] < top:
        step = min(WIDEST, max(NARROWEST, RELATIVE * centres[-1]))
        centres.append(centres[-1] + max(step, 2 * top / bins))  # two bins at least
    return centres
