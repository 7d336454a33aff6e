"""Sound files as the world has them: whole in odd ways, broken, or no files at all.

One list, so that whatever reads sound can be held to the same: `earvae` and the exported runner
(tests/export/test_runner_refuses.py).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from tests.small import RATE, white

SAMPLES = 13_230  # of each file that is whole: 0.3 s


@dataclass(frozen=True)
class Hostile:
    """A file to try. ``make`` writes it under the name it is given; ``says`` is part of the line
    that refuses it, or None where all ``samples`` must be read."""

    name: str
    make: Callable[[Path], object]
    says: str | None = None
    samples: int = SAMPLES

    def __str__(self) -> str:
        return self.name.replace("/", "_")


def sound(path: Path, **form) -> Path:
    """A whole file, in the container of its suffix unless ``form`` says otherwise."""
    soundfile.write(path, white(SAMPLES / RATE), RATE, **form)
    return path


def cut(path: Path, **form) -> None:
    """The first 60 % of a file's bytes."""
    os.truncate(sound(path, **form), int(path.stat().st_size * 0.6))


def twice(path: Path) -> None:
    """Two files, one put behind the other."""
    path.write_bytes(2 * sound(path).read_bytes())


def with_tail(tail: bytes, **form) -> Callable[[Path], object]:
    """A whole file with something behind it."""
    return lambda path: path.write_bytes(sound(path, **form).read_bytes() + tail)


def floats(value: float) -> Callable[[Path], object]:
    """A float file with one odd value, or full of one beyond ±1."""

    def make(path: Path) -> None:
        audio = white(SAMPLES / RATE)
        audio[5 if not np.isfinite(value) else slice(None)] = value
        soundfile.write(path, audio, RATE, subtype="FLOAT")

    return make


def header(*, rate: int = RATE, channels: int = 2, announced: int | None = None):
    """A 16-bit WAV file by hand: its data, and a header that may say something else."""

    def make(path: Path) -> None:
        data = bytes(SAMPLES * 4)
        width = channels * 2
        form = struct.pack("<HHIIHH", 1, channels, rate, rate * width % 2**32, width % 65_536, 16)
        size = len(data) if announced is None else announced
        body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size) + data
        path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)

    return make


ID3V1 = b"TAG" + bytes(125)
FILES = [
    *(Hostile(f"whole{suffix}", sound) for suffix in
      (".wav", ".flac", ".aiff", ".w64", ".au", ".caf", ".rf64", ".ogg")),
    *(Hostile(f"cut{suffix}", cut, "") for suffix in
      (".wav", ".flac", ".aiff", ".w64", ".au", ".caf", ".rf64", ".ogg", ".mp3")),
    Hostile("two_in_one.flac", twice, samples=2 * SAMPLES),
    Hostile("two_in_one.ogg", twice, samples=2 * SAMPLES),
    Hostile("tag_behind.flac", with_tail(ID3V1)),
    Hostile("tag_behind.wav", with_tail(ID3V1)),
    Hostile("zeros_behind.flac", with_tail(bytes(5000))),
    Hostile("unknown_size.wav", header(announced=0xFFFF_FFFF)),
    Hostile("size_too_large.wav", header(announced=SAMPLES * 8), "cut off"),
    Hostile("rate_of_1_hz.wav", header(rate=1), "1 Hz"),
    Hostile("rate_of_10_mhz.wav", header(rate=10_000_000), "10000000 Hz"),
    Hostile("nine_channels.wav", lambda path: soundfile.write(path, np.zeros((9, 9)), RATE),
            "9 channels"),
    Hostile("nan.wav", floats(np.nan), "NaN or infinity"),
    Hostile("infinity.wav", floats(np.inf), "NaN or infinity"),
    Hostile("far_too_loud.wav", floats(3e38), "beyond 4e9 times full scale"),
    Hostile("no_samples.wav", lambda path: soundfile.write(path, np.zeros((0, 2)), RATE),
            "no audio samples"),
    Hostile("no_bytes.wav", lambda path: path.touch(), "empty"),
    Hostile("text.wav", lambda path: path.write_text("not sound"), "not an audio file"),
    Hostile("only_a_magic.flac", lambda path: path.write_bytes(b"fLaC" + bytes(99)),
            "not an audio file"),
    Hostile("pipe.wav", os.mkfifo, "pipe"),
    Hostile("device.wav", lambda path: path.symlink_to("/dev/zero"), "device"),
    Hostile("folder.wav", Path.mkdir, "folder"),
    Hostile("loop.wav", lambda path: path.symlink_to(path.name), "loop.wav"),
    Hostile("missing.wav", lambda path: None, "no such file"),
    Hostile("dangling.wav", lambda path: path.symlink_to("nowhere.wav"), "no such file"),
]  # fmt: skip
