"""FLAC (RFC 9639): the count of STREAMINFO against the number of the last frame."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO

from earvae.audio.containers.parts import ContainerError, Part, bytes_at
from earvae.audio.containers.tags import before_tags

MARK = b"fLaC"
STREAMINFO = 34  # bytes
TAIL = 1 << 17  # bytes at the end that hold a whole frame
BLOCK = 1 << 20


def begins(file: BinaryIO, at: int, stop: int) -> bool:
    """Whether a FLAC stream begins at ``at``."""
    return bytes_at(file, at, 4) == MARK


def parts(file: BinaryIO, at: int, stop: int, thorough: bool = True) -> tuple[list[Part], int]:
    """The stream at ``at``, and where the next one begins or the file ends.

    Raises ContainerError where the last frame is not that of the announced count.
    """
    head = bytes_at(file, at, 8 + STREAMINFO)
    if len(head) < 8 + STREAMINFO or head[4] & 0x7F or head[5:8] != b"\0\0\x22":
        return [Part(at, stop)], stop  # libsndfile has words for it
    first = _first_frame(file, at + 4, stop)
    last = before_tags(file, first, stop)
    ends = _samples_to(file, first, last, head)
    total = _total(head)
    following = stop
    if thorough or ends != total:
        following = _next_stream(file, first, stop)
        if following < stop:
            last = before_tags(file, first, following)
            ends = _samples_to(file, first, last, head)
    if ends is None and (near := _last_begun(file, first, last, head)) is not None:
        ends = near if near < total else None  # else the decoder finds out whether it is whole
    if ends is None or ends == total:
        return [Part(at, last, samples=total or None)], following
    if ends < total:
        raise ContainerError(f"cut off: {ends} of {total} samples are there")
    patched = bytearray(head)  # none or too few are announced
    patched[21] = patched[21] & 0xF0 | ends >> 32 & 0xF
    patched[22:26] = struct.pack(">I", ends & 0xFFFF_FFFF)
    patched[26:] = bytes(16)  # the sum of other samples
    return [Part(at + len(head), last, bytes(patched), ends)], following


def _total(head: bytes) -> int:
    """Samples that a header announces; 0: unknown."""
    return int.from_bytes(head[21:26], "big") & 0xF_FFFF_FFFF


def _first_frame(file: BinaryIO, at: int, stop: int) -> int:
    """Where the metadata blocks from ``at`` on end."""
    while at < stop:
        kind, *size = bytes_at(file, at, 4).ljust(4, b"\x80")
        at += 4 + int.from_bytes(size, "big")
        if kind & 0x80:
            break
    return min(at, stop)


def _next_stream(file: BinaryIO, at: int, stop: int) -> int:
    """Where the next stream begins; ``stop`` if there is none."""
    marks = [MARK + kind + b"\0\0\x22" for kind in (b"\0", b"\x80")]
    held = b""
    file.seek(at)
    while at < stop and (data := file.read(min(BLOCK, stop - at))):
        held = held[-7:] + data
        at += len(data)
        found = [place for place in map(held.find, marks) if place >= 0]
        if found:
            return at - len(held) + min(found)
    return stop


def _samples_to(file: BinaryIO, first: int, stop: int, head: bytes) -> int | None:
    """Samples up to the end of the last frame, if that ends at ``stop``; None where it does not.

    Zeros behind it are passed over.
    """
    begin = max(first, stop - TAIL)
    data = bytes_at(file, begin, stop - begin)
    bare = len(data.rstrip(b"\0"))
    ends = [end for end in range(bare, min(bare + 3, len(data)) + 1)] if bare else []
    for at in _syncs(data[:bare]):
        if (samples := _frame(data[at : at + 16], head)) is None:
            continue
        if _whole(data[at:], [end - at for end in ends]):
            return samples
    return None


def _last_begun(file: BinaryIO, first: int, stop: int, head: bytes) -> int | None:
    """Samples up to where the last frame of a whole one and its follower would end."""
    begin = max(first, stop - TAIL)
    data = bytes_at(file, begin, stop - begin)
    next_at = next_end = None
    for at in _syncs(data):
        if (samples := _frame(data[at : at + 16], head)) is None:
            continue
        if next_at is not None and _whole(data[at:next_at], [next_at - at]):
            return next_end
        next_at, next_end = at, samples
    return None


def _syncs(data: bytes) -> Iterator[int]:
    """Places that a frame may begin at, from the last one on."""
    at = len(data)
    while (at := data.rfind(b"\xff", 0, at)) >= 0:
        if data[at + 1 : at + 2] in (b"\xf8", b"\xf9"):
            yield at


def _frame(data: bytes, head: bytes) -> int | None:
    """Samples to the end of the frame with this header; None where it is not one of this stream."""
    if len(data) < 16:
        data = data.ljust(16, b"\0")
    lead = 8 - (data[4] ^ 0xFF).bit_length()
    if lead == 1 or lead > 7 or data[3] & 1:
        return None
    length = max(1, lead)
    number = data[4] & (0x7F >> lead)
    for byte in data[5 : 4 + length]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 0x3F
    at = 4 + length
    code = data[2] >> 4
    if code == 6:
        block, at = data[at] + 1, at + 1
    elif code == 7:
        block, at = (data[at] << 8 | data[at + 1]) + 1, at + 2
    elif code == 0:
        return None
    else:
        block = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    at += {12: 1, 13: 2, 14: 2}.get(data[2] & 15, 0)  # a rate of its own
    if _crc(data[: at + 1], 8, 0x07):
        return None
    if data[1] & 1:  # frames of many sizes tell their first sample, others their number
        return number + block
    (size,) = struct.unpack_from(">H", head, 8)
    return number * size + block


def _whole(data: bytes, ends: list[int]) -> bool:
    """Whether a frame from the beginning of ``data`` ends at one of ``ends``, by its CRC."""
    ends = [end for end in ends if end > 8]
    if not ends:
        return False
    crc = _crc(data[: ends[0]], 16, 0x8005)
    for at in range(ends[0], ends[-1] + 1):
        if at in ends and crc == 0:
            return True
        crc = _crc(data[at : at + 1], 16, 0x8005, crc)
    return False


def _crc(data: bytes, bits: int, polynomial: int, crc: int = 0) -> int:
    table = _table(bits, polynomial)
    mask = (1 << bits) - 1
    for byte in data:
        crc = (crc << 8 & mask) ^ table[crc >> bits - 8 ^ byte]
    return crc


@cache
def _table(bits: int, polynomial: int) -> list[int]:
    """The CRC of every byte alone."""
    top, mask = 1 << bits - 1, (1 << bits) - 1
    table = []
    for byte in range(256):
        crc = byte << bits - 8
        for _ in range(8):
            crc = (crc << 1 ^ (polynomial if crc & top else 0)) & mask
        table.append(crc)
    return table
