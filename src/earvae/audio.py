"""Audio files and streams: any format libsndfile reads, any rate, any length, in blocks.

A block is float32 ``[channels, samples]``, nominal full scale ±1. Nothing here knows the model,
and nothing holds more than a few blocks at a time.
"""

from __future__ import annotations

import os
import stat
import struct
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import soundfile
import soxr

from earvae import atomic
from earvae.errors import EarvaeError

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_SAMPLES = 65_536  # per channel and block; half a megabyte of stereo

CONTAINERS = {
    ".wav": "WAV",
    ".flac": "FLAC",
    ".aiff": "AIFF",
    ".aif": "AIFF",
    ".w64": "W64",
    ".rf64": "RF64",
    ".caf": "CAF",
}
SUBTYPES = {"float": "FLOAT", "pcm_16": "PCM_16", "pcm_24": "PCM_24", "pcm_32": "PCM_32"}
RIFF_LIMIT = 2**32 - 2**16  # bytes of audio a RIFF header can count, with room for the header
RATES = range(1_000, 1_000_001)  # Hz; a header that says otherwise is damaged

ClipPolicy = Literal["none", "clamp", "rescale"]


class AudioFileError(EarvaeError):
    """A file that cannot be read or written: one line that names it and says what to do."""


class OutputFormatError(EarvaeError):
    """Output options that do not go together; the message says which to give."""


# ------------------------------------------------------------------------------ reading


class _ForwardFile(soundfile.SoundFile):
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

    path: Path
    rate: int
    channels: int
    container: str
    subtype: str
    header_samples: int | None


def inspect(path: str | Path) -> AudioInfo:
    """The header of an audio file. Raises AudioFileError."""
    with _opened(Path(path)) as file:
        return _info(Path(path), file)


class AudioSource:
    """A file as blocks of one or two channels.

    Args:
        path: the file.
        downmix: fold three to eight channels to stereo (:func:`downmix_matrix`) instead of
            refusing them.

    Attributes:
        info: the header.
        channels: of the blocks, 1 or 2.
        samples: per channel, as decoded; None until the blocks have been read to the end.

    Raises AudioFileError: missing, unreadable, empty, cut off (WAV), of too many channels, of a
    rate outside ``RATES``.
    """

    def __init__(self, path: str | Path, downmix: bool = False) -> None:
        self.path = Path(path)
        self.info = inspect(self.path)
        self.samples: int | None = None
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

    @property
    def rate(self) -> int:
        """Hz."""
        return self.info.rate

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
                        f"({_reason(error)}); get an intact copy, or salvage it with "
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

    source = AudioSource(path, downmix)
    blocks = resample(to_stereo(source.blocks()), source.rate, sample_rate)
    return torch.from_numpy(np.concatenate(list(blocks), axis=1))


def downmix_matrix(channels: int, vorbis_order: bool = False) -> np.ndarray:
    """ITU-R BS.775 coefficients from ``channels`` to stereo, ``[2, channels]``.

    Left and right count 1, centre and surrounds 1/√2 (a single rear centre 1/2 on each side), the
    low-frequency channel 0. The sum is not attenuated, so it may exceed full scale. Channels are
    taken in WAVE order (3 L R C, 4 quad, 5 L R C Ls Rs, 6 = 5.1, 7 = 6.1, 8 = 7.1), or with
    ``vorbis_order`` in the order of Ogg files. Raises ValueError for other counts.
    """
    wave = {
        3: "L R C",
        4: "L R Ls Rs",
        5: "L R C Ls Rs",
        6: "L R C LFE Ls Rs",
        7: "L R C LFE Cs Ls Rs",
        8: "L R C LFE Ls Rs Ls Rs",
    }
    vorbis = {
        3: "L C R",
        4: "L R Ls Rs",
        5: "L C R Ls Rs",
        6: "L C R Ls Rs LFE",
        7: "L C R Ls Rs Cs LFE",
        8: "L C R Ls Rs Ls Rs LFE",
    }
    order = (vorbis if vorbis_order else wave).get(channels)
    if order is None:
        raise ValueError(f"{channels} channels have no standard order to downmix by")
    half_power = 0.5**0.5
    gains = {
        "L": (1.0, 0.0),
        "R": (0.0, 1.0),
        "C": (half_power, half_power),
        "Ls": (half_power, 0.0),
        "Rs": (0.0, half_power),
        "Cs": (0.5, 0.5),
        "LFE": (0.0, 0.0),
    }
    return np.array([gains[name] for name in order.split()], np.float32).T


