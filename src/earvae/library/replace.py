"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from earvae.library.items import LibraryError

HIDDEN = ".earvae"  # in the output folder: everything that is not a result


class Staging:
    """A place below ``OUT/.earvae`` where files are written before they get their names.

    Every process has one of its own, so that two that are started by mistake cannot spoil each
    other's files. What a killed process left is removed by the next one on the same machine.
    """

    def __init__(self, folder: Path) -> None:
        parent = folder / HIDDEN / "staging"
        self.folder = parent / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        _remove_left_behind(parent)

    @contextmanager
    def replacing(self, path: Path) -> Iterator[BinaryIO]:
        """A file to write, which takes the place of ``path`` at the end, or goes on failure.

        Folders are made. Raises LibraryError in place of OSError: what cannot be written (disk
        full, no permission) cannot be written for the next file either.
        """
        temporary = self.folder / f"{secrets.token_hex(8)}.partial"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as file:
                    yield file
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise LibraryError(f"{path}: cannot be written: {error.strerror or error}") from None

    def replace(self, path: Path, data: bytes) -> None:
        """Write a whole file. Raises LibraryError."""
        with self.replacing(path) as file:
            file.write(data)

    def close(self) -> None:
        """Remove the place."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _remove_left_behind(parent: Path) -> None:
    """Places of processes of this machine that are no more."""
    if not parent.is_dir():
        return
    for place in parent.iterdir():
        host, pid, _ = place.name.rsplit("-", 2)
        if host == socket.gethostname() and not _alive(int(pid)):
            shutil.rmtree(place, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def write_whole(path: Path, data: bytes) -> None:
    """A single file, staged beside itself. Raises LibraryError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise LibraryError(f"{path}: cannot be written: {error.strerror or error}") from None
