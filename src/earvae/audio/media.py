"""Sound that libsndfile does not read, through libav (PyAV, the extra ``media``): M4A, AAC, WMA,
Matroska, WebM, AC-3, WavPack, and the sound of videos.

A :class:`MediaStream` answers as a sound file of soundfile does, for the few questions that
``reading.py`` asks, and its errors are soundfile's, so that damage is told in the same words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
import soundfile

from earvae.audio.containers.parts import Part, PartFile
from earvae.errors import EarvaeError
from earvae.signals import held

NAMES = {
    "mov": "MPEG-4",
    "matroska": "MATROSKA",
    "asf": "ASF",
    "aac": "ADTS",
    "ac3": "AC-3",
    "eac3": "E-AC-3",
    "wv": "WAVPACK",
}  # by libav's demuxer
SPEAKERS = {
    "FL": "L", "FR": "R", "FC": "C", "LFE": "LFE", "BL": "Ls", "BR": "Rs", "SL": "Ls", "SR": "Rs",
    "BC": "Cs",
}  # fmt: skip
TOLD_SLACK = 0.25  # seconds that a container may count too many; some count to the next cluster
PREROLL = Fraction(1, 2)  # seconds decoded before a place that is sought; Opus asks for 0.08
MISSING = "needs PyAV to be read: `pip install 'earvae[media]'`, or convert it to FLAC"


class MissingDecoder(EarvaeError):
    """PyAV is not installed. The message does not name the file."""


class MediaError(soundfile.SoundFileError):
    """What libav cannot read: for readers the same as libsndfile's refusal."""


