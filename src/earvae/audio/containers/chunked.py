"""WAV (RIFF, RIFX, RF64), Wave64, AIFF and AIFF-C, CAF, AU: sizes of chunks against bytes there.

Sources: EBU Tech 3306 (RF64), Sony's Wave64 specification, Apple's AIFF-C and CAF specifications.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from earvae.audio.containers.parts import ContainerError, Part, bytes_at

W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
W64_DATA = bytes.fromhex("64617461f3acd3118cd100c04f8edb8a")
# What programs that write to a pipe leave as the size: 0, or about the largest number.
UNKNOWN_32 = (range(0x7FFF_EF00, 0x8000_0001), range(0xFFFF_0000, 0x1_0000_0000))
UNKNOWN_64 = 2**62
SLACK = 64  # bytes; headers that count a few too many, their own perhaps, are forgiven
LARGEST = 2**32 - 2**16  # bytes that a RIFF header can count
LARGEST_HEAD = 1 << 24  # bytes of a header that are copied to correct it
MOST_CHUNKS = 100_000


@dataclass(frozen=True)
class Form:
    """How chunks are laid out: from ``first`` bytes into the file, with headers of ``header`` (name
    and size), beginning at multiples of ``align``. ``counted``: bytes of the header in the size.
    """

    first: int
    header: struct.Struct
    data: bytes
    align: int = 2
    counted: int = 0


WAVE = Form(12, struct.Struct("<4sI"), b"data")
WAVE_BIG_ENDIAN = Form(12, struct.Struct(">4sI"), b"data")
AIFF = Form(12, struct.Struct(">4sI"), b"SSND")
WAVE64 = Form(40, struct.Struct("<16sQ"), W64_DATA, align=8, counted=24)
CAF = Form(8, struct.Struct(">4sQ"), b"data", align=1)


@dataclass(frozen=True)
class Chunk:
    """A chunk's name, where its content begins, and the size that is announced."""

    name: bytes
    start: int
    size: int
    padded: bool = True  # as it must be where its size is odd


def begins(file: BinaryIO, at: int, stop: int) -> bool:
    """Whether one of these containers begins at ``at``."""
    head = bytes_at(file, at, 16)
    return head[:4] in (b".snd", b"dns.") or _form(head) is not None


def _form(head: bytes) -> Form | None:
    kind = head[:4], head[8:12]
    if kind in ((b"RIFF", b"WAVE"), (b"RF64", b"WAVE")):
        return WAVE
    if kind == (b"RIFX", b"WAVE"):
        return WAVE_BIG_ENDIAN
    if kind in ((b"FORM", b"AIFF"), (b"FORM", b"AIFC")):
        return AIFF
    if head == W64_RIFF:
        return WAVE64
    return CAF if head[:4] == b"caff" else None


def parts(file: BinaryIO, at: int, stop: int, thorough: bool = True) -> tuple[list[Part], int]:
    """The container at ``at``, and where it ends. Raises ContainerError where it is cut off."""
    head = bytes_at(file, at, 16)
    form = _form(head)
    if form is None:
        return _au(file, at, stop, head)
    chunks: list[Chunk] = []
    data: list[Chunk] = []
    long_size = 0  # of the data chunk, from an RF64 file's ds64 chunk
    end = at + form.first
    as_it_is = True
    while len(chunks) < MOST_CHUNKS and (chunk := _chunk(file, form, at, end, stop, data)):
        chunks.append(chunk)
        as_it_is &= chunk.padded
        size = chunk.size
        if chunk.name == b"ds64" and len(sizes := bytes_at(file, chunk.start, 16)) == 16:
            long_size = struct.unpack("<8xQ", sizes)[0]
        if chunk.name == form.data:
            if form is WAVE and size == 0xFFFF_FFFF and long_size:
                size = long_size
            told = size
            size = _true_size(file, form, at, chunk.start, size, stop)
            as_it_is &= size == told
            data.append(Chunk(chunk.name, chunk.start, size))
        end = _end(form, at, chunk.start + size, chunk.padded)
    end = min(end, stop)
    if form in (WAVE, WAVE_BIG_ENDIAN) and data and not (as_it_is and len(data) == 1):
        fmt = next((chunk for chunk in chunks if chunk.name == b"fmt "), None)
        if fmt is not None and fmt.size < 1000:
            content = bytes_at(file, fmt.start, fmt.size)
            return [_wave(form, content, chunk, stop) for chunk in data], end
    if not as_it_is and len(data) == 1 and data[0].start - at <= LARGEST_HEAD:
        head = bytearray(bytes_at(file, at, data[0].start - at))
        form.header.pack_into(
            head, len(head) - form.header.size, form.data, data[0].size + form.counted
        )
        return [Part(data[0].start, data[0].start + data[0].size, bytes(head))], end
    return [Part(at, end)], end


