"""Aggregation over tracks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from earvae.evaluation.aggregate import aggregate


def test_mean_median_and_worst_tracks_by_name():
    figures = {
        "a": {"si_sdr": 10.0, "mel": 0.1},
        "b": {"si_sdr": 4.0, "mel": 0.2},
        "c": {"si_sdr": 1.0, "mel": 0.9},
    }
    summaries = aggregate(figures, worst=2)
    assert summaries["si_sdr"].mean == pytest.approx(5)
    assert summaries["si_sdr"].median == 4
    assert summaries["si_sdr"].worst == (("c", 1.0), ("b", 4.0))
    assert summaries["mel"].worst == (("c", 0.9), ("b", 0.2))


def test_undefined_values_are_named_and_enter_no_mean():
    figures = {
        "music": {"ccpc": 0.9},
        "one-sided": {"ccpc": math.nan},
        "broken": {"ccpc": math.inf},
        "unmeasured": {},
    }
    summary = aggregate(figures)["ccpc"]
    assert (summary.mean, summary.tracks) == (0.9, 1)
    assert summary.undefined == ("one-sided", "broken", "unmeasured")


def test_metric_without_any_value_has_no_figures():
    summary = aggregate({"silence": {"icpc": math.nan}})["icpc"]
    assert (summary.mean, summary.median, summary.low, summary.high) == (None,) * 4
    assert summary.tracks == 0 and summary.worst == ()


def test_bootstrap_interval_is_scipys_within_its_own_noise():
    values = np.random.default_rng(1).gamma(2.0, size=40)
    summary = aggregate({str(i): {"mel": v} for i, v in enumerate(values)}, resamples=4000)["mel"]
    interval = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=2
    ).confidence_interval
    width = interval.high - interval.low
    assert summary.low == pytest.approx(interval.low, abs=0.05 * width)
    assert summary.high == pytest.approx(interval.high, abs=0.05 * width)


def test_same_seed_gives_the_same_interval_whatever_else_is_measured():
    tracks = {str(i): {"mel": math.sqrt(i)} for i in range(9)}
    more = {name: {"stft": 1.0, **values} for name, values in tracks.items()}
    assert aggregate(tracks, seed=3)["mel"] == aggregate(more, seed=3)["mel"]
    assert aggregate(tracks, seed=3)["mel"].low != aggregate(tracks, seed=4)["mel"].low
