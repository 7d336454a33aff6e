"""MPEG-4, Matroska, ASF, AAC, AC-3, WavPack: that a file ends where its own sizes say.

They are decoded by libav (:mod:`earvae.audio.media`), which passes over what is damaged or missing.
Sources: ISO/IEC 14496-12 (boxes), RFC 8794 and RFC 9559 (Matroska), Microsoft's Advanced Systems
Format, ISO/IEC 14496-3 (ADTS), ETSI TS 102 366 (AC-3), the WavPack 4 & 5 file format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

from earvae.audio.containers.parts import BOXES, ContainerError, Part, bytes_at
from earvae.audio.containers.tags import before_tags, past_tags

ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
WAVPACK = struct.Struct("<4sI4xIIII")  # mark, size, total samples, first sample, samples, flags
INITIAL = 0x800  # flag of the first of the blocks that hold the channels of the same samples
UNKNOWN = 0xFFFF_FFFF
EBML, SEGMENT, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
OF_A_SEGMENT = frozenset(
    # SeekHead, Info, Tracks, Cues, Chapters, Tags, Attachments, Void, CRC-32
    (CLUSTER, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1043A770, 0x1254C367, 0x1941A469)
    + (0xEC, 0xBF)
)
# Timestamp, SilentTracks, Position, PrevSize, BlockGroup, SimpleBlock, EncryptedBlock
OF_A_CLUSTER = frozenset((0xE7, 0x5854, 0xA7, 0xAB, 0xA0, 0xA3, 0xAF))
AC3_KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
MOST_BOXES = 1_000_000
LARGEST_TABLE = 1 << 26  # bytes
CHAINED = "is several files, one after the other, and players hear the first"


def begins(file: BinaryIO, at: int, stop: int) -> bool:
    """Whether one of these containers begins at ``at``."""
    return _demuxer(file, at, stop) is not None


def _demuxer(file: BinaryIO, at: int, stop: int) -> str | None:
    """libav's name of what begins at ``at``."""
    head = bytes_at(file, at, 16)
    if head[4:8] in BOXES:
        return "mov"
    if head[:4] == EBML.to_bytes(4, "big"):
        return "matroska"
    if head == ASF_HEADER:
        return "asf"
    if head[:4] == b"wvpk":
        return "wv"
    if size := _ac3_size(head):
        return (
            ("eac3" if head[5] >> 3 > 10 else "ac3") if _followed(file, at + size, stop) else None
        )
    if size := _adts_size(head):
        return "aac" if _followed(file, at + size, stop) else None
    return None


def _followed(file: BinaryIO, at: int, stop: int) -> bool:
    """Whether a frame, a tag or nothing lies behind the first frame, which chance may look like."""
    head = bytes_at(file, at, 8)
    return bool(at >= stop or _frame_size(head) or past_tags(file, at, stop) > at)


def _frame_size(head: bytes) -> int:
    return _adts_size(head) or _ac3_size(head)


