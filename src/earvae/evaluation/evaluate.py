"""An evaluation: every track through every system, measured, kept, and summed up.

What is done stays in ``OUT/cache``: a run that is repeated or goes on after an interruption
measures only what is new. A result counts as old when the track's bytes, the system's settings,
the stretch, the list of figures, or the definition of one has changed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel

from earvae import atomic, audio, json_files
from earvae.errors import LOG, EarvaeError, WriteError, about, visible
from earvae.evaluation import figures
from earvae.evaluation.aggregate import summarise
from earvae.evaluation.align import align
from earvae.evaluation.excerpts import (
    SAMPLE_RATE,
    Excerpt,
    Span,
    Track,
    read_excerpt,
    references,
)
from earvae.evaluation.metrics.judges import versions as judge_versions
from earvae.evaluation.metrics.loudness import loudness
from earvae.evaluation.metrics.signal import Signal
from earvae.evaluation.results import Codec, Reference, Result, Results, Settings
from earvae.evaluation.systems.registry import Codecs, make_all
from earvae.evaluation.systems.system import System, UnusableSystem
from earvae.json_files import JsonError
from earvae.owned import EVALUATION, Owned
from earvae.tracks import find, printable

Progress = Callable[[int, str], None]
"""Called with the number of results that are there, and with what is being done."""

WRITTEN = (
    *("results.json", "results.csv", "results.md", "evaluation_results.json"),
    *("audio", "cache", "report"),
)
"""Names in OUT."""

Row = TypeVar("Row", bound=BaseModel)


def claimed(out: Path) -> Owned:
    """The folder of an evaluation, with what it writes there listed as its own.

    Raises WriteError if something else has one of those names, or added to the report, or where
    OUT cannot be written.
    """
    try:
        Results.read(out / "results.json")
        before = WRITTEN
    except EarvaeError:
        before = ()
    owned = Owned(out, EVALUATION, before)
    owned.claim(*WRITTEN)
    atomic.refuse_strangers(out / "report")
    return owned


def evaluate(
    tracks: list[Track] | str | Path,
    systems: list[System] | Codecs,
    out: str | Path,
    span: Span = Span(),
    progress: Progress = lambda done, doing: None,
    judges: bool = False,
) -> tuple[Results, list[str]]:
    """Measure every system on every track: the results, and a line for each failure.

    Writes ``OUT/audio/<slug>/reference.wav`` and ``<system>.wav`` (float, aligned, of equal
    length). A track or a system that fails becomes a line and the others go on.

    Args:
        tracks: references, or the folder, manifest or file to find them in.
        systems: codecs to measure; or by the names of their rows specs such as "opus:96",
            functions (``systems.function.RoundTrip``), and systems.
        out: the folder of the evaluation.
        span: the stretch of each track.
        progress: is told how far it is.
        judges: whether the perceptual judges are asked too, which takes the extra ``judges``.

    Raises WriteError or AudioFileError where OUT cannot be written, or holds what is not ours
    (:func:`claimed`); SpecError for specs that make no sense, or names that meet; NoJudges.
    """
    out = Path(out)
    failures: list[str] = []
    if isinstance(tracks, str | Path):
        music = find([Path(tracks)], leave_out=out)
        tracks, failures = references(music.files), [*music.problems]
    if not all(isinstance(system, System) for system in systems):
        systems, unusable = make_all(systems)
        failures += unusable
    settings = _settings(span, judges)
    claimed(out)
    found: list[Reference] = []
    results: list[Result] = []
    for number, (track, name) in enumerate(zip(tracks, _shown(tracks), strict=True)):
        progress(number * len(systems), name)
        bench = _Bench(track, name, out, span, settings)
        try:
            with about(track.path):
                found.append(bench.reference())
        except WriteError:
            raise
        except EarvaeError as error:
            failures.append(str(error))
            continue
        for position, system in enumerate(systems):
            progress(number * len(systems) + position, f"{name}, {system.name}")
            result = bench.result(system)
            results.append(result)
            if result.error and not result.missing:
                failures.append(f"{system.name}, {result.track}: {result.error}")
    progress(len(tracks) * len(systems), "")
    measured = Results(
        settings=settings,
        codecs=[Codec.model_validate(system, from_attributes=True) for system in systems],
        tracks=found,
        results=results,
        summary=summarise(results),
    )
    return measured, failures


class _Kept(BaseModel):
    """What stands in the cache beside a result's audio."""

    key: str
    bytes: int
    """Of the audio file."""
    row: dict


