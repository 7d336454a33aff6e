"""The tracks of an evaluation, and the stretch of each that is compared."""

from __future__ import annotations

import hashlib
import math
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from earvae.audio import AudioFileError, AudioSource, resample, to_stereo
from earvae.evaluation.metrics.loudness import loudness
from earvae.tracks import MusicFile

SAMPLE_RATE = 44_100  # Hz, of everything that is measured, as in the published evaluation
RECONSTRUCTION_ENDING = "_vae_rec"  # of the published reconstructions: song_vae_rec.wav
SLUG_LENGTH = 100  # characters that every file system takes
LOUD_LUFS = -9.0  # of commercial masters
LOUD_STEPS = 8  # the limiter takes loudness away, so the gain is approached in steps


@dataclass(frozen=True)
class Track:
    """A reference file."""

    path: Path
    name: str
    """Its path below the folder (or the manifest's folder), with forward slashes."""
    slug: str
    """The name as letters, digits, ``-`` and ``_``, without its suffix; no two tracks share one."""


@dataclass(frozen=True)
class Span:
    """Which stretch of each track is compared."""

    seconds: float | None = 30.0
    """None: from ``start`` to the end."""
    start: float | None = None
    """Seconds into the track; None: from the middle (whole seconds, so that the stretch begins
    on a sample at every rate)."""
    loud: bool = False
    """Whether the stretch is turned up to −9 LUFS through a soft limiter, as masters are."""

    def first_second(self, duration: float) -> float:
        """Where the stretch of a track of ``duration`` seconds begins."""
        if self.start is not None:
            return self.start
        return float(max(0, math.floor((duration - (self.seconds or duration)) / 2)))


@dataclass(frozen=True)
class Excerpt:
    """A stretch of a track: ``audio`` is float32 ``[2, samples]`` at ``SAMPLE_RATE``."""

    track: Track
    start: float  # seconds
    audio: Tensor
    loud: bool = False

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.audio.shape[1] / SAMPLE_RATE


def references(music: Iterable[MusicFile]) -> list[Track]:
    """The references among found files (``earvae.tracks.find``): all but those of the published
    reconstructions' naming."""
    paths: dict[str, Path] = {}  # by name: a manifest may name a file twice
    for file in music:
        if not posixpath.splitext(file.name)[0].endswith(RECONSTRUCTION_ENDING):
            paths.setdefault(file.name, Path(file.path))
    slugs = [slug_of(posixpath.splitext(name)[0]) for name in paths]
    counts = Counter(slug.lower() for slug in slugs)
    tracks = []
    for (name, path), slug in zip(paths.items(), slugs, strict=True):
        if not slug or counts[slug.lower()] > 1:
            digits = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
            slug = f"{slug or 'track'}_{digits}"
        tracks.append(Track(path, name, slug))
    return tracks


def evenly(tracks: list[Track], most: int | None) -> list[Track]:
    """Every so many of the tracks, ``most`` at most."""
    return tracks[:: -(-len(tracks) // most)] if most else tracks


def read_excerpt(track: Track, span: Span) -> Excerpt:
    """The stretch of a track, mono duplicated, surround folded. Raises AudioFileError."""
    source = AudioSource(track.path, downmix=True)
    if source.info.header_samples is None:  # only reading tells
        for _ in source.blocks():
            pass
    duration = (source.samples or source.info.header_samples) / source.rate
    start = span.first_second(duration)
    if start >= duration:
        raise AudioFileError(f"{track.path}: ends after {duration:.1f} s, before the stretch that "
                             f"is compared begins (--start {start:g})")  # fmt: skip
    audio = read_stretch(source, start, span.seconds)
    return Excerpt(track, start, turned_up(audio) if span.loud else audio, span.loud)


def turned_up(audio: Tensor, lufs: float = LOUD_LUFS) -> Tensor:
    """``[2, samples]`` brought to an integrated loudness through a soft limiter (tanh), as
    commercial masters are. What has no loudness (silence, under 0.4 s) stays as it is."""
    gain = 1.0
    for _ in range(LOUD_STEPS):
        found = loudness(torch.tanh(gain * audio), SAMPLE_RATE).lufs
        if found is None:
            return audio
        gain *= 10 ** ((lufs - found) / 20)
    return torch.tanh(gain * audio)


def read_stretch(source: AudioSource, start: float, seconds: float | None) -> Tensor:
    """float32 ``[2, samples]`` at ``SAMPLE_RATE`` from ``start`` seconds on; it may end early.

    Memory is that of the result. Raises AudioFileError.
    """
    first = round(start * source.rate)
    last = None if seconds is None else first + round(seconds * source.rate)
    with closing(source.blocks()) as blocks:
        cut = _cut(to_stereo(blocks), first, last)
        pieces = list(resample(cut, source.rate, SAMPLE_RATE))
    if not pieces:
        raise AudioFileError(f"{source.path}: ends before {start:g} s")
    audio = torch.empty(2, sum(piece.shape[1] for piece in pieces))
    at = 0
    while pieces:  # each is let go as soon as it is copied
        piece = pieces.pop(0)
        audio[:, at : at + piece.shape[1]] = torch.from_numpy(piece)
        at += piece.shape[1]
    return audio


def slug_of(name: str) -> str:
    """A name for files and addresses: ASCII letters, digits, ``-`` and ``_``."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", name).strip("_")[-SLUG_LENGTH:]


def _cut(blocks, first: int, last: int | None):
    """The samples from first to last of a stream of blocks, reading no further."""
    position = 0
    for block in blocks:
        low, high = max(0, first - position), block.shape[1]
        high = high if last is None else min(high, last - position)
        if low < high:
            yield np.ascontiguousarray(block[:, low:high])
        position += block.shape[1]
        if last is not None and position >= last:
            return