class MediaStream:
    """The first soundtrack of a part of an open file, to be read forward, perhaps from a place that
    is sought before. Closes the file with itself.

    Attributes as soundfile has them: ``samplerate``, ``channels``, ``format``, ``subtype``, and
    ``frames``, the count of samples that the container tells exactly, or -1. ``speakers`` names
    the channels, where the container does.

    Raises MissingDecoder, and MediaError for what libav does not take.
    """

    def __init__(self, file: BinaryIO, part: Part) -> None:
        av = _libav()
        self.part_file = PartFile(file, part)
        self._failures = av.FFmpegError, ValueError, RuntimeError
        try:
            # The demuxer is named: libav's own guess may be a playlist, which opens other files.
            with held():
                self.container = av.open(self.part_file, format=part.demuxer)
            self.stream = _soundtrack(self.container)
        except self._failures as error:
            raise MediaError(_reason(error)) from None
        context = self.stream.codec_context
        context.thread_count = 1  # a frame for a packet, at once
        context.options = {"err_detect": "crccheck+explode"}  # damage is told, not concealed
        self.samplerate, self.channels = context.sample_rate, context.layout.nb_channels
        self.format = NAMES[part.demuxer]
        self.subtype = getattr(context.codec, "canonical_name", context.codec.name).upper()
        names = [SPEAKERS.get(channel.name) for channel in context.layout.channels]
        self.speakers = None if None in names else tuple(map(str, names))
        self.frames = _count(self.container, self.stream, part)
        self._told = _told_seconds(self.container, self.stream)
        self._done = 0  # samples
        self._sought = False
        self._damage: MediaError | None = None
        self._blocks = self._decode()
        self._rest = np.empty((0, self.channels), np.float32)

    def __enter__(self) -> MediaStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def error(self) -> OSError | None:
        """What reading the file has met with."""
        return self.part_file.error

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """The next samples, float32 ``[samples, channels]``: fewer than ``frames`` at the end, and
        before damage. Raises MediaError where that begins."""
        pieces: list[np.ndarray] = []
        with held():
            while frames > 0 and (len(self._rest) or self._next(tell=not pieces)):
                piece, self._rest = self._rest[:frames], self._rest[frames:]
                pieces.append(piece)
                frames -= len(piece)
        return np.concatenate(pieces) if pieces else self._rest

    def seek(self, frame: int) -> None:
        """Go to a sample, before anything has been read.

        Without decoding what lies far before, where times count samples, as in MPEG-4; times of
        other containers are rounded, so there all is decoded. Raises MediaError.
        """
        before = frame - int(PREROLL * self.samplerate)
        if before > 0 and self.stream.time_base == Fraction(1, self.samplerate):
            origin = self.stream.start_time or 0
            self._sought = True
            try:
                with held():
                    self.container.seek(origin + before, stream=self.stream)
                    for place, block in self._placed():
                        if place - origin + len(block) > frame:
                            self._rest = block[max(0, frame - (place - origin)) :]
                            return
            except self._failures as error:
                raise MediaError(_reason(error)) from None
            return
        while frame > 0 and (passed := len(self.read(min(frame, 1 << 16)))):
            frame -= passed

    def close(self) -> None:
        self._blocks.close()
        self.container.close()
        self.part_file.close()

    def _next(self, tell: bool) -> bool:
        """Decode on, if there is more; damage is told if ``tell``, else when asked again."""
        if self._damage is None:
            try:
                self._rest = next(self._blocks, self._rest)
            except MediaError as error:
                self._damage = error
        if self._damage is not None and tell:
            raise self._damage
        return len(self._rest) > 0

    def _decode(self) -> Iterator[np.ndarray]:
        """Blocks ``[samples, channels]`` to the end. Raises MediaError."""
        try:
            for _, block in self._placed():
                self._done += len(block)
                yield block
        except self._failures as error:
            raise MediaError(_reason(error)) from None
        if self._sought:
            return
        missing = (self._told or 0) - self._done / self.samplerate
        if missing > TOLD_SLACK:
            raise MediaError(f"its header announces {self._told:.1f} s")

    def _placed(self) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks, each with its time in units of the stream."""
        for packet in self.container.demux(self.stream):
            if packet.is_corrupt:
                raise MediaError("a packet is not whole")
            for frame in packet.decode():
                if (frame.sample_rate, frame.layout.nb_channels) != (
                    self.samplerate,
                    self.channels,
                ):
                    raise MediaError("its rate or its channels change there")
                yield frame.pts or 0, _floats(frame)


def _libav() -> Any:
    try:
        import av
    except ImportError:
        raise MissingDecoder(MISSING) from None
    return av


def _soundtrack(container: Any) -> Any:
    """The first soundtrack. Raises MediaError where there is none that can be decoded."""
    if not container.streams.audio:
        raise MediaError("it holds no sound")
    stream = container.streams.audio[0]
    if stream.codec_context is None or not stream.codec_context.sample_rate:
        raise MediaError("its sound is encrypted, or of a coding that is not known")
    return stream


def _count(container: Any, stream: Any, part: Part) -> int:
    """Samples as the container tells them exactly, encoder's delay and padding taken off; -1 where
    it does not."""
    found = re.match(r"\s*[0-9A-Fa-f]{8}( [0-9A-Fa-f]{8}){2} ([0-9A-Fa-f]{16})\b",
                     container.metadata.get("iTunSMPB", ""))  # fmt: skip
    if found is not None:
        return int(found[2], 16)
    if part.seconds is not None:
        return round(part.seconds * stream.codec_context.sample_rate)
    if part.demuxer == "wv" and part.believable and stream.duration:
        return round(stream.duration * stream.time_base * stream.codec_context.sample_rate)
    return -1


def _told_seconds(container: Any, stream: Any) -> float | None:
    """How long the soundtrack is said to be; None where that is not said of it."""
    if container.format.name.startswith("asf") and stream.duration:
        return float((stream.duration - (stream.start_time or 0)) * stream.time_base)
    begin = float((stream.start_time or 0) * (stream.time_base or 0))
    found = re.match(r"(\d+):(\d+):(\d+(\.\d+)?)", stream.metadata.get("DURATION", ""))
    if found is not None:
        return 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3]) - begin
    alone = len(container.streams) == 1 and container.format.name.startswith("matroska")
    return container.duration / 1e6 - begin if alone and container.duration else None


def _floats(frame: Any) -> np.ndarray:
    """A frame's samples ``[samples, channels]``, float32, full scale ±1."""
    values = frame.to_ndarray()
    if frame.format.is_planar:
        values = values.T
    else:
        values = values.reshape(-1, frame.layout.nb_channels)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if values.dtype.kind == "i":
        return values.astype(np.float32) / np.float32(1 << 8 * values.dtype.itemsize - 1)
    return values.astype(np.float32)


def _reason(error: Exception) -> str:
    """libav's words, without the number and the name of its function."""
    return getattr(error, "strerror", None) or str(error)