def _opened(path: Path) -> _ForwardFile:
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
        return _ForwardFile(_name(path))
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        raise AudioFileError(
            f"{path}: not an audio file that can be read here ({_reason(error)}); convert it to "
            "WAV or FLAC, for instance with `ffmpeg -i IN OUT.wav`"
        ) from None


def _name(path: Path) -> str | bytes:
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


def _info(path: Path, file: soundfile.SoundFile) -> AudioInfo:
    known = 0 <= file.frames < 2**60  # streams say "the largest number"
    return AudioInfo(
        path,
        file.samplerate,
        file.channels,
        file.format,
        file.subtype,
        file.frames if known else None,
    )


def _reason(error: Exception) -> str:
    """libsndfile's own words, without the path and without the full stop."""
    text = getattr(error, "error_string", None) or str(error) or type(error).__name__
    return text.strip().rstrip(".").removeprefix("Error : ").lower()


# ------------------------------------------------------------------------------ channels and rate


def to_stereo(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Blocks ``[1 or 2, n]`` as ``[2, n]``: mono is duplicated."""
    for block in blocks:
        yield block if len(block) == 2 else np.repeat(block, 2, axis=0)


def to_mono(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Blocks ``[2, n]`` as ``[1, n]``, the mean of both channels."""
    for block in blocks:
        yield block.mean(axis=0, keepdims=True)


def resampled_length(samples: int, source_rate: int, target_rate: int) -> int:
    """Samples at ``target_rate`` that span ``samples`` at ``source_rate``, rounded up."""
    return -(-samples * target_rate // source_rate)


def resample(
    blocks: Iterable[np.ndarray],
    source_rate: int,
    target_rate: int,
    samples: int | None = None,
) -> Iterator[np.ndarray]:
    """Blocks ``[channels, n]`` at another rate, through soxr's "HQ" filter, without delay.

    The total is exactly ``samples`` or, where that is None, :func:`resampled_length` of what
    came in; the filter's own rounding is evened out at the end. At equal rates the blocks pass
    unchanged.
    """
    if source_rate == target_rate:
        yield from blocks
        return
    stream: soxr.ResampleStream | None = None
    arrived = produced = 0
    tail: np.ndarray | None = None  # the last output block waits for the exact total

    def emit(block: np.ndarray) -> Iterator[np.ndarray]:
        nonlocal produced, tail
        if block.shape[1]:
            if tail is not None:
                produced += tail.shape[1]
                yield tail
            tail = block

    channels = 0
    for block in blocks:
        if stream is None:
            channels = len(block)
            stream = soxr.ResampleStream(source_rate, target_rate, channels, quality="HQ")
        arrived += block.shape[1]
        yield from emit(stream.resample_chunk(np.ascontiguousarray(block.T)).T)
    if stream is None:
        return
    flushed = stream.resample_chunk(np.zeros((0, channels), np.float32), last=True).T
    waiting = [block for block in (tail, flushed) if block is not None]
    rest = np.concatenate(waiting, axis=1)
    total = resampled_length(arrived, source_rate, target_rate) if samples is None else samples
    missing = max(0, total - produced - rest.shape[1])
    yield np.pad(rest, ((0, 0), (0, missing)))[:, : total - produced]


# ------------------------------------------------------------------------------ writing


@dataclass(frozen=True)
class OutputFormat:
    """How audio is written; see :func:`output_format`."""

    container: str
    subtype: str
    clip: ClipPolicy

    @property
    def integer(self) -> bool:
        """Whether samples beyond ±1 cannot be stored."""
        return self.subtype != "FLOAT"


def output_format(
    suffix: str, subtype: str | None = None, clip: ClipPolicy | None = None
) -> OutputFormat:
    """The format of files that end in ``suffix``, such as ``.wav``.

    Samples are float32 unless ``subtype`` (``float``, ``pcm_16``, ``pcm_24``, ``pcm_32``) says
    otherwise; FLAC holds integers only and takes ``pcm_24``. Decoded audio may exceed full
    scale, which integers cannot hold, so they need a ``clip`` policy:

    - ``none``: samples are left alone; an integer file that would overshoot is refused.
    - ``clamp``: samples beyond ±1 are cut to ±1.
    - ``rescale``: if the peak exceeds 1, the whole file is multiplied by 1/peak.

    Float files take a policy too; theirs is ``none`` unless given. Raises OutputFormatError.
    """
    container = CONTAINERS.get(suffix.lower())
    if container is None:
        raise OutputFormatError(
            f"cannot write {suffix or 'a file without a suffix'}; "
            f"use one of {', '.join(CONTAINERS)}"
        )
    if subtype is None:
        subtype = "pcm_24" if container == "FLAC" else "float"
    if subtype not in SUBTYPES:
        raise OutputFormatError(f"unknown subtype {subtype}; use one of {', '.join(SUBTYPES)}")
    if not soundfile.check_format(container, SUBTYPES[subtype]):
        raise OutputFormatError(f"{container} files cannot hold {subtype} samples")
    if clip is None and subtype != "float":
        raise OutputFormatError(
            f"{container} with {subtype} samples cannot hold peaks beyond full scale, which "
            "decoded audio may have; say what to do with them: --clip rescale, clamp or none"
        )
    return OutputFormat(container, SUBTYPES[subtype], clip or "none")


@dataclass(frozen=True)
class Written:
    """What was written: ``peak`` of the audio as it came (full scale 1), the ``gain`` applied to
    all of it, and how many values were ``clamped``."""

    peak: float
    gain: float
    clamped: int


def write(
    path: str | Path,
    blocks: Iterable[np.ndarray],
    rate: int,
    channels: int,
    samples: int,
    output: OutputFormat,
) -> Written:
    """Write blocks ``[channels, n]``, ``samples`` in all, atomically.

    The file appears under its name only when it is complete. WAV becomes RF64 where RIFF's
    32-bit sizes do not suffice. With the policies that must know the peak first (``rescale``,
    and ``none`` into integers), the audio goes through an unnamed float32 file beside the
    target. Raises WriteError where the folder cannot be written, AudioFileError where the disk is
    full or an overshoot is refused.
    """
    path = Path(path)
    peak, gain, clamped = 0.0, 1.0, 0
    with atomic.file(path) as temporary, tempfile.TemporaryFile(dir=temporary.parent) as spool:
        if output.clip == "rescale" or (output.clip == "none" and output.integer):
            for block in blocks:
                peak = max(peak, _peak(path, block))
                spool.write(np.ascontiguousarray(block.T, np.float32).tobytes())
            if output.clip == "none" and peak > 1:
                raise AudioFileError(
                    f"{path}: not written: the peak is {peak:.3f} and {output.subtype} ends at 1; "
                    "use --clip rescale or --clip clamp, or write float"
                )
            gain = 1 / max(peak, 1.0)
            spool.seek(0)
            blocks = _spooled(spool, channels)
        container = output.container
        if container == "WAV" and samples * channels * _bytes(output.subtype) > RIFF_LIMIT:
            container = "RF64"
        with _opened_to_write(path, temporary, rate, channels, container, output.subtype) as file:
            for block in blocks:
                peak = max(peak, _peak(path, block))
                if gain != 1:
                    block = block * np.float32(gain)
                if output.clip == "clamp":
                    clamped += int(np.count_nonzero(np.abs(block) > 1))
                    block = block.clip(-1, 1)
                try:
                    file.write(np.ascontiguousarray(block.T))
                except (soundfile.SoundFileError, AssertionError):
                    raise AudioFileError(f"{path}: writing failed; is the disk full?") from None
        _verify(path, temporary, samples)
    return Written(peak, gain, clamped)


def _opened_to_write(
    path: Path, temporary: Path, rate: int, channels: int, container: str, subtype: str
) -> _ForwardFile:
    try:
        return _ForwardFile(_name(temporary), "w", rate, channels, subtype, format=container)
    except soundfile.SoundFileError as error:
        raise AudioFileError(
            f"{path}: {container} cannot hold {channels} channels of {subtype} at {rate} Hz "
            f"({_reason(error)}); write WAV"
        ) from None


def _verify(path: Path, temporary: Path, samples: int) -> None:
    """What lies on the disk has the length that was meant."""
    try:
        with _ForwardFile(_name(temporary)) as file:
            found = file.frames
    except soundfile.SoundFileError:
        found = 0
    if found != samples:
        raise AudioFileError(
            f"{path}: only {found} of {samples} samples were stored; is the disk full?"
        )


def _peak(path: Path, block: np.ndarray) -> float:
    peak = float(np.abs(block).max(initial=0))
    if not np.isfinite(peak):
        raise AudioFileError(
            f"{path}: not written: the model returned NaN or infinity; check its weights"
        )
    return peak


def _spooled(spool, channels: int) -> Iterator[np.ndarray]:
    size = BLOCK_SAMPLES * channels * 4
    while data := spool.read(size):
        yield np.frombuffer(data, np.float32).reshape(-1, channels).T


def _bytes(subtype: str) -> int:
    return {"PCM_16": 2, "PCM_24": 3}.get(subtype, 4)
