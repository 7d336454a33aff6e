"""The files that an evaluation leaves beside ``results.json``: CSV, Markdown, published keys."""

from __future__ import annotations

import csv
from pathlib import Path

from earvae import atomic
from earvae.evaluation.measure import DIFFERENCES, IMAGE_ERRORS, PERCENT, TITLES
from earvae.evaluation.run import write_json

PUBLISHED_METRICS = {
    "sisdr": "si_sdr",
    "mel_distance": "mel",
    "stft_distance": "stft",
    "per_channel_coherence": "icpc",
    "interchannel_coherence": "ccpc",
}
PUBLISHED_LOUDNESS = {"lufs-i": "lufs", "lra": "lra", "true_peak": "true_peak_db"}


def write_all(results: dict, out: Path) -> None:
    """``results.json``, ``results.csv``, ``results.md`` and ``evaluation_results.json``.

    Raises AudioFileError where they cannot be written.
    """
    write_csv(results, out / "results.csv")
    with atomic.file(out / "results.md") as temporary:
        temporary.write_text(markdown(results), encoding="utf-8", errors="backslashreplace")
    write_json(out / "evaluation_results.json", published(results))
    write_json(out / "results.json", results)


def write_csv(results: dict, path: Path) -> None:
    """One line for each track and codec, every figure in a column; empty where there is none."""
    tracks = {track["name"]: track for track in results["tracks"]}
    metrics = list(dict.fromkeys(m for row in results["results"] for m in row["metrics"]))
    octaves = list(dict.fromkeys(b for row in results["results"] for b in row["bands"]))
    readings = ("lufs", "lra", "true_peak_db")
    header = ["codec", "track", "start", "seconds", "lag_samples", "compared_samples", "kbps"]
    header += [*metrics, *readings, *(f"reference_{reading}" for reading in readings)]
    header += [f"{error}_{octave}" for error in IMAGE_ERRORS for octave in octaves] + ["error"]
    with (
        atomic.file(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        table = csv.writer(file)
        table.writerow(header)
        for row in results["results"]:
            track = tracks[row["track"]]
            cells = [row["codec"], row["track"], track["start"], track["seconds"]]
            cells += [row["lag_samples"], row["compared_samples"], row["kbps"]]
            cells += [row["metrics"].get(metric) for metric in metrics]
            cells += [row["loudness"][reading] for reading in readings]
            cells += [track[reading] for reading in readings]
            cells += [
                row["bands"].get(octave, {}).get(error)
                for error in IMAGE_ERRORS
                for octave in octaves
            ]
            table.writerow([*cells, row["error"]])


def table(results: dict, intervals: bool) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table in the paper's column order: means over tracks, and if
    wanted the 95 % interval of each mean where there are several tracks."""
    summary = {(row["codec"], row["metric"]): row for row in results["summary"]}
    rows = []
    for codec in results["codecs"]:
        cells = [codec["name"], _rate(codec, results["results"])]
        cells += [
            _cell(summary.get((codec["name"], metric)), metric, intervals) for metric in TITLES
        ]
        rows.append(cells)
    return ["codec", "rate", *TITLES.values()], rows


def markdown(results: dict) -> str:
    """The table, what the rows are, and which tracks did worst."""
    header, rows = table(results, intervals=True)
    settings = results["settings"]
    length = "whole tracks" if settings["seconds"] is None else f"{settings['seconds']:g} s of each"
    start = settings["start"]
    place = "from the middle" if start == "middle" else f"from {start:g} s"
    lines = [
        f"{len(results['tracks'])} tracks, {length}, {place}, {settings['sample_rate']} Hz. Mean "
        "over tracks (95 % bootstrap interval of the mean). ↓ lower is better, ↑ higher is "
        "better; Δ is reconstruction minus reference.",
        "",
        _line(header),
        _line(["---", "---:", *["---:"] * len(TITLES)]),
        *map(_line, rows),
        "",
    ]
    summary = {(row["codec"], row["metric"]): row for row in results["summary"]}
    for codec in results["codecs"]:
        row = summary.get((codec["name"], "si_sdr"))
        text = f"- **{codec['name']}**: {codec['description']}."
        if row and row["skipped"]:
            text += f" {row['skipped']} tracks have no SI-SDR (silent)."
        if row and row["worst"]:
            text += f" Worst SI-SDR: {', '.join(row['worst'][:3])}."
        failed = [r for r in results["results"] if r["codec"] == codec["name"] and r["error"]]
        if failed:
            text += f" Failed on {len(failed)} tracks, which no mean contains."
        lines.append(text)
    return "\n".join(lines) + "\n"


def published(results: dict) -> dict[str, dict]:
    """By codec, the object that the published evaluation writes for one model's folder as
    ``evaluation_results.json``: its keys, our values."""
    tracks = {track["name"]: track for track in results["tracks"]}
    objects = {}
    for codec in results["codecs"]:
        rows = [
            row
            for row in results["results"]
            if row["codec"] == codec["name"] and row["error"] is None
        ]
        values = {"model_name": codec["name"], "file_count": len(rows)}
        for theirs, ours in PUBLISHED_METRICS.items():
            values[f"avg_{theirs}"] = _mean([row["metrics"][ours] for row in rows])
        for theirs, ours in PUBLISHED_LOUDNESS.items():
            values[f"avg_gen_{theirs}"] = _mean([row["loudness"][ours] for row in rows])
        for theirs, ours in PUBLISHED_LOUDNESS.items():
            values[f"avg_gt_{theirs}"] = _mean([tracks[row["track"]][ours] for row in rows])
        objects[codec["name"]] = values
    return objects


def _rate(codec: dict, results: list[dict]) -> str:
    """The bit rate spent, on average, or the rate of latents."""
    spent = [row["kbps"] for row in results if row["codec"] == codec["name"] and row["kbps"]]
    if spent:
        return f"{_mean(spent):.0f} kb/s"
    if codec["floats_per_second"]:
        return f"{codec['floats_per_second']:.0f} floats/s"
    return "–"


def _cell(row: dict | None, metric: str, interval: bool) -> str:
    if row is None or row["mean"] is None:
        return "–"
    factor = 100 if metric in PERCENT else 1
    sign = "+" if metric in DIFFERENCES else ""
    digits = 2 if metric in PERCENT or metric not in ("mel", "stft") else 3
    mean, low, high = (
        f"{factor * row[name] + 0.0:{sign}.{digits}f}" for name in ("mean", "low", "high")
    )
    return f"{mean} ({low} … {high})" if interval and row["count"] > 1 else mean


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
