"""The tracks of an evaluation, and the stretch of each that is compared."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from earvae.audio import AudioFileError, AudioSource, resample, to_stereo
from earvae.tracks import SUFFIXES

SAMPLE_RATE = 44_100  # Hz, of everything that is measured, as in the published evaluation
RECONSTRUCTION_ENDING = "_vae_rec"  # of the published reconstructions: song_vae_rec.wav
SLUG_LENGTH = 100  # characters that every file system takes


class EvaluationError(Exception):
    """Something to evaluate that is not there; the message says what to do."""


@dataclass(frozen=True)
class Track:
    """A reference file."""

    path: Path
    name: str
    """Its path below the folder (or the manifest's folder), with forward slashes."""
    slug: str
    """The name as letters, digits, ``-`` and ``_``, without its suffix; no two tracks share one."""

    def content(self) -> str:
        """SHA-256 of the file. Raises AudioFileError."""
        return content_of(self.path)


@dataclass(frozen=True)
class Span:
    """Which stretch of each track is compared."""

    seconds: float | None = 30.0
    """None: from ``start`` to the end."""
    start: float | None = None
    """Seconds into the track; None: from the middle (whole seconds, so that the stretch begins
    on a sample at every rate)."""

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

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.audio.shape[1] / SAMPLE_RATE


def find_tracks(
    source: Path, split: str | None = None, leave_out: Path | None = None
) -> list[Track]:
    """The references of a folder, of a manifest in JSON Lines (``earvae corpus`` writes one), or
    one file.

    Files of the published reconstruction naming are no references, nor is anything hidden or
    below ``leave_out``. Raises EvaluationError.
    """
    if split is not None and source.suffix != ".jsonl":
        raise EvaluationError(f"{source}: --split is for manifests (.jsonl); leave it out")
    if source.is_dir():
        root, files = source, _search(source, leave_out)
    elif not source.is_file():
        raise EvaluationError(f"{source}: no such folder, manifest or file")
    elif source.suffix == ".jsonl":
        root, files = source.parent, _listed(source, split)
    else:
        root, files = source.parent, [source]
    if not files:
        what = f"track of split {split!r}" if split else "audio file"
        raise EvaluationError(f"{source}: holds no {what}")
    return _named(root, files)


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
    return Excerpt(track, start, read_stretch(source, start, span.seconds))


def read_stretch(source: AudioSource, start: float, seconds: float | None) -> Tensor:
    """float32 ``[2, samples]`` at ``SAMPLE_RATE`` from ``start`` seconds on; it may end early.

    Memory is that of the result. Raises AudioFileError.
    """
    first = round(start * source.rate)
    last = None if seconds is None else first + round(seconds * source.rate)
    pieces = []
    with closing(source.blocks()) as blocks:
        cut = _cut(to_stereo(blocks), first, last)
        for block in resample(cut, source.rate, SAMPLE_RATE):
            pieces.append(block)
    if not pieces:
        raise AudioFileError(f"{source.path}: ends before {start:g} s")
    audio = torch.empty(2, sum(piece.shape[1] for piece in pieces))
    at = 0
    while pieces:  # each is let go as soon as it is copied
        piece = pieces.pop(0)
        audio[:, at : at + piece.shape[1]] = torch.from_numpy(piece)
        at += piece.shape[1]
    return audio


def content_of(path: Path) -> str:
    """SHA-256 of a file, in hex. Raises AudioFileError."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
    except OSError as error:
        raise AudioFileError(f"{path}: cannot be read: {error.strerror}") from None
    return digest.hexdigest()


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


def _search(folder: Path, leave_out: Path | None) -> list[Path]:
    own = None if leave_out is None else leave_out.resolve()
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and Path(parent, name).resolve() != own
        )
        paths = (Path(parent, name) for name in sorted(names) if not name.startswith("."))
        found += [
            path
            for path in paths
            if path.suffix.lower() in SUFFIXES and not path.stem.endswith(RECONSTRUCTION_ENDING)
        ]
    return found


def _listed(manifest: Path, split: str | None) -> list[Path]:
    files = []
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            file, own_split = entry["file"], entry.get("split")
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise EvaluationError(
                f"{manifest}: line {number} is not a JSON object with a `file`"
            ) from None
        if split in (None, own_split):
            files.append(manifest.parent / file)
    return files


def _named(root: Path, files: list[Path]) -> list[Track]:
    names = {path: Path(os.path.relpath(path, root)).as_posix() for path in files}
    slugs = {path: slug_of(str(Path(name).with_suffix(""))) for path, name in names.items()}
    taken = [slug.lower() for slug in slugs.values()]
    tracks = []
    for path, name in names.items():
        slug = slugs[path]
        if not slug or taken.count(slug.lower()) > 1:
            digits = hashlib.sha256(os.fsencode(name)).hexdigest()[:6]
            slug = f"{slug or 'track'}_{digits}"
        tracks.append(Track(path, name, slug))
    return tracks
