"""Excerpts of Ogg Vorbis files by copying packets, so that nothing is coded a second time.

Pages are read as RFC 3533 describes them and packets are told apart by the Vorbis I
specification, section 4. An excerpt is the file's own three headers (without tags) and a run of its
audio pages. The first packet of a run only primes the decoder, and every sample that comes out
after it is what the whole file decodes to at that place.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import replace

from earvae.audio.containers import ContainerError
from earvae.audio.containers.ogg import CONTINUED, FIRST, LAST, NO_PACKET_ENDS, Page, pages

EMPTY_COMMENT = b"\x03vorbis" + struct.pack("<II", 0, 0) + b"\x01"


class NotPlainVorbis(ContainerError):
    """Not a single, undamaged Vorbis stream in Ogg pages; the message says what it is."""


class VorbisFile:
    """The pages of an Ogg Vorbis file, to cut excerpts from.

    Raises NotPlainVorbis (not Ogg, chained or multiplexed streams, another codec) or, where a page
    is damaged, ContainerError.
    """

    def __init__(self, data: bytes) -> None:
        self.headers: list[bytes] = []  # the identification and the setup
        self.pages: list[Page] = []  # of audio
        packets: list[bytes] = []
        open_packet = b""
        serial = None
        whole = 0
        for _, page in pages(io.BytesIO(data), 0, len(data)):
            whole += page.size
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
        if whole < len(data):
            raise NotPlainVorbis("is not made of whole Ogg pages")
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
