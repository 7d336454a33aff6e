"""Metrics: what is computed of a reconstruction and its target. They know audio alone, no model.

A metric is a function of two :class:`Signal`, ``reconstruction`` and ``target`` in this order, to
a number or to numbers by key; ``earvae/evaluation/figures.py`` lists them all. NaN is a value that
the target leaves without a meaning (the phase of silence, the second channel of a one-sided
track): it enters no mean. A reconstruction that has nothing where the target has something scores
the worst instead. The functions here are the published evaluation's for tensors of your own.
"""

from earvae.evaluation.metrics.published import (
    ccpc,
    icpc,
    mel_distance,
    stft_distance,
    track_metrics,
)
from earvae.evaluation.metrics.signal import Signal
from earvae.si_sdr import si_sdr

__all__ = [
    "Signal",
    "ccpc",
    "icpc",
    "mel_distance",
    "si_sdr",
    "stft_distance",
    "track_metrics",
]