def _adts_size(head: bytes) -> int:
    """Bytes of the frame of AAC that begins so; 0 if none does."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return 0
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size >= 7 else 0


def _ac3_size(head: bytes) -> int:
    """Bytes of the frame of AC-3 or E-AC-3 that begins so; 0 if none does."""
    if len(head) < 7 or head[:2] != b"\x0b\x77" or head[5] >> 3 > 16:
        return 0
    if head[5] >> 3 > 10:
        return 2 * ((head[2] & 7) << 8 | head[3]) + 2
    rate, code = head[4] >> 6, head[4] & 0x3F
    if rate == 3 or code >= 2 * len(AC3_KBPS):
        return 0
    bits = AC3_KBPS[code // 2] * 1000 * 1536 // (48_000, 44_100, 32_000)[rate]
    return 2 * (bits // 16 + (code & 1 if rate == 1 else 0))


def parts(file: BinaryIO, at: int, stop: int, thorough: bool = True) -> tuple[list[Part], int]:
    """The file at ``at`` as one part, and where it ends. Raises ContainerError where it is cut off,
    damaged in its structure, or followed by another one."""
    demuxer = _demuxer(file, at, stop)
    assert demuxer is not None
    last = before_tags(file, at, stop)
    if demuxer == "mov":
        end, seconds = _boxes(file, at, last)
        return [Part(at, end, demuxer=demuxer, seconds=seconds)], end
    if demuxer == "matroska":
        end = _elements(file, at, last, thorough)
    elif demuxer == "asf":
        end = _objects(file, at, last)
    elif demuxer == "wv":
        return _wavpack(file, at, last)
    else:
        end = _frames(file, at, last)
    return [Part(at, end, demuxer=demuxer)], end if end < last else stop


def _frames(file: BinaryIO, at: int, stop: int) -> int:
    """Where bare frames end, at a tag or at ``stop``."""
    while at < stop and (size := _frame_size(bytes_at(file, at, 7))):
        at += size
    if at > stop:
        raise ContainerError("cut off: it ends inside a frame")
    if at < stop and past_tags(file, at, stop) == at:
        raise ContainerError(f"damaged or cut off: no frame begins at byte {at}")
    return at


@dataclass(frozen=True)
class Box:
    """A box of an MPEG-4 file: where its content begins and where it ends."""

    name: bytes
    start: int
    stop: int


def _boxes(file: BinaryIO, at: int, stop: int) -> tuple[int, Fraction | None]:
    """Where the boxes end, and how long the first soundtrack is, if that is told exactly."""
    seen: dict[bytes, Box] = {}
    for box in _boxes_in(file, at, stop):
        if box.name in (b"ftyp", b"moov") and box.name in seen:
            raise ContainerError(CHAINED)
        if box.stop > stop:
            raise ContainerError(
                f"cut off: {box.stop - stop} bytes that its header announces are not there"
            )
        seen[box.name] = box
        at = box.stop
    if b"moov" not in seen:
        raise ContainerError("cut off: it has no table of contents, which many write at the end")
    # Each fragment has a count of its own, beyond that of the table in front.
    return at, None if b"moof" in seen else _seconds(file, seen[b"moov"])


def _boxes_in(file: BinaryIO, at: int, stop: int) -> Iterator[Box]:
    """The boxes from ``at`` on, until something else comes; the last may go beyond ``stop``."""
    for _ in range(MOST_BOXES):
        if at + 8 > stop:
            return
        size, name = struct.unpack(">I4s", bytes_at(file, at, 8))
        head = 8
        if size == 1:
            size, head = int.from_bytes(bytes_at(file, at + 8, 8), "big"), 16
        elif size == 0:
            size = stop - at
        if size < head or not all(0x20 <= byte < 0x7F or byte == 0xA9 for byte in name):
            return
        yield Box(name, at + head, at + size)
        at += size


def _seconds(file: BinaryIO, movie: Box) -> Fraction | None:
    """The length of the first soundtrack. Its table counts in the track's own time; its edit says
    what of that is heard, and counts in the movie's, which often are milliseconds."""
    movie_header = _box(file, movie, b"mvhd")
    for track in _boxes_in(file, movie.start, movie.stop):
        if track.name != b"trak" or (sound := _box(file, track, b"mdia")) is None:
            continue
        handler, header = _box(file, sound, b"hdlr"), _box(file, sound, b"mdhd")
        if handler is None or bytes_at(file, handler.start + 8, 4) != b"soun":
            continue
        table = _box(file, sound, b"minf", b"stbl", b"stts")
        scale, movie_scale = _scale(file, header), _scale(file, movie_header)
        if table is None or not scale or not movie_scale:
            return None
        length = Fraction(_sum(file, table), scale)
        edits = _edits(file, _box(file, track, b"edts", b"elst"))
        if len(edits) > 1:
            return None
        for duration, begin in edits:
            length = max(Fraction(0), length - Fraction(begin, scale))
            told = Fraction(duration, movie_scale)
            if 0 < told < length - Fraction(1, movie_scale):
                length = told
        return length or None
    return None


def _box(file: BinaryIO, within: Box | None, *names: bytes) -> Box | None:
    """The first box of a path of names."""
    for name in names:
        if within is None:
            return None
        inner = _boxes_in(file, within.start, within.stop)
        within = next((box for box in inner if box.name == name), None)
    return within


def _scale(file: BinaryIO, header: Box | None) -> int:
    """Units a second of an ``mvhd`` or ``mdhd``; 0 if there is none."""
    if header is None:
        return 0
    data = bytes_at(file, header.start, 24)
    place = 20 if data[:1] == b"\1" else 12
    return int.from_bytes(data[place : place + 4], "big")


