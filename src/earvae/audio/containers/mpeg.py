"""MPEG audio (ISO/IEC 11172-3, 13818-3): frame after frame, since no header tells the length.

A file may begin with a frame that holds no sound but says how many follow ("Xing", "Info"). A
second one on the way is the beginning of another file. libsndfile guesses the length of a file
without, and believes one that is wrong; both get one that is right.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from earvae.audio.containers.parts import ContainerError, Part, bytes_at
from earvae.audio.containers.tags import before_tags, past_tags

RATES = (44_100, 48_000, 32_000)
KILOBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # by version (2.5 is as 2) and layer
BLOCK = 1 << 20
SEARCHED = 1 << 16  # bytes in front of the first frame
OVERLAP = 8192  # bytes that hold so many frames in a row
SURE = 4  # frames in a row that are no accident
COUNT_SLACK = 1  # frames; some count the one that tells


class Frame(NamedTuple):
    """A frame's header."""

    at: int
    size: int
    kind: int  # the bits that no frame of a stream has otherwise: version, layer, rate
    side: int  # bytes from the frame's beginning to where "Xing" would stand
    header: bytes


def begins(file: BinaryIO, at: int, stop: int) -> bool:
    """Whether frames begin at ``at``."""
    return _sure(bytes_at(file, at, OVERLAP), 0, at, stop)


def search(file: BinaryIO, at: int, stop: int) -> int | None:
    """Where frames begin behind a little of something else; None where they do not."""
    return _search(bytes_at(file, at, SEARCHED), at)


def _search(data: bytes, at: int) -> int | None:
    place = -1
    while (place := data.find(b"\xff", place + 1)) >= 0:
        if _sure(data, place, at + place, 0):
            return at + place
    return None


def _sure(data: bytes, place: int, at: int, stop: int) -> bool:
    """Whether ``SURE`` frames of a kind follow each other in ``data``, or fewer up to ``stop``."""
    kind = None
    for _ in range(SURE):
        frame = _frame(data[place : place + 4], at)
        if frame is None or kind not in (None, frame.kind):
            return False
        kind, place, at = frame.kind, place + frame.size, at + frame.size
        if at >= stop > 0:
            return True
    return True


