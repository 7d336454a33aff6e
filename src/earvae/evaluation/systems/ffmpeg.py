"""Ordinary lossy codecs, through the ffmpeg program."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from earvae.evaluation.excerpts import SAMPLE_RATE, Excerpt
from earvae.evaluation.systems.system import (
    Reconstruction,
    System,
    UnusableSystem,
    resampled,
)


@dataclass(frozen=True)
class Format:
    """How ffmpeg makes a format. The containers are those that record the codec's delay, so that
    the decoder takes it away again; alignment then finds nothing left."""

    title: str
    encoder: str
    suffix: str
    rates: range | tuple[int, ...]
    """Kilobits a second for stereo: all in a range, or these. What lies beyond, encoders refuse
    or, most of them, round to one of these without a word."""
    sample_rate: int = SAMPLE_RATE

    @property
    def possible(self) -> str:
        """The rates in words."""
        if isinstance(self.rates, range):
            return f"{self.rates.start} to {self.rates.stop - 1}"
        return ", ".join(map(str, self.rates))


MP3_RATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # of MPEG-1
FORMATS = {
    "opus": Format("Opus", "libopus", ".opus", range(6, 511), 48_000),
    "mp3": Format("MP3", "libmp3lame", ".mp3", MP3_RATES),
    "vorbis": Format("Vorbis", "libvorbis", ".ogg", range(45, 501)),
    "aac": Format("AAC-LC", "aac", ".m4a", range(24, 401)),
}


class FfmpegCodec(System):
    """One of ``FORMATS`` at ``kbps`` kilobits a second.

    Raises UnusableSystem without ffmpeg, and for a rate that the format does not have.
    """

    def __init__(self, kind: str, kbps: int, name: str | None = None) -> None:
        self.kbps, self.format = float(kbps), FORMATS[kind]
        if kbps not in self.format.rates:
            raise UnusableSystem(
                f"{kind}:{kbps}: {self.format.title} has {self.format.possible} kb/s"
            )
        self.name = name or f"{kind}-{kbps}"
        self.description = f"{self.format.title} at {kbps} kb/s, {self.format.encoder} of ffmpeg"
        version = _version(f"{kind}:{kbps}")
        self.settings = {"codec": kind, "kbps": self.kbps, "ffmpeg": version}

    def round_trip(self, audio: Tensor) -> Tensor:
        return self._there_and_back(audio)[0]

    def reconstruct(self, excerpt: Excerpt) -> Reconstruction:
        audio, size = self._there_and_back(excerpt.audio)
        return Reconstruction(audio, kbps=size * 8 / excerpt.seconds / 1000)

    def _there_and_back(self, audio: Tensor) -> tuple[Tensor, int]:
        """The decoded audio and the encoded file's size in bytes."""
        rate = self.format.sample_rate
        raw = ["-f", "f32le", "-ar", str(rate), "-ac", "2"]
        with tempfile.TemporaryDirectory(prefix="earvae-") as folder:
            given, returned = Path(folder, "given.raw"), Path(folder, "returned.raw")
            coded = Path(folder, f"coded{self.format.suffix}")
            _store(resampled(audio, SAMPLE_RATE, rate, None), given)
            rate_options = ["-b:a", f"{self.kbps:g}k"]
            self._ffmpeg(*raw, "-i", given, "-c:a", self.format.encoder, *rate_options, coded)
            self._ffmpeg("-i", coded, *raw, returned)
            decoded, size = _load(returned), coded.stat().st_size
        return resampled(decoded, rate, SAMPLE_RATE, None), size

    def _ffmpeg(self, *arguments: str | Path) -> None:
        command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if result.returncode:
            lines = result.stderr.strip().splitlines() or [f"status {result.returncode}"]
            raise UnusableSystem(f"{self.name}: ffmpeg failed: {lines[0]}")


def _version(spec: str) -> str:
    """Such as ``5.1.9-0+deb12u1``."""
    if shutil.which("ffmpeg") is None:
        raise UnusableSystem(
            f"{spec}: needs the ffmpeg program, which is not here; install it "
            "(apt-get install ffmpeg, brew install ffmpeg)"
        )
    words = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True).stdout.split()
    return words[2] if len(words) > 2 else "unknown"


def _store(audio: Tensor, path: Path) -> None:
    """``[2, samples]`` as interleaved 32-bit floats."""
    with path.open("wb") as file:
        for piece in audio.split(1 << 16, dim=1):
            file.write(piece.numpy().T.astype("<f4").tobytes())


def _load(path: Path) -> Tensor:
    values = np.fromfile(path, "<f4").reshape(-1, 2).T
    return torch.from_numpy(np.ascontiguousarray(values))
