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
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import soundfile
from pydantic import BaseModel, ConfigDict, Field

from earvae import json_files
from earvae.audio import RATES
from earvae.errors import ConfigError
from earvae.remote import fetch, is_remote

FORMAT = "earvae-shards"
VERSION = 1
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
