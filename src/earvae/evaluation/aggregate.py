"""From figures per track to a row of a table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from earvae.evaluation.figures import BY_KEY
from earvae.evaluation.results import Result, Summary

WORST = 5  # tracks that are named
RESAMPLES = 2000  # of the bootstrap (Efron and Tibshirani, 1993, section 13.3, percentiles)


def summarise(results: Iterable[Result]) -> list[Summary]:
    """One row for each codec and metric, over the tracks that did not fail."""
    by_codec: dict[str, dict[str, Mapping[str, float | None]]] = {}
    for result in results:
        if result.error is None:
            by_codec.setdefault(result.codec, {})[result.track] = result.metrics
    return [
        summary(codec, metric, {track: metrics.get(metric) for track, metrics in tracks.items()})
        for codec, tracks in by_codec.items()
        for metric in dict.fromkeys(key for metrics in tracks.values() for key in metrics)
    ]


def summary(codec: str, metric: str, values: Mapping[str, float | None], seed: int = 0) -> Summary:
    """One metric of one codec by track. None, NaN and infinity enter no mean: their tracks are
    named as skipped."""
    defined = {
        track: value
        for track, value in values.items()
        if value is not None and math.isfinite(value)
    }
    found = np.array(list(defined.values()))
    low, high = _interval(found, seed)
    return Summary(
        codec=codec,
        metric=metric,
        mean=float(found.mean()) if defined else None,
        median=float(np.median(found)) if defined else None,
        low=low,
        high=high,
        count=len(defined),
        skipped=[track for track in values if track not in defined],
        worst=sorted(defined, key=lambda track: BY_KEY[metric].merit(defined[track]))[:WORST],
    )


def _interval(values: np.ndarray, seed: int) -> tuple[float, float] | tuple[None, None]:
    """The 95 % interval of the mean; it depends on the seed and the values alone."""
    if not values.size:
        return None, None
    drawn = np.random.default_rng(seed).choice(values, (RESAMPLES, values.size))
    low, high = np.percentile(drawn.mean(axis=1), (2.5, 97.5))
    return float(low), float(high)
