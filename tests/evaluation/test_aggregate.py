"""Aggregation over tracks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from earvae.evaluation.aggregate import summarise, summary
from earvae.evaluation.results import Result


def test_mean_median_and_worst_tracks_by_name():
    values = {"a": 10.0, "b": 4.0, "c": 1.0}
    found = summary("x", "si_sdr", values)
    assert found.mean == pytest.approx(5)
    assert (found.median, found.count, found.worst) == (4, 3, ["c", "b", "a"])
    assert summary("x", "mel", values).worst == ["a", "b", "c"]
    assert summary("x", "si_sdr", {str(n): n for n in range(9)}).worst == [*"01234"]


def test_worst_loudness_is_the_largest_difference_of_either_sign():
    found = summary("x", "lufs_difference", {"a": -3.0, "b": 1.0, "c": 2.0})
    assert (found.worst, found.mean) == (["a", "c", "b"], 0)


def test_undefined_values_are_named_and_enter_no_mean():
    values = {"music": 0.9, "one-sided": math.nan, "broken": math.inf, "unmeasured": None}
    found = summary("x", "ccpc", values)
    assert (found.mean, found.count) == (0.9, 1)
    assert found.skipped == ["one-sided", "broken", "unmeasured"]


def test_metric_without_any_value_has_no_figures():
    found = summary("x", "icpc", {"silence": math.nan})
    assert (found.mean, found.median, found.low, found.high) == (None,) * 4
    assert found.count == 0 and found.worst == []


def test_what_failed_enters_no_summary():
    good = Result(codec="x", track="a", metrics={"mel": 1.0})
    (row,) = summarise([good, Result(codec="x", track="b", error="fell over")])
    assert (row.codec, row.metric, row.mean, row.skipped) == ("x", "mel", 1.0, [])


def test_bootstrap_interval_is_scipys_within_its_own_noise():
    values = np.random.default_rng(1).gamma(2.0, size=40)
    found = summary("x", "mel", {str(i): v for i, v in enumerate(values)})
    interval = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=2
    ).confidence_interval
    width = interval.high - interval.low
    assert found.low == pytest.approx(interval.low, abs=0.07 * width)
    assert found.high == pytest.approx(interval.high, abs=0.07 * width)


def test_same_seed_gives_the_same_interval():
    values = {str(i): math.sqrt(i) for i in range(9)}
    assert summary("x", "mel", values, seed=3) == summary("x", "mel", values, seed=3)
    assert summary("x", "mel", values, seed=3).low != summary("x", "mel", values, seed=4).low
