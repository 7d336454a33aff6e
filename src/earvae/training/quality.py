"""Filters over whole tracks, block by block, as the paper's are: a track is used or it is not.

A crop's own verdict is :func:`earvae.training.data.refused`; the measures are the same.
"""

from __future__ import annotations

import numpy as np

from earvae.config import FilterConfig
from earvae.training.data import (
    TRUE_PEAK_MARGIN,
    band_levels,
    levels_reach,
    true_peak_db,
)

BLOCK_SAMPLES = 262_144  # of a track that are judged at once


class TrackJudge:
    """The verdict of ``filters`` on a track at ``sample_rate`` Hz, given in blocks."""

    def __init__(self, filters: FilterConfig, sample_rate: int) -> None:
        self.filters, self.sample_rate = filters, sample_rate
        self.peak = 0.0
        self.true_peak_db = -np.inf
        self._levels: list[np.ndarray] = []
        self._tail: np.ndarray | None = None  # so that no true peak hides at a seam

    def add(self, block: np.ndarray) -> None:
        """The next samples, ``[channels, n]``."""
        if not block.shape[1]:
            return
        self.peak = max(self.peak, float(np.abs(block).max()))
        if self.filters.true_peak_db is not None:
            seamless = block if self._tail is None else np.concatenate([self._tail, block], axis=1)
            self.true_peak_db = max(self.true_peak_db, true_peak_db(seamless))
            self._tail = seamless[:, -2 * TRUE_PEAK_MARGIN :]
        if self._judges_bandwidth:
            self._levels.append(band_levels(block, self.filters.bandwidth_hz, self.sample_rate))

    def verdict(self) -> str | None:
        """Which of ``DROP_REASONS`` speaks against the track; None if it is good."""
        if self.peak < 10 ** (self.filters.silence_db / 20):
            return "silent"
        if self.filters.true_peak_db is not None and self.true_peak_db > self.filters.true_peak_db:
            return "true_peak"
        if self.filters.bandwidth_hz is None:
            return None
        # A band too near to half the rate cannot be judged, and a track of that rate lacks it.
        if self._judges_bandwidth and levels_reach(np.concatenate(self._levels), self.sample_rate):
            return None
        return "bandwidth"

    @property
    def _judges_bandwidth(self) -> bool:
        limit = self.filters.bandwidth_hz
        return limit is not None and limit <= 0.45 * self.sample_rate


def judge(audio: np.ndarray, filters: FilterConfig, sample_rate: int) -> str | None:
    """:class:`TrackJudge` on a whole track ``[channels, samples]``."""
    judged = TrackJudge(filters, sample_rate)
    for first in range(0, audio.shape[1], BLOCK_SAMPLES):
        judged.add(audio[:, first : first + BLOCK_SAMPLES])
    return judged.verdict()
