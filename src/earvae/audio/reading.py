"""Opening and reading audio files: any format libsndfile or libav reads, any length, in blocks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import soundfile

from earvae.audio.channels import downmix_matrix, to_stereo
from earvae.audio.containers import ContainerError, Part, PartFile, survey
from earvae.audio.media import MediaStream, MissingDecoder
from earvae.errors import EarvaeError
from earvae.regular import open_regular
from earvae.signals import held

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_SAMPLES = 65_536  # per channel and block; half a megabyte of stereo
RATES = range(1_000, 1_000_001)  # Hz; a header that says otherwise is damaged
FAINTEST = 2.0**-100  # of full scale, -600 dB; what is fainter is 0, for denormal numbers are slow
LOUDEST = 2.0**32  # of full scale; integers of 32 bits taken for floats are below it
REMEDY = "get an intact copy, or salvage it with `ffmpeg -i IN OUT.wav`"
CHANGED = "changed while it was read; run it again"


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


class Stream(ForwardFile):
    """A part of an open file, to be read forward from its beginning or where it is sought. Closes
    the file with itself.

    libsndfile reads a whole file by its number, which is faster than through Python.
    """

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self.file = file
        self.part_file = None if _is_whole(file, part) else PartFile(file, part)
        with held():
            super().__init__(self.part_file or os.dup(file.fileno()))

    def read(self, *arguments: Any, **options: Any) -> np.ndarray:
        """As soundfile does; of a part, libsndfile calls back into Python."""
        with held() if self.part_file else nullcontext():
            return super().read(*arguments, **options)

    def seek(self, *arguments: Any) -> int:
        """As soundfile does."""
        with held() if self.part_file else nullcontext():
            return super().seek(*arguments)

    @property
    def error(self) -> OSError | None:
        """What reading the file has met with."""
        return self.part_file.error if self.part_file else None

    def close(self) -> None:
        super().close()
        self.file.close()


def _is_whole(file: BinaryIO, part: Part) -> bool:
    end = os.fstat(file.fileno()).st_size
    return os.name == "posix" and (part.head, part.start, part.stop) == (b"", 0, end)


@dataclass(frozen=True)
class AudioInfo:
    """What a file says of itself. ``header_samples`` is per channel, of all its streams, and None
    where only reading tells; ``speakers`` names the channels, where the container does."""

    rate: int
    channels: int
    container: str
    subtype: str
    header_samples: int | None
    speakers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Layout:
    """Where the audio of a file lies: its streams one after the other, all of one rate.

    ``state`` changes with the file.
    """

    info: AudioInfo
    parts: tuple[Part, ...]
    state: tuple[int, ...]


def inspect(path: str | Path) -> AudioInfo:
    """What an audio file is, without decoding it. Raises AudioFileError, also for what is cut off
    or damaged."""
    return layout_of(path).info


def layout_of(path: str | Path, thorough: bool = True) -> Layout:
    """The streams of a file (:func:`earvae.audio.containers.survey`). Raises AudioFileError."""
    with _regular(path) as file:
        status = os.fstat(file.fileno())
        if status.st_size == 0:
            raise AudioFileError(f"{path}: is empty (0 bytes)")
        try:
            parts = survey(file, status.st_size, thorough)
        except ContainerError as error:
            raise AudioFileError(f"{path}: {error}; {REMEDY}") from None
        except OSError as error:
            raise AudioFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not parts:
        with _opened(path, Part(0, status.st_size)) as sound:
            raise AudioFileError(
                f"{path}: is {sound.format}, of which nobody here can tell whether it is whole; "
                "convert it to WAV or FLAC, for instance with `ffmpeg -i IN OUT.wav`"
            )
    counted: list[Part] = []
    kinds: set[tuple[int, int, bool]] = set()
    for part in parts:
        with _opened(path, part) as sound:
            kinds.add((sound.samplerate, sound.channels, sound.format == "OGG"))
            known = part.believable and 0 <= sound.frames < 2**60  # streams say "the largest"
            counted.append(replace(part, samples=sound.frames if known else part.samples))
            kind = sound.samplerate, sound.channels, sound.format, sound.subtype
            speakers = getattr(sound, "speakers", None)
    if len(kinds) > 1:
        raise AudioFileError(
            f"{path}: is {len(parts)} streams of different rates, channels or kinds, one after the "
            "other; split it, or convert it with `ffmpeg -i IN OUT.wav`"
        )
    counts = [part.samples for part in counted]
    total = None if None in counts else sum(counts)
    return Layout(AudioInfo(*kind, total, speakers), tuple(counted), _state(status))


class AudioSource:
    """A file as blocks of one or two channels.

    Args:
        path: the file.
        downmix: fold three to eight channels to stereo (:func:`downmix_matrix`) instead of
            refusing them.

    Attributes:
        info: what the file says of itself.
        layout: its streams; once the blocks have been read to the end, of as many samples as
            there are.
        rate: Hz.
        channels: of the blocks, 1 or 2.
        samples: per channel, as decoded; None until the blocks have been read to the end.

    Raises AudioFileError: missing, unreadable, empty, cut off, of too many channels, of a rate
    outside ``RATES``.
    """

    def __init__(self, path: str | Path, downmix: bool = False) -> None:
        self.path = Path(path)
        self.layout = layout_of(self.path)
        self.info = self.layout.info
        self.samples: int | None = None
        self.rate = self.info.rate
        self.channels = min(self.info.channels, 2)
        if self.rate not in RATES:
            raise AudioFileError(
                f"{path}: its header says {self.rate} Hz, which no music has; get an intact copy"
            )
        self._matrix: np.ndarray | None = None
        if self.info.channels > 2:
            try:
                self._matrix = downmix_matrix(
                    self.info.channels, self.info.container == "OGG", self.info.speakers
                )
            except ValueError as error:
                raise AudioFileError(
                    f"{path}: {error}; extract two of them, for instance with "
                    '`ffmpeg -i IN -af "pan=stereo|c0=c0|c1=c1" OUT.wav`'
                ) from None
            if not downmix:
                raise AudioFileError(
                    f"{path}: has {self.info.channels} channels, and the model is stereo; "
                    "fold it to stereo with --downmix, or extract two channels"
                )

    def blocks(self, block_samples: int = BLOCK_SAMPLES) -> Iterator[np.ndarray]:
        """The audio from its beginning, ``[channels, n]`` each.

        A block ends where one of several streams does. Raises AudioFileError where the file is
        damaged, ends before it says, holds NaN or infinity, or holds nothing.
        """
        samples = 0
        parts: list[Part] = []
        for part in self.layout.parts:
            before = samples
            with _opened(self.path, part, self.layout.state) as file:
                for block in self._decoded(file, part, samples, block_samples):
                    samples += len(block)
                    if self._matrix is not None:
                        block = block @ self._matrix.T
                    yield np.ascontiguousarray(block.T)
            parts.append(replace(part, samples=samples - before))
        if samples == 0:
            raise AudioFileError(f"{self.path}: holds no audio samples")
        if self.samples not in (None, samples):
            raise AudioFileError(f"{self.path}: {CHANGED}")
        self.samples = samples
        self.layout = replace(self.layout, parts=tuple(parts))

    def _decoded(
        self, file: Stream | MediaStream, part: Part, before: int, block_samples: int
    ) -> Iterator[np.ndarray]:
        """Blocks ``[n, channels]`` of a stream, ``before`` samples into the file."""
        done = 0
        while (wanted := block_samples if part.samples is None else part.samples - done) > 0:
            try:
                block = file.read(min(wanted, block_samples), dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, AssertionError) as error:
                raise AudioFileError(
                    f"{self.path}: damaged or cut off after {(before + done) / self.rate:.1f} s "
                    f"({reason_of(error)}); {REMEDY}"
                ) from None
            if file.error:
                raise AudioFileError(f"{self.path}: cannot be read: {file.error.strerror}")
            if not len(block):
                break
            if (found := no_sound_in(block)) is not None:
                what, place = found
                first = (before + done + place) / self.rate  # s
                raise AudioFileError(
                    f"{self.path}: holds {what} (first at {first:.3f} s); repair or export it again"
                )
            done += len(block)
            yield _audible(block)
        # The pages of an Ogg file have been looked at, and its count is only the last one's.
        if self.info.container != "OGG" and done < (part.samples or 0):
            raise AudioFileError(
                f"{self.path}: cut off: {done} of {part.samples} samples are there; {REMEDY}"
            )


def read_stretch(
    path: str | Path, parts: Sequence[Part], start: int, stop: int
) -> tuple[np.ndarray, int]:
    """Samples ``start`` to ``stop`` of a file of these streams, float32 ``[samples, channels]``,
    fewer where it ends; and its rate, Hz.

    Without decoding what lies before. Raises AudioFileError, or what soundfile raises on damage.
    """
    pieces: list[np.ndarray] = []
    rate = 0
    for part in parts:
        if start < stop and (part.samples is None or start < part.samples):
            with _opened(path, part) as file:
                rate = file.samplerate
                file.seek(start)
                end = stop if part.samples is None else min(stop, part.samples)
                pieces.append(file.read(end - start, dtype="float32", always_2d=True))
        length = part.samples or 0
        start, stop = max(0, start - length), stop - length
    if not pieces:
        raise ValueError("ends before the place that is wanted")
    return _audible(pieces[0] if len(pieces) == 1 else np.concatenate(pieces)), rate


def no_sound_in(block: np.ndarray) -> tuple[str, int] | None:
    """What no sound has in samples ``[n, channels]``, and the first that has it; None if all may be
    sound. Values beyond LOUDEST would overflow in a filter."""
    usable = (np.abs(block) <= LOUDEST).all(axis=1)
    if usable.all():
        return None
    finite = np.isfinite(block).all(axis=1)
    if finite.all():
        return "values beyond 4e9 times full scale", int(np.argmin(usable))
    return "NaN or infinity", int(np.argmin(finite))


def _audible(block: np.ndarray) -> np.ndarray:
    """The block without denormal numbers, nor those that a filter would turn into such."""
    block[np.abs(block) < FAINTEST] = 0
    return block


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
        with _regular(path) as file:
            while data := file.read(1 << 20):
                digest.update(data)
    except OSError as error:
        raise AudioFileError(f"{path}: cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def _regular(path: str | Path) -> BinaryIO:
    try:
        return open_regular(path)
    except EarvaeError as error:
        raise AudioFileError(str(error)) from None


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _opened(
    path: str | Path, part: Part, state: tuple[int, ...] | None = None
) -> Stream | MediaStream:
    """A stream of a file, which must still be as ``state`` says. Raises AudioFileError."""
    file = _regular(path)
    if state not in (None, _state(os.fstat(file.fileno()))):
        file.close()
        raise AudioFileError(f"{path}: {CHANGED}")
    try:
        return MediaStream(file, part) if part.demuxer else Stream(file, part)
    except MissingDecoder as error:
        file.close()
        raise AudioFileError(f"{path}: {error}") from None
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        file.close()
        raise AudioFileError(
            f"{path}: not an audio file that can be read here ({reason_of(error)}); convert it to "
            "WAV or FLAC, for instance with `ffmpeg -i IN OUT.wav`"
        ) from None


def name_of(path: Path) -> str | bytes:
    """The path as soundfile opens it, also where a POSIX name is not valid UTF-8."""
    return os.fsencode(path) if os.name == "posix" else str(path)


def reason_of(error: Exception) -> str:
    """libsndfile's own words, without the path and without the full stop."""
    text = getattr(error, "error_string", None) or str(error) or type(error).__name__
    return text.strip().rstrip(".").removeprefix("Error : ").lower()
