"""Repetition: a decoder that draws one pattern in every frame buzzes at its frame rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from earvae.evaluation.metrics.octaves import BANDS_HZ, SILENCE, band_bins
from earvae.evaluation.metrics.signal import Signal

PERIODS = (1, 2)  # hops: overlapping blocks may alternate
MULTIPLES = (1, 2, 3, 4)
PADDED = 1 << 14  # transforms of multiples of this are fast


def self_similarity(audio: Tensor, sample_rate: float, hop: int) -> Tensor:
    """Normalised autocorrelation ``[bands, periods, multiples]`` of each octave band, −1 to 1,
    float64, at the lags that ``repetition_figures`` looks at.

    Band-passed by whole bins of one transform of the track; products are summed over time and
    channels ``[channels, samples]``. NaN in a band that is silent, throughout.
    """
    lags = [period * multiple * hop for period in PERIODS for multiple in MULTIPLES]
    size = -(-(audio.shape[-1] + max(lags)) // PADDED) * PADDED
    power = torch.zeros(size // 2 + 1, dtype=torch.float32, device=audio.device)
    for channel in audio.float():  # one at a time: half the memory
        power += torch.view_as_real(torch.fft.rfft(channel, n=size)).square_().sum(-1)
    rows = []
    for bins in band_bins(size, sample_rate).values():
        part = torch.zeros_like(power)
        part[bins] = power[bins]
        product = torch.fft.irfft(part, n=size)[[0, *lags]].double()
        silent = not product[0] > SILENCE * audio.numel() / 2
        rows.append(torch.full_like(product[1:], math.nan) if silent else product[1:] / product[0])
    return torch.stack(rows).unflatten(1, (len(PERIODS), len(MULTIPLES)))


@torch.no_grad()
def repetition_figures(reconstruction: Signal, target: Signal) -> dict[str, float]:
    """Self-similarity at multiples of the codec's hop beyond the target's, in each band.

    ``repetition_<band>``, −1 to 1, 0 is best. A signal's similarity is its normalised
    autocorrelation, mean over the lags of one, two, three and four periods, as it is or with the
    odd ones turned round, and nothing where that is below 0: to be unlike oneself is no repetition.
    The figure is the reconstruction's less the target's, the largest of both ways and of periods of
    one hop (of the reconstruction's codec) and of two. A pattern repeated in every frame gives 1
    less what the target has, and so does one that changes its sign from one period to the next,
    which buzzes as well. A steady tone that lost the noise around it is more alike at some lags and
    more unlike at others, which the mean evens out. NaN where the target's band is silent; a
    reconstruction that is silent there repeats nothing.
    """
    ours, theirs = (x.once(self_similarity, reconstruction.hop) for x in (reconstruction, target))
    turns = ours.new_tensor([[1.0] * len(MULTIPLES), [(-1.0) ** m for m in MULTIPLES]])
    alike = [(x[..., None, :] * turns).mean(-1).clamp(min=0.0) for x in (ours, theirs)]
    largest = (alike[0].nan_to_num(0.0) - alike[1]).flatten(1).amax(1)
    return {f"repetition_{band}": float(x) for band, x in zip(BANDS_HZ, largest, strict=True)}
