"""Whole or not at all: files and folders that appear under their names when they are complete.

What is written lies beside its target (or in a staging place of the same file system) under a
name of its own, and is renamed at the end. Killed at any moment, a program leaves the old content
or the new, and perhaps a hidden ``.earvae-*.partial``.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from earvae.errors import UnwritableName, WriteError

OF_THE_NAME = frozenset(
    (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.EILSEQ)
)
FILE_MODE = 0o644  # less the umask's bits where the system applies it


@contextmanager
def file(path: str | Path, within: Path | None = None) -> Iterator[Path]:
    """A temporary name for ``path``: renamed to it at the end, removed on failure.

    The temporary file exists and is empty. It lies beside ``path``, or in the folder ``within``
    of the same file system. Folders are made. Any OSError becomes a WriteError that names
    ``path``.
    """
    path = Path(path)
    temporary = _partial(within or path.parent)
    with writing(path):
        try:
            for folder in {path.parent, temporary.parent}:
                folder.mkdir(parents=True, exist_ok=True)
            temporary.open("xb").close()
            yield temporary
            os.replace(temporary, path)
        finally:
            _remove(temporary)


def write(path: str | Path, data: bytes | str, within: Path | None = None) -> None:
    """Write a whole file, text as UTF-8. Raises WriteError."""
    data = data.encode() if isinstance(data, str) else data
    with file(path, within) as temporary:
        temporary.write_bytes(data)


@contextmanager
def files(folder: str | Path) -> Iterator[Path]:
    """A temporary folder whose files replace those of the same names in ``folder`` at the end.

    Other files of ``folder`` stay. Files are renamed in the order of their names, each for itself.
    Raises WriteError.
    """
    folder = Path(folder)
    temporary = _partial(folder)
    with writing(folder):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            for path in sorted(temporary.iterdir()):
                path.chmod(FILE_MODE)
                os.replace(path, folder / path.name)
        finally:
            _remove(temporary)


@contextmanager
def folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, renamed to it at the end; a folder there is replaced.

    The caller knows that what lies there is its own to replace. Raises WriteError.
    """
    path = Path(path)
    temporary, before = _partial(path.parent), _partial(path.parent)
    with writing(path):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            if path.is_dir():
                os.replace(path, before)
            os.replace(temporary, path)
        finally:
            _remove(temporary)
            _remove(before)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Any OSError inside becomes a WriteError that names ``path``."""
    try:
        yield
    except OSError as error:
        kind = UnwritableName if error.errno in OF_THE_NAME else WriteError
        raise kind(f"{path}: cannot be written: {error.strerror or error}") from None


def remove_partials(folder: Path) -> None:
    """Remove what killed calls left in a folder that nothing else writes to."""
    for path in folder.glob(".earvae-*.partial"):
        _remove(path)


class Staging:
    """A folder in which one process writes files before they get their names.

    Every process has one of its own below ``parent``, so that two that are started by mistake
    cannot spoil each other's files. What a killed process of this machine left is removed.
    """

    def __init__(self, parent: Path) -> None:
        self.folder = parent / f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        _remove_left_behind(parent)

    def file(self, path: Path):
        """As :func:`file`, staged here."""
        return file(path, self.folder)

    def write(self, path: Path, data: bytes | str) -> None:
        """As :func:`write`, staged here."""
        write(path, data, self.folder)

    def close(self) -> None:
        """Remove the place."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _partial(folder: Path) -> Path:
    return folder / f".earvae-{secrets.token_hex(8)}.partial"


def _remove(path: Path) -> None:
    """What is left of an attempt, if anything is; a second failure must not hide the first."""
    try:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        pass


def _remove_left_behind(parent: Path) -> None:
    """Places of processes of this machine that are no more; names of another form stay."""
    if not parent.is_dir():
        return
    for place in parent.iterdir():
        name = re.fullmatch(r"(.*)-(\d{1,9})-[0-9a-f]{8}", place.name, re.DOTALL)
        if name and name[1] == socket.gethostname() and not _alive(int(name[2])):
            shutil.rmtree(place, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # somebody else's, or no number of a process
    return True
