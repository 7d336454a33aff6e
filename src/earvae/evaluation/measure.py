"""Everything that is measured of one reconstruction of one track."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from earvae.evaluation.bands import OCTAVES, band_metrics
from earvae.evaluation.loudness import Loudness, loudness
from earvae.evaluation.metrics import track_metrics

METRIC_VERSION = 2  # raised with any change of a definition: cached results of others are stale
IMAGE_ERRORS = ("level_error", "phase_error", "coherence_error")

TITLES = {
    "mel": "Mel ↓",
    "stft": "STFT ↓",
    "icpc": "ICPC % ↑",
    "ccpc": "CCPC % ↑",
    "si_sdr": "SI-SDR dB ↑",
    "lufs_difference": "Δ LUFS",
    "lra_difference": "Δ LRA",
    "true_peak_difference": "Δ dBTP",
}
"""Columns of tables: the paper's, in its order, then loudness (reconstruction minus reference)."""
PERCENT = ("icpc", "ccpc")
DIFFERENCES = ("lufs_difference", "lra_difference", "true_peak_difference")


@dataclass(frozen=True)
class Measurement:
    """Figures of one reconstruction; None where the reference gives one no meaning."""

    metrics: dict[str, float | None] = field(default_factory=dict)
    bands: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """By octave (nominal centre in Hz): ``IMAGE_ERRORS``."""
    loudness: Loudness = Loudness(None, None, None)


def measure(
    reconstruction: Tensor, reference: Tensor, sample_rate: int, reference_loudness: Loudness
) -> Measurement:
    """All figures of a reconstruction, float32 ``[2, samples]`` each, aligned.

    Metrics are those of ``metrics.track_metrics`` and, of ``bands.band_metrics``, ``lsd_high``,
    ``band_lsd_high`` and ``level_high`` (its ``treble_`` ones), ``mid_si_sdr`` and ``side_si_sdr``;
    each of ``IMAGE_ERRORS`` as its mean over octaves; ``DIFFERENCES`` in LU, LU and dB,
    reconstruction minus reference.
    Raises ValueError for signals too short, or not finite.
    """
    figures = track_metrics(reconstruction, reference, sample_rate)
    by_band = band_metrics(reconstruction, reference, sample_rate)
    for name in ("lsd", "band_lsd", "level"):
        figures[f"{name}_high"] = by_band[f"treble_{name}"]
    figures["mid_si_sdr"], figures["side_si_sdr"] = by_band["mid_si_sdr"], by_band["side_si_sdr"]
    bands = {
        str(octave): {error: _number(by_band[f"{error}_{octave}"]) for error in IMAGE_ERRORS}
        for octave in OCTAVES
        if f"{IMAGE_ERRORS[0]}_{octave}" in by_band
    }
    for error in IMAGE_ERRORS:
        values = [band[error] for band in bands.values() if band[error] is not None]
        figures[error] = sum(values) / len(values) if values else math.nan
    metrics = {name: _number(value) for name, value in figures.items()}
    ours = loudness(reconstruction, sample_rate)
    metrics["lufs_difference"] = _difference(ours.lufs, reference_loudness.lufs)
    metrics["lra_difference"] = _difference(ours.lra, reference_loudness.lra)
    metrics["true_peak_difference"] = _difference(
        ours.true_peak_db, reference_loudness.true_peak_db
    )
    return Measurement(metrics, bands, ours)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _difference(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours - theirs
