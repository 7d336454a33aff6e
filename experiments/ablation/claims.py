"""What the runs of an ablation say: means and spreads over seeds, a verdict on each claim, tables.

The rule. A claim sets a choice (the base) against alternatives. On each of its metrics the base is
better or worse than an alternative if their means over seeds differ by more than two pooled
standard errors, and level otherwise; with a single seed that is unknown. A claim is

- replicated, if the base is better than every alternative on every metric of the claim;
- not replicated, if it is worse than any alternative on any of them;
- undecided otherwise.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Literal

from earvae.evaluation.figures import BY_KEY, HIGHER
from earvae.evaluation.tables import title

BASE = "base"
STANDARD_ERRORS = 2.0  # that make a difference
METRICS = ("si_sdr", "mel", "stft", "icpc", "ccpc", "lsd_high", "side_si_sdr", "lufs_difference")
COLUMNS = {key: title(BY_KEY[key]) for key in METRICS}

Scores = dict[str, dict[int, dict[str, float | None]]]
"""By variant and seed, metrics: means over tracks."""


@dataclass(frozen=True)
class Claim:
    """A sentence to test. ``alternatives`` are changes of the base's recipe, by name."""

    name: str
    claim: str
    paper: str
    metrics: tuple[str, ...]
    alternatives: dict[str, dict]


@dataclass(frozen=True)
class Comparison:
    """The base against one alternative on one metric.

    ``advantage`` is the difference of the means, positive where the base is better; ``error`` is
    its pooled standard error, None with fewer than two seeds on either side. ``paired_error`` is
    that of the differences seed by seed, which decides nothing here.
    """

    metric: str
    alternative: str
    advantage: float | None
    error: float | None
    paired_error: float | None

    @property
    def outcome(self) -> Literal["better", "worse", "level", "unknown"]:
        """Of the base."""
        if self.advantage is None or self.error is None:
            return "unknown"
        if abs(self.advantage) <= STANDARD_ERRORS * self.error:
            return "level"
        return "better" if self.advantage > 0 else "worse"


def by_seed(scores: Scores, variant: str, metric: str) -> dict[int, float]:
    """A variant's values of a metric, of the seeds that have one."""
    found = {seed: metrics.get(metric) for seed, metrics in scores.get(variant, {}).items()}
    return {seed: value for seed, value in found.items() if value is not None}


def pooled_standard_error(one: list[float], other: list[float]) -> float | None:
    """Of the difference of two means, of independent samples of equal variance; None where either
    has fewer than two values."""
    if min(len(one), len(other)) < 2:
        return None
    squares = sum((len(side) - 1) * statistics.variance(side) for side in (one, other))
    variance = squares / (len(one) + len(other) - 2)
    return math.sqrt(variance * (1 / len(one) + 1 / len(other)))


def paired_error(one: dict[int, float], other: dict[int, float]) -> float | None:
    """Standard error of the mean difference seed by seed; None of fewer than two."""
    differences = [one[seed] - other[seed] for seed in one if seed in other]
    if len(differences) < 2:
        return None
    return statistics.stdev(differences) / math.sqrt(len(differences))


def compare(scores: Scores, alternative: str, metric: str) -> Comparison:
    """The base against an alternative."""
    paired = by_seed(scores, BASE, metric), by_seed(scores, alternative, metric)
    ours, theirs = (list(found.values()) for found in paired)
    if not ours or not theirs:
        return Comparison(metric, alternative, None, None, None)
    sign = 1 if BY_KEY[metric].best is HIGHER else -1
    advantage = sign * (statistics.mean(ours) - statistics.mean(theirs))
    pooled = pooled_standard_error(ours, theirs)
    return Comparison(metric, alternative, advantage, pooled, paired_error(*paired))


def comparisons(claim: Claim, scores: Scores) -> list[Comparison]:
    """All that a claim is judged by."""
    return [
        compare(scores, alternative, metric)
        for metric in claim.metrics
        for alternative in claim.alternatives
    ]


def verdict(found: list[Comparison]) -> Literal["replicated", "not replicated", "undecided"]:
    """By the rule at the head of this file."""
    outcomes = {comparison.outcome for comparison in found}
    if "worse" in outcomes:
        return "not replicated"
    return "replicated" if outcomes == {"better"} else "undecided"


# ------------------------------------------------------------------------------ tables


def scores_table(scores: Scores) -> str:
    """Mean ± standard deviation over seeds of every variant, in Markdown."""
    rows = [["variant", "seeds", *COLUMNS.values()]]
    for variant, seeds in scores.items():
        cells = [
            spread(list(by_seed(scores, variant, metric).values()), metric) for metric in COLUMNS
        ]
        rows.append([variant, str(len(seeds)), *cells])
    return markdown(rows)


def verdicts_table(claims: list[Claim], scores: Scores) -> str:
    """The claims, what the paper reports, and the verdicts, in Markdown."""
    rows = [["claim", "the paper", "here"]]
    rows += [
        [claim.claim, claim.paper, f"**{verdict(comparisons(claim, scores))}**"] for claim in claims
    ]
    return markdown(rows)


def comparisons_table(claims: list[Claim], scores: Scores) -> str:
    """What the verdicts rest on, in Markdown."""
    rows = [["claim", "metric", "base against", "advantage ± error", "seed by seed", "base is"]]
    for claim in claims:
        for one in comparisons(claim, scores):
            cells = [claim.name, COLUMNS[one.metric], one.alternative]
            cells += [_advantage(one), _error(one.paired_error, one.metric), one.outcome]
            rows.append(cells)
    return markdown(rows)


def spread(found: list[float], metric: str) -> str:
    """Mean ± standard deviation; the mean alone of one value, a dash of none."""
    if not found:
        return "–"
    sign = "+" if metric == "lufs_difference" else ""
    mean = _number(statistics.mean(found), metric, sign)
    if len(found) == 1:
        return mean
    return f"{mean} ± {_number(statistics.stdev(found), metric)}"


def _advantage(comparison: Comparison) -> str:
    if comparison.advantage is None:
        return "–"
    difference = _number(comparison.advantage, comparison.metric, "+")
    return f"{difference} {_error(comparison.error, comparison.metric)}".strip()


def _error(error: float | None, metric: str) -> str:
    return "" if error is None else f"± {_number(error, metric)}"


def _number(value: float, metric: str, sign: str = "") -> str:
    figure = BY_KEY[metric]
    return f"{figure.factor * value:{sign}.{figure.digits}f}"


def markdown(rows: list[list[str]]) -> str:
    """A table; the first row is its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
