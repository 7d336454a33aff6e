"""The file format of latents, in its three forms.

``song.safetensors`` holds the tensor ``latents`` ``[channels, frames]``, perhaps ``std`` of the
same shape, and metadata as strings. ``song.npy`` holds ``latents`` alone, and ``song.json`` beside
it the metadata as numbers and strings, with the names that stable-audio-tools' loader reads in
addition. A shard (``.tar``) holds either of them as neighbours: latents, then their JSON.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from earvae import atomic, json_files, tar
from earvae.latents.arrays import Array, Safetensors, of_npy
from earvae.latents.metadata import LatentsError, Metadata
from earvae.regular import ReadError, open_regular

SUFFIX, NPY, SIDECAR, SHARD = ".safetensors", ".npy", ".json", ".tar"
MOST_BYTES = 1 << 32  # of an entry: a hundred hours


@dataclass(frozen=True)
class Header:
    """What :func:`inspect` finds without reading the latents, which are all there."""

    metadata: Metadata
    channels: int  # of the latents
    frames: int
    dtype: str


@dataclass(frozen=True)
class Latents:
    """Latents ``values`` ``[channels, frames]``, perhaps the posterior's ``std`` of the same
    shape (float32 or float16), and their metadata."""

    metadata: Metadata
    values: np.ndarray
    std: np.ndarray | None = None

    def to_safetensors(self) -> bytes:
        """A safetensors file; equal latents give equal bytes.

        (The safetensors package writes metadata in an order that changes from run to run.)
        """
        tensors = {"latents": self.values} | ({} if self.std is None else {"std": self.std})
        words = {name: str(value) for name, value in self.metadata.values().items()}
        header: dict = {"__metadata__": words}
        offset = 0
        for name, values in tensors.items():
            header[name] = {
                "dtype": {"float32": "F32", "float16": "F16"}[values.dtype.name],
                "shape": list(values.shape),
                "data_offsets": [offset, offset + values.nbytes],
            }
            offset += values.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        data = (np.ascontiguousarray(values).tobytes() for values in tensors.values())
        return struct.pack("<Q", len(text)) + text + b"".join(data)

    def to_npy(self) -> bytes:
        """A ``.npy`` file of the latents."""
        file = io.BytesIO()
        np.save(file, np.ascontiguousarray(self.values))
        return file.getvalue()

    def to_sidecar(self) -> bytes:
        """The JSON beside an entry of a library: metadata, and stable-audio-tools' names for some.

        ``padding_mask`` has a 1 for each frame with true audio and a 0 for each that is padding;
        ``seconds_start`` (rounded down) and ``seconds_total`` (of the track, rounded up) are whole
        seconds; ``timestamps`` are where the entry begins and ends as shares of the track.
        """
        own = self.metadata
        rate, total, first = own.sample_rate, own.track_samples, own.sample_offset
        assert total is not None and first is not None and own.frames is not None
        loader = {
            "relpath": own.source,
            "seconds_start": first // rate,
            "seconds_total": math.ceil(total / rate),
            "timestamps": [first / total, (first + own.samples) / total],
            "padding_mask": [int(frame < own.true_frames) for frame in range(own.frames)],
        }
        return json.dumps(own.values() | loader).encode()


def write(path: str | Path, latents: Latents) -> None:
    """Write a safetensors file, whole or not at all. Raises WriteError."""
    atomic.write(path, latents.to_safetensors())


def inspect(path: str | Path) -> Header:
    """The header of a ``.safetensors`` or ``.npy`` file. Raises LatentsError if it holds no
    latents, is damaged, or has another size than it says."""
    with opened(Path(path)) as stored:
        array = stored.arrays["latents"]
        return Header(stored.metadata, *array.shape, array.dtype)


def read(path: str | Path, place: Place | None = None) -> Latents:
    """The latents of a ``.safetensors`` or ``.npy`` file, or at a place of a shard. Raises
    LatentsError: not there, not of this format, damaged, not finite."""
    if place is None:
        with opened(Path(path)) as stored:
            return stored.read()
    with named(f"{path}: {place.name}"), open_regular(path) as shard:
        return stored_at(shard, place).read()


def read_shard(path: str | Path) -> Iterator[Latents]:
    """The entries of a shard, one at a time. Raises LatentsError as :func:`read` does, also where
    an entry lacks its latents or its JSON, and where there is none."""
    with named(path), open_regular(path) as shard:
        for place in places(shard):
            yield stored_at(shard, place).read()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a shard has an entry. Offsets and sizes are bytes.

    Where ``json_size`` is None, nobody has looked at the JSON yet: ``json_offset`` is that of its
    header, which tells its size.
    """

    name: str  # of the member with the latents
    offset: int
    size: int
    json_offset: int
    json_size: int | None


def places(shard: IO[bytes]) -> Iterator[Place]:
    """The entries of an open shard, whose latents are not read. Raises LatentsError (that does not
    name the shard) or tarfile.TarError."""
    waiting: tarfile.TarInfo | None = None  # latents come before their JSON
    entries = 0
    for member in tar.members(shard):
        name, suffix = os.path.splitext(member.name)
        if suffix in (SUFFIX, NPY) and waiting is None:
            waiting = member
        elif suffix == SIDECAR and waiting and os.path.splitext(waiting.name)[0] == name:
            own = waiting.offset_data, waiting.size
            yield Place(waiting.name, *own, member.offset_data, member.size)
            entries, waiting = entries + 1, None
        else:
            raise LatentsError(f"its member {member.name} is not where an entry has it")
    if waiting or not entries:
        raise LatentsError(f"lacks the JSON of {waiting.name}" if waiting else "is empty")


