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
import os
import stat
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import soundfile
from pydantic import BaseModel, ConfigDict, Field

from earvae import json_files
from earvae.audio import RATES
from earvae.errors import ConfigError
from earvae.regular import ReadError, open_regular

FORMAT = "earvae-shards"
VERSION = 1
RETRY_SECONDS = (0.5, 1.0, 2.0)  # waits before a remote read is tried again
MOST_INDEX_BYTES = 1 << 30
MOST_SEGMENT_BYTES = (1 << 32) - 1  # what a WAV file holds
MOST_SEGMENT_SECONDS = 1e6

# Even at 6 kb/s a compressed file has 64 samples for each byte; a header that tells many more is
# not believed.
MOST_SAMPLES_PER_BYTE = 1000


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

    No more is taken in than was asked for, to the end ``MOST_INDEX_BYTES``, however much a server
    sends. A remote read that fails is tried again after each of ``RETRY_SECONDS``. Nothing stays
    open, so worker processes may be forked at any time. Raises OSError.
    """
    most = MOST_INDEX_BYTES if size is None else size
    if is_remote(location):
        data = _fetch_remote(location, offset, size, most + 1)
    else:
        try:
            with open_regular(location) as file:
                file.seek(offset)
                data = file.read(most if size is not None else most + 1)
        except ReadError as error:
            raise OSError(str(error)) from None
    if len(data) > most or size is not None and len(data) != size:
        count = "more" if len(data) > most else str(len(data))
        raise OSError(f"{location}: gave {count} bytes where {most} were asked for")
    return data


def _fetch_remote(location: str, offset: int, size: int | None, most: int) -> bytes:
    try:
        import fsspec
    except ModuleNotFoundError:
        raise OSError("URLs need the package fsspec: pip install 'earvae[train]'") from None
    try:
        system, path = fsspec.core.url_to_fs(location)  # kept by fsspec, for each process
    except (ImportError, ValueError) as error:  # a package is missing, or no such kind of URL
        raise OSError(f"{location}: {error}") from None
    web = "http" in ([system.protocol] if isinstance(system.protocol, str) else system.protocol)
    for wait in (*RETRY_SECONDS, None):
        try:
            if web:
                return _fetch_web(system, path, offset, size, most)
            return system.cat_file(path, start=offset, end=offset + (size or most))
        except FileNotFoundError:
            raise OSError(f"{location}: no such file") from None
        except PermissionError as error:
            raise OSError(f"{location}: {error}") from None
        except Exception as error:  # every file system raises what its own library raises
            if wait is None:
                raise OSError(f"{location}: {error or type(error).__name__}") from None
            time.sleep(wait)
    raise AssertionError("unreachable")


def _fetch_web(system: Any, url: str, offset: int, size: int | None, most: int) -> bytes:
    """At most ``most`` bytes of an answer, as they come: servers may send more than was asked."""
    headers = dict(system.kwargs.get("headers", {}))
    if size is not None:
        headers["Range"] = f"bytes={offset}-{offset + size - 1}"
    # A block size of 0 is fsspec's word for a stream; with a size it does not ask for one.
    with system.open(url, block_size=0, size=1, headers=headers) as answer:
        if size is not None and answer.r.status != 206:
            raise OSError("the server does not give parts of files")
        data = bytearray()
        while len(data) < most and (block := answer.read(most - len(data))):
            data += block
    return bytes(data)


class _Shard(BaseModel):
    file: Annotated[str, Field(pattern=r"^[^/\\\x00]+$")]  # beside the index
    bytes: Annotated[int, Field(strict=True, ge=1)]


class _Sample(BaseModel):
    """What is used of a sample; see above for the rest."""

    model_config = ConfigDict(strict=True)

    shard: Annotated[int, Field(ge=0)]
    offset: Annotated[int, Field(ge=0)]
    size: Annotated[int, Field(ge=1, le=MOST_SEGMENT_BYTES)]
    crc32: int
    frames: Annotated[int, Field(ge=1)]
    rate: Annotated[int, Field(ge=RATES.start, lt=RATES.stop)]
    channels: Annotated[int, Field(ge=1, le=2)]


class _Index(BaseModel):
    format: Literal["earvae-shards"]
    version: Literal[1]
    segment_seconds: Annotated[float, Field(gt=0, le=MOST_SEGMENT_SECONDS)]
    shards: list[_Shard]
    samples: list[object]


def read_index(location: str) -> tuple[list[Segment], list[str]]:
    """The segments that an index lists, and one line for each shard with something missing, and
    for samples that cannot be.

    Local shards are looked for; remote ones are taken to be there. Raises ConfigError if the
    index cannot be read or is none.
    """
    try:
        index = json_files.typed(_Index, json_files.parse(fetch(location), location), location)
    except OSError as error:
        reason = error.strerror or str(error).removeprefix(f"{location}: ")
        raise ConfigError(f"{location}: cannot be read: {reason}") from None
    except json_files.JsonError as error:
        reason = str(error).removeprefix(f"{location}: ")
        raise ConfigError(
            f"{location}: is not an index that `earvae pack` wrote: {reason}"
        ) from None
    return _segments(index, location)


def _segments(index: _Index, location: str) -> tuple[list[Segment], list[str]]:
    shards = [_beside(location, shard.file) for shard in index.shards]
    there = [
        shard.bytes if is_remote(location) else size_of(path)
        for shard, path in zip(index.shards, shards, strict=True)
    ]
    segments, lost, odd = [], [0] * len(shards), []
    for number, value in enumerate(index.samples):
        name = f"{location}: sample {number}"
        try:
            sample = json_files.typed(_Sample, value, name)
            longest = max(1, round(index.segment_seconds * sample.rate))
            if sample.shard >= len(shards):
                raise json_files.JsonError(f"{name}: is of no shard that is listed")
            if sample.frames > min(longest, MOST_SAMPLES_PER_BYTE * sample.size):
                raise json_files.JsonError(
                    f"{name}: {sample.frames} frames do not fit into {sample.size} bytes and "
                    f"{index.segment_seconds:g} s"
                )
        except json_files.JsonError as error:
            odd.append(str(error))
            continue
        if sample.offset + sample.size > there[sample.shard]:
            lost[sample.shard] += 1
            continue
        own = sample.model_dump() | {"shard": shards[sample.shard]}
        segments.append(Segment(**own))
    left_out = [
        f"{path}: {'cut off' if bytes_there else 'missing'}; {count} of its segments left out"
        for path, bytes_there, count in zip(shards, there, lost, strict=True)
        if count
    ]
    if odd:
        more = f", and {len(odd) - 1} more like it" if len(odd) > 1 else ""
        left_out.append(f"{odd[0]}{more}: left out; pack it anew")
    return segments, left_out


def _beside(location: str, name: str) -> str:
    if is_remote(location):
        return location.rsplit("/", 1)[0] + "/" + name
    return str(Path(location).parent / name)


def size_of(path: str | Path) -> int:
    """Bytes of a regular file; 0 if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0