def _sum(file: BinaryIO, table: Box) -> int:
    """The sum of the durations in an ``stts``."""
    count = int.from_bytes(bytes_at(file, table.start + 4, 4), "big")
    size = min(8 * count, table.stop - table.start - 8, LARGEST_TABLE)
    data = bytes_at(file, table.start + 8, max(0, size // 8 * 8))
    return sum(number * each for number, each in struct.iter_unpack(">II", data))


def _edits(file: BinaryIO, table: Box | None) -> list[tuple[int, int]]:
    """Duration and begin of the edits in an ``elst``, other than of silence."""
    if table is None:
        return []
    head = bytes_at(file, table.start, 8)
    form = struct.Struct(">QqI" if head[:1] == b"\1" else ">IiI")
    size = min(int.from_bytes(head[4:], "big"), 1024) * form.size
    data = bytes_at(file, table.start + 8, min(size, table.stop - table.start - 8))
    entries = form.iter_unpack(data[: len(data) // form.size * form.size])
    return [(duration, begin) for duration, begin, _ in entries if begin >= 0]


def _elements(file: BinaryIO, at: int, stop: int, thorough: bool) -> int:
    """Where a Matroska file ends.

    Clusters are entered, so that the blocks in them are looked at too: libav passes over
    those that are damaged.
    """
    _, start, size = _element(file, at, stop)
    name, at, size = _element(file, start + (size or 0), stop)
    if name != SEGMENT:
        raise ContainerError("damaged: it has no segment behind its header")
    end = stop if size is None else at + size
    if end > stop:
        raise ContainerError(f"cut off: {end - stop} bytes that its header announces are not there")
    while at < end:
        name, start, size = _element(file, at, end)
        if name == EBML:
            raise ContainerError(CHAINED)
        if name not in OF_A_SEGMENT and name not in OF_A_CLUSTER:
            raise ContainerError(f"damaged: nothing of its kind begins at byte {at}")
        if size is None and name != CLUSTER:
            raise ContainerError(f"damaged: what begins at byte {at} has no end")
        if name == CLUSTER and (thorough or size is None):
            at = start
            continue
        at = start + (size or 0)
        if at > end:
            raise ContainerError(f"cut off: {at - end} bytes of its last block are not there")
    if bytes_at(file, end, 4) == EBML.to_bytes(4, "big"):
        raise ContainerError(CHAINED)
    return end


def _element(file: BinaryIO, at: int, stop: int) -> tuple[int, int, int | None]:
    """Name, place and size of the content of the element at ``at``; None: no size is told."""
    head = bytes_at(file, at, min(12, max(0, stop - at)))
    name_bytes = 9 - head[0].bit_length() if head else 0
    if not 1 <= name_bytes <= 4 or len(head) <= name_bytes or not head[name_bytes]:
        raise ContainerError(f"damaged or cut off at byte {at}")
    size_bytes = 9 - head[name_bytes].bit_length()
    start = name_bytes + size_bytes
    if len(head) < start:
        raise ContainerError(f"cut off at byte {at}")
    ones = (1 << 7 * size_bytes) - 1
    size = int.from_bytes(head[name_bytes:start], "big") & ones
    return int.from_bytes(head[:name_bytes], "big"), at + start, None if size == ones else size


def _objects(file: BinaryIO, at: int, stop: int) -> int:
    """Where the objects of an ASF file end."""
    first = at
    while at + 24 <= stop:
        head = bytes_at(file, at, 24)
        size = int.from_bytes(head[16:], "little")
        if at > first and head[:16] == ASF_HEADER:
            raise ContainerError(CHAINED)
        if size == 0 and at > first:  # of a live stream
            return stop
        if size < 24:
            raise ContainerError(f"damaged: nothing of its kind begins at byte {at}")
        if at + size > stop:
            if head[:16] not in (ASF_HEADER, ASF_DATA):
                break
            raise ContainerError(
                f"cut off: {at + size - stop} bytes that its header announces are not there"
            )
        at += size
    return at


def _wavpack(file: BinaryIO, at: int, stop: int) -> tuple[list[Part], int]:
    """The files that the blocks from ``at`` on are, and where they end."""
    found: list[Part] = []
    begin, told, ends = at, UNKNOWN, 0

    def close() -> None:
        if told != UNKNOWN and ends < told:
            raise ContainerError(f"cut off: {ends} of {told} samples are there")
        found.append(Part(begin, at, believable=ends == told, demuxer="wv"))

    while len(head := bytes_at(file, at, WAVPACK.size)) == WAVPACK.size:
        mark, size, total, first, samples, flags = WAVPACK.unpack(head)
        if mark != b"wvpk":
            break
        if first == 0 and samples and flags & INITIAL:
            if ends:
                close()
            begin, told, ends = at, total, 0
        ends = max(ends, first + samples)
        if at + 8 + size > stop:
            raise ContainerError("cut off: it ends inside a block")
        at += 8 + size
    close()
    return found, at
