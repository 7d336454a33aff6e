"""What in a folder is ours: a list, kept in the folder, of what may be replaced or removed there.

A verb claims the names that it is about to write. One that is taken and not on the list belongs to
somebody else, and is refused by name; whatever is removed later was on the list.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from earvae.atomic import writing
from earvae.errors import WriteError
from earvae.regular import read_regular

EVALUATION = ".earvae-evaluation"  # names of lists, one a kind of result
EXPORT = ".earvae-export"
PACK = ".earvae-pack"
RUN = ".earvae-run"
THDN = ".earvae-thdn"
WEIGHTS = ".earvae-weights"
MOST_BYTES = 100_000_000  # of a list
NO_WAITING = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class Owned:
    """The names in ``folder`` that are ours.

    Args:
        record: the name of the list in ``folder``; it has a name a line.
        before: names that are ours by what older results say, where there is no list yet.
    """

    def __init__(self, folder: Path, record: str, before: Iterable[str] = ()) -> None:
        self.folder, self.path = folder, folder / record
        self._before = sorted(set(before))
        self.names = listed(self.path) or frozenset(self._before)

    def check(self, *names: str) -> None:
        """Raise WriteError if something else has one of these names; an empty folder is nothing."""
        self.names = listed(self.path) or frozenset(self._before)  # others may claim, too
        for name in names:
            if name not in self.names and _taken(self.folder / name):
                raise WriteError(
                    f"{self.folder / name}: is there already, and was not written by this command; "
                    "move it away, or use another folder"
                )

    def claim(self, *names: str) -> None:
        """List names as ours, before they are written.

        Raises WriteError, and lists none, if something else has one of them, or if the list cannot
        be written.
        """
        self.check(*names)
        written = listed(self.path)
        wanted = dict.fromkeys(names if written else [*self._before, *names])
        if new := [name for name in wanted if name not in written]:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                self.path.parent.mkdir(exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write("".join(f"{name}\n" for name in new))
            self.names |= set(new)

    def remove(self, name: str) -> None:
        """Remove a file if it is ours, and there. Raises WriteError."""
        if name in self.names:
            with writing(self.folder / name):
                (self.folder / name).unlink(missing_ok=True)

    def keep(self, *names: str) -> None:
        """Shorten the list to these of its names; the others are not there any more.

        Raises WriteError.
        """
        kept = [name for name in names if name in self.names]
        with writing(self.path), self.path.open("r+", encoding="utf-8") as file:
            file.write("".join(f"{name}\n" for name in kept))  # in place: it may be locked
            file.truncate()
        self.names = frozenset(kept)

    @contextmanager
    def alone(self, tell: Callable[[str], None]) -> Iterator[None]:
        """Hold the list: of two commands that write the same, the second waits for the first, and
        says so. Where there are no locks (Windows, some network disks) nothing is held.

        Raises WriteError.
        """
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            number = os.open(self.path, os.O_RDWR | os.O_CREAT | NO_WAITING, 0o666)
        try:
            if fcntl is not None:
                try:
                    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    tell(f"{self.folder}: another process writes there; waiting for it")
                    fcntl.flock(number, fcntl.LOCK_EX)
                except OSError:
                    pass
            yield
        finally:
            os.close(number)


def listed(record: str | Path) -> frozenset[str]:
    """The names on a list; none where there is no list. What leads out of the folder is no name.

    Raises ReadError.
    """
    if not os.path.lexists(record):
        return frozenset()
    text = read_regular(record, MOST_BYTES).decode("utf-8", "replace")
    return frozenset(name for name in text.splitlines() if name == os.path.basename(name) != "..")


def _taken(path: Path) -> bool:
    """Whether there is anything, empty folders left aside."""
    if path.is_dir() and not path.is_symlink():
        return any(path.iterdir())
    return os.path.lexists(path)