def _chunk(
    file: BinaryIO, form: Form, begin: int, at: int, stop: int, data: list[Chunk]
) -> Chunk | None:
    """The chunk at ``at``; None where there is none, or the next file begins."""
    head = bytes_at(file, at, form.header.size)
    if len(head) < form.header.size or at >= stop:
        return None
    name, size = form.header.unpack(head)
    if not _is_name(name) or (data and _form(bytes_at(file, at, 16)) is not None):
        return None
    size -= form.counted
    start = at + form.header.size
    if size < 0 or (name != form.data and start + size > stop + SLACK):
        return None
    padded = True
    if form.align == 2 and size % 2 and name != form.data:
        after = bytes_at(file, start + size, 5)
        padded = _is_name(after[1:]) or not _is_name(after[:4])
    return Chunk(name, start, size, padded)


def _is_name(name: bytes) -> bool:
    """Whether these bytes may name a chunk: four printable characters, or the GUID of one."""
    return len(name) in (4, 16) and all(0x20 <= byte < 0x7F for byte in name[:4])


def _end(form: Form, begin: int, end: int, padded: bool) -> int:
    return end + (-(end - begin) % form.align if padded else 0)


def _true_size(file: BinaryIO, form: Form, begin: int, start: int, size: int, stop: int) -> int:
    """Bytes of audio in a data chunk from ``start``. Raises ContainerError where some are missing.

    A size that announces nothing means all there is, and 32 bits may have wrapped around.
    """
    there = stop - start
    wide = form.header.size > 8
    if size >= UNKNOWN_64 if wide else any(size in sizes for sizes in UNKNOWN_32):
        return there
    if size > there + SLACK:
        raise ContainerError(
            f"cut off: {size - there} bytes of audio that its header announces are not there"
        )
    if size >= there or wide:
        return min(size, there)
    followed = _followed(file, form, _end(form, begin, start + size, True), stop)
    if size == 0 and not followed:
        return there
    if not followed and form in (WAVE, WAVE_BIG_ENDIAN):
        size += (there - size) // 2**32 * 2**32
    return size


def _followed(file: BinaryIO, form: Form, at: int, stop: int) -> bool:
    """Whether chunks, or nothing, lie from ``at`` on."""
    name, size = (bytes_at(file, at, 8) + bytes(8))[:4], 0
    if at + 8 <= stop:
        name, size = form.header.unpack(bytes_at(file, at, 8))
    return at >= stop or (_is_name(name) and at + 8 + size <= stop + SLACK)


def _wave(form: Form, fmt: bytes, data: Chunk, stop: int) -> Part:
    """A data chunk behind a header that says what it is and how long."""
    order = "<" if form is WAVE else ">"
    size = min(data.size, stop - data.start)
    chunk = struct.pack(f"{order}4sI", b"fmt ", len(fmt)) + fmt + bytes(len(fmt) % 2)
    if size <= LARGEST:
        name, told, sizes = (b"RIFF" if form is WAVE else b"RIFX"), size, b""
        whole = 4 + len(chunk) + 8 + size
    elif form is WAVE:
        name, told, whole = b"RF64", 0xFFFF_FFFF, 0xFFFF_FFFF
        long_sizes = 4 + 36 + len(chunk) + 8 + size, size, 0
        sizes = struct.pack("<4sIQQQI", b"ds64", 28, *long_sizes, 0)
    else:
        raise ContainerError("is longer than a big-endian WAV file can be")
    head = struct.pack(f"{order}4sI4s", name, whole, b"WAVE") + sizes + chunk
    head += struct.pack(f"{order}4sI", b"data", told)
    return Part(data.start, data.start + size, head)


def _au(file: BinaryIO, at: int, stop: int, head: bytes) -> tuple[list[Part], int]:
    """Sun's audio file: one header with one size."""
    order = ">" if head[:4] == b".snd" else "<"
    if len(head) < 16:
        raise ContainerError("ends inside its header")
    _, offset, size, _ = struct.unpack(f"{order}4sIII", head)
    there = stop - at - offset
    if size in UNKNOWN_32[1] or (size == 0 and there > 0):
        if not 24 <= offset <= 1 << 20:
            return [Part(at, stop)], stop
        header = bytes_at(file, at, offset)
        told = struct.pack(f"{order}I", min(max(there, 0), 0xFFFF_FFFF))
        return [Part(at + offset, stop, header[:8] + told + header[12:])], stop
    if size > there + SLACK:
        raise ContainerError(
            f"cut off: {size - max(there, 0)} bytes of audio that its header announces are not "
            "there"
        )
    end = min(stop, at + offset + size)
    return [Part(at, end)], end
