"""Results as tables: for the terminal, results.csv and results.md, and by the published keys."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from earvae import atomic
from earvae.evaluation.aggregate import summarise
from earvae.evaluation.figures import (
    BY_KEY,
    HEARING,
    MISSING,
    Best,
    Figure,
    band_name,
    groups,
)
from earvae.evaluation.metrics.loudness import Loudness
from earvae.evaluation.results import Codec, Results, Summary

FEW = 3  # tracks that are named above a table
PUBLISHED_METRICS = {
    "sisdr": "si_sdr",
    "mel_distance": "mel",
    "stft_distance": "stft",
    "per_channel_coherence": "icpc",
    "interchannel_coherence": "ccpc",
}
PUBLISHED_LOUDNESS = {"lufs-i": "lufs", "lra": "lra", "true_peak": "true_peak_db"}


def write_all(results: Results, out: str | Path) -> None:
    """``results.json``, ``results.csv``, ``results.md`` and ``evaluation_results.json``.

    Raises WriteError.
    """
    out = Path(out)
    atomic.write(out / "results.csv", csv_text(results))
    texts = [markdown(part) for part in parts(results)]
    atomic.write(out / "results.md", "\n".join(texts))
    published = json.dumps(published_values(results), indent=1) + "\n"
    atomic.write(out / "evaluation_results.json", published)
    results.write(out / "results.json")


def csv_text(results: Results) -> str:
    """One line for each track and codec, every figure in a column; empty where there is none."""
    tracks = {track.name: track for track in results.tracks}
    readings = [field.name for field in fields(Loudness)]
    header = ["codec", "track", "start", "seconds", "lag_samples", "compared_samples", "kbps"]
    header += [*BY_KEY, *readings, *(f"reference_{reading}" for reading in readings), "error"]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(header)
    for row in results.results:
        track = tracks[row.track]
        cells = [row.codec, row.track, track.start, track.seconds]
        cells += [row.lag_samples, row.compared_samples, row.kbps]
        cells += [row.metrics.get(key) for key in BY_KEY]
        cells += [getattr(x, name) for x in (row.loudness, track.loudness) for name in readings]
        writer.writerow([*cells, row.error])
    return text.getvalue()


def parts(results: Results) -> list[Results]:
    """The results apart by which codecs there are of a track: only rows over the same tracks
    compare. One part, the whole, where every codec is for every track."""
    tracks: dict[tuple[str, ...], list[str]] = {}
    for track in results.tracks:
        there = [
            c.name for c in results.codecs if not results.result_of[c.name, track.name].missing
        ]
        tracks.setdefault(tuple(there), []).append(track.name)
    if len(tracks) < 2:
        return [results]
    return [_part(results, *part) for part in tracks.items()]


def which(results: Results) -> str:
    """How many tracks, and the names of few."""
    tracks = results.tracks
    names = ", ".join(track.name for track in tracks)
    return f"{len(tracks)} tracks ({names})" if len(tracks) <= FEW else f"{len(tracks)} tracks"


def _part(results: Results, codecs: tuple[str, ...], tracks: list[str]) -> Results:
    rows = [r for r in results.results if r.codec in codecs and r.track in tracks]
    return Results(
        settings=results.settings,
        codecs=[codec for codec in results.codecs if codec.name in codecs],
        tracks=[track for track in results.tracks if track.name in tracks],
        results=rows,
        summary=summarise(rows),
    )


def table(
    results: Results, figures: Sequence[Figure], statistic: str = "mean", intervals: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of means (or medians) over tracks; of figures that have a value in each
    band, all bands in a cell. ``intervals`` adds the 95 % interval of each mean where there are
    several tracks."""
    rows = []
    for codec in results.codecs:
        cells = [codec.name]
        for figure in figures:
            found = (results.summary_of.get((codec.name, key)) for key in figure.keys)
            cells.append(" / ".join(_cell(each, figure, statistic, intervals) for each in found))
        rows.append(cells)
    return ["codec", *map(title, figures)], rows


def compact_table(
    results: Results, statistic: str = "mean", intervals: bool = False
) -> tuple[list[str], list[list[str]]]:
    """The same of the figures in the paper's column order, and the rate of each codec."""
    figures = [figure for figure in results.figures if figure.short]
    header, rows = table(results, figures, statistic, intervals)
    for codec, row in zip(results.codecs, rows, strict=True):
        row.insert(1, _rate(codec, results))
    return [header[0], "rate", *header[1:]], rows


