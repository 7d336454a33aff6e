"""Which recordings a source of training data holds: folders, manifests, single files, packs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile

from earvae import tracks
from earvae.audio import RATES, AudioFileError, AudioSource, Part, layout_of, read_stretch
from earvae.config import ConfigError, SourceConfig
from earvae.errors import EarvaeError, about, visible
from earvae.remote import is_remote
from earvae.training.tar_read import MOST_SAMPLES_PER_BYTE, Recording, read_index

LISTING_THREADS = 16  # that open files while a source is listed; they mostly wait for the disk

# Codings whose count is the truth and that can be sought; files of others are read to their end.
COUNTABLE = ("PCM", "FLOAT", "DOUBLE", "ULAW", "ALAW", "ALAC", "VORBIS", "OPUS", "MPEG", "AAC")


@dataclass(frozen=True, slots=True)
class Track(Recording):
    """An audio file that can be drawn from. ``below``: its path below its folder or manifest;
    ``parts``: where its streams lie, None if that has not been looked at.
    """

    path: Path
    below: str
    parts: tuple[Part, ...] | None = None

    @property
    def name(self) -> str:
        return tracks.printable(self.path)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, int]:
        parts = self.parts or layout_of(self.path, thorough=False).parts
        return read_stretch(self.path, parts, start, stop)


def list_tracks(source: SourceConfig) -> tuple[list[Recording], list[str]]:
    """The usable recordings of a source, and one line for each file (or kind of files) left out.

    A source is what :func:`earvae.tracks.find` takes (a folder, a manifest, a file), with its
    splits, or the ``index.json``, local or remote, of a pack. Raises TracksError or ConfigError,
    naming the source, if it is missing, is none of these, or holds nothing usable.
    """
    name = source.tracks
    if name.endswith(".json"):
        if source.split is not None:
            raise ConfigError(f"{name}: has no splits; leave `split` out")
        found, left_out = read_index(name if is_remote(name) else str(Path(name).expanduser()))
    elif is_remote(name):
        raise ConfigError(f"{name}: a remote source must be the index.json of a pack")
    else:
        path = Path(name).expanduser()
        music = tracks.find([path], split=source.split)
        if not music.files:
            index = path / "index.json"
            hint = f"; use {index}" if index.is_file() else ""
            raise ConfigError(f"{music.problems[0]}{hint}")
        if path.is_dir():  # the order decides which crops a seed draws: names, part by part
            music.files.sort(key=lambda file: file.name.split("/"))
        found, unusable = inspect(music.files)
        left_out = music.problems + unusable
        left_out += [line.removeprefix("left out, ") for line in music.left_out_lines()]
    if not found:
        reason = f" ({len(left_out)} left out; {left_out[0]})" if left_out else ""
        raise ConfigError(f"{name}: no usable audio file{reason}")
    return found, left_out


def inspect(files: Sequence[tracks.MusicFile]) -> tuple[list[Track], list[str]]:
    """The usable tracks among files, in their order, and a line for each other one.

    Files are opened for their length, and their last sample is read, unless their manifest tells
    duration, rate and channels. Those whose header does not tell the truth are read to their end.
    """
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        found = list(pool.map(_looked_at, files))
    usable = [track for track in found if isinstance(track, Track)]
    return usable, [visible(line) for line in found if isinstance(line, str)]


def _looked_at(file: tracks.MusicFile) -> Track | str:
    """As :func:`_inspect`; whatever a file does, it is left out alone."""
    try:
        with about(file.path):
            return _inspect(file)
    except EarvaeError as error:
        return str(error)


def _inspect(file: tracks.MusicFile) -> Track | str:
    """The track in a file, or the line that says why it is left out."""
    path = Path(file.path)
    name = tracks.printable(path)
    try:
        most = MOST_SAMPLES_PER_BYTE * os.stat(path).st_size
        if file.duration is not None and file.rate is not None and file.channels is not None:
            # The manifest rounds to milliseconds; what it may have added is taken off again.
            frames = int((file.duration - 0.0005) * file.rate)
            if frames < most:
                return _usable(Track(frames, file.rate, file.channels, path, file.name))
        layout = layout_of(path, thorough=False)
        info = layout.info
        frames = info.header_samples or 0
        track = Track(frames, info.rate, info.channels, path, file.name, layout.parts)
        told = info.subtype.startswith(COUNTABLE)
        told &= 0 < frames < most
        if isinstance(_usable(replace(track, frames=1)), Track) and not (
            told and _reachable(track, frames - 1)
        ):
            track = _counted(track)
    except AudioFileError as error:
        return str(error)
    except FileNotFoundError:
        return f"{name}: no such file"
    except (OSError, ValueError) as error:
        return f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}"
    return _usable(track)


def _reachable(track: Track, place: int) -> bool:
    """Whether the sample at ``place`` can be read."""
    try:
        return len(track.read(place, place + 1)[0]) == 1
    except (AudioFileError, soundfile.SoundFileError, ValueError, AssertionError):
        return False


def _counted(track: Track) -> Track:
    """A file whose header does not tell its length, or tells more than there is, read once to its
    end. Raises AudioFileError if it is damaged, or if one cannot read at any place in it.
    """
    source = AudioSource(track.path)
    frames = sum(block.shape[1] for block in source.blocks())
    track = replace(track, frames=frames, parts=source.layout.parts)
    if not (_reachable(track, frames - 1) and _reachable(track, frames // 2)):
        raise AudioFileError(
            f"{track.name}: its header does not tell its length, and only its beginning can be "
            "reached; write it anew, for instance with `ffmpeg -i IN OUT.flac`"
        )
    return track


def _usable(track: Track) -> Track | str:
    if track.channels > 2:
        return f"{track.name}: {track.channels} channels; only mono and stereo are used"
    if track.rate not in RATES:
        return f"{track.name}: its header says {track.rate} Hz, which no music has"
    if track.frames < 1:
        return f"{track.name}: holds no audio"
    return track
