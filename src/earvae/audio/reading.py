"""Opening and reading audio files: any format libsndfile reads, any length, in blocks."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from earvae.audio.channels import downmix_matrix, to_stereo
from earvae.errors import EarvaeError

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_SAMPLES = 65_536  # per channel and block; half a megabyte of stereo
RATES = range(1_000, 1_000_001)  # Hz; a header that says otherwise is damaged


class AudioFileError(EarvaeError):
    """A file that cannot be read or written: one line that names it and says what to do."""


class ForwardFile(soundfile.SoundFile):
    """A sound file that is only read (or written) from its beginning to its end.

    ``SoundFile`` seeks after every read and caps reads at the header's length, which costs time
    in compressed files and trusts a count that may be wrong; it does neither for files that it
    takes to be unseekable.
    """

    def seekable(self) -> bool:
        return False


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says. ``header_samples`` is per channel, and None if unknown; in
    compressed formats it may be wrong."""

    rate: int
    channels: int
    container: str
    subtype: str
    header_samples: int | None


def inspect(path: str | Path) -> AudioInfo:
    """The header of an audio file. Raises AudioFileError."""
    with _opened(Path(path)) as file:
        known = 0 <= file.frames < 2**60  # streams say "the largest number"
        samples = file.frames if known else None
        return AudioInfo(file.samplerate, file.channels, file.format, file.subtype, samples)


class AudioSource:
    """A file as blocks of one or two channels.

    Args:
        path: the file.
        downmix: fold three to eight channels to stereo (:func:`downmix_matrix`) instead of
            refusing them.

    Attributes:
        info: the header.
        rate: Hz.
        channels: of the blocks, 1 or 2.
        samples: per channel, as decoded; None until the blocks have been read to the end.

    Raises AudioFileError: missing, unreadable, empty, cut off (WAV), of too many channels, of a
    rate outside ``RATES``.
    """

    def __init__(self, path: str | Path, downmix: bool = False) -> None:
        self.path = Path(path)
        self.info = inspect(self.path)
        self.samples: int | None = None
        self.rate = self.info.rate
        self.channels = min(self.info.channels, 2)
        if self.rate not in RATES:
            raise AudioFileError(
                f"{path}: its header says {self.rate} Hz, which no music has; get an intact copy"
            )
        if missing := _missing_wave_bytes(self.path):
            raise AudioFileError(
                f"{path}: cut off: {missing} bytes of audio that its header announces are not "
                "there; get an intact copy, or salvage it with `ffmpeg -i IN OUT.wav`"
            )
        self._matrix: np.ndarray | None = None
        if self.info.channels > 2:
            if not downmix:
                raise AudioFileError(
                    f"{path}: has {self.info.channels} channels, and the model is stereo; "
                    "fold it to stereo with --downmix, or extract two channels"
                )
            try:
                self._matrix = downmix_matrix(
                    self.info.channels, vorbis_order=self.info.container == "OGG"
                )
            except ValueError as error:
                raise AudioFileError(f"{path}: {error}; extract two channels") from None

    def blocks(self, block_samples: int = BLOCK_SAMPLES) -> Iterator[np.ndarray]:
        """The audio from its beginning, ``[channels, n]`` each.

        Raises AudioFileError where the file is damaged, ends before its header says (lossless
        formats), holds NaN or infinity, or holds nothing.
        """
        samples = 0
        with _opened(self.path) as file:
            while True:
                try:
                    block = file.read(block_samples, dtype="float32", always_2d=True)
                except (soundfile.SoundFileError, AssertionError) as error:
                    raise AudioFileError(
                        f"{self.path}: damaged or cut off after {samples / self.rate:.1f} s "
                        f"({reason_of(error)}); get an intact copy, or salvage it with "
                        "`ffmpeg -i IN OUT.wav`"
                    ) from None
                if not len(block):
                    break
                if not np.isfinite(block).all():
                    bad = int(np.argmin(np.isfinite(block).all(axis=1)))
                    raise AudioFileError(
                        f"{self.path}: holds NaN or infinity (first at "
                        f"{(samples + bad) / self.rate:.3f} s); repair or export it again"
                    )
                samples += len(block)
                if self._matrix is not None:
                    block = block @ self._matrix.T
                yield np.ascontiguousarray(block.T)
        if samples == 0:
            raise AudioFileError(f"{self.path}: holds no audio samples")
        if self.info.container == "FLAC" and samples < (self.info.header_samples or 0):
            raise AudioFileError(
                f"{self.path}: cut off: {samples} of {self.info.header_samples} samples are "
                "there; get an intact copy"
            )
        if self.samples not in (None, samples):
            raise AudioFileError(f"{self.path}: changed while it was read; run it again")
        self.samples = samples


