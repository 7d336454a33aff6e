"""The files of a library, in an order that folders and manifests alone decide.

Everything else follows from this order: which files are batched together, which shard holds a
file, which rank encodes it.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from earvae.audio import READABLE_SUFFIXES
from earvae.errors import EarvaeError

MANIFEST = ".jsonl"
RESERVED = frozenset(("library", "summary", "latent_stats"))  # .json files of our own in OUT


class LibraryError(EarvaeError):
    """A library that cannot be encoded or measured as asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Item:
    """A file to encode.

    ``index`` counts from 0 over the whole library. ``name`` is the path below the folder (or the
    manifest's folder) with forward slashes; ``key`` is the path of the output below OUT, without
    a suffix and unlike any other item's.
    """

    index: int
    path: str
    name: str
    key: str


class Library(Sequence[Item]):
    """All items, held compactly (a few hundred bytes each).

    Attributes:
        problems: one line for each folder that could not be searched and each IN without files.
    """

    def __init__(self, files: Iterable[tuple[str, str]], problems: Iterable[str] = ()) -> None:
        """``files`` are pairs of a path and a name. Raises LibraryError if two would have one
        output."""
        self._files = list(files)
        self._keys = _keys([name for _, name in self._files])
        self.problems = list(problems)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        path, name = self._files[index]
        return Item(index, path, name, self._keys[index])


def find(inputs: Sequence[Path], leave_out: Path, split: str | None = None) -> Library:
    """The audio files of folders, of manifests in JSON Lines, and files named by themselves.

    Folders are searched in the order of their names; hidden files, hidden folders and what lies
    below ``leave_out`` are no items. A manifest line is a JSON object with ``file`` (relative to
    the manifest) and perhaps ``split``; with ``split``, other lines are left out. Raises
    LibraryError: nothing there, a bad manifest, two files with one output.
    """
    files: list[tuple[str, str]] = []
    problems: list[str] = []
    for entry in inputs:
        before = len(files)
        if entry.is_dir():
            files += _search(entry, leave_out, problems)
        elif not entry.exists():
            raise LibraryError(f"{entry}: no such file, folder or manifest")
        elif entry.suffix == MANIFEST:
            files += _listed(entry, split)
        else:
            files.append((str(entry), entry.name))
        if len(files) == before:
            what = f"files of split {split!r}" if split else "audio files"
            problems.append(f"{entry}: holds no {what}")
    if split is not None and not any(entry.suffix == MANIFEST for entry in inputs):
        raise LibraryError("--split is for manifests (.jsonl); leave it out")
    return Library(files, problems)


def spoken(name: str) -> str:
    """A name that any JSON reader takes, also where the file system's is not valid Unicode."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _search(folder: Path, leave_out: Path, problems: list[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    own = os.path.realpath(leave_out)

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: folder cannot be read: {error.strerror}")

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) != own
        )
        below = os.path.relpath(parent, folder)
        for name in sorted(names):
            if name.startswith(".") or os.path.splitext(name)[1].lower() not in READABLE_SUFFIXES:
                continue
            relative = name if below == "." else os.path.join(below, name)
            found.append((os.path.join(parent, name), relative.replace(os.sep, "/")))
    return found


def _listed(manifest: Path, split: str | None) -> list[tuple[str, str]]:
    files: list[tuple[str, str]] = []
    try:
        with manifest.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    entry = json.loads(line)
                    file, own_split = str(entry["file"]), entry.get("split")
                except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
                    raise LibraryError(
                        f"{manifest}: line {number} is not a JSON object with a `file`"
                    ) from None
                if split in (None, own_split):
                    path = os.path.join(manifest.parent, file)
                    name = os.path.relpath(path, manifest.parent).replace(os.sep, "/")
                    files.append((path, name))
    except (OSError, UnicodeDecodeError) as error:
        raise LibraryError(f"{manifest}: cannot be read: {error}") from None
    return files


def _keys(names: Sequence[str]) -> list[str]:
    """Output paths without suffix: that of the file where it is unique, else with its suffix.

    ``a.wav`` becomes ``a``, unless there is also an ``a.flac``: then ``a.wav`` and ``a.flac``.
    """
    short = [posixpath.splitext(_inside(name))[0] for name in names]
    counts = Counter(key.lower() for key in short)
    keys: list[str] = []
    owners: dict[str, int] = {}
    for index, (name, key) in enumerate(zip(names, short, strict=True)):
        folded = key.lower()
        if counts[folded] > 1 or folded in RESERVED:
            key = _inside(name)
        if (other := owners.setdefault(key.lower(), index)) != index:
            if names[other] == name:
                raise LibraryError(f"{spoken(name)}: is listed twice")
            raise LibraryError(
                f"{spoken(names[other])} and {spoken(name)} would have the same output; rename "
                "one, or encode them into different folders"
            )
        keys.append(key)
    return keys


def _inside(name: str) -> str:
    """The path without what leads out of OUT."""
    if name.startswith(("/", "..")):
        return "/".join(part for part in name.split("/") if part not in ("", ".."))
    return name
