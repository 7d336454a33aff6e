"""Spectral lines that a reconstruction keeps, and those that it invents, by octave band."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from earvae.evaluation.metrics.octaves import BANDS_HZ, WINDOW, band_bins, mid_spectra
from earvae.evaluation.metrics.signal import Signal

PROMINENCE_DB = 8.0  # over the median of the bins around
AROUND = 12  # bins on both sides
RANGE_DB = 50.0  # below the strongest bin of the frame
INAUDIBLE_DB = -100.0  # of a full-scale sine: what rounding leaves in silence has no lines
TOLERANCE_DB = 6.0
HIGHEST_HZ = 8_000.0  # above, no codec keeps a tenth of them
LINE_BANDS = tuple(name for name, (_, high) in BANDS_HZ.items() if high <= HIGHEST_HZ)


@dataclass(frozen=True)
class Lines:
    """Lines of one signal, ``[frames, bins]`` each, from 0 Hz to ``HIGHEST_HZ`` and a little."""

    level: Tensor
    """float32, dB of a full-scale sine."""
    found: Tensor
    """bool: a line is here."""
    matched: Tensor
    """bool: here is a line that those of another signal may meet. These go 6 dB deeper, for a line
    at the edge of the range is not lost when it is a little lower."""


def find_lines(spectrum: Tensor, sample_rate: float) -> Lines:
    """Lines of a Mid spectrum ``[frames, bins]`` (``octaves.mid_spectra``): bins that exceed
    their neighbours, and by 8 dB the median of the 12 bins on both sides and themselves, and are
    within 50 dB of their frame's maximum."""
    level = 20 * spectrum.abs().clamp_(min=1e-10).log10_()
    loudest = level.amax(-1, keepdim=True)
    level = level[:, : math.ceil(HIGHEST_HZ * WINDOW / sample_rate) + AROUND + 1]
    least = (loudest - RANGE_DB).clamp_(min=INAUDIBLE_DB)
    found = level >= least - TOLERANCE_DB
    found[:, 1:] &= level[:, 1:] > level[:, :-1]
    found[:, :-1] &= level[:, :-1] >= level[:, 1:]
    # The median is so far below where at least half of the bins are: counting needs no sorting.
    around = pad(level, (AROUND, AROUND), value=math.inf)
    limit = level - PROMINENCE_DB
    below = torch.zeros_like(found, dtype=torch.uint8)
    for shift in range(2 * AROUND + 1):
        below += around[:, shift : shift + level.shape[1]] <= limit
    found &= below > AROUND
    return Lines(level, found & (level >= least), found)


@torch.no_grad()
def line_figures(reconstruction: Signal, target: Signal) -> dict[str, float]:
    """Shares of lines kept and invented in each band, and their F1.

    ``kept_<band>``, 0 to 1: lines of the target for which the reconstruction has a line in the
    same frame, within one bin (5.4 Hz at 44.1 kHz) and 6 dB, over all lines of the target.
    ``invented_<band>``, 0 and more: lines of the reconstruction for which the target has none so
    near in frequency and level, also over the lines of the target. ``lines_f1_<band>``, 0 to 1:
    the harmonic mean of recall, which is ``kept``, and of precision, kept / (kept + invented).
    A signal that is full of lines keeps some by chance, which F1 makes it pay for.
    All are NaN where the target has no line in the band.
    Raises ValueError for signals shorter than 8192 samples.
    """
    rate = target.sample_rate
    counts = dict.fromkeys(LINE_BANDS, (0, 0, 0))  # lines of the target, kept, invented
    for spectra in mid_spectra(reconstruction, target):
        ours, theirs = (find_lines(spectrum, rate) for spectrum in spectra)
        kept = theirs.found & _meets(theirs.level, ours)
        invented = ours.found & ~_meets(ours.level, theirs)
        for band, bins in band_bins(WINDOW, rate, LINE_BANDS).items():
            more = (int(x[:, bins].sum()) for x in (theirs.found, kept, invented))
            counts[band] = tuple(map(sum, zip(counts[band], more, strict=True)))
    figures = {}
    for band, (lines, k, i) in counts.items():
        figures[f"lines_f1_{band}"] = 2 * k / (lines + k + i) if lines else math.nan
        figures[f"kept_{band}"] = k / lines if lines else math.nan
        figures[f"invented_{band}"] = i / lines if lines else math.nan
    return figures


def _meets(level: Tensor, other: Lines) -> Tensor:
    """Where ``[frames, bins]`` of levels have a line of the other signal within a bin and 6 dB."""
    lines = pad(other.level.masked_fill(~other.matched, -math.inf), (1, 1), value=-math.inf)
    near = torch.zeros_like(other.matched)
    for shift in range(3):
        near |= (lines[:, shift : shift + level.shape[1]] - level).abs() <= TOLERANCE_DB
    return near
