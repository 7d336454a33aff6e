"""What results.json holds, as ``earvae evaluate`` writes it and the listening report reads it."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from earvae import atomic, json_files
from earvae.errors import EarvaeError
from earvae.evaluation.figures import Figure, listed
from earvae.evaluation.metrics.loudness import Loudness
from earvae.json_files import JsonError

FORMAT = "earvae-evaluation-2"
LIMIT_BYTES = 2**30  # a thousand tracks of ten codecs are 30 MB
FILE_NAME = r"^[^/\\\x00-\x1f\x7f]+$"


class ResultsError(EarvaeError):
    """Results that cannot be read: one line that names the file and the reason."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Settings(_Part):
    """What all results have in common."""

    sample_rate: int = Field(ge=1000, le=1_000_000)
    metric_version: int
    seconds: FiniteFloat | None
    """Of each track; None: all of it."""
    start: FiniteFloat | Literal["middle"]
    """Seconds into each track."""
    loud: bool
    """Whether stretches were turned up to −9 LUFS."""
    judges: str | None = None
    """The packages of the perceptual judges and their versions, where these were asked."""


class Codec(_Part):
    """A system that was evaluated (``systems.System`` says what its fields are)."""

    name: str = Field(pattern=FILE_NAME, max_length=200)
    description: str = ""
    parameters: int | None = None
    kbps: FiniteFloat | None = None
    floats_per_second: FiniteFloat | None = None
    sanity: bool = False


class Reference(_Part):
    """The stretch of a track that was compared. ``slug`` names its folder of audio."""

    name: str
    slug: str = Field(pattern="^[A-Za-z0-9_-]+$", max_length=200)
    start: FiniteFloat
    seconds: FiniteFloat
    loudness: Loudness


class Result(_Part):
    """One codec on one track. Of one that failed, ``error`` says why and the rest is empty."""

    codec: str
    track: str
    lag_samples: int | None = None
    compared_samples: int | None = None
    kbps: FiniteFloat | None = None
    """Spent on this track."""
    metrics: dict[str, FiniteFloat | None] = Field(default_factory=dict)
    """By key (``figures.BY_KEY``)."""
    loudness: Loudness = Loudness()
    error: str | None = None
    missing: bool = False
    """Whether the codec has nothing of this track and need not: no failure."""


class Summary(_Part):
    """One metric of one codec over the tracks: the first four are None where none has a value."""

    codec: str
    metric: str
    mean: FiniteFloat | None
    median: FiniteFloat | None
    low: FiniteFloat | None
    """Lower end of the 95 % bootstrap interval of the mean."""
    high: FiniteFloat | None
    count: int
    """Tracks that have a value."""
    skipped: list[str] = []
    """Those that have none (silent, one-sided), in order of appearance."""
    worst: list[str] = []
    """The worst tracks, worst first."""


class Results(_Part):
    """The whole file."""

    format: str = Field(FORMAT, pattern=f"^{FORMAT}$")
    settings: Settings
    codecs: list[Codec]
    tracks: list[Reference]
    results: list[Result]
    summary: list[Summary]

    @model_validator(mode="after")
    def _whole(self) -> Results:
        """Every codec has one result of every track, and all is of these."""
        codecs, tracks = [c.name for c in self.codecs], [t.name for t in self.tracks]
        pairs = [(result.codec, result.track) for result in self.results]
        for names in (codecs, tracks, [t.slug for t in self.tracks], pairs):
            if len(set(names)) < len(names):
                raise ValueError(f"{max(names, key=names.count)} is there twice")
        if set(pairs) != {(codec, track) for codec in codecs for track in tracks}:
            raise ValueError("the results are not those of each codec on each track")
        if not {summary.codec for summary in self.summary} <= set(codecs):
            raise ValueError("there is a summary of a codec that is not listed")
        return self

    @cached_property
    def figures(self) -> list[Figure]:
        """What was measured."""
        return listed(judges=self.settings.judges is not None)

    @cached_property
    def result_of(self) -> dict[tuple[str, str], Result]:
        """Results by codec and track."""
        return {(result.codec, result.track): result for result in self.results}

    @cached_property
    def summary_of(self) -> dict[tuple[str, str], Summary]:
        """Summaries by codec and metric."""
        return {(summary.codec, summary.metric): summary for summary in self.summary}

    @cached_property
    def identity(self) -> str:
        """Another one for other results."""
        return hashlib.sha256(self.json_text().encode()).hexdigest()[:16]

    def done_of(self, codec: Codec) -> list[Result]:
        """What a codec has results of."""
        return [r for r in self.results if r.codec == codec.name and r.error is None]

    def kbps(self, codec: Codec) -> float | None:
        """What a codec spent on average, or what it was told to spend."""
        spent = [result.kbps for result in self.done_of(codec) if result.kbps]
        return sum(spent) / len(spent) if spent else codec.kbps

    def json_text(self) -> str:
        """The file's content."""
        return json.dumps(self.model_dump(), indent=1) + "\n"

    def write(self, path: Path) -> None:
        """Write results.json. Raises WriteError."""
        atomic.write(path, self.json_text())

    @classmethod
    def read(cls, path: Path) -> Results:
        """results.json. Raises ResultsError."""
        try:
            return json_files.typed(cls, json_files.read(path, LIMIT_BYTES), str(path))
        except JsonError as error:
            raise ResultsError(f"{error}; run earvae evaluate again") from None
