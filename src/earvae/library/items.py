"""The files of a library, in an order that folders and manifests alone decide.

Everything else follows from this order: which files are batched together, which shard holds a
file, which rank encodes it.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from earvae.errors import EarvaeError
from earvae.tracks import MusicFile, fitting, printable, stems

HIDDEN = ".earvae"  # in the output folder: everything that is not a result
LONGEST_ENDING = "-0000.safetensors"
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


@dataclass(frozen=True)
class Block:
    """Consecutive files of a library; ``number`` counts from 0."""

    number: int
    items: list[Item]

    def digest(self, settings: str) -> str:
        """A digest that changes with that of the settings and with the names of the files."""
        names = [settings, *(item.name for item in self.items)]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]


class Library:
    """All items in the order of ``files``, held compactly (a few hundred bytes each), in blocks
    of ``block_files``.

    Batches never cross a block, a shard is a block, and ranks take blocks in turn. Raises
    LibraryError if two files would have one output.
    """

    def __init__(self, files: Sequence[MusicFile], block_files: int = 256) -> None:
        self.files = files
        self.block_files = block_files
        self._keys = _keys([file.name for file in files])

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return -(-len(self.files) // self.block_files)

    def block(self, number: int) -> Block:
        """The block of this number."""
        start = number * self.block_files
        files = self.files[start : start + self.block_files]
        return Block(
            number,
            [Item(n, file.path, file.name, self._keys[n]) for n, file in enumerate(files, start)],
        )


def _keys(names: Sequence[str]) -> list[str]:
    """Output paths without suffix (:func:`earvae.tracks.stems`), each another's."""
    keys: list[str] = []
    owners: dict[str, int] = {}
    for index, (name, key) in enumerate(zip(names, stems(names, RESERVED), strict=True)):
        key = _own(key)
        if (other := owners.setdefault(key.lower(), index)) != index:
            if names[other] == name:
                raise LibraryError(f"{printable(name)}: is listed twice")
            raise LibraryError(
                f"{printable(names[other])} and {printable(name)} would have the same output; "
                "rename one, or encode them into different folders"
            )
        keys.append(key)
    return keys


def _own(key: str) -> str:
    """The key out of the way of what is ours, and short enough for a file's name."""
    folder, name = posixpath.split(key)
    first, slash, rest = folder.partition("/")
    if first.lower() == HIDDEN:
        folder = f"_{first}{slash}{rest}"
    return posixpath.join(folder, fitting(name, LONGEST_ENDING))
