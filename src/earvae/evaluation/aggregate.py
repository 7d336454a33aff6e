"""From figures per track to a row of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

HIGHER_IS_BETTER = frozenset({"si_sdr", "icpc", "ccpc", "mid_si_sdr", "side_si_sdr"})


@dataclass(frozen=True)
class Summary:
    """One metric over a set of tracks. The figures are None where no track has a value."""

    mean: float | None
    median: float | None
    low: float | None
    """Lower end of the 95 % bootstrap interval of the mean."""
    high: float | None
    """Upper end of it."""
    tracks: int
    """Tracks that have a value."""
    undefined: tuple[str, ...]
    """Names of the tracks that have none (silent, one-sided), in order of appearance."""
    worst: tuple[tuple[str, float], ...]
    """Names and values of the worst tracks, worst first."""


def aggregate(
    figures: Mapping[str, Mapping[str, float]],
    *,
    worst: int = 5,
    resamples: int = 2000,
    seed: int = 0,
    higher_is_better: frozenset[str] = HIGHER_IS_BETTER,
) -> dict[str, Summary]:
    """Summaries by metric of figures by track name and metric, as ``track_metrics`` gives them.

    A value that is NaN, infinite or absent enters no mean; its track is named as undefined.

    Args:
        figures: track name to metric to value.
        worst: how many tracks to name.
        resamples: bootstrap samples (Efron and Tibshirani, 1993, section 13.3, percentiles).
        seed: of the resampling; each metric's interval depends on it and its own values alone.
        higher_is_better: metrics of which the lowest values are the worst; of all others the
            highest are.
    """
    metrics = dict.fromkeys(metric for values in figures.values() for metric in values)
    summaries = {}
    for metric in metrics:
        found = {name: values.get(metric, math.nan) for name, values in figures.items()}
        defined = {name: value for name, value in found.items() if math.isfinite(value)}
        undefined = tuple(name for name in found if name not in defined)
        ranked = sorted(defined.items(), key=lambda item: item[1])
        if metric not in higher_is_better:
            ranked.reverse()
        values = np.array(list(defined.values()))
        low, high = _interval(values, resamples, seed)
        summaries[metric] = Summary(
            mean=float(values.mean()) if defined else None,
            median=float(np.median(values)) if defined else None,
            low=low,
            high=high,
            tracks=len(defined),
            undefined=undefined,
            worst=tuple(ranked[:worst]),
        )
    return summaries


def _interval(
    values: np.ndarray, resamples: int, seed: int
) -> tuple[float, float] | tuple[None, None]:
    if not values.size:
        return None, None
    draw = np.random.default_rng(seed)
    means = [draw.choice(values, values.size).mean() for _ in range(resamples)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
