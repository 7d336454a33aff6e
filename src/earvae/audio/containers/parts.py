"""A stream inside a file, and reading it as if it were a file of its own."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

# Those that begin an MPEG-4 file.
BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")


class ContainerError(ValueError):
    """What is announced is not there, or not whole. The message does not name the file."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes ``start`` to ``stop`` of a file behind ``head``: a sound file of its own.

    ``head`` stands in for a header that says too little. ``samples`` per channel, None where
    libsndfile or only decoding tells; ``believable``: whether the stream's own count can be true.
    ``demuxer`` is libav's name of a container that it decodes; empty: libsndfile does. ``seconds``
    is the length that such a container tells exactly.
    """

    start: int
    stop: int
    head: bytes = b""
    samples: int | None = None
    believable: bool = True
    demuxer: str = ""
    seconds: Fraction | None = None


class PartFile(io.RawIOBase):
    """A part, to be read and sought. Closing it closes ``file``.

    soundfile calls this from C, where an exception would be printed and lost; so an error ends
    the reading and is kept in ``error``.
    """

    def __init__(self, file: BinaryIO, part: Part) -> None:
        self.file, self.part = file, part
        self.size = len(part.head) + part.stop - part.start
        self.at = 0
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        self.at = max(0, origin + offset)
        return self.at

    def readinto(self, buffer) -> int:
        view = memoryview(buffer).cast("B")
        head = self.part.head[self.at : self.at + len(view)]
        if not head:
            wanted = min(len(view), self.size - self.at)
            head = self._read(self.at - len(self.part.head), wanted) if wanted > 0 else b""
        view[: len(head)] = head
        self.at += len(head)
        return len(head)

    def _read(self, place: int, wanted: int) -> bytes:
        try:
            self.file.seek(self.part.start + place)
            return self.file.read(wanted)
        except OSError as error:
            self.error = error
            return b""

    def close(self) -> None:
        self.file.close()
        super().close()


def bytes_at(file: BinaryIO, at: int, size: int) -> bytes:
    """Up to ``size`` bytes from ``at``. Raises OSError."""
    file.seek(at)
    return file.read(size)
