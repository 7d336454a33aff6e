"""Panned sounds: how far the channels' levels are apart where one is well below the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from earvae.evaluation.metrics.octaves import BANDS_HZ, band_bins, stft
from earvae.evaluation.metrics.signal import Signal

WINDOW, HOP = 2048, 1024  # samples
APART_DB = 12.0
LOUD_DB = -50.0  # of a full-scale sine, that the louder channel must have
FLOOR_DB = -100.0  # levels below read as this: there is no error to a channel that is silent
LEAST_FRAMES = 20  # half a second; the mean of fewer says little
HANN_BINS = 1.5  # bins that the power of a sine is spread over


def channel_levels(audio: Tensor, sample_rate: float) -> Tensor:
    """Levels ``[bands, 2, frames]`` of Left and Right, ``[2, samples]``, in each octave band, in
    dB: a full-scale sine has 0, nothing is below -100."""
    power = torch.view_as_real(stft(audio.float(), WINDOW, HOP)).square().sum(-1)
    bands = [power[..., bins].sum(-1) for bins in band_bins(WINDOW, sample_rate).values()]
    return 10 * (torch.stack(bands) / HANN_BINS).clamp_(min=10 ** (FLOOR_DB / 10)).log10_()


@torch.no_grad()
def panning_figures(reconstruction: Signal, target: Signal) -> dict[str, float]:
    """Mean error of the level of the quieter channel against the louder one in each band.

    ``panning_<band>`` in dB, reconstruction minus target, 0 is best, of ``[2, samples]`` each: over
    the frames in which one channel of the target is at least 12 dB below the other and the other is
    above -50 dB of a full-scale sine. What leaks from the louder channel makes it positive; a band
    that is too quiet in both channels does not, which ``level`` says. NaN where fewer than 20
    frames (half a second) are such, so in every band of a mono track.
    Raises ValueError for signals shorter than 2048 samples.
    """
    ours, theirs = (channel_levels(x.audio, x.sample_rate) for x in (reconstruction, target))
    quieter, louder = theirs.aminmax(dim=1)
    panned = (louder - quieter >= APART_DB) & (louder > LOUD_DB)
    side = theirs.argmin(dim=1, keepdim=True)
    quiet, loud = (ours.gather(1, each)[:, 0] for each in (side, 1 - side))
    error = (quiet - loud) - (quieter - louder)
    figures = {}
    for row, band in enumerate(BANDS_HZ):
        values = error[row][panned[row]]
        enough = len(values) >= LEAST_FRAMES
        figures[f"panning_{band}"] = float(values.mean()) if enough else math.nan
    return figures
