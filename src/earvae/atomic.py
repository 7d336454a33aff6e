"""Whole or not at all: files and folders that appear under their names when they are complete.

What is written lies beside its target (or in a staging place of the same file system) under a
name of its own, and is renamed at the end. Killed at any moment, a program leaves the old content
or the new, and perhaps a hidden ``.earvae-*.partial``.

A partial is locked for as long as somebody writes it. So whoever finds one that is not removes it:
the system lets go of a lock when its process dies, on whatever machine or in whatever container.
Where the file system has no locks, partials stay.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from earvae.errors import UnwritableName, WriteError

OF_THE_NAME = frozenset(
    (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
    + (errno.ELOOP, errno.EINVAL, errno.EILSEQ)
)
CONTENTS = ".earvae-contents"  # in a folder that was written as a whole: its files, a name a line


@contextmanager
def file(path: str | Path, within: Path | None = None) -> Iterator[Path]:
    """A temporary name for ``path``: renamed to it at the end, removed on failure.

    The temporary file exists and is empty. It lies beside ``path``, or in the folder ``within``
    of the same file system. Folders are made. What is there and is no file (``/dev/null``) stays:
    WriteError, and any OSError becomes one that names ``path``.
    """
    path = Path(path)
    with writing(path):
        _refuse_devices(path)
        make_folder(path.parent)
        with _partial(within or path.parent) as temporary:
            yield temporary
            _refuse_devices(path)
            try:
                os.replace(temporary, path)
            except FileNotFoundError:  # another process tidied up an empty folder
                make_folder(path.parent)
                os.replace(temporary, path)


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
    with writing(folder), _partial(folder, is_folder=True) as temporary:
        yield temporary
        probe = temporary / CONTENTS
        probe.touch()  # libraries may make private files; these are as open as any other new one
        mode = stat.S_IMODE(probe.stat().st_mode)
        probe.unlink()
        for path in sorted(temporary.iterdir()):
            path.chmod(mode)
            _refuse_devices(folder / path.name)
            os.replace(path, folder / path.name)


@contextmanager
def folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, renamed to it at the end; an earlier one is replaced.

    It lists its files in ``CONTENTS``. What lies at ``path`` is replaced only if it is such a
    folder and nothing was added to it. Between two renames nothing is there. Raises WriteError,
    as :func:`refuse_strangers`.
    """
    path = Path(path)
    with writing(path), _partial(path.parent, is_folder=True) as temporary:
        refuse_strangers(path)
        yield temporary
        (temporary / CONTENTS).write_text("".join(f"{name}\n" for name in _files_in(temporary)))
        refuse_strangers(path)
        if not path.exists():
            os.replace(temporary, path)
            return
        with _partial(path.parent, is_folder=True) as before:
            os.replace(path, before / path.name)
            os.replace(temporary, path)


def refuse_strangers(path: Path) -> None:
    """Raise WriteError if there is something at ``path`` that :func:`folder` did not put there."""
    listed: set[str] = set()
    if path.is_dir() and not path.is_symlink():
        if (path / CONTENTS).is_file():
            listed = {*(path / CONTENTS).read_text(errors="replace").splitlines(), CONTENTS}
        strange = next((path / name for name in _files_in(path) if name not in listed), None)
    else:
        strange = path if os.path.lexists(path) else None
    if strange is not None:
        raise WriteError(
            f"{strange}: was not written by earvae, and {path.name} is written anew as a whole; "
            "move it away, or use another folder"
        )


def make_folder(path: Path) -> None:
    """Make a folder and those above it, if need be. Not recursive: names of music may lie a
    thousand folders deep. Raises OSError."""
    missing = []
    while not path.is_dir() and path != path.parent:
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Any OSError inside becomes a WriteError that names ``path``."""
    try:
        yield
    except OSError as error:
        kind = UnwritableName if error.errno in OF_THE_NAME else WriteError
        raise kind(f"{path}: cannot be written: {error.strerror or error}") from None


def sweep(folder: Path, everything: bool = False) -> None:
    """Remove the partials in ``folder`` that nobody is writing any more.

    With ``everything``, all its folders are taken for partials, whatever their names; single files
    and links of other names stay in any case.
    """
    try:
        found = list(folder.iterdir())
    except OSError:
        return  # none yet, or not ours to look into
    for path in found:
        ours = path.name.startswith(".earvae-") and path.name.endswith(".partial")
        if path.is_symlink() or not (ours or (everything and path.is_dir())):
            continue
        try:
            lock = _locked(path)
        except OSError:
            continue  # somebody writes it, or it is gone
        if lock is not None:
            _remove(path)
            os.close(lock)


class Staging:
    """A folder in which one process writes files before they get their names.

    Every process has one of its own below ``parent``, so that two that are started by mistake
    cannot spoil each other's files. What killed processes left there is removed.
    """

    def __init__(self, parent: Path) -> None:
        self._open = ExitStack()
        self._parent = parent
        sweep(parent, everything=True)

    @cached_property
    def folder(self) -> Path:
        """The place, made when the first file is written. Raises OSError."""
        return self._open.enter_context(_partial(self._parent, is_folder=True))

    @contextmanager
    def file(self, path: Path) -> Iterator[Path]:
        """As :func:`file`, staged here."""
        with writing(path):
            place = self.folder
        with file(path, place) as temporary:
            yield temporary

    def write(self, path: Path, data: bytes | str) -> None:
        """As :func:`write`, staged here."""
        with writing(path):
            place = self.folder
        write(path, data, place)

    def close(self) -> None:
        """Remove the place."""
        self._open.close()


@contextmanager
def _partial(folder: Path, is_folder: bool = False) -> Iterator[Path]:
    """A new file or folder in ``folder``, which is made, locked; at the end it is removed, if it
    is still there under this name. What killed calls left in ``folder`` is removed first."""
    make_folder(folder)
    _sweep_once(folder)
    path = lock = None
    try:
        while True:
            path = folder / f".earvae-{secrets.token_hex(8)}.partial"
            path.mkdir() if is_folder else path.open("xb").close()
            try:
                lock = _locked(path)
                if os.path.lexists(path):
                    break
            except (BlockingIOError, FileNotFoundError):
                pass  # swept in the moment before it was locked: again
            if lock is not None:
                os.close(lock)
                lock = None
        yield path
    finally:  # also of a signal that came just when it was made
        if path is not None:
            _remove(path)
        if lock is not None:
            os.close(lock)


@cache
def _sweep_once(folder: Path) -> None:
    """Sweep a folder at this process's first writing there; more would cost time for nothing."""
    sweep(folder)


def _locked(path: str | Path) -> int | None:
    """A descriptor that holds a lock on a file or folder while it is open; None without locks.

    Raises BlockingIOError if another holds it, FileNotFoundError.
    """
    if fcntl is None:
        return None
    access = os.O_RDONLY if os.path.isdir(path) else os.O_RDWR  # network disks want to write
    number = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(number)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return number


def _refuse_devices(path: Path) -> None:
    """Raise WriteError if there is something at ``path``, or where it leads, that is no file."""
    if os.path.exists(path) and not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "a device, pipe or socket"
        raise UnwritableName(f"{path}: is {kind}, and no file can take its place; name another")


def _files_in(folder: Path) -> Iterable[str]:
    """Names of all files below a folder, and of links, which are not followed."""
    for path in sorted(folder.glob("**/*")):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix()


def _remove(path: Path) -> None:
    """What is left of an attempt, if anything is; a second failure must not hide the first."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        pass
