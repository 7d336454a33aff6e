"""The metrics of the published evaluation (docs/paper.md)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from earvae.evaluation.metrics.coherence import coherences
from earvae.evaluation.metrics.signal import Signal
from earvae.evaluation.metrics.spectral_distance import distances
from earvae.si_sdr import StreamingSiSdr

MEL_BANDS = 64
MEL_LENGTHS = (4096, 2048, 1024, 512)
STFT_LENGTHS = (4096, 2048, 1024, 512, 256, 128)
COHERENCE_LENGTHS = (4096, 2048, 1024, 512)


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
        "si_sdr": sounding_si_sdr(reconstruction, target),
        "mel": float(mel),
        "stft": float(stft),
        "icpc": float(within),
        "ccpc": float(between),
    }
    if math.isnan(figures["si_sdr"]):  # nothing sounds
        return dict.fromkeys(figures, math.nan)
    return figures


def published_figures(reconstruction: Signal, target: Signal) -> dict[str, float]:
    """``track_metrics`` of two signals."""
    return track_metrics(reconstruction.audio, target.audio, target.sample_rate)


def sounding_si_sdr(reconstruction: Tensor, target: Tensor) -> float:
    """SI-SDR in dB over the channels that sound in the target; NaN where none does.

    ``[channels, samples]`` each; memory does not grow with the length.
    """
    meter = StreamingSiSdr()
    meter.add(reconstruction, target)
    value = meter.value()
    return math.nan if value is None else value


def checked_pair(reconstruction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both signals, after raising ValueError if they cannot be compared."""
    if reconstruction.shape != target.shape:
        raise ValueError(f"reconstruction {list(reconstruction.shape)} and target "
                         f"{list(target.shape)} differ in shape")  # fmt: skip
    for name, audio in (("reconstruction", reconstruction), ("target", target)):
        if not torch.isfinite(audio.sum()):
            raise ValueError(f"the {name} holds values that are not finite")
    return reconstruction, target
