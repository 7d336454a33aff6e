"""Excerpts of Ogg Vorbis files by copying packets, so that nothing is coded a second time.

Pages are read as RFC 3533 describes them and packets are told apart by the Vorbis I
specification, section 4. An excerpt is the file's own three headers (without tags) and a run of its
audio pages. The first packet of a run only primes the decoder, and every sample that comes out
after it is what the whole file decodes to at that place.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

PAGE_HEADER = struct.Struct("<4sBBqIIIB")
CONTINUED, FIRST, LAST = 1, 2, 4  # flags of a page
NO_PACKET_ENDS = -1  # as the granule position of a page
EMPTY_COMMENT = b"\x03vorbis" + struct.pack("<II", 0, 0) + b"\x01"
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class NotPlainVorbis(ValueError):
    """Not a single, undamaged Vorbis stream in Ogg pages; the message says what it is."""


@dataclass(frozen=True)
class Page:
    """A page. ``granule`` counts the samples up to the end of the last packet that ends in it."""

    flags: int
    granule: int
    serial: int
    sequence: int
    segments: bytes  # their lengths; one below 255 ends a packet
    body: bytes

    def pack(self) -> bytes:
        """The page's bytes, with its checksum."""
        head = PAGE_HEADER.pack(
            b"OggS", 0, self.flags, self.granule, self.serial, self.sequence, 0, len(self.segments)
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


def pages_of(data: bytes) -> Iterator[Page]:
    """The pages of a file. Raises NotPlainVorbis where they do not follow each other intact."""
    at = 0
    while at < len(data):
        if len(data) - at < PAGE_HEADER.size:
            raise NotPlainVorbis("ends inside a page")
        mark, version, flags, granule, serial, sequence, told, count = PAGE_HEADER.unpack_from(
            data, at
        )
        body = at + PAGE_HEADER.size + count
        segments = data[at + PAGE_HEADER.size : body]
        end = body + sum(segments)
        if mark != b"OggS" or version != 0 or len(segments) < count or end > len(data):
            raise NotPlainVorbis("is not made of whole Ogg pages")
        if checksum(data[at : at + 22] + bytes(4) + data[at + 26 : end]) != told:
            raise NotPlainVorbis("holds a damaged page")
        yield Page(flags, granule, serial, sequence, segments, data[body:end])
        at = end


class VorbisFile:
    """The pages of an Ogg Vorbis file, to cut excerpts from.

    Raises NotPlainVorbis: not Ogg, chained or multiplexed streams, another codec, damage.
    """

    def __init__(self, data: bytes) -> None:
        self.headers: list[bytes] = []  # the identification and the setup
        self.pages: list[Page] = []  # of audio
        packets: list[bytes] = []
        open_packet = b""
        serial = None
        for page in pages_of(data):
            serial = page.serial if serial is None else serial
            if page.serial != serial:
                raise NotPlainVorbis("holds several streams")
            if len(packets) >= 3:
                self.pages.append(page)
                continue
            at = 0
            for length in page.segments:
                open_packet += page.body[at : at + length]
                at += length
                if length < 255:
                    packets.append(open_packet)
                    open_packet = b""
            if packets and packets[0][:7] != b"\x01vorbis":
                raise NotPlainVorbis("is not Vorbis")
            if len(packets) > 3 or (len(packets) == 3 and open_packet):
                raise NotPlainVorbis("has audio on the page of its headers")
        kinds = [packet[:7] for packet in packets]
        if kinds != [b"\x01vorbis", b"\x03vorbis", b"\x05vorbis"]:
            raise NotPlainVorbis("is not Vorbis")
        self.headers = [packets[0], packets[2]]

    def ends(self) -> list[int]:
        """Samples up to the end of the last packet that has ended, for each page of audio."""
        ends: list[int] = []
        for page in self.pages:
            ends.append(max(page.granule, ends[-1] if ends else 0))
        return ends

    def excerpt(self, first: int, last: int, origin: int = 0) -> bytes:
        """Pages ``first`` to ``last`` of audio as a file. Granule positions count from sample
        ``origin``. Raises NotPlainVorbis where no whole packet lies.
        """
        head = [
            *_paged([self.headers[0]], flags=FIRST),
            *_paged([EMPTY_COMMENT, self.headers[1]]),
        ]
        body = list(self.pages[first : last + 1])
        body[0] = body[0].without_beginning()
        body[-1] = body[-1].without_end()
        body = [page for page in body if page.segments]
        if not body:
            raise NotPlainVorbis("has no whole packet there")
        body[-1] = replace(body[-1], flags=body[-1].flags | LAST)
        moved = [
            page if page.granule == NO_PACKET_ENDS else replace(page, granule=page.granule - origin)
            for page in body
        ]
        pages = [
            replace(page, serial=0, sequence=number) for number, page in enumerate(head + moved)
        ]
        return b"".join(page.pack() for page in pages)


def _paged(packets: list[bytes], flags: int = 0) -> Iterator[Page]:
    """Header packets on as few pages as they need; their granule position is 0."""
    segments = b"".join(
        bytes([255]) * (len(packet) // 255) + bytes([len(packet) % 255]) for packet in packets
    )
    body = b"".join(packets)
    while segments:
        count = min(255, len(segments))
        size = sum(segments[:count])
        ends = any(length < 255 for length in segments[:count])
        yield Page(flags, 0 if ends else NO_PACKET_ENDS, 0, 0, segments[:count], body[:size])
        flags = 0 if segments[count - 1] < 255 else CONTINUED
        segments, body = segments[count:], body[size:]
