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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load
from torch import Tensor

from earvae import atomic
from earvae.errors import EarvaeError

FORMAT = "earvae-latents"
VERSION = "1"
SUFFIX, NPY, SIDECAR, SHARD = ".safetensors", ".npy", ".json", ".tar"


class LatentsError(EarvaeError):
    """Latents or statistics of them that cannot be used; the message names the file."""


class OtherFormat(LatentsError):
    """A file that does not say that it holds latents; it may be whole and good."""


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What files say of their latents, under their names and in their order.

    Fields are None where a file does not say. From ``settings`` on, but for ``samples`` and
    ``original_samples``, they are of entries of a library. Samples are counted per channel.
    """

    sample_rate: int  # Hz, of the model
    original_rate: int  # Hz, of the source
    channels: int  # of the source, 1 or 2
    hop_length: int  # samples at the model's rate for each frame
    model: str  # EarVAE.identity
    latents: str  # "mean" or "sample"
    seed: int | None = None  # of the sample
    normalised: str | None = None  # digest of the statistics; None: as the model gave them
    settings: str | None = None  # digest of the library's settings
    source: str | None = None  # path below the library's input
    source_sha256: str | None = None
    track_samples: int | None = None  # of the whole track, at the model's rate
    samples: int  # at the model's rate
    sample_offset: int | None = None  # in the track
    original_samples: int  # at the source's rate
    original_offset: int | None = None
    frames: int | None = None
    frames_valid: int | None = None  # the mask: what follows is padding
    segment: int | None = None  # from 0, of a track that was cut; None: a whole track
    segments: int | None = None

    @property
    def true_frames(self) -> int:
        """Frames that stand for audio, of files with and without a mask."""
        return -(-self.samples // self.hop_length)

    def values(self) -> dict[str, int | str]:
        """The metadata as JSON holds them, the format's name and version first."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {name: value for name, value in own.items() if value is not None}
        return {"format": FORMAT, "format_version": VERSION} | given

    @classmethod
    def parse(cls, values: Mapping[str, object]) -> Metadata:
        """The metadata of a header or a sidecar; other names are ignored. Raises LatentsError
        (that does not name the file)."""
        if values.get("format") != FORMAT:
            raise OtherFormat(f"not latents of `earvae encode` (no format={FORMAT})")
        if (version := values.get("format_version")) != VERSION:
            raise LatentsError(f"format version {version}, this program reads {VERSION}; "
                               "update earvae")  # fmt: skip
        known: dict = {}
        for field in fields(cls):
            if field.name in values:
                kind = int if str(field.type).startswith("int") else str
                known[field.name] = kind(values[field.name])  # type: ignore[call-overload]
            elif field.default is MISSING:
                raise LatentsError(f"its metadata have no {field.name}; encode it again")
        sizes = ("sample_rate", "original_rate", "hop_length", "samples", "original_samples")
        if min(known[name] for name in sizes) < 1 or known["channels"] not in (1, 2):
            raise LatentsError("its metadata make no sense; encode it again")
        return cls(**known)


@dataclass(frozen=True)
class Header:
    """What :func:`inspect` finds without reading the latents."""

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
    latents or is damaged."""
    path = Path(path)
    with _named(path):
        if path.suffix == NPY:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
            metadata, shape, dtype = read_sidecar(path), values.shape, values.dtype.name
        else:
            with safe_open(path, "pt") as file:
                metadata = Metadata.parse(file.metadata() or {})
                tensor = file.get_slice("latents")
                shape, dtype = tensor.get_shape(), tensor.get_dtype()
        channels, frames = shape
        return Header(metadata, channels, frames, dtype)


def read(path: str | Path) -> Latents:
    """The latents of a ``.safetensors`` or ``.npy`` file. Raises LatentsError: not there, not of
    this format, damaged, not finite."""
    path = Path(path)
    with _named(path):
        if path.suffix == NPY:
            return _of_npy(path.read_bytes(), read_sidecar(path))
        with safe_open(path, "pt") as file:
            metadata = Metadata.parse(file.metadata() or {})
            names = [name for name in ("latents", "std") if name in file.keys()]  # noqa: SIM118
            return _of_tensors({name: file.get_tensor(name) for name in names}, metadata)


def read_shard(path: str | Path) -> Iterator[Latents]:
    """The entries of a shard, one at a time. Raises LatentsError as :func:`read` does."""
    path = Path(path)
    with _named(path), tarfile.open(path) as shard:
        waiting: tuple[str, bytes] | None = None  # latents come before their JSON
        for member in shard:
            data = shard.extractfile(member).read()  # type: ignore[union-attr]
            suffix = os.path.splitext(member.name)[1]
            if suffix != SIDECAR:
                waiting = (suffix, data)
            elif waiting is not None:
                metadata = Metadata.parse(json.loads(data))
                suffix, data = waiting
                waiting = None
                if suffix == NPY:
                    yield _of_npy(data, metadata)
                else:
                    yield _of_tensors(load(data), metadata)


def sidecar(path: Path) -> Path:
    """The JSON of a latent file. (Names may have dots before the suffix.)"""
    return path.with_name(path.name[: -len(path.suffix)] + SIDECAR)


def read_sidecar(path: Path) -> Metadata:
    """The metadata in the JSON beside latents. Raises OSError, ValueError or LatentsError."""
    return Metadata.parse(json.loads(sidecar(path).read_bytes()))


def rounded(values: np.ndarray, half: bool) -> np.ndarray:
    """Values as they are stored, float32 or with ``half`` float16. Raises LatentsError (that does
    not name the file) where they are not finite then."""
    with np.errstate(over="ignore"):  # what float16 cannot hold is found right below
        values = values.astype(np.float16 if half else np.float32)
    if not np.isfinite(values).all():
        raise LatentsError("its latents are not finite" + " in float16; leave out --half" * half)
    return values


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever reading ``path`` raises becomes a LatentsError that names it."""
    try:
        if not path.is_file():
            raise LatentsError("no such file")
        yield
    except LatentsError as error:
        raise type(error)(f"{path}: {error}") from None
    except OSError as error:
        raise LatentsError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (SafetensorError, ValueError, KeyError, TypeError, EOFError, tarfile.TarError) as error:
        raise LatentsError(
            f"{path}: damaged, or not latents of `earvae encode` ({error})"
        ) from None


def _of_npy(data: bytes, metadata: Metadata) -> Latents:
    return _checked(Latents(metadata, np.load(io.BytesIO(data), allow_pickle=False)))


def _of_tensors(tensors: Mapping[str, Tensor], metadata: Metadata) -> Latents:
    arrays = {
        name: (values.float() if values.dtype == torch.bfloat16 else values).numpy()
        for name, values in tensors.items()
    }
    return _checked(Latents(metadata, arrays["latents"], arrays.get("std")))


def _checked(latents: Latents) -> Latents:
    """The same latents. Raises LatentsError where they are no numbers ``[channels, frames]``."""
    if latents.values.ndim != 2 or not latents.values.size:
        raise LatentsError(f"latents of shape {list(latents.values.shape)}; encode it again")
    if not np.isfinite(latents.values).all():
        raise LatentsError("holds NaN or infinity; encode it again")
    return latents
