"""Files that are read in parts, from a disk or from any place that fsspec knows by its URL."""

from __future__ import annotations

import io
import time
from typing import Any

from earvae.regular import ReadError, open_regular

RETRY_SECONDS = (0.5, 1.0, 2.0)  # waits before a remote read is tried again
MOST_BYTES = 1 << 30  # of what is read to its end
BLOCK_BYTES = 1 << 16  # read at a time by RemoteFile


def is_remote(location: str) -> bool:
    """Whether ``location`` is a URL and not a path."""
    return "://" in location


def fetch(location: str, offset: int = 0, size: int | None = None) -> bytes:
    """``size`` bytes (None: to the end) from ``offset`` of a file, or of a URL known to fsspec.

    No more is taken in than was asked for, to the end ``MOST_BYTES``, however much a server
    sends. A remote read that fails is tried again after each of ``RETRY_SECONDS``. Nothing stays
    open, so worker processes may be forked at any time. Raises OSError.
    """
    most = MOST_BYTES if size is None else size
    if is_remote(location):
        data = _fetch_remote(location, offset, size, most + 1)
    else:
        try:
            with open_regular(location) as file:
                file.seek(offset)
                data = file.read(most if size is not None else most + 1)
        except ReadError as error:
            raise OSError(str(error)) from None
    if len(data) > most or size is not None and len(data) != size:
        count = "more" if len(data) > most else str(len(data))
        raise OSError(f"{location}: gave {count} bytes where {most} were asked for")
    return data


class RemoteFile(io.RawIOBase):
    """A URL as a file that is read at a few places: each read fetches ``BLOCK_BYTES`` or more."""

    def __init__(self, location: str) -> None:
        """Raises OSError."""
        self.location = location
        system, path = _system(location)
        size = _retried(location, lambda: system.size(path))
        if not isinstance(size, int):
            raise OSError(f"{location}: the server does not tell its size")
        self._size, self._place = size, 0
        self._start, self._held = 0, b""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, size: int = -1) -> bytes:
        """Raises OSError."""
        left = max(0, self._size - self._place)
        size = left if size < 0 else min(size, left)
        begin = self._place - self._start
        if begin < 0 or begin + size > len(self._held):
            self._held = fetch(self.location, self._place, min(max(size, BLOCK_BYTES), left))
            self._start, begin = self._place, 0
        self._place += size
        return self._held[begin : begin + size]


def _fetch_remote(location: str, offset: int, size: int | None, most: int) -> bytes:
    system, path = _system(location)
    web = "http" in ([system.protocol] if isinstance(system.protocol, str) else system.protocol)

    def part() -> bytes:
        if web:
            return _fetch_web(system, path, offset, size, most)
        return system.cat_file(path, start=offset, end=offset + (size or most))

    return _retried(location, part)


def _system(location: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the path in it. Raises OSError."""
    try:
        import fsspec
    except ModuleNotFoundError:
        raise OSError("URLs need the package fsspec: pip install 'earvae[train]'") from None
    try:
        return fsspec.core.url_to_fs(location)  # kept by fsspec, for each process
    except (ImportError, ValueError) as error:  # a package is missing, or no such kind of URL
        raise OSError(f"{location}: {error}") from None


def _retried(location: str, ask: Any) -> Any:
    for wait in (*RETRY_SECONDS, None):
        try:
            return ask()
        except FileNotFoundError:
            raise FileNotFoundError(f"{location}: no such file") from None
        except PermissionError as error:
            raise OSError(f"{location}: {error}") from None
        except Exception as error:  # every file system raises what its own library raises
            if wait is None:
                raise OSError(f"{location}: {error or type(error).__name__}") from None
            time.sleep(wait)
    raise AssertionError("unreachable")


def _fetch_web(system: Any, url: str, offset: int, size: int | None, most: int) -> bytes:
    """At most ``most`` bytes of an answer, as they come: servers may send more than was asked."""
    headers = dict(system.kwargs.get("headers", {}))
    if size is not None:
        headers["Range"] = f"bytes={offset}-{offset + size - 1}"
    # A block size of 0 is fsspec's word for a stream; with a size it does not ask for one.
    with system.open(url, block_size=0, size=1, headers=headers) as answer:
        if size is not None and answer.r.status != 206:
            raise OSError("the server does not give parts of files")
        data = bytearray()
        while len(data) < most and (block := answer.read(most - len(data))):
            data += block
    return bytes(data)
