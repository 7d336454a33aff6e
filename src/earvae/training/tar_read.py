"""Packed music: many tracks in few tar files, read at random places from a disk or a network.

A shard is a plain tar file in the layout of WebDataset: a sample is two neighbouring members,
``KEY.flac`` (or ``.ogg``, ``.wav``) and ``KEY.json``. ``index.json`` beside the shards says where
the audio of every sample lies, so that any one of them is a single read of known offset and size::

    {"format": "earvae-shards", "version": 1, "segment_seconds": 30.0,
     "shards":  [{"file": "shard-000000.tar", "bytes": 1003417600}, …],
     "sources": [{"path": "album/song.wav", "sha256": "…", "rounded": false}, …],
     "samples": [{"member": "0000000-0000.flac", "shard": 0, "offset": 512, "size": 4207123,
                  "crc32": 123, "copied": false, "source": 0, "first_frame": 0,
                  "frames": 1323000, "rate": 44100, "channels": 2}, …]}

Offsets and sizes are bytes; ``source`` and ``shard`` count from 0 in the lists above them;
``rounded`` says that what is stored is not exactly what the source holds, ``copied`` that its
packets are the source's own.
:mod:`earvae.training.tar_write` writes them.
"""

from __future__ import annotations

import io
import json
import os
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from earvae.errors import ConfigError

FORMAT = "earvae-shards"
VERSION = 1
RETRY_SECONDS = (0.5, 1.0, 2.0)  # waits before a remote read is tried again


@dataclass(frozen=True, slots=True)
class Recording:
    """Audio that crops are drawn from. ``frames`` at ``rate`` Hz, 1 or 2 ``channels``."""

    frames: int
    rate: int
    channels: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.rate

    @property
    def name(self) -> str:
        """The place, as messages name it."""
        raise NotImplementedError

    def read(self, start: int, stop: int) -> tuple[np.ndarray, int]:
        """Samples ``start`` to ``stop``, float32 ``[samples, channels]``, fewer where it ends; and
        their rate, Hz. Raises OSError, SoundFileError, AudioFileError, ValueError or
        AssertionError.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Segment(Recording):
    """A piece of a track inside a shard."""

    shard: str  # path or URL of the tar file
    offset: int  # bytes
    size: int  # bytes
    crc32: int

    @property
    def name(self) -> str:
        return f"{self.shard} at byte {self.offset}"

    def read(self, start: int, stop: int) -> tuple[np.ndarray, int]:
        data = fetch(self.shard, self.offset, self.size)
        if zlib.crc32(data) != self.crc32:
            raise OSError(f"{self.shard}: damaged at byte {self.offset}")
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            file.seek(start)
            return file.read(stop - start, dtype="float32", always_2d=True), file.samplerate


def is_remote(location: str) -> bool:
    """Whether ``location`` is a URL and not a path."""
    return "://" in location


def fetch(location: str, offset: int = 0, size: int | None = None) -> bytes:
    """``size`` bytes (None: to the end) from ``offset`` of a file, or of a URL known to fsspec.

    A remote read that fails is tried again after each of ``RETRY_SECONDS``. Nothing stays open,
    so worker processes may be forked at any time. Raises OSError.
    """
    if is_remote(location):
        data = _fetch_remote(location, offset, size)
    else:
        with open(location, "rb") as file:
            file.seek(offset)
            data = file.read(-1 if size is None else size)
    if size is not None and len(data) != size:
        raise OSError(f"{location}: gave {len(data)} bytes where {size} were asked for")
    return data


def _fetch_remote(location: str, offset: int, size: int | None) -> bytes:
    try:
        import fsspec
    except ModuleNotFoundError:
        raise OSError("URLs need the package fsspec: pip install 'earvae[train]'") from None
    try:
        system, path = fsspec.core.url_to_fs(location)  # kept by fsspec, for each process
    except (ImportError, ValueError) as error:  # a package is missing, or no such kind of URL
        raise OSError(f"{location}: {error}") from None
    end = None if size is None else offset + size
    for wait in (*RETRY_SECONDS, None):
        try:
            return system.cat_file(path, start=offset, end=end)
        except FileNotFoundError:
            raise OSError(f"{location}: no such file") from None
        except PermissionError as error:
            raise OSError(f"{location}: {error}") from None
        except Exception as error:  # every file system raises what its own library raises
            if wait is None:
                raise OSError(f"{location}: {error or type(error).__name__}") from None
            time.sleep(wait)
    raise AssertionError("unreachable")


def read_index(location: str) -> tuple[list[Segment], list[str]]:
    """The segments that an index lists, and one line for each shard with something missing.

    Local shards are looked for; remote ones are taken to be there. Raises ConfigError if the
    index cannot be read or is none.
    """
    try:
        index = json.loads(fetch(location))
        if index["format"] != FORMAT or index["version"] != VERSION:
            raise ValueError
        return _segments(index, location)
    except OSError as error:
        reason = error.strerror or str(error).removeprefix(f"{location}: ")
        raise ConfigError(f"{location}: cannot be read: {reason}") from None
    except (ValueError, KeyError, TypeError, IndexError):
        raise ConfigError(f"{location}: is not an index that `earvae pack` wrote") from None


def _segments(index: dict, location: str) -> tuple[list[Segment], list[str]]:
    shards = [_beside(location, shard["file"]) for shard in index["shards"]]
    there = [
        shard["bytes"] if is_remote(location) else size_of(path)
        for shard, path in zip(index["shards"], shards, strict=True)
    ]
    fields = ("frames", "rate", "channels", "offset", "size", "crc32")
    segments, lost = [], [0] * len(shards)
    for sample in index["samples"]:
        number = sample["shard"]
        segment = Segment(shard=shards[number], **{field: sample[field] for field in fields})
        if segment.offset + segment.size > there[number]:
            lost[number] += 1
        else:
            segments.append(segment)
    left_out = [
        f"{path}: {'cut off' if bytes_there else 'missing'}; {count} of its segments left out"
        for path, bytes_there, count in zip(shards, there, lost, strict=True)
        if count
    ]
    return segments, left_out


def _beside(location: str, name: str) -> str:
    if is_remote(location):
        return location.rsplit("/", 1)[0] + "/" + name
    return str(Path(location).parent / name)


def size_of(path: str | Path) -> int:
    """Bytes of a file; 0 if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
