"""True peaks of signals whose crests are known."""

import math

import numpy as np
import pytest

from earvae.true_peak import TruePeak, true_peak_db


def test_a_sine_between_its_samples_peaks_three_decibels_above_them():
    """A quarter of the sample rate, 45° off: every sample is at 1/√2 of the crest."""
    time = np.arange(4096)
    sine = np.sin(np.pi / 2 * time + np.pi / 4)[None].repeat(2, 0).astype(np.float32)
    assert 20 * np.log10(np.abs(sine).max()) == pytest.approx(-3.01, abs=0.01)
    assert true_peak_db(sine) == pytest.approx(0.0, abs=0.05)
    assert true_peak_db(2 * sine) == pytest.approx(6.02, abs=0.05)


def test_cut_ends_make_no_true_peak():
    """A constant has no overshoot; cut off hard and continued by zeros it rings by 9 %."""
    assert true_peak_db(np.full((2, 4096), 0.9)) == pytest.approx(20 * np.log10(0.9), abs=0.02)


@pytest.mark.parametrize("place", [70, 999, 1000, 1001, 1500, 2930])
def test_a_peak_is_found_wherever_the_blocks_are_cut(place):
    """A burst of crests that no sample shows, of 64 samples around ``place``."""
    audio = np.zeros((2, 3000), np.float32)
    burst = slice(max(0, place - 64), place + 64)
    audio[:, burst] = (0.5 * np.sin(np.pi / 2 * np.arange(3000) + np.pi / 4))[burst]
    audio *= np.exp(-(((np.arange(3000) - place) / 25) ** 2))
    meter = TruePeak()
    for first in range(0, 3000, 1000):
        meter.add(audio[:, first : first + 1000])
    assert meter.decibels == pytest.approx(true_peak_db(audio), abs=0.02)


def test_silence_has_no_peak_and_a_few_samples_are_their_own():
    assert true_peak_db(np.zeros((2, 500))) == true_peak_db(np.zeros((1, 0))) == -math.inf
    assert true_peak_db(np.array([[0.5, -0.25]])) == pytest.approx(-6.02, abs=0.01)
