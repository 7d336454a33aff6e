"""Reconstruction metrics (docs/paper.md). They take audio alone and know nothing of the model.

Every function takes ``reconstruction, target`` in this order. A value that the target leaves
without a meaning (the phase of silence, the second channel of a one-sided track) is NaN, and
``aggregate`` leaves it out of every mean and counts it. A reconstruction that has nothing where
the target has something scores the worst instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from earvae.evaluation.coherence import coherences
from earvae.evaluation.spectral_distance import distances

SI_SDR_FLOOR = 1e-8  # keeps silence finite, as in the published evaluation
MEL_BANDS = 64
MEL_LENGTHS = (4096, 2048, 1024, 512)
STFT_LENGTHS = (4096, 2048, 1024, 512, 256, 128)
COHERENCE_LENGTHS = (4096, 2048, 1024, 512)
SUM_BLOCK = 1 << 16  # samples


def si_sdr(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB, higher is better (Le Roux et al. 2019).

    ``[..., channels, samples]`` each, to ``[...]``: per channel with its mean removed, then the
    mean over channels.
    """
    reconstruction = reconstruction - reconstruction.mean(dim=-1, keepdim=True)
    target = target - target.mean(dim=-1, keepdim=True)
    product = (reconstruction * target).sum(dim=-1, keepdim=True)
    scale = product / (target.square().sum(dim=-1, keepdim=True) + SI_SDR_FLOOR)
    signal = (scale * target).square().sum(dim=-1)
    error = (reconstruction - scale * target).square().sum(dim=-1)
    return (10 * torch.log10(signal / (error + SI_SDR_FLOOR) + SI_SDR_FLOOR)).mean(dim=-1)


def mel_distance(reconstruction: Tensor, target: Tensor, sample_rate: float = 44_100) -> Tensor:
    """Distance of A-weighted mel spectra, lower is better, 0 for equal signals.

    ``[..., channels, samples]`` each, at ``sample_rate`` Hz, to float64 ``[...]``: spectral
    convergence plus log-magnitude difference in 64 bands, mean over windows of 4096 to 512.
    Raises ValueError for signals of 2048 samples or fewer.
    """
    pair = checked_pair(reconstruction, target)
    return distances(pair, sample_rate, linear=(), mel=MEL_LENGTHS, bands=MEL_BANDS)[1]


def stft_distance(reconstruction: Tensor, target: Tensor, sample_rate: float = 44_100) -> Tensor:
    """As ``mel_distance``, of the bins themselves, mean over windows of 4096 to 128."""
    pair = checked_pair(reconstruction, target)
    return distances(pair, sample_rate, linear=STFT_LENGTHS, mel=(), bands=MEL_BANDS)[0]


def icpc(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Individual-channel phase coherence, 0 to 1, higher is better (paper, evaluation section).

    ``[..., channels, samples]`` each, to float64 ``[...]``: the mean over channels that sound in
    the target (NaN where none does) and over windows of 4096 to 512 samples.
    Raises ValueError for signals of 2048 samples or fewer.
    """
    pair = checked_pair(reconstruction, target)
    return coherences(pair, COHERENCE_LENGTHS, channels=True, across=False)[0]


def ccpc(reconstruction: Tensor, target: Tensor) -> Tensor:
    """Cross-channel phase coherence, 0 to 1, higher is better (paper, evaluation section).

    ``[..., 2, samples]`` each, to float64 ``[...]``, as ``icpc``, of the phase between Left and
    Right. NaN where the target is one-sided or has another number of channels than 2.
    """
    pair = checked_pair(reconstruction, target)
    return coherences(pair, COHERENCE_LENGTHS, channels=False, across=True)[1]


@torch.no_grad()
def track_metrics(
    reconstruction: Tensor, target: Tensor, sample_rate: float = 44_100
) -> dict[str, float]:
    """All metrics of one track.

    Args:
        reconstruction: ``[channels, samples]``, float32, full scale = 1.
        target: the same shape.
        sample_rate: Hz; the published numbers are for 44100.
    Returns:
        ``si_sdr`` in dB (mean over the channels that sound in the target), ``mel``, ``stft``,
        ``icpc`` and ``ccpc``; NaN where the target gives a metric no meaning, all of them where
        it is silent. Memory beyond the two signals does not grow with their length.
    Raises:
        ValueError: shapes differ, a value is not finite, or the signals are too short.
    """
    if target.ndim != 2:
        raise ValueError(f"a track is [channels, samples], not {list(target.shape)}")
    pair = checked_pair(reconstruction, target)
    stft, mel = distances(pair, sample_rate, STFT_LENGTHS, MEL_LENGTHS, MEL_BANDS)
    within, between = coherences(pair, COHERENCE_LENGTHS, channels=True, across=True)
    figures = {
        "si_sdr": si_sdr_of_track(reconstruction, target),
        "mel": float(mel),
        "stft": float(stft),
        "icpc": float(within),
        "ccpc": float(between),
    }
    if math.isnan(figures["si_sdr"]):  # nothing sounds
        return dict.fromkeys(figures, math.nan)
    return figures


def si_sdr_of_track(reconstruction: Tensor, target: Tensor, mix: Tensor | None = None) -> float:
    """``si_sdr`` over the channels that sound in the target; NaN where none does.

    ``[channels, samples]`` each; sums are in double precision. ``mix`` (float64
    ``[outputs, channels]``) has them compared as its outputs, Mid and Side for one.
    """

    def total(function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        rows = target.shape[0] if mix is None else mix.shape[0]
        sums = torch.zeros(rows, dtype=torch.float64, device=target.device)
        for piece in zip(
            reconstruction.split(SUM_BLOCK, -1), target.split(SUM_BLOCK, -1), strict=True
        ):
            ours, theirs = (x.double() if mix is None else mix @ x.double() for x in piece)
            sums += function(ours, theirs).sum(-1)  # in place: no small blocks that split the heap
        return sums

    samples = target.shape[-1]
    x = total(lambda ours, theirs: ours)[:, None] / samples
    y = total(lambda ours, theirs: theirs)[:, None] / samples
    energy = total(lambda ours, theirs: (theirs - y).square_())
    scale = total(lambda ours, theirs: (ours - x).mul_(theirs - y)) / (energy + SI_SDR_FLOOR)
    error = total(lambda ours, theirs: (ours - x).sub_(scale[:, None] * (theirs - y)).square_())
    ratio = scale.square() * energy / (error + SI_SDR_FLOOR)
    return float((10 * torch.log10(ratio + SI_SDR_FLOOR))[energy > SI_SDR_FLOOR].mean())


def checked_pair(reconstruction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both signals, after raising ValueError if they cannot be compared."""
    if reconstruction.shape != target.shape:
        raise ValueError(f"reconstruction {list(reconstruction.shape)} and target "
                         f"{list(target.shape)} differ in shape")  # fmt: skip
    for name, audio in (("reconstruction", reconstruction), ("target", target)):
        if not torch.isfinite(audio.sum()):
            raise ValueError(f"the {name} holds values that are not finite")
    return reconstruction, target
