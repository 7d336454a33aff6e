"""What ``earvae evaluate`` wrote in results.json, read with care: figures may be missing."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = "earvae-evaluation-1"
SANITY = frozenset(
    "identity polarity polarity-flip flip mono mono-fold mono-fold-down fold-down".split()
)
"""Names of codecs that check the metrics and are no candidates: they get no marks."""

Figures = Mapping[str, float | None]


class ReportError(Exception):
    """Results that no report can be made of: one line that names the file and the reason."""


@dataclass(frozen=True)
class Loudness:
    """Of one version of a track, as far as it is defined."""

    lufs: float | None = None
    lra: float | None = None
    true_peak_db: float | None = None


@dataclass(frozen=True)
class Codec:
    """One way to a reconstruction."""

    name: str
    description: str = ""
    parameters: int | None = None
    kbps: float | None = None
    floats_per_second: float | None = None
    sanity: bool = False


@dataclass(frozen=True)
class Track:
    """One reference. ``slug`` names its folder of audio."""

    name: str
    slug: str
    seconds: float | None
    loudness: Loudness


@dataclass(frozen=True)
class Result:
    """One codec on one track."""

    codec: str
    track: str
    lag_samples: int | None = None
    kbps: float | None = None
    """Spent on this track."""
    metrics: Figures = field(default_factory=dict)
    bands: Figures = field(default_factory=dict)
    loudness: Loudness = Loudness()
    error: str | None = None


@dataclass(frozen=True)
class Summary:
    """One metric of one codec over the tracks."""

    mean: float | None
    median: float | None
    low: float | None
    high: float | None
    count: int
    skipped: int


@dataclass(frozen=True)
class Results:
    """The whole file. ``identity`` changes whenever the file does."""

    identity: str
    settings: Mapping[str, Any]
    codecs: tuple[Codec, ...]
    tracks: tuple[Track, ...]
    results: Mapping[tuple[str, str], Result]
    """By codec and track name."""
    summary: Mapping[tuple[str, str], Summary]
    """By codec name and metric."""

    def kbps(self, codec: Codec) -> float | None:
        """What a codec spent on average, or what it was told to spend."""
        spent = [r.kbps for r in self.results.values() if r.codec == codec.name and r.kbps]
        return sum(spent) / len(spent) if spent else codec.kbps


def read_results(path: Path) -> Results:
    """``results.json``. Raises ReportError."""
    try:
        data = path.read_bytes()
        found = json.loads(data)
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ReportError(f"{path}: is not JSON ({error}); run earvae evaluate again") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ReportError(f"{path}: does not say format {FORMAT}; run earvae evaluate again")
    try:
        return _results(found, hashlib.sha256(data).hexdigest()[:16])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReportError(
            f"{path}: is incomplete ({type(error).__name__}: {error}); run earvae evaluate again"
        ) from None


def _results(found: dict[str, Any], identity: str) -> Results:
    codecs = tuple(_codec(entry) for entry in found["codecs"])
    tracks = tuple(
        Track(str(e["name"]), str(e["slug"]), _number(e.get("seconds")), _loudness(e))
        for e in found["tracks"]
    )
    results = [
        Result(
            codec=str(e["codec"]),
            track=str(e["track"]),
            lag_samples=e.get("lag_samples"),
            kbps=_number(e.get("kbps")),
            metrics=_figures(e.get("metrics")),
            bands=_figures(e.get("bands")),
            loudness=_loudness(e.get("loudness")),
            error=e.get("error"),
        )
        for e in found["results"]
    ]
    summary = {
        (str(e["codec"]), str(e["metric"])): Summary(
            *(_number(e.get(key)) for key in ("mean", "median", "low", "high")),
            count=int(e.get("count") or 0),
            skipped=int(e.get("skipped") or 0),
        )
        for e in found["summary"]
    }
    by_name = {(result.codec, result.track): result for result in results}
    return Results(identity, found.get("settings") or {}, codecs, tracks, by_name, summary)


def _codec(entry: Mapping[str, Any]) -> Codec:
    name = str(entry["name"])
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return Codec(
        name=name,
        description=str(entry.get("description") or ""),
        parameters=entry.get("parameters"),
        kbps=_number(entry.get("kbps")),
        floats_per_second=_number(entry.get("floats_per_second")),
        sanity=bool(entry.get("sanity", plain in SANITY)),
    )


def _loudness(entry: Mapping[str, Any] | None) -> Loudness:
    entry = entry or {}
    return Loudness(*(_number(entry.get(key)) for key in ("lufs", "lra", "true_peak_db")))


def _figures(entry: Mapping[str, Any] | None) -> dict[str, float | None]:
    """The numbers of an object. In objects by octave (``{"63": {"level_error": …}}``) the octave
    goes to the end of the name (``level_error_63``)."""
    flat: dict[str, float | None] = {}
    for key, value in (entry or {}).items():
        if isinstance(value, Mapping):
            flat |= {f"{inner}_{key}": number for inner, number in _figures(value).items()}
        else:
            flat[str(key)] = _number(value)
    return flat


def _number(value: Any) -> float | None:
    """A finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None
