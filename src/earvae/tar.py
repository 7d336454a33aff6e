"""Tar files written member by member, without times and owners: equal content, equal bytes; and
read as far as they are plain.

A member that was begun can be taken back by cutting the file off.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from typing import IO, BinaryIO

MOST_HEADER_BYTES = 1 << 18  # of a member: its name and what else is told of it
MOST_PADDING = 1 << 20  # bytes after the end


def append(tar: BinaryIO, name: str, data: bytes) -> int:
    """Add a member at the end of what is written; the offset of its first byte."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.write(member.tobuf(tarfile.USTAR_FORMAT))
    offset = tar.tell()
    tar.write(data)
    tar.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    return offset


def end(tar: BinaryIO) -> int:
    """Write what ends a tar file; its bytes in all."""
    tar.write(bytes(2 * tarfile.BLOCKSIZE))
    tar.write(bytes(-tar.tell() % tarfile.RECORDSIZE))
    return tar.tell()


def members(tar: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The files in a tar file that is open and can be sought: ``name``, ``size`` and
    ``offset_data``, all of it there.

    Their content is not read, and ``tar`` may be read from between two of them. Folders are passed
    over. Raises tarfile.TarError for anything that is not plain (compressed, sparse, a link, a
    device), for a header that is damaged or endless, and where the end is missing or is not the
    end. (``tarfile`` alone takes a damaged header for the end, and expands what is compressed.)
    """
    size = tar.seek(0, os.SEEK_END)
    tar.seek(0)
    headers = _Headers(tar)
    archive = tarfile.TarFile(fileobj=headers)  # reads the first header
    while (member := archive.next()) is not None:
        if member.offset_data <= headers.place or member.size < 0:
            raise tarfile.ReadError("its members overlap")
        headers.place, headers.left = member.offset_data, MOST_HEADER_BYTES
        archive.members.clear()
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise tarfile.ReadError(f"its member {member.name} is no plain file")
        if member.offset_data + member.size > size:
            raise tarfile.ReadError("is cut off")
        yield member
    tar.seek(archive.offset)
    rest = tar.read(MOST_PADDING + 1)
    if len(rest) < 2 * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("is cut off")
    if any(rest) or len(rest) > MOST_PADDING:
        raise tarfile.ReadError(f"is damaged after byte {archive.offset}, or more follows its end")


class _Headers:
    """A tar file as ``tarfile`` reads the headers of its members: ``left`` bytes at most."""

    def __init__(self, tar: IO[bytes]) -> None:
        self.tar, self.seek, self.tell = tar, tar.seek, tar.tell
        self.left, self.place = MOST_HEADER_BYTES, 0

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise tarfile.ReadError("holds an endless header")
        return self.tar.read(size)
