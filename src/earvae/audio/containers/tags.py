"""Tags around audio: ID3v1, ID3v2, APE, Lyrics3, and zeros that fill up."""

from __future__ import annotations

import struct
from typing import BinaryIO

from earvae.audio.containers.parts import BOXES, bytes_at

MOST_ZEROS = 1 << 20  # bytes in a row that are passed over
BLOCK = 4096


def past_tags(file: BinaryIO, at: int, stop: int) -> int:
    """The place of the first byte from ``at`` on that belongs to no tag."""
    while at < stop:
        head = bytes_at(file, at, 32)
        if size := _size_in_front(head):
            at += size
        elif head[4:8] in BOXES:  # behind a size, which begins with zeros
            break
        elif head[:1] == b"\0" and (zeros := _zeros(file, at, stop)):
            at += zeros
        else:
            break
    return min(at, stop)


def before_tags(file: BinaryIO, at: int, stop: int) -> int:
    """The place where the tags at the end begin."""
    while True:
        tail = bytes_at(file, max(at, stop - 227), min(227, stop - at))
        if tail[-128:-125] == b"TAG":
            size = 128
        elif tail[:4] == b"TAG+":
            size = 227
        elif tail[-32:-24] == b"APETAGEX":
            (size,) = struct.unpack("<I", tail[-20:-16])  # without its header, if it has one
            size += 32 * (bytes_at(file, max(at, stop - size - 32), 8) == b"APETAGEX")
            size = size if size <= stop - at else 32
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            size = int(tail[-15:-9]) + 15
        elif tail[-10:-7] == b"3DI":
            size = 20 + _synchsafe(tail[-4:])
        else:
            return stop
        if not 0 < size <= stop - at:
            return stop
        stop -= size


def _size_in_front(head: bytes) -> int:
    """Bytes of the tag that begins so; 0 if none does."""
    if head[:3] == b"ID3" and len(head) >= 10 and head[3] < 0xFF and max(head[6:10]) < 0x80:
        return 10 + _synchsafe(head[6:10]) + 10 * bool(head[5] & 0x10)
    if head[:8] == b"APETAGEX" and len(head) == 32:
        _, size, _, flags = struct.unpack("<IIII", head[8:24])
        return 32 + (size if flags & 1 << 29 else 0)  # a footer alone has been reached from behind
    if head[:4] == b"TAG+":
        return 227
    return 128 if head[:3] == b"TAG" else 0


def _synchsafe(data: bytes) -> int:
    return sum(byte << shift for byte, shift in zip(data, (21, 14, 7, 0), strict=True))


def _zeros(file: BinaryIO, at: int, stop: int) -> int:
    """How many bytes from ``at`` on are 0, as far as ``MOST_ZEROS``; 0 where there are more."""
    zeros = 0
    while zeros < MOST_ZEROS and (
        data := bytes_at(file, at + zeros, min(BLOCK, stop - at - zeros))
    ):
        found = len(data) - len(data.lstrip(b"\0"))
        zeros += found
        if found < len(data):
            return zeros
    return zeros if zeros < MOST_ZEROS else 0
