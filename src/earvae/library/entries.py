"""Entries: what is stored of a track or of one segment of it, and its bytes as files.

Metadata are numbers and words under the names of ``earvae encode``'s latent files; the sidecar
of a ``.npy`` has the names that stable-audio-tools' loader reads in addition.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from earvae.files import FORMAT, FORMAT_VERSION
from earvae.library.items import Item
from earvae.library.load import Facts
from earvae.library.settings import Settings
from earvae.library.statistics import Statistics
from earvae.model.posterior import Posterior
from earvae.tracks import printable

NUMBERS = frozenset(
    "sample_rate samples original_rate original_samples original_offset channels hop_length seed "
    "sample_offset track_samples frames frames_valid segment segments".split()
)
"""Metadata that are whole numbers; safetensors holds words only."""

LISTED = (
    "source source_sha256 sample_rate samples sample_offset track_samples original_rate "
    "original_samples channels frames frames_valid"
).split()
"""Metadata that the index of a library repeats."""


class NotFinite(Exception):
    """Latents with NaN or infinity."""


@dataclass(frozen=True)
class Entry:
    """Latents ``[channels, frames]`` (and perhaps ``std``), and what is known of them."""

    segment: int | None  # from 0; None: a whole track
    tensors: dict[str, np.ndarray]
    metadata: dict[str, int | str]


def entries_of(
    item: Item,
    facts: Facts,
    posterior: Posterior,
    settings: Settings,
    statistics: Statistics | None = None,
) -> list[Entry]:
    """What is stored of a file whose posterior is ``[1, latent, frames]``.

    A sample's noise depends on the seed and the item's name. Raises NotFinite.
    """
    tensors = _tensors(item, posterior, settings, statistics)
    frames = tensors["latents"].shape[1]
    common: dict[str, int | str] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "sample_rate": settings.sample_rate,
        "original_rate": facts.rate,
        "channels": facts.channels,
        "hop_length": settings.hop_length,
        "model": settings.model,
        "latents": "sample" if settings.store == "sample" else "mean",
        **({} if settings.seed is None else {"seed": settings.seed}),
        **({} if settings.normalised is None else {"normalised": settings.normalised}),
        "settings": settings.digest,
        "source": printable(item.name),
        "source_sha256": facts.sha256,
        "track_samples": facts.samples,
    }
    length = settings.segment_frames
    if length is None:
        place = _place(facts, settings, 0, frames)
        return [Entry(None, tensors, common | place)]
    count = frames // length
    return [
        Entry(
            number,
            {name: values[:, start : start + length] for name, values in tensors.items()},
            common
            | _place(facts, settings, start, length)
            | {"segment": number, "segments": count},
        )
        for number, start in enumerate(range(0, frames, length))
    ]


def _tensors(
    item: Item, posterior: Posterior, settings: Settings, statistics: Statistics | None
) -> dict[str, np.ndarray]:
    if settings.store == "sample":
        latents = posterior.at(_noise(item, settings.seed or 0, posterior.mean.shape))
    else:
        latents = posterior.mode()
    tensors = {"latents": latents[0].numpy()}
    if settings.store == "mean+std":
        tensors["std"] = posterior.std[0].numpy()
    if statistics is not None:
        tensors["latents"] = statistics.normalise(tensors["latents"])
        if "std" in tensors:
            tensors["std"] = (tensors["std"] / statistics.scale[:, None]).astype(np.float32)
    dtype = np.float16 if settings.half else np.float32
    with np.errstate(over="ignore"):  # what float16 cannot hold is found right below
        tensors = {name: values.astype(dtype) for name, values in tensors.items()}
    if not all(np.isfinite(values).all() for values in tensors.values()):
        raise NotFinite(
            "its latents are not finite" + " in float16; leave out --half" * settings.half
        )
    return tensors


def _noise(item: Item, seed: int, shape: torch.Size) -> Tensor:
    digest = hashlib.sha256(f"{seed}\n{printable(item.name)}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.randn(shape, generator=generator)


def _place(facts: Facts, settings: Settings, start: int, frames: int) -> dict[str, int | str]:
    """Where an entry of ``frames`` from ``start`` lies in its track, and how much of it is true."""
    hop, rate = settings.hop_length, settings.sample_rate
    first = start * hop
    samples = min(frames * hop, facts.samples - first)
    whole = first + samples == facts.samples
    original_first = first * facts.rate // rate
    original_last = facts.original_samples if whole else (first + samples) * facts.rate // rate
    return {
        "samples": samples,
        "sample_offset": first,
        "original_samples": original_last - original_first,
        "original_offset": original_first,
        "frames": frames,
        "frames_valid": -(-samples // hop),
    }


# ------------------------------------------------------------------------------ bytes


def safetensors_bytes(tensors: dict[str, np.ndarray], metadata: dict[str, int | str]) -> bytes:
    """A safetensors file. (The library writes metadata in an order that changes by the run.)"""
    dtypes = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16"}
    header: dict = {"__metadata__": {name: str(value) for name, value in metadata.items()}}
    offset = 0
    for name, values in tensors.items():
        header[name] = {
            "dtype": dtypes[values.dtype],
            "shape": list(values.shape),
            "data_offsets": [offset, offset + values.nbytes],
        }
        offset += values.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = (np.ascontiguousarray(values).tobytes() for values in tensors.values())
    return struct.pack("<Q", len(text)) + text + b"".join(data)


def npy_bytes(latents: np.ndarray) -> bytes:
    """A ``.npy`` file of ``[channels, frames]``."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(latents))
    return file.getvalue()


def sidecar_bytes(metadata: dict[str, int | str]) -> bytes:
    """The JSON beside latents: our metadata, and stable-audio-tools' names for some of them.

    ``padding_mask`` has a 1 for each frame with true audio and a 0 for each that is padding;
    ``seconds_start`` (rounded down) and ``seconds_total`` (of the track, rounded up) are whole
    seconds; ``timestamps`` are where the entry begins and ends as shares of the track.
    """
    rate, total = int(metadata["sample_rate"]), int(metadata["track_samples"])
    first, samples = int(metadata["sample_offset"]), int(metadata["samples"])
    valid, frames = int(metadata["frames_valid"]), int(metadata["frames"])
    loader = {
        "relpath": metadata["source"],
        "seconds_start": first // rate,
        "seconds_total": math.ceil(total / rate),
        "timestamps": [first / total, (first + samples) / total],
        "padding_mask": [1] * valid + [0] * (frames - valid),
    }
    return json.dumps(metadata | loader).encode()


def read_safetensors_metadata(data: bytes) -> dict[str, int | str]:
    """Metadata from the beginning of a safetensors file. Raises ValueError."""
    (size,) = struct.unpack_from("<Q", data) if len(data) >= 8 else (0,)
    header = json.loads(data[8 : 8 + size])
    return typed(header["__metadata__"])


def typed(metadata: dict[str, str]) -> dict[str, int | str]:
    """Words of a safetensors file as numbers where they are numbers. Raises ValueError."""
    return {name: int(value) if name in NUMBERS else value for name, value in metadata.items()}
