"""Latent files that say what is not so, or hold nothing: one list for whatever decodes latents."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from earvae.latents import file as latent_file


@dataclass(frozen=True)
class Hostile:
    """A file to try. ``make`` writes it, given its name and a good file; ``says`` is part of the
    line that refuses it, or None where it is to be decoded."""

    name: str
    make: Callable[[Path, Path], object]
    says: str | None

    def __str__(self) -> str:
        return self.name


def header_of(good: Path) -> tuple[dict, bytes]:
    """The JSON header of a safetensors file, and the bytes behind it."""
    content = good.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def written(path: Path, header: dict | str, data: bytes) -> None:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def metadata(**changes: object) -> Callable[[Path, Path], None]:
    """The good file with other metadata; None leaves one out."""

    def make(path: Path, good: Path) -> None:
        header, data = header_of(good)
        own = header["__metadata__"] | {name: str(value) for name, value in changes.items()}
        header["__metadata__"] = {n: v for n, v in own.items() if changes.get(n, v) is not None}
        written(path, header, data)

    return make


def tensor(**changes: object) -> Callable[[Path, Path], None]:
    """The good file with something else said of its tensor."""

    def make(path: Path, good: Path) -> None:
        header, data = header_of(good)
        header["latents"] |= changes
        written(path, header, data)

    return make


def values(value: float) -> Callable[[Path, Path], None]:
    """The good file with one other number."""
    return lambda path, good: path.write_bytes(good.read_bytes()[:-4] + struct.pack("<f", value))


def replaced(text: str) -> Callable[[Path, Path], None]:
    """The good file with another header."""
    return lambda path, good: written(path, text, header_of(good)[1])


def npy(path: Path, good: Path) -> None:
    np.save(path.open("wb"), latent_file.read(good).values)


NONSENSE = "its metadata make no sense"
DAMAGED = "damaged"
FILES = [
    Hostile("whole", lambda path, good: path.write_bytes(good.read_bytes()), None),
    Hostile("far_longer_original", metadata(original_samples=10**9), NONSENSE),
    Hostile("original_of_1_hz", metadata(original_rate=1, original_samples=1), NONSENSE),
    Hostile("original_of_1_ghz", metadata(original_rate=10**9), NONSENSE),
    Hostile("another_rate", metadata(original_rate=48_000), NONSENSE),
    Hostile("no_samples", metadata(samples=0, original_samples=0), NONSENSE),
    Hostile("fewer_than_none", metadata(samples=-9, original_samples=-9), NONSENSE),
    Hostile("too_many", metadata(samples=10**15, original_samples=10**15), NONSENSE),
    Hostile("digits_without_end", metadata(samples="9" * 9999), NONSENSE),
    Hostile("no_number", metadata(samples="1e3"), NONSENSE),
    Hostile("left_out", metadata(samples=None), ""),
    Hostile("more_than_frames", metadata(samples=10**6, original_samples=10**6), "frames"),
    Hostile("fewer_than_frames", metadata(samples=1, original_samples=1), "frames"),
    Hostile("three_channels", metadata(channels=3), NONSENSE),
    Hostile("no_hop", metadata(hop_length=0), NONSENSE),
    Hostile("another_hop", metadata(hop_length=64), ""),
    Hostile("another_model_rate", metadata(sample_rate=22_050), ""),
    Hostile("another_format", metadata(format="other"), "format=earvae-latents"),
    Hostile("another_version", metadata(format_version=9), "format version 9"),
    Hostile("another_model", metadata(model="0" * 12), "--force"),
    Hostile("escapes", metadata(model="\x1b[2J\n"), "--force"),
    Hostile("other_shape", tensor(shape=[1, 1]), DAMAGED),
    Hostile("far_larger_shape", tensor(shape=[64, 2**50]), DAMAGED),
    Hostile("negative_shape", tensor(shape=[-64, -30]), DAMAGED),
    Hostile("flat", tensor(shape=[64 * 30]), ""),
    Hostile("far_offsets", tensor(data_offsets=[2**50, 2**50 + 7680]), DAMAGED),
    Hostile("whole_numbers", tensor(dtype="I32"), DAMAGED),
    Hostile("other_kind", tensor(shape="64"), DAMAGED),
    Hostile("nan", values(np.nan), "encode it again"),
    Hostile("infinity", values(np.inf), "encode it again"),
    Hostile("header_is_deep", replaced("[" * 99_999), DAMAGED),
    Hostile("header_is_a_list", replaced("[1]"), DAMAGED),
    Hostile("header_is_text", replaced("€"), DAMAGED),
    Hostile("header_is_empty", replaced("{}"), ""),
    Hostile("header_is_far_longer",
            lambda path, good: path.write_bytes(struct.pack("<Q", 2**62) + bytes(99)), DAMAGED),
    Hostile("cut", lambda path, good: path.write_bytes(good.read_bytes()[:-99]), DAMAGED),
    Hostile("longer", lambda path, good: path.write_bytes(good.read_bytes() + bytes(9)), DAMAGED),
    Hostile("no_bytes", lambda path, good: path.touch(), DAMAGED),
    Hostile("another_kind_of_file", npy, DAMAGED),
    Hostile("pipe", lambda path, good: os.mkfifo(path), "pipe"),
    Hostile("device", lambda path, good: path.symlink_to("/dev/zero"), "device"),
    Hostile("missing", lambda path, good: None, "no such file"),
]  # fmt: skip
