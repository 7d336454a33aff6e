"""MPEG-4, Matroska, ASF, AAC, AC-3, WavPack: that a file ends where its own sizes say.

They are decoded by libav (:mod:`earvae.audio.media`), which passes over what is damaged or missing.
Sources: ISO/IEC 14496-12 (boxes), RFC 8794 and RFC 9559 (Matroska), Microsoft's Advanced Systems
Format, ISO/IEC 14496-3 (ADTS), ETSI TS 102 366 (AC-3), the WavPack 4 & 5 file format.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from earvae.audio.containers.parts import BOXES, ContainerError, Part, bytes_at
from earvae.audio.containers.tags import before_tags

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
CHAINED = "is several files, one after the other; split it"


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
    if head[:2] == b"\x0b\x77" and len(head) > 5 and head[5] >> 3 <= 16:
        return "eac3" if head[5] >> 3 > 10 else "ac3"
    if _is_adts(head):
        following = at + ((head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5)
        if following >= stop or _is_adts(bytes_at(file, following, 16)):
            return "aac"
    return None


def _is_adts(head: bytes) -> bool:
    return len(head) > 6 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0


def parts(file: BinaryIO, at: int, stop: int, thorough: bool = True) -> tuple[list[Part], int]:
    """The file at ``at`` as one part, and where it ends. Raises ContainerError where it is cut off,
    damaged in its structure, or followed by another one."""
    demuxer = _demuxer(file, at, stop)
    assert demuxer is not None
    last = before_tags(file, at, stop)
    if demuxer == "mov":
        end, fragments = _boxes(file, at, last)
        # Each fragment has a count of its own; what stands in front is that of the first at most.
        return [Part(at, end, believable=not fragments, demuxer=demuxer)], end
    if demuxer == "matroska":
        end = _elements(file, at, last, thorough)
    elif demuxer == "asf":
        end = _objects(file, at, last)
    elif demuxer == "wv":
        return _wavpack(file, at, last)
    else:
        end = last  # the decoder is asked whether it has used all bytes
    return [Part(at, end, demuxer=demuxer)], end if end < last else stop


def _boxes(file: BinaryIO, at: int, stop: int) -> tuple[int, bool]:
    """Where the boxes end, and whether there are fragments among them."""
    seen: set[bytes] = set()
    while at + 8 <= stop:
        size, name = struct.unpack(">I4s", bytes_at(file, at, 8))
        head = 8
        if size == 1:
            size, head = int.from_bytes(bytes_at(file, at + 8, 8), "big"), 16
        elif size == 0:
            size = stop - at
        if size < head or not all(0x20 <= byte < 0x7F for byte in name):
            break
        if name in (b"ftyp", b"moov") and name in seen:
            raise ContainerError(CHAINED)
        if at + size > stop:
            raise ContainerError(
                f"cut off: {at + size - stop} bytes that its header announces are not there"
            )
        seen.add(name)
        at += size
    if b"moov" not in seen:
        raise ContainerError("cut off: it has no table of contents, which many write at the end")
    return at, b"moof" in seen


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
