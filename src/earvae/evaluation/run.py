"""An evaluation: every track through every system, measured, kept, and summed up.

What is done stays in ``OUT/cache``: a run that is repeated or goes on after an interruption
measures only what is new. A result counts as old when the track's bytes, the system's settings,
the stretch, or the definition of a metric have changed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from earvae import atomic, audio
from earvae.audio import AudioFileError
from earvae.evaluation.aggregate import aggregate
from earvae.evaluation.align import AlignmentError, align
from earvae.evaluation.codecs import CodecError, System
from earvae.evaluation.excerpts import SAMPLE_RATE, Excerpt, Span, Track, read_excerpt
from earvae.evaluation.loudness import Loudness, loudness
from earvae.evaluation.measure import DIFFERENCES, METRIC_VERSION, Measurement, measure

FORMAT = "earvae-evaluation-1"
REFERENCE = "reference"
NO_LOUDNESS = Loudness(None, None, None)

Tell = Callable[[int, str], None]
"""Called with the number of results that are there, and with what is being done."""


@dataclass(frozen=True)
class Outcome:
    """``results`` is what ``results.json`` holds; ``failures`` are lines for people."""

    results: dict
    failures: list[str]


def evaluate(
    tracks: list[Track],
    systems: list[System],
    out: Path,
    span: Span,
    tell: Tell = lambda done, doing: None,
) -> Outcome:
    """Measure every system on every track.

    Writes ``OUT/audio/<slug>/reference.wav`` and ``<system>.wav`` (float, aligned, of equal
    length) and returns the rest. A track or a system that fails becomes a line and the others go
    on. Raises AudioFileError where OUT cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AudioFileError(f"{out}: cannot be written: {error.strerror}") from None
    failures: list[str] = []
    rows: list[dict] = []
    results: list[dict] = []
    for number, track in enumerate(tracks):
        tell(number * len(systems), track.name)
        bench = _Bench(track, out, span)
        try:
            rows.append(bench.reference_row())
        except (AudioFileError, OSError) as error:
            failures.append(str(error))
            continue
        for position, system in enumerate(systems):
            tell(number * len(systems) + position, f"{track.name}, {system.name}")
            result = bench.result(system)
            results.append(result)
            if result["error"]:
                failures.append(f"{system.name}, {track.name}: {result['error']}")
    tell(len(tracks) * len(systems), "")
    return Outcome(
        {
            "format": FORMAT,
            "settings": _settings(span),
            "codecs": [_about(system) for system in systems],
            "tracks": rows,
            "results": results,
            "summary": summarise(results),
        },
        failures,
    )


def summarise(results: list[dict]) -> list[dict]:
    """One row for each codec and metric, over the tracks that did not fail."""
    rows = []
    for codec in dict.fromkeys(result["codec"] for result in results):
        figures = {
            result["track"]: {
                name: math.nan if value is None else value
                for name, value in result["metrics"].items()
            }
            for result in results
            if result["codec"] == codec and result["error"] is None
        }
        for metric, summary in aggregate(figures).items():
            worst = [track for track, _ in summary.worst]
            if metric in DIFFERENCES:  # the worst are the largest, of either sign
                defined = [track for track in figures if track not in summary.undefined]
                defined.sort(key=lambda track: -abs(figures[track][metric]))
                worst = defined[: len(worst)]
            rows.append(
                {
                    "codec": codec,
                    "metric": metric,
                    "mean": summary.mean,
                    "median": summary.median,
                    "low": summary.low,
                    "high": summary.high,
                    "count": summary.tracks,
                    "skipped": len(summary.undefined),
                    "skipped_tracks": list(summary.undefined),
                    "worst": worst,
                }
            )
    return rows