def read_audio(path: str | Path, sample_rate: int, downmix: bool = False) -> Tensor:
    """A whole file as a float32 tensor ``[2, samples]`` at ``sample_rate`` Hz.

    For short files; ``AudioSource`` streams. Mono is duplicated. Raises AudioFileError.
    """
    import torch  # the rest of this module does without

    from earvae.audio.resampling import resample

    source = AudioSource(path, downmix)
    blocks = resample(to_stereo(source.blocks()), source.rate, sample_rate)
    return torch.from_numpy(np.concatenate(list(blocks), axis=1))


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file as it is stored, in hex. Raises AudioFileError."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
    except OSError as error:
        raise AudioFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def _opened(path: Path) -> ForwardFile:
    if path.is_dir():
        raise AudioFileError(f"{path}: is a folder, not an audio file")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise AudioFileError(
                f"{path}: is a pipe or a device, and files are read twice; save it to a file first"
            )
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise AudioFileError(f"{path}: no such file") from None
    except OSError as error:
        raise AudioFileError(f"{path}: cannot be read: {error.strerror}") from None
    if status.st_size == 0:
        raise AudioFileError(f"{path}: is empty (0 bytes)")
    try:
        return ForwardFile(name_of(path))
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise AudioFileError(
            f"{path}: not an audio file that can be read here ({reason_of(error)}); convert it to "
            "WAV or FLAC, for instance with `ffmpeg -i IN OUT.wav`"
        ) from None


def name_of(path: Path) -> str | bytes:
    """The path as soundfile opens it, also where a POSIX name is not valid UTF-8."""
    return os.fsencode(path) if os.name == "posix" else str(path)


def _missing_wave_bytes(path: Path) -> int:
    """Bytes of audio that a WAV file (RIFF or RF64) announces and does not hold, else 0.

    libsndfile reads such files as if they were meant to be shorter. Programs that write to a
    pipe leave 0 or about the largest number as the size, which announces nothing; headers that
    count a few bytes too many (their own, say) are forgiven.
    """
    unknown = (range(1), range(0x7FFF_EF00, 0x8000_0001), range(0xFFFF_0000, 0x1_0000_0000))
    slack = 64
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
            return 0
        long_size = 0  # of the data chunk, from an RF64 file's ds64 chunk
        for _ in range(1_000):
            header = file.read(8)
            if len(header) < 8:
                return 0
            name, size = struct.unpack("<4sI", header)
            start = file.tell()
            if name == b"ds64":
                sizes = file.read(16)
                long_size = struct.unpack("<8xQ", sizes)[0] if len(sizes) == 16 else 0
            elif name == b"data":
                if size == 0xFFFF_FFFF and long_size < 2**63:
                    size = long_size
                elif any(size in sizes for sizes in unknown):
                    size = 0
                missing = start + size - path.stat().st_size
                return missing if missing > slack else 0
            file.seek(start + size + size % 2)
    return 0


def reason_of(error: Exception) -> str:
    """libsndfile's own words, without the path and without the full stop."""
    text = getattr(error, "error_string", None) or str(error) or type(error).__name__
    return text.strip().rstrip(".").removeprefix("Error : ").lower()
