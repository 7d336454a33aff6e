"""The files of a library, in an order that folders and manifests alone decide.

Everything else follows from this order: which files are batched together, which shard holds a
file, which rank encodes it.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from earvae.errors import EarvaeError
from earvae.tracks import MusicFile, inside, printable

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
    """All items, held compactly (a few hundred bytes each), in the order of ``files``.

    Raises LibraryError if two would have one output.
    """

    def __init__(self, files: Sequence[MusicFile]) -> None:
        self._files = files
        self._keys = _keys([file.name for file in files])

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        file = self._files[index]
        return Item(index, file.path, file.name, self._keys[index])


def _keys(names: Sequence[str]) -> list[str]:
    """Output paths without suffix: that of the file where it is unique, else with its suffix.

    ``a.wav`` becomes ``a``, unless there is also an ``a.flac``: then ``a.wav`` and ``a.flac``.
    """
    short = [posixpath.splitext(inside(name))[0] for name in names]
    counts = Counter(key.lower() for key in short)
    keys: list[str] = []
    owners: dict[str, int] = {}
    for index, (name, key) in enumerate(zip(names, short, strict=True)):
        folded = key.lower()
        if counts[folded] > 1 or folded in RESERVED:
            key = inside(name)
        if (other := owners.setdefault(key.lower(), index)) != index:
            if names[other] == name:
                raise LibraryError(f"{printable(name)}: is listed twice")
            raise LibraryError(
                f"{printable(names[other])} and {printable(name)} would have the same output; "
                "rename one, or encode them into different folders"
            )
        keys.append(key)
    return keys