class _Bench:
    """One track on the bench: it is read when the first system needs it, and only then."""

    def __init__(self, track: Track, name: str, out: Path, span: Span, settings: Settings) -> None:
        self.track, self.name, self.span, self.settings = track, name, span, settings
        self.audio_folder = out / "audio" / track.slug
        self.cache_folder = out / "cache" / track.slug
        self.excerpt: Excerpt | None = None
        self.target: Signal | None = None
        self.identity: dict = {}

    def reference(self) -> Reference:
        """The track's row of the results. Raises AudioFileError, WriteError."""
        self.identity = {
            "track": audio.sha256_of(self.track.path),
            "figures": [*figures.BY_KEY],
            **self.settings.model_dump(),
        }
        row = self._kept("reference", self.identity, Reference)
        if row is None:
            excerpt = self._read()
            row = Reference(
                name=self.name,
                slug=self.track.slug,
                start=excerpt.start,
                seconds=excerpt.seconds,
                loudness=self.target.once(loudness),
            )
            self._keep("reference", self.identity, row, excerpt.audio)
        return row.model_copy(update={"name": self.name})

    def result(self, system: System) -> Result:
        """A system's figures; ``error`` says what went wrong, if anything did."""
        if not system.is_for(self.track):
            return Result(
                codec=system.name, track=self.name, error="has none of this track", missing=True
            )
        try:
            identity = {**self.identity, **system.settings_for(self.track)}
            kept = self._kept(system.name, identity, Result) or self._measured(system, identity)
            return kept.model_copy(update={"track": self.name})
        except WriteError:
            raise
        except EarvaeError as problem:
            error = str(problem)
        except (MemoryError, torch.OutOfMemoryError):
            error = "out of memory; evaluate less with --seconds"
        except Exception as problem:  # systems are other people's code; the others go on
            LOG.debug("%s, %s", system.name, self.name, exc_info=True)
            reason = str(problem).strip().splitlines() or [""]
            error = visible(f"{type(problem).__name__}: {reason[0]}")
        return Result(codec=system.name, track=self.name, error=error)

    def _measured(self, system: System, identity: dict) -> Result:
        excerpt = self._read()
        made = system.reconstruct(excerpt)
        if not bool(torch.isfinite(made.audio.sum())):
            raise UnusableSystem("returned values that are not finite")
        fitted = align(made.audio, excerpt.audio, made.lead)
        kbps = made.kbps
        del made
        shared, samples = slice(fitted.first, fitted.last), fitted.last - fitted.first
        ours, theirs = Signal(fitted.audio[:, shared], SAMPLE_RATE, system.hop), self.target
        if samples < excerpt.audio.shape[1]:  # compared where both are there
            theirs = Signal(excerpt.audio[:, shared], SAMPLE_RATE)
        row = Result(
            codec=system.name,
            track=self.name,
            lag_samples=fitted.lag,
            compared_samples=samples,
            kbps=kbps,
            metrics=figures.measure(ours, theirs, figures.listed(self.settings.judges is not None)),
            loudness=ours.once(loudness),
        )
        self._keep(system.name, identity, row, fitted.audio)
        return row

    def _read(self) -> Excerpt:
        if self.excerpt is None:
            self.excerpt = read_excerpt(self.track, self.span)
            self.target = Signal(self.excerpt.audio, SAMPLE_RATE)
        return self.excerpt

    def _kept(self, name: str, identity: dict, kind: type[Row]) -> Row | None:
        """The row that was kept under a name, if it is of this identity and its audio is whole."""
        place = self.cache_folder / f"{name}.json"
        try:
            kept = json_files.typed(_Kept, json_files.read(place), str(place))
            if kept.key != _key(identity) or kept.bytes != self._sound(name).stat().st_size:
                return None
            return json_files.typed(kind, kept.row, str(place))
        except (OSError, JsonError):
            return None  # none, or not one of ours

    def _keep(self, name: str, identity: dict, row: BaseModel, samples: torch.Tensor) -> None:
        """Audio first, then the row: what has a row is complete."""
        path = self.cache_folder / f"{name}.json"
        path.unlink(missing_ok=True)
        blocks = (piece.numpy() for piece in samples.split(audio.BLOCK_SAMPLES, dim=1))
        audio.write(
            self._sound(name),
            blocks,
            SAMPLE_RATE,
            samples.shape[0],
            samples.shape[1],
            audio.output_format(".wav"),
        )
        size = self._sound(name).stat().st_size
        kept = _Kept(key=_key(identity), bytes=size, row=row.model_dump())
        atomic.write(path, kept.model_dump_json())

    def _sound(self, name: str) -> Path:
        return self.audio_folder / f"{name}.wav"


def _shown(tracks: list[Track]) -> list[str]:
    """Names of tracks as people read them, no two alike."""
    names = [printable(track.name) for track in tracks]
    counts = Counter(names)
    return [
        name if counts[name] == 1 else f"{name} ({track.slug})"
        for name, track in zip(names, tracks, strict=True)
    ]


def _settings(span: Span, judges: bool) -> Settings:
    return Settings(
        sample_rate=SAMPLE_RATE,
        metric_version=figures.VERSION,
        seconds=span.seconds,
        start="middle" if span.start is None else span.start,
        loud=span.loud,
        judges=judge_versions() if judges else None,
    )


def _key(identity: dict) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