def hearing_table(results: Results, statistic: str = "mean") -> tuple[list[str], list[list[str]]]:
    """What the distances do not hear, a column for each band: below each figure its codecs.
    Figures without any value are left out."""
    figures = next(f for heading, f in groups(results.figures, True) if heading == HEARING)
    bands = max((figure.bands for figure in figures), key=len)
    rows = []
    for figure in figures:
        cells = [row[1].split(" / ") for row in table(results, [figure], statistic)[1]]
        values = [[*row, *[""] * (len(bands) - len(row))] for row in cells]
        if all(cell == MISSING for row in cells for cell in row):
            continue
        if len(values) == 1:
            rows.append([title(figure), *values[0]])
            continue
        rows.append([title(figure), *[""] * len(bands)])
        names = (f"  {codec.name}" for codec in results.codecs)
        rows += [[name, *row] for name, row in zip(names, values, strict=True)]
    return ["by band", *map(band_name, bands)], rows


def title(figure: Figure) -> str:
    """Heading of a column, with the unit, and an arrow where more or less is better."""
    text = figure.short or " ".join(filter(None, (figure.label, figure.unit)))
    return text if figure.best is Best.ZERO else f"{text} {figure.best.arrow}"


def markdown(results: Results) -> str:
    """The tables, what the rows are, and which tracks did worst."""
    settings = results.settings
    length = "whole tracks" if settings.seconds is None else f"{settings.seconds:g} s of each"
    place = "from the middle" if settings.start == "middle" else f"from {settings.start:g} s"
    loud = ", turned up to −9 LUFS through a soft limiter" if settings.loud else ""
    lines = [
        f"{which(results)}, {length}, {place}, {settings.sample_rate} Hz{loud}. ↓ "
        "lower is better, ↑ higher is better; Δ is reconstruction minus reference.",
        *("", "Mean over tracks (95 % bootstrap interval of the mean):", ""),
        *markdown_table(*compact_table(results, intervals=True)),
        *("", "Median over tracks:", ""),
        *markdown_table(*compact_table(results, "median")),
    ]
    others = [figure for figure in results.figures if not (figure.short or figure.bands)]
    lines += ["", "What lies behind it, median over tracks:", ""]
    lines += markdown_table(*table(results, others, "median"))
    for heading, figures in groups(results.figures, with_bands=True):
        bands = " / ".join(map(band_name, max((figure.bands for figure in figures), key=len)))
        lines += ["", f"{heading} ({bands}, as far as a figure reaches), median over tracks:", ""]
        lines += markdown_table(*table(results, figures, "median"))
    lines.append("")
    for codec in results.codecs:
        row = results.summary_of.get((codec.name, "si_sdr"))
        text = f"- **{codec.name}**: {codec.description}."
        if row and row.skipped:
            text += f" {len(row.skipped)} tracks have no SI-SDR (silent)."
        if row and row.worst:
            text += f" Worst SI-SDR: {', '.join(row.worst[:3])}."
        failed = [r for r in results.results if r.codec == codec.name and r.error]
        if failed:
            text += f" Failed on {len(failed)} tracks, which no mean contains."
        lines.append(text)
    return "\n".join(lines) + "\n"


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table whose first column is text and whose others are figures."""
    cells = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in cells]


def published_values(results: Results) -> dict[str, dict]:
    """By codec, the object that the published evaluation writes for one model's folder as
    ``evaluation_results.json``: its keys, our values."""
    tracks = {track.name: track.loudness for track in results.tracks}
    objects = {}
    for codec in results.codecs:
        rows = results.done_of(codec)
        values = {"model_name": codec.name, "file_count": len(rows)}
        for theirs, ours in PUBLISHED_METRICS.items():
            values[f"avg_{theirs}"] = _mean([row.metrics.get(ours) for row in rows])
        versions = ("gen", [row.loudness for row in rows]), ("gt", [tracks[r.track] for r in rows])
        for version, readings in versions:
            for theirs, ours in PUBLISHED_LOUDNESS.items():
                values[f"avg_{version}_{theirs}"] = _mean([getattr(r, ours) for r in readings])
        objects[codec.name] = values
    return objects


def _rate(codec: Codec, results: Results) -> str:
    """The bit rate spent, on average, or the rate of latents."""
    if kbps := results.kbps(codec):
        return f"{kbps:.0f} kb/s"
    return f"{codec.floats_per_second:.0f} floats/s" if codec.floats_per_second else MISSING


def _cell(summary: Summary | None, figure: Figure, statistic: str, interval: bool) -> str:
    if summary is None:
        return MISSING
    text = figure.text(getattr(summary, statistic))
    if not interval or summary.count < 2:
        return text
    return f"{text} ({figure.text(summary.low)} … {figure.text(summary.high)})"


def _mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
