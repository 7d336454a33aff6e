"""Regular files only: looking before opening, in one place for every file that a user names.

A pipe without a writer hangs whoever opens it, and a device may never end. Both are refused, as
are sockets and folders; links are followed to what they name.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO, Any

from earvae.errors import EarvaeError


class ReadError(EarvaeError):
    """A file that cannot be read: missing, no permission, no regular file, larger than may be."""


def open_regular(path: str | Path, mode: str = "rb", **options: Any) -> IO[Any]:
    """A regular file opened for reading, as :func:`open` does with ``options``; never waits.

    Raises ReadError: missing, no permission, a folder, pipe, device or socket, a name that no
    file can have.
    """
    if set(mode) - set("rbt"):
        raise ValueError(f"{mode!r}: files are opened for reading here")
    try:
        _refuse_others(path, os.stat(path).st_mode)  # before open: some devices act on it
        return open(path, mode, opener=_open, **options)
    except (OSError, ValueError) as error:
        raise ReadError(f"{path}: {_reason(error)}") from None


def check_regular(path: str | Path) -> os.stat_result:
    """The status of a regular file that can be opened, for libraries that open it by name.

    Raises ReadError, as :func:`open_regular`.
    """
    with open_regular(path) as file:
        return os.fstat(file.fileno())


def read_regular(path: str | Path, limit_bytes: int) -> bytes:
    """A whole regular file of at most ``limit_bytes``.

    Raises ReadError, as :func:`open_regular`, or if it is larger; no more than the limit is read.
    """
    with open_regular(path) as file:
        try:
            data = file.read(limit_bytes + 1)
        except OSError as error:
            raise ReadError(f"{path}: {_reason(error)}") from None
    if len(data) > limit_bytes:
        raise ReadError(f"{path}: has more than {limit_bytes} bytes, too many for such a file")
    return data


def _open(path: str, flags: int) -> int:
    """Open without waiting for a pipe's other end, and look again: names can change hands."""
    number = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0))
    try:
        _refuse_others(path, os.fstat(number).st_mode)
    except BaseException:
        os.close(number)
        raise
    return number


def _refuse_others(path: str | Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise ReadError(f"{path}: is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise ReadError(f"{path}: is a pipe, device or socket; save it to a regular file first")


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"
