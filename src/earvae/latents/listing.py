"""Where the entries of a collection of latents lie: files, shards and libraries, near and far.

Nothing of an entry is read before it is asked for, so a million of them are listed in seconds.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from earvae import json_files, tracks
from earvae.latents import file
from earvae.latents.file import NPY, SHARD, SUFFIX, Place, Stored
from earvae.latents.metadata import LatentsError
from earvae.regular import open_regular
from earvae.remote import RemoteFile, fetch, is_remote

INDEX = "index.jsonl"  # of a library
Source = str | Path | Sequence[str | Path]


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that can be opened: a file, or (``place``) a member of a shard.

    ``name`` is the file's below the source that it was found in, and the member's.
    """

    location: str  # path or URL of the file or shard
    name: str
    place: Place | None = None

    @contextmanager
    def opened(self) -> Iterator[Stored]:
        """The entry, its headers read. Raises LatentsError, which names it."""
        remote = is_remote(self.location)
        if self.place is None and not remote:
            with file.opened(Path(self.location)) as stored:
                yield stored
            return
        member = self.location if self.place is None else f"{self.location}: {self.place.name}"
        with file.named(member):
            if self.place is None:
                yield _whole(self.location)
            elif remote:
                yield _part(self.location, self.place)
            else:
                with open_regular(self.location) as shard:
                    yield file.stored_at(shard, self.place)


def find(source: Source) -> list[Entry]:
    """The entries of libraries, of folders, of latent files and shards, in a fixed order.

    Libraries are named by their folder or ``index.jsonl``, and those at a URL by either, too; of
    a shard at a URL, the index beside it is used, or else the headers of its members are read.
    Folders that are no library are searched. Raises LatentsError.
    """
    single = isinstance(source, str | Path)
    entries = [entry for one in ([source] if single else source) for entry in _of(str(one))]
    if not entries:
        raise LatentsError("no latents: name libraries, folders, .safetensors, .npy or .tar files")
    return entries


def _of(source: str) -> list[Entry]:
    if is_remote(source):
        return _of_url(source)
    path = Path(source).expanduser()
    if path.name == INDEX or path.is_dir() and (path / INDEX).is_file():
        index = path / INDEX if path.is_dir() else path
        with file.named(index), open_regular(index) as lines:
            return list(_of_index(str(index.parent), lines, str(index)))
    try:
        music = tracks.find([path], suffixes=frozenset({SUFFIX, NPY, SHARD}))
    except tracks.TracksError as error:
        raise LatentsError(str(error)) from None
    if music.problems:
        raise LatentsError(music.problems[0])
    return [entry for found in music.files for entry in _of_file(found.path, found.name)]


def _of_file(path: str, name: str) -> Iterator[Entry]:
    if not path.endswith(SHARD):
        yield Entry(path, name)
        return
    with file.named(path), open_regular(path) as shard:
        for place in file.places(shard):
            yield Entry(path, f"{name}/{place.name}", _needed(place))


def _needed(place: Place) -> Place:
    """The place without its JSON where the latents say all that this does."""
    return replace(place, json_size=None) if place.name.endswith(SUFFIX) else place


def _of_url(url: str) -> list[Entry]:
    folder, _, name = url.rpartition("/")
    if PurePosixPath(name).suffix in (SUFFIX, NPY):
        return [Entry(url, name)]
    index = url if name == INDEX else f"{folder}/{INDEX}"
    if not name.endswith((SHARD, INDEX)):
        index, name = f"{url.rstrip('/')}/{INDEX}", INDEX
    with file.named(url):
        try:
            lines = io.BytesIO(fetch(index))
        except FileNotFoundError:
            if not name.endswith(SHARD):
                raise LatentsError(f"is no library: there is no {index}") from None
            shard = RemoteFile(url)
            return [
                Entry(url, f"{name}/{place.name}", _needed(place)) for place in file.places(shard)
            ]
        listed = _of_index(index.rpartition("/")[0], lines, index)
        return [entry for entry in listed if name == INDEX or entry.location == url]


def _of_index(folder: str, lines: Any, name: str) -> Iterator[Entry]:
    """The entries that an index lists. Raises JsonError, LatentsError."""
    for number, line in enumerate(lines, 1):
        where = f"{name}: line {number}"
        entry = json_files.parse(line, where)
        try:
            told, shard = entry["file"], entry.get("shard")  # type: ignore[index, union-attr]
            below = told if shard is None else shard
            inside = tracks.inside(below) == below and "\0" not in below
            if not (inside and PurePosixPath(told).suffix in (SUFFIX, NPY)):
                raise ValueError
            place = None if shard is None else _listed(entry)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise LatentsError(f"{where}: is no entry of `earvae library`") from None
        own = told if shard is None else f"{shard}/{told}"
        yield Entry(f"{folder}/{below}", own, place)


def _listed(entry: Any) -> Place:
    """The place of a shard's member, of whose JSON the index does not tell the size."""
    offset, size = entry["offset"], entry["size"]
    if not (type(offset) is type(size) is int and offset > 0 and 0 < size <= file.MOST_BYTES):
        raise ValueError
    return Place(entry["file"], offset, size, offset + size + -size % tarfile.BLOCKSIZE, None)


def _whole(url: str) -> Stored:
    suffix, data = PurePosixPath(url).suffix, fetch(url)
    beside = None
    if suffix == NPY:
        sidecar = url[: -len(NPY)] + file.SIDECAR
        beside = json_files.parse(fetch(sidecar), sidecar)
    return Stored.of(io.BytesIO(data), len(data), suffix, beside)


def _part(url: str, place: Place) -> Stored:
    """An entry of a shard at a URL: one request, or two where its JSON's size is not known yet."""
    begin, size = place.json_offset - place.offset, place.json_size
    if size is not None:
        data = fetch(url, place.offset, begin + size)
    elif place.name.endswith(SUFFIX):
        data = fetch(url, place.offset, place.size)
    else:
        data = fetch(url, place.offset, begin + tarfile.BLOCKSIZE)
        header = tarfile.TarInfo.frombuf(data[begin:], "utf-8", "strict")
        if not 0 <= header.size <= json_files.LIMIT_BYTES:
            raise LatentsError(f"its JSON has {header.size} bytes, too many")
        data += fetch(url, place.offset + len(data), header.size)
    return file.stored_at(io.BytesIO(data), Place(place.name, 0, place.size, begin, size))
