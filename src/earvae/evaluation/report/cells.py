"""Cells of the report's tables: figures as they are shown, and which value is the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from earvae.evaluation.figures import MISSING, Best, Figure, signed
from earvae.evaluation.results import Codec, Results


@dataclass
class Cell:
    """One figure of a table. ``order`` sorts, ``mark`` is "best", "second" or nothing."""

    text: str
    order: float | None
    mark: str = ""
    note: str = ""
    """Shown under the figure, small."""


def marks(values: Mapping[str, float | None], figure: Figure) -> dict[str, str]:
    """Who is "best" and who is "second" among named values. Values that look equal share a mark;
    a single value is not marked, for there is nothing it is better than."""
    merits = {
        name: figure.shown_merit(value) for name, value in values.items() if value is not None
    }
    ranks = sorted(set(merits.values()), reverse=True)
    if len(merits) < 2:
        return {}
    names = dict(zip(ranks, ("best", "second"), strict=False))
    return {name: names[merit] for name, merit in merits.items() if merit in names}


def tracks_counted(results: Results) -> dict[str, int]:
    """By codec, the tracks that its best covered metric is a mean of."""
    counts = {codec.name: 0 for codec in results.codecs}
    for summary in results.summary:
        counts[summary.codec] = max(counts[summary.codec], summary.count)
    return counts


def summary_rows(
    results: Results, figures: Sequence[Figure], statistic: Literal["mean", "median"]
) -> dict[str, list[Cell]]:
    """By codec, the cells of the table of means (of the codecs with 95 % intervals) or medians."""

    def value(codec: Codec, figure: Figure) -> float | None:
        summary = results.summary_of.get((codec.name, figure.key))
        return getattr(summary, statistic) if summary else None

    rows = _rows(results.codecs, figures, value)
    for codec in results.codecs:
        for figure, cell in zip(figures, rows[codec.name], strict=True):
            summary = results.summary_of.get((codec.name, figure.key))
            if statistic == "mean" and not codec.sanity and summary and summary.count:
                cell.note = f"{figure.text(summary.low)} … {figure.text(summary.high)}"
    return rows


def track_rows(
    results: Results, figures: Sequence[Figure], track: str
) -> dict[str, list[Cell] | None]:
    """By codec, the cells of one track's table; None for codecs that failed there."""

    def value(codec: Codec, figure: Figure) -> float | None:
        return results.result_of[codec.name, track].metrics.get(figure.key)

    rows = _rows(results.codecs, figures, value)
    return {n: row if results.result_of[n, track].metrics else None for n, row in rows.items()}


def _rows(
    codecs: Sequence[Codec],
    figures: Sequence[Figure],
    value: Callable[[Codec, Figure], float | None],
) -> dict[str, list[Cell]]:
    """Cells by codec, the best and second best of each column marked among the contenders."""
    rows: dict[str, list[Cell]] = {codec.name: [] for codec in codecs}
    for figure in figures:
        values = {codec.name: value(codec, figure) for codec in codecs}
        contenders = {codec.name: values[codec.name] for codec in codecs if not codec.sanity}
        marked = marks(contenders, figure)
        for name, found in values.items():
            order = abs(found) if found is not None and figure.best is Best.ZERO else found
            rows[name].append(Cell(figure.text(found), order, marked.get(name, "")))
    return rows


def band_rows(results: Results, figure: Figure) -> dict[str, list[tuple[str, float]]]:
    """By codec, means over tracks of a figure that has a value in each band, and how bad each is:
    0, the best value that the table holds or could hold, to 1, the worst of a codec. Codecs
    without any value are left out."""
    values = {}
    for codec in results.codecs:
        found = [results.summary_of.get((codec.name, key)) for key in figure.keys]
        means = [summary.mean if summary else None for summary in found]
        if any(mean is not None for mean in means):
            values[codec] = means
    contenders = [v for codec, row in values.items() if not codec.sanity for v in row]
    merits = [figure.merit(value) for value in contenders if value is not None]
    best = max(merits, default=0.0) if figure.best is Best.HIGHER else 0.0
    span = best - min(merits, default=0.0) or 1.0

    def cell(value: float | None) -> tuple[str, float]:
        share = 0.0 if value is None else (best - figure.merit(value)) / span
        return figure.text(value), min(1.0, max(0.0, share))

    return {codec.name: [cell(v) for v in row] for codec, row in values.items()}


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    """A number and its unit, or a dash."""
    if value is None:
        return MISSING
    return signed(value, digits) + (f"\u202f{unit}" if unit else "")


def count(value: float | None) -> str:
    """A count, shortened: 950, 12.4 k, 4.5 M."""
    if value is None:
        return MISSING
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}\u202f{letter}"
    return f"{value:.4g}"