def stored_at(shard: IO[bytes], place: Place) -> Stored:
    """An entry of an open shard. Raises LatentsError, ValueError, OSError."""
    stem, suffix = os.path.splitext(place.name)
    size, beside = place.json_size, place.json_offset
    if size is None and suffix == SUFFIX:  # which says all that its JSON does
        shard.seek(place.offset)
        return Stored.of(shard, place.size, suffix)
    if size is None:
        shard.seek(beside)
        member = tarfile.TarInfo.frombuf(shard.read(tarfile.BLOCKSIZE), "utf-8", "strict")
        size, beside = member.size, beside + tarfile.BLOCKSIZE
        if member.name != stem + SIDECAR or not member.isreg():
            raise LatentsError("is not where the index of the library has it; run that again")
    if not 0 <= size <= json_files.LIMIT_BYTES:
        raise LatentsError(f"its JSON has {size} bytes, too many")
    shard.seek(beside)
    values = json_files.parse(shard.read(size), "its JSON")
    shard.seek(place.offset)
    return Stored.of(shard, place.size, suffix, values)


def sidecar(path: Path) -> Path:
    """The JSON of a latent file. (Names may have dots before the suffix.)"""
    return path.with_name(path.name[: -len(path.suffix)] + SIDECAR)


def read_sidecar(path: Path) -> Metadata:
    """The metadata in the JSON beside latents. Raises LatentsError."""
    with named(path):
        return Metadata.parse(json_files.read(sidecar(path)))


def rounded(values: np.ndarray, half: bool) -> np.ndarray:
    """Values as they are stored, float32 or with ``half`` float16. Raises LatentsError (that does
    not name the file) where they are not finite then."""
    with np.errstate(over="ignore"):  # what float16 cannot hold is found right below
        values = values.astype(np.float16 if half else np.float32)
    if not np.isfinite(values).all():
        raise LatentsError("its latents are not finite" + " in float16; leave out --half" * half)
    return values


@dataclass(frozen=True)
class Stored:
    """Latents in a file, of which the headers were read and agree with each other."""

    file: IO[bytes]
    metadata: Metadata
    arrays: dict[str, Array]

    @classmethod
    def of(cls, file: IO[bytes], size: int, suffix: str, beside: object = None) -> Stored:
        """``size`` bytes from where ``file`` stands, and what the JSON beside them holds (None:
        there is none).

        Raises LatentsError or ValueError.
        """
        if size > MOST_BYTES:
            raise LatentsError(f"has {size} bytes, too many for latents")
        if suffix == NPY:
            metadata = Metadata.parse(beside)
            arrays = {"latents": of_npy(file, size)}
        else:
            header = Safetensors.of(file, size)
            metadata = Metadata.parse(header.metadata if beside is None else beside)
            arrays = header.arrays()
        if "latents" not in arrays:
            raise LatentsError("holds no latents; encode it again")
        shape = arrays["latents"].shape
        if len(shape) != 2 or 0 in shape or arrays.get("std", arrays["latents"]).shape != shape:
            shapes = {name: list(array.shape) for name, array in arrays.items()}
            raise LatentsError(f"latents of shape {shapes}; encode it again")
        metadata.check(shape[1])
        return cls(file, metadata, arrays)

    @property
    def frames(self) -> int:
        """Frames that are stored, padding among them."""
        return self.arrays["latents"].shape[1]

    def read(self, start: int = 0, stop: int | None = None) -> Latents:
        """The latents, or their frames from ``start`` to ``stop``; the metadata are of the whole.

        Raises LatentsError where they are not finite.
        """
        names = [name for name in ("latents", "std") if name in self.arrays]
        values = {name: self.arrays[name].load(self.file, start, stop) for name in names}
        for name, numbers in values.items():
            if not np.isfinite(numbers).all() or name == "std" and numbers.min() < 0:
                raise LatentsError(f"its {name} are not finite numbers; encode it again")
        return Latents(self.metadata, values["latents"], values.get("std"))


@contextmanager
def opened(path: Path) -> Iterator[Stored]:
    """A ``.safetensors`` or ``.npy`` file, its headers read. Whatever goes wrong is a LatentsError
    that names it."""
    with named(path), open_regular(path) as file:
        beside = json_files.read(sidecar(path)) if path.suffix == NPY else None
        yield Stored.of(file, os.fstat(file.fileno()).st_size, path.suffix, beside)


@contextmanager
def named(path: Path | str) -> Iterator[None]:
    """Whatever reading ``path`` raises becomes a LatentsError that names it."""
    try:
        yield
    except LatentsError as error:
        full = type(error)(f"{path}: {error}")
        full.__dict__.update(error.__dict__)
        raise full from None
    except ReadError as error:  # names the file
        raise LatentsError(str(error)) from None
    except OSError as error:
        reason = error.strerror or str(error).removeprefix(f"{path}: ")
        raise LatentsError(f"{path}: cannot be read: {reason}") from None
    except (ValueError, TypeError, EOFError, RecursionError, tarfile.TarError) as error:
        raise LatentsError(
            f"{path}: damaged, or not latents of `earvae encode` ({error})"
        ) from None