def _frame(header: bytes, at: int) -> Frame | None:
    """The frame with this header of four bytes; None where it is none."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    rate_index, bits = header[2] >> 2 & 3, header[2] >> 4
    if version == 1 or layer == 4 or rate_index == 3 or bits in (0, 15):
        return None
    rate = RATES[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    old = version == 3
    kilobits = KILOBITS[1 if old else 2, layer][bits - 1]
    padding = header[2] >> 1 & 1
    if layer == 1:
        size = (12_000 * kilobits // rate + padding) * 4
    else:
        size = (144_000 if old or layer == 2 else 72_000) * kilobits // rate + padding
    mono = header[3] >> 6 == 3
    side = 4 + ((17 if mono else 32) if old else (9 if mono else 17))
    kind = header[1] & 0x1E | rate_index << 8
    return Frame(at, size, kind, side, header)


def parts(file: BinaryIO, at: int, stop: int, thorough: bool = True) -> tuple[list[Part], int]:
    """The streams from ``at`` on, and where the last one ends.

    Raises ContainerError where one holds fewer frames than it says, ends inside a frame, or is
    interrupted by bytes that are none.
    """
    found: list[Part] = []
    first: Frame | None = None  # of the stream at hand
    told: int | None = None  # frames, by its first one
    count = 0  # without that one
    end = at
    last = before_tags(file, at, stop)
    for frame, data in _frames(file, at, last):
        tells = _tells(data, frame)
        if first is None or tells is not None or frame.at > end or frame.kind != first.kind:
            if first is not None and count:
                found.append(_part(file, first, end, told, count))
            first, told, count = frame, tells, 0
        end = frame.at + frame.size
        count += tells is None and end <= last
    if first is not None:
        found.append(_part(file, first, end, told, count))
    if end > last:
        raise ContainerError("cut off: it ends inside a frame")
    if len(found) == 1 and not found[0].head and end == last:
        if bytes_at(file, 0, 3) == b"ID3" and past_tags(file, 0, stop) == at:
            return [Part(0, stop)], stop  # tags are no trouble, and whole files are read sooner
    return found, stop


def _frames(file: BinaryIO, at: int, stop: int) -> Iterator[tuple[Frame, bytes]]:
    """The frames from ``at`` on, each with the first 64 bytes of it; what is no frame must be a
    tag, or without frames behind it."""
    data, begin, kind = b"", at, None
    while at < stop:
        if begin + len(data) - at < 4096 and begin + len(data) < stop:
            data, begin = bytes_at(file, at, min(BLOCK, stop - at)), at
        frame = _frame(data[at - begin : at - begin + 4], at)
        if frame is not None and kind not in (None, frame.kind):
            frame = frame if _sure(data, at - begin, at, stop) else None
        if frame is None:
            behind = past_tags(file, at, stop)
            if behind > at and _sure(bytes_at(file, behind, OVERLAP), 0, behind, stop):
                at, kind, data, begin = behind, None, b"", behind
                continue
            if (later := _later(file, behind, stop)) is not None:
                raise ContainerError(f"damaged: bytes {at} to {later} are no frames")
            return
        kind = frame.kind
        yield frame, data[at - begin : at - begin + 64]
        at += frame.size


def _later(file: BinaryIO, at: int, stop: int) -> int | None:
    """Where frames go on behind something else; None where they do not."""
    while at < stop:
        data = bytes_at(file, at, min(BLOCK, stop - at))
        if (found := _search(data, at)) is not None:
            return found
        if len(data) <= OVERLAP:
            return None
        at += len(data) - OVERLAP
    return None


def _tells(data: bytes, frame: Frame) -> int | None:
    """Frames that follow, if this one says so; 0 where it is of that kind and does not."""
    for place in (frame.side, frame.side + 2):
        if data[place : place + 4] in (b"Xing", b"Info"):
            flags, count = struct.unpack_from(">II", data[place + 4 :].ljust(8, b"\0"))
            return count if flags & 1 else 0
    if data[36:40] == b"VBRI":
        return struct.unpack_from(">I", data.ljust(64, b"\0"), 50)[0]
    return None


def _part(file: BinaryIO, first: Frame, end: int, told: int | None, count: int) -> Part:
    """A stream of ``count`` frames, behind a first one that says so."""
    if told and count < told - COUNT_SLACK:
        raise ContainerError(f"cut off: {count} of {told} frames are there")
    layer_three = first.header[1] & 6 == 2
    if not layer_three or (told and told <= count + COUNT_SLACK and count <= told + COUNT_SLACK):
        return Part(first.at, end)
    start = first.at
    if told is None:
        header = bytearray(first.header)
        header[1] |= 1  # without a checksum
        header[2] = header[2] & 0x0D | 9 << 4  # 128 or 80 kb/s leave room enough
        frame = _frame(bytes(header), 0)
        size = end - start + frame.size
        info = bytes(header).ljust(frame.side, b"\0") + struct.pack(
            ">4sIII", b"Info", 3, count, size
        )
        return Part(start, end, info.ljust(frame.size, b"\0"))
    head = bytearray(bytes_at(file, start, first.size).ljust(first.side + 14, b"\0"))
    for place in (first.side, first.side + 2):
        if head[place : place + 4] in (b"Xing", b"Info"):
            flags = struct.unpack_from(">I", head, place + 4)[0]
            if flags & 1:
                struct.pack_into(">I", head, place + 8, count)
                return Part(start + first.size, end, bytes(head))
    # A first frame without a count, or of Fraunhofer's kind, gives way to one of the usual kind.
    replaced = Frame(start + first.size, first.size, first.kind, first.side, first.header)
    return _part(file, replaced, end, None, count)
