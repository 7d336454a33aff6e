"""Tar files written member by member, without times and owners: equal content, equal bytes.

``tarfile`` reads them. A member that was begun can be taken back by cutting the file off.
"""

from __future__ import annotations

import tarfile
from typing import BinaryIO


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