class _Bench:
    """One track on the bench: it is read when the first system needs it, and only then."""

    def __init__(self, track: Track, out: Path, span: Span) -> None:
        self.track, self.span = track, span
        self.audio_folder = out / "audio" / track.slug
        self.cache_folder = out / "cache" / track.slug
        self.excerpt: Excerpt | None = None
        self.loudness = NO_LOUDNESS
        self.identity: dict = {}

    def reference_row(self) -> dict:
        """The track's row of the results. Raises AudioFileError."""
        self.identity = {"track": self.track.content(), **_settings(self.span)}
        row = self._cached(REFERENCE, self.identity)
        if row is None:
            excerpt = self._read()
            row = {
                "name": self.track.name,
                "slug": self.track.slug,
                "start": excerpt.start,
                "seconds": excerpt.seconds,
                **loudness(excerpt.audio, SAMPLE_RATE).as_dict(),
            }
            self._keep(REFERENCE, self.identity, row, excerpt.audio)
        row["name"] = self.track.name
        self.loudness = Loudness(row["lufs"], row["lra"], row["true_peak_db"])
        return row

    def result(self, system: System) -> dict:
        """A system's figures; ``error`` says what went wrong, if anything did."""
        try:
            identity = {**self.identity, **system.settings_for(self.track)}
            row = self._cached(system.name, identity)
            if row is None:
                row = self._measured(system, identity)
            error = None
        except (CodecError, AlignmentError, AudioFileError) as problem:
            row, error = _row(Measurement()), str(problem)
        except (MemoryError, torch.OutOfMemoryError):
            row, error = _row(Measurement()), "out of memory; evaluate less with --seconds"
        except Exception as problem:  # codecs are other people's code; the others go on
            reason = str(problem).strip().splitlines() or [""]
            row, error = _row(Measurement()), f"{type(problem).__name__}: {reason[0]}"
        return {"codec": system.name, "track": self.track.name, **row, "error": error}

    def _measured(self, system: System, identity: dict) -> dict:
        excerpt = self._read()
        made = system.reconstruct(excerpt)
        if not bool(torch.isfinite(made.audio.sum())):
            raise CodecError("returned values that are not finite")
        fitted = align(made.audio, excerpt.audio, made.lead)
        kbps = made.kbps
        del made
        shared = slice(fitted.first, fitted.last)
        measurement = measure(
            fitted.audio[:, shared], excerpt.audio[:, shared], SAMPLE_RATE, self.loudness
        )
        row = _row(measurement, fitted.lag, fitted.last - fitted.first, kbps)
        self._keep(system.name, identity, row, fitted.audio)
        return row

    def _read(self) -> Excerpt:
        if self.excerpt is None:
            self.excerpt = read_excerpt(self.track, self.span)
        return self.excerpt

    def _cached(self, name: str, identity: dict) -> dict | None:
        """The row that was kept under a name, if it is of this identity and its audio is there."""
        try:
            kept = json.loads((self.cache_folder / f"{name}.json").read_text(encoding="utf-8"))
            fits = kept["key"] == _key(identity) and (self.audio_folder / f"{name}.wav").is_file()
            return kept["row"] if fits else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # none, or not one of ours

    def _keep(self, name: str, identity: dict, row: dict, samples: torch.Tensor) -> None:
        """Audio first, then the row: what has a row is complete."""
        path = self.cache_folder / f"{name}.json"
        path.unlink(missing_ok=True)
        blocks = (piece.numpy() for piece in samples.split(audio.BLOCK_SAMPLES, dim=1))
        audio.write(
            self.audio_folder / f"{name}.wav",
            blocks,
            SAMPLE_RATE,
            samples.shape[0],
            samples.shape[1],
            audio.output_format(".wav"),
        )
        write_json(path, {"key": _key(identity), "row": row})


def write_json(path: Path, values: dict) -> None:
    """Plain values as JSON, under a temporary name until complete. NaN is refused."""
    with atomic.file(path) as temporary:
        text = json.dumps(values, indent=1, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _row(
    measurement: Measurement,
    lag: int | None = None,
    samples: int | None = None,
    kbps: float | None = None,
) -> dict:
    return {
        "lag_samples": lag,
        "compared_samples": samples,
        "kbps": kbps,
        "metrics": measurement.metrics,
        "bands": measurement.bands,
        "loudness": measurement.loudness.as_dict(),
    }


def _settings(span: Span) -> dict:
    return {
        "sample_rate": SAMPLE_RATE,
        "metric_version": METRIC_VERSION,
        "seconds": span.seconds,
        "start": "middle" if span.start is None else span.start,
    }


def _about(system: System) -> dict:
    names = ("name", "description", "parameters", "kbps", "floats_per_second", "sanity")
    return {name: getattr(system, name) for name in names}


def _key(identity: dict) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
