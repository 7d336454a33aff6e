"""Which crops and which tracks are good enough to train on (``FilterConfig``).

A crop is judged by :func:`refused`; a whole track, block by block and as the paper does, by
:class:`TrackJudge`. The measures are the same.
"""

from __future__ import annotations

import numpy as np

from earvae.config import FilterConfig
from earvae.true_peak import BLOCK, TruePeak, true_peak_db

DROP_REASONS = ("broken", "silent", "true_peak", "bandwidth")

BANDWIDTH_FRAME = 1024  # samples
DITHER_POWER = 2.0**-32  # of triangular dither and rounding to 16 bits: a quarter of a step squared
MOST_OF_THE_RATE = 0.45  # above it a bandwidth leaves nothing to judge


def refused(audio: np.ndarray, filters: FilterConfig, sample_rate: int) -> str | None:
    """Which of ``DROP_REASONS`` speaks against a crop ``[2, samples]``; None if it is good."""
    if is_silent(audio, filters):
        return "silent"
    if filters.true_peak_db is not None and true_peak_db(audio) > filters.true_peak_db:
        return "true_peak"
    if filters.bandwidth_hz is not None and not reaches(audio, filters.bandwidth_hz, sample_rate):
        return "bandwidth"
    return None


class TrackJudge:
    """The verdict of ``filters`` on a track at ``sample_rate`` Hz, given in blocks."""

    def __init__(self, filters: FilterConfig, sample_rate: int) -> None:
        self.filters, self.sample_rate = filters, sample_rate
        limit = filters.bandwidth_hz
        self._judges_bandwidth = limit is not None and limit <= MOST_OF_THE_RATE * sample_rate
        self._silent = True
        self._peak = TruePeak()
        self._levels: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        """Take the next samples, ``[channels, n]``."""
        if not block.shape[1]:
            return
        self._silent = self._silent and is_silent(block, self.filters)
        if self.filters.true_peak_db is not None:
            self._peak.add(block)
        if self._judges_bandwidth:
            self._levels.append(band_levels(block, self.filters.bandwidth_hz, self.sample_rate))

    def refusal(self) -> str | None:
        """Why the track as a whole is not used, as messages say it; None if it is good."""
        reason = self._reason()
        return reason and f"refused as a whole: {reason}"

    def _reason(self) -> str | None:
        if self._silent:
            return "silent"
        limit = self.filters.true_peak_db
        if limit is not None and self._peak.decibels > limit:
            return "true_peak"
        if self.filters.bandwidth_hz is None:
            return None
        # A band too near to half the rate cannot be judged, and a track of that rate lacks it.
        if self._judges_bandwidth and levels_reach(np.concatenate(self._levels), self.sample_rate):
            return None
        return "bandwidth"


def refusal_of_track(audio: np.ndarray, filters: FilterConfig, sample_rate: int) -> str | None:
    """:meth:`TrackJudge.refusal` of a whole track ``[channels, samples]``."""
    judge = TrackJudge(filters, sample_rate)
    for first in range(0, audio.shape[1], 4 * BLOCK):
        judge.add(audio[:, first : first + 4 * BLOCK])
    return judge.refusal()


def is_silent(audio: np.ndarray, filters: FilterConfig) -> bool:
    """Whether no sample reaches ``filters.silence_db``."""
    return bool(np.abs(audio).max() < 10 ** (filters.silence_db / 20))


def reaches(audio: np.ndarray, bandwidth_hz: float, sample_rate: int) -> bool:
    """Whether the spectrum of ``[channels, samples]`` reaches ``bandwidth_hz``.

    It does if, in a fifth of the frames, the kilohertz above it holds more power than 6 dB over
    the noise of dithered 16-bit audio. That noise, and no level relative to the crop, is the
    measure, for it fills the place above the cut of a lossy or resampled copy, and it lies as
    high in quiet crops as in loud ones. The median over frequency passes over single lines, such
    as a pilot tone at -60 dB; a fifth, and not one, passes over the moments in which a decoder
    clipped. Frames of digital silence do not count. Genuine crops so dull that their treble
    drowns in that noise are refused with the rest.
    """
    return levels_reach(band_levels(audio, bandwidth_hz, sample_rate), sample_rate)


def band_levels(audio: np.ndarray, bandwidth_hz: float, sample_rate: int) -> np.ndarray:
    """Median power per hertz in the kilohertz above ``bandwidth_hz``, of each frame that is not
    digital silence. ``audio`` is ``[channels, samples]``.
    """
    padded = np.pad(audio, ((0, 0), (0, max(0, BANDWIDTH_FRAME - audio.shape[1]))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, BANDWIDTH_FRAME, axis=1)
    frames = frames[:, :: BANDWIDTH_FRAME // 2]  # [channels, frames, samples]
    window = np.hanning(BANDWIDTH_FRAME)
    power = np.square(np.abs(np.fft.rfft(frames * window))).mean(axis=0)
    power *= 2 / (sample_rate * np.square(window).sum())  # per hertz; full scale 1
    frequency = np.fft.rfftfreq(BANDWIDTH_FRAME, 1 / sample_rate)
    band = (frequency >= bandwidth_hz) & (frequency <= bandwidth_hz + 1000)
    return np.median(power[power.sum(axis=1) > 0][:, band], axis=1)


def levels_reach(level: np.ndarray, sample_rate: int) -> bool:
    """Whether a fifth of the frames' levels (:func:`band_levels`) lies above the noise."""
    floor = 4 * DITHER_POWER * 2 / sample_rate
    return bool(level.size) and bool(np.quantile(level, 0.8) > floor)
