"""Ogg (RFC 3533): pages, and the logical streams that follow each other in a file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from earvae.audio.containers.parts import ContainerError, Part, bytes_at

MARK = b"OggS"
PAGE_HEADER = struct.Struct("<4sBBqIIIB")
LARGEST_PAGE = 27 + 255 + 255 * 255  # bytes
CONTINUED, FIRST, LAST = 1, 2, 4  # flags of a page
NO_PACKET_ENDS = -1  # as the granule position of a page
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Page:
    """A page. ``granule`` counts the samples up to the end of the last packet that ends in it."""

    flags: int
    granule: int
    serial: int
    sequence: int
    segments: bytes  # their lengths; one below 255 ends a packet
    body: bytes

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return PAGE_HEADER.size + len(self.segments) + len(self.body)

    def pack(self) -> bytes:
        """The page's bytes, with its checksum."""
        head = PAGE_HEADER.pack(
            MARK, 0, self.flags, self.granule, self.serial, self.sequence, 0, len(self.segments)
        )
        data = head + self.segments + self.body
        return data[:22] + struct.pack("<I", checksum(data)) + data[26:]

    def without_beginning(self) -> Page:
        """The page without the rest of a packet that began on an earlier page."""
        if not self.flags & CONTINUED:
            return self
        ends = [number for number, length in enumerate(self.segments) if length < 255]
        first = ends[0] + 1 if ends else len(self.segments)
        return replace(
            self,
            flags=self.flags & ~CONTINUED,
            segments=self.segments[first:],
            body=self.body[sum(self.segments[:first]) :],
        )

    def without_end(self) -> Page:
        """The page without the beginning of a packet that ends on a later page."""
        ends = [number for number, length in enumerate(self.segments) if length < 255]
        stop = ends[-1] + 1 if ends else 0
        return replace(
            self, segments=self.segments[:stop], body=self.body[: sum(self.segments[:stop])]
        )


def checksum(data: bytes) -> int:
    """The CRC-32 of an Ogg page: most significant bit first, from 0, not inverted at the end.

    That is zlib's with the bits of every byte, and of the result, in reverse.
    """
    value = zlib.crc32(data.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)


def page_in(data: bytes, at: int) -> Page | None:
    """The page at ``at``; None where there is none, or not all of it. Raises ContainerError where
    it is damaged."""
    if len(data) - at < PAGE_HEADER.size:
        return None
    fields = PAGE_HEADER.unpack_from(data, at)
    mark, version, flags, granule, serial, sequence, told, count = fields
    body = at + PAGE_HEADER.size + count
    segments = data[at + PAGE_HEADER.size : body]
    end = body + sum(segments)
    if mark != MARK or version != 0 or len(segments) < count or end > len(data):
        return None
    if checksum(data[at : at + 22] + bytes(4) + data[at + 26 : end]) != told:
        raise ContainerError("holds a damaged page")
    return Page(flags, granule, serial, sequence, segments, data[body:end])


def begins(file: BinaryIO, at: int, stop: int) -> bool:
    """Whether an Ogg page begins at ``at``."""
    return bytes_at(file, at, 4) == MARK


def parts(file: BinaryIO, at: int, stop: int, thorough: bool = True) -> tuple[list[Part], int]:
    """The streams from ``at`` on, one after the other, and where the last one ends.

    Streams that run side by side (sound with its cover) are one part. Raises ContainerError where
    a page is missing or damaged, or a stream ends without the mark of its end.
    """
    if not thorough and _one_stream(file, at, stop):
        return [Part(at, stop)], stop
    found: list[Part] = []
    begin = at
    running: dict[int, Page] = {}  # the last page of each stream that has not ended
    begun = False  # whether other than first pages have come
    longest = 0  # samples that a packet may hold; 0: not known here
    believable = True
    for place, page in pages(file, at, stop):
        if page.flags & FIRST and begun:
            _all_ended(running)
            found.append(Part(begin, place, believable=believable))
            begin, begun, believable = place, False, True
        if page.flags & FIRST:
            longest = _longest_packet(page.body)
        begun |= not page.flags & FIRST
        before = running.get(page.serial)
        # A stream that was joined late has its headers, and then pages of a high number.
        if before and before.granule > 0 and page.sequence != before.sequence + 1 & 0xFFFF_FFFF:
            raise ContainerError(f"damaged: pages are missing before byte {place}")
        if before and (before.granule > 0 or page.flags & LAST):
            believable &= _can_be(page, before, longest)
        if page.granule == NO_PACKET_ENDS and before:
            page = replace(page, granule=before.granule)
        running[page.serial] = page
        at = place + page.size
        if page.flags & LAST:
            del running[page.serial]
    _all_ended(running)
    return [*found, Part(begin, at, believable=believable)], at


def _longest_packet(identification: bytes) -> int:
    """Samples that a packet of this stream holds at most; 0 if that is not known here."""
    if identification[:7] == b"\x01vorbis" and len(identification) > 28:
        return 1 << max(0, (identification[28] >> 4) - 1)
    return 5760 if identification[:8] == b"OpusHead" else 0


def _all_ended(running: dict[int, Page]) -> None:
    if running:
        raise ContainerError(
            "cut off: its last page does not carry the mark of the end (a recording of a live "
            "stream has none either)"
        )


def pages(file: BinaryIO, at: int, stop: int) -> Iterator[tuple[int, Page]]:
    """The pages from ``at`` on and where they begin, until something else comes.

    Raises ContainerError where one is damaged or cut off.
    """
    data, begin = b"", at
    while at < stop:
        if begin + len(data) - at < LARGEST_PAGE and begin + len(data) < stop:
            data, begin = bytes_at(file, at, min(BLOCK, stop - at)), at
            if not data:
                return
        try:
            page = page_in(data, at - begin)
        except ContainerError:
            raise ContainerError(f"damaged: the page at byte {at} is not as it was made") from None
        if page is None:
            if data[at - begin : at - begin + 4] == MARK:
                raise ContainerError("cut off: it ends inside a page")
            return
        yield at, page
        at += page.size


def _can_be(page: Page, before: Page, longest: int) -> bool:
    """Whether a page may end where it says. (Not behind its last packet, perhaps before.)"""
    most = (sum(length < 255 for length in page.segments) + 1) * longest
    return not longest or page.granule <= before.granule + most


def _one_stream(file: BinaryIO, at: int, stop: int) -> bool:
    """Whether the last page ends the stream that the first one begins, by a few pages alone."""
    tail_at = max(at, stop - 2 * LARGEST_PAGE)
    first, tail = bytes_at(file, at, LARGEST_PAGE), bytes_at(file, tail_at, stop - tail_at)
    place = tail.rfind(MARK)
    before = tail.rfind(MARK, 0, max(0, place))
    if before < 0:
        return False
    try:
        pages = [page_in(first, 0), page_in(tail, before), page_in(tail, place)]
    except ContainerError:
        return False
    if any(page is None or page.serial != pages[0].serial for page in pages):
        return False
    begin, previous, end = pages
    whole = place + end.size == len(tail) and end.flags & LAST
    return bool(whole) and _can_be(end, previous, _longest_packet(begin.body))
