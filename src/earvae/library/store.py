"""Where entries go, and how a run that was killed finds out what is done.

The library is worked on in blocks of consecutive files. OUT holds::

    library.json            the settings (claimed by the first run)
    album/song.safetensors  latents; with --npy song.npy and song.json
    shard-000012.tar        or shards instead, one for each block
    index.jsonl             a line for each entry, in order       } written when
    failures.jsonl          a line for each file that failed      } the last block
    summary.json            counts and speed                      } is done
    .earvae/blocks/         a record of each finished block
    .earvae/ranks/          failures and speed of each rank
    .earvae/parts/          entries of shards that are not finished
    .earvae/staging/        files that are being written
    .earvae/owned           names in OUT that are the library's to replace and remove

A file is done if the record of its block, or else its own metadata, says that it was made from
the same source with the same settings.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, takewhile
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from earvae import json_files, tar
from earvae.atomic import Staging, writing
from earvae.audio import AudioFileError, sha256_of
from earvae.errors import EarvaeError, WriteError
from earvae.latents import file
from earvae.latents.file import Latents, LatentsError, Metadata, sidecar
from earvae.latents.statistics import NAME as STATISTICS_NAME
from earvae.library.items import HIDDEN, Block, Item, Library, LibraryError
from earvae.library.reader import Reader, State, state_of
from earvae.library.settings import FORMAT, RECORD, Settings
from earvae.owned import Owned
from earvae.regular import open_regular
from earvae.tracks import printable

INDEX = "index.jsonl"
FAILURES = "failures.jsonl"
SUMMARY = "summary.json"
SHARD = "shard-{:06d}.tar"
SHARD_PATTERN = re.compile(r"shard-\d{6,}\.tar")
LISTED = (
    "source source_sha256 sample_rate samples sample_offset track_samples original_rate "
    "original_samples channels frames frames_valid"
).split()
"""Metadata that the index repeats."""
MOST_RECORD_BYTES = 1 << 30  # of a block; of 256 files of an hour in segments of a second, half

Size = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Record:
    """What became of a file: ``lines`` of the index, one an entry, or why it failed."""

    state: State  # of the source
    lines: list[dict]
    error: str | None = None


class _Line(BaseModel):
    """A line of the index, as far as anything depends on it."""

    model_config = ConfigDict(strict=True)

    file: str
    size: Size
    source_sha256: str
    samples: Size
    frames_valid: Size
    shard: str | None = None
    offset: Size | None = None

    @property
    def place(self) -> tuple[str | None, str]:
        """Shard and file."""
        return self.shard, self.file


class _Item(BaseModel):
    model_config = ConfigDict(strict=True)

    source: str
    bytes: Size
    mtime_ns: int
    error: str | None = None
    lines: list[_Line] = []


class _Block(BaseModel):
    """The record of a block."""

    model_config = ConfigDict(strict=True)

    digest: str
    shard: Size
    items: list[_Item]


class Store:
    """The output folder of a library."""

    def __init__(self, folder: Path, settings: Settings, staging: Staging) -> None:
        self.folder = folder
        self.staging = staging
        self.settings = settings
        self.sharded = settings.shard_items is not None
        self.suffix = file.NPY if settings.payload == "npy" else file.SUFFIX
        self.sidecar = self.sharded or settings.payload == "npy"

    @cached_property
    def owned(self) -> Owned:
        """What in the folder is the library's. Reads the whole index where there is no list."""
        return Owned(self.folder, f"{HIDDEN}/owned", self._ours())

    # ---------------------------------------------------------------- what is ours

    def claim(self, library: Library, replace: bool) -> None:
        """Take the names that this library needs in the folder, before anything is written.

        Raises WriteError if something else has one of them, LibraryError for latents that are not
        a library's, and, without ``replace``, for shards with files that this library lacks.
        """
        names = [INDEX, FAILURES, SUMMARY]
        names += [STATISTICS_NAME] if self.settings.normalised else []
        names += map(SHARD.format, range(library.blocks)) if self.sharded else []
        self.owned.check(*names)
        if not self.sharded and not (self.folder / RECORD).exists():
            for number in range(library.blocks):
                for item in library.block(number).items:
                    self._refuse_strangers(item)
        if self.sharded and not replace:
            self._refuse_losses(library)
        self.owned.claim(*names)

    def _refuse_strangers(self, item: Item) -> None:
        """Raise LibraryError if what a file becomes is there, and is not of a library."""
        path = self._beside(item, 0 if self.settings.segment_frames else None, self.suffix)
        there = [path, sidecar(path)] if self.sidecar else [path]
        if there := [path for path in there if os.path.lexists(path)]:
            try:
                if file.inspect(path).metadata.settings is not None:
                    return
            except LatentsError:
                pass
            raise LibraryError(
                f"{there[0]}: is there already, and not of a library; move it away, or use another "
                "folder"
            )

    def _refuse_losses(self, library: Library) -> None:
        """Raise LibraryError if shards hold files that this library lacks."""
        held = [source for source, shard in self._indexed() if shard]
        for number in self._recorded():
            try:
                record = json_files.read(self._block(number), MOST_RECORD_BYTES)
                items = json_files.typed(_Block, record, "").items
            except EarvaeError:
                continue
            held += [item.source for item in items for line in item.lines if line.shard]
        names = {printable(file.name) for file in library.files}
        if lost := [name for name in dict.fromkeys(held) if name not in names]:
            raise LibraryError(
                f"{self.folder}: holds shards with {len(lost)} files that are not among these "
                f"({lost[0]}{', …' if len(lost) > 1 else ''}); use another folder, or --replace"
            )

    def _ours(self) -> list[str]:
        """What is the library's where its hidden folder was removed: what the index lists."""
        try:
            record = json_files.read(self.folder / RECORD)
        except EarvaeError:
            return []
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            return []
        shards = {shard for _, shard in self._indexed() if shard and SHARD_PATTERN.fullmatch(shard)}
        shards.update(map(SHARD.format, self._recorded()))
        return [INDEX, FAILURES, SUMMARY, STATISTICS_NAME, *shards]

    def _indexed(self) -> Iterator[tuple[str, str | None]]:
        """Source and shard of every entry of the index, as far as it can be read."""
        try:
            with open_regular(self.folder / INDEX) as lines:
                for line in lines:
                    entry: Any = json_files.parse(line, INDEX)
                    if isinstance(entry, dict) and isinstance(entry.get("source"), str):
                        shard = entry.get("shard")
                        yield entry["source"], shard if isinstance(shard, str) else None
        except (EarvaeError, OSError):
            return

    def _recorded(self) -> list[int]:
        """Numbers of the blocks that have a record."""
        places = (self.folder / HIDDEN / "blocks").glob("*.json")
        return sorted(int(path.stem) for path in places if path.stem.isdigit())

    # ---------------------------------------------------------------- what is done

    def survey(self, block: Block, reader: Reader) -> tuple[list[Record | None], bool]:
        """For each file of a block its record, or None if it is to be encoded; and whether the
        block's own record and shard need no change."""
        recorded, shard = self._read(block)
        if self.sharded and recorded is not None:
            if self._holds(self._shard(block), shard, recorded) and all(
                self._still(item, record, reader)
                for item, record in zip(block.items, recorded, strict=True)
            ):
                shutil.rmtree(self._parts(block), ignore_errors=True)
                return list(recorded), True
            recorded = None
        found: list[Record | None] = []
        for place, item in enumerate(block.items):
            record = recorded[place] if recorded is not None else None
            if record is None or record.error or not self._same(item, record):
                record = self._recognise(block, item)
            found.append(record)
        return found, found == recorded

    def _still(self, item: Item, record: Record, reader: Reader) -> bool:
        """Whether a finished shard is right about a file: unchanged, or as unreadable as it was."""
        if record.error is not None:
            return reader.probe(item) is not None
        if (state := state_of(item.path)) == record.state:
            return True
        same_size = state.bytes == record.state.bytes
        return same_size and sha256_of(item.path) == record.lines[0]["source_sha256"]

    def _holds(self, path: Path, size: int, records: Sequence[Record]) -> bool:
        """Whether a shard has its size (0: there is none) and the members that records list."""
        if not path.is_file():
            return size == 0
        wanted = [
            (line["file"], line.get("offset"), line["size"])
            for record in records
            for line in record.lines
        ]
        try:
            with open_regular(path) as shard:
                found = [(one.name, one.offset_data, one.size) for one in tar.members(shard)]
        except (EarvaeError, OSError, tarfile.TarError):
            return False
        return path.stat().st_size == size and found[::2] == wanted

    def _same(self, item: Item, record: Record) -> bool:
        """Whether a source and its outputs are as they were."""
        if state_of(item.path) != record.state:
            return False
        try:
            for line in record.lines:
                path = self.folder / line["file"]
                if path.stat().st_size != line["size"]:
                    return False
                if self._stored(path).source_sha256 != line["source_sha256"]:
                    return False
        except (OSError, LatentsError):
            return False
        return True

    def _recognise(self, block: Block, item: Item) -> Record | None:
        """The record of a file by what its outputs hold; None if it is not done."""
        first = self._path(block, item, None if self.settings.segment_frames is None else 0)
        if not first.is_file():
            return None
        try:
            state, digest = state_of(item.path), sha256_of(item.path)
            segments = self._stored(first).segments
            lines = []
            for number in range(segments) if segments is not None else (None,):
                path = self._path(block, item, number)
                found = self._stored(path)
                if (found.settings, found.source_sha256, found.source, found.segment) != (
                    self.settings.digest, digest, printable(item.name), number,
                ):  # fmt: skip
                    return None
                file.read(path)  # to the last number
                lines.append(self._line(block, item, found, path.stat().st_size))
        except (OSError, ValueError, AudioFileError, LatentsError):
            return None
        return Record(state, lines)

    def _stored(self, path: Path) -> Metadata:
        """Metadata of stored latents, which are as long as they say. Raises LatentsError."""
        found = file.inspect(path).metadata
        if self.sidecar and self.suffix != file.NPY and file.read_sidecar(path) != found:
            raise LatentsError(f"{path}: is not what the JSON beside it tells of")
        return found

    # ---------------------------------------------------------------- writing

    def write(self, block: Block, item: Item, state: State, entries: Sequence[Latents]) -> Record:
        """Store a file's entries; its record. Raises WriteError."""
        lines = []
        with writing(self.folder):
            self._retire(item, len(entries))
        for entry in entries:
            path = self._path(block, item, entry.metadata.segment)
            if self.sidecar:  # never latents beside a sidecar that is not theirs
                path.unlink(missing_ok=True)
                self.staging.write(sidecar(path), entry.to_sidecar())
            data = entry.to_npy() if self.suffix == file.NPY else entry.to_safetensors()
            self.staging.write(path, data)
            lines.append(self._line(block, item, entry.metadata, len(data)))
        return Record(state, lines)

    def _retire(self, item: Item, entries: int) -> None:
        """Remove what is stored of an earlier version of a file, or in an earlier layout, under
        names that its new entries do not take. Only what says that it is of this file."""
        for suffix in (file.SUFFIX, file.NPY):
            first = 0
            if not self.sharded and suffix == self.suffix and self.settings.segment_frames:
                first = entries
            earlier = list(takewhile(Path.is_file, (
                self._beside(item, number, suffix) for number in count(first)
            )))  # fmt: skip
            if self.sharded or suffix != self.suffix or self.settings.segment_frames:
                earlier.insert(0, self._beside(item, None, suffix))
            for path in reversed(earlier):  # a kill leaves no gap, where the next run would stop
                try:
                    found = file.inspect(path).metadata
                except LatentsError:
                    continue
                if found.settings is not None and found.source == printable(item.name):
                    path.unlink()
                    if suffix == file.NPY:
                        sidecar(path).unlink()

    def finish(self, block: Block, records: Sequence[Record]) -> None:
        """Pack the block's shard, if it is to have one, and record the block."""
        size = 0
        if self.sharded:
            try:
                records, size = self._pack(block, records)
            except WriteError:
                if self._is_finished(block):  # by another process, which took the parts away
                    return
                raise
        text = json.dumps(
            {
                "digest": block.digest(self.settings.digest),
                "shard": size,
                "items": [
                    {"source": printable(item.name)}
                    | record.state._asdict()
                    | ({"error": record.error} if record.error else {"lines": record.lines})
                    for item, record in zip(block.items, records, strict=True)
                ],
            }
        )
        self.staging.write(self._block(block.number), text)
        if self.sharded:
            shutil.rmtree(self._parts(block), ignore_errors=True)

    def _is_finished(self, block: Block) -> bool:
        recorded, shard = self._read(block)
        return recorded is not None and self._holds(self._shard(block), shard, recorded)

    def _pack(self, block: Block, records: Sequence[Record]) -> tuple[list[Record], int]:
        """Join parts to a tar file; the records with places in it, and its bytes (0: no file)."""
        target = self._shard(block)
        if not any(record.lines for record in records):
            self.owned.remove(target.name)
            return list(records), 0
        packed = []
        with self.staging.file(target) as temporary, temporary.open("wb") as shard:
            for record in records:
                lines = []
                for line in record.lines:
                    path = self.folder / line["file"]
                    beside = sidecar(path)
                    offset = tar.append(shard, path.name, path.read_bytes())
                    tar.append(shard, beside.name, beside.read_bytes())
                    place = {"shard": target.name, "file": path.name, "offset": offset}
                    lines.append(place | {k: v for k, v in line.items() if k != "file"})
                packed.append(Record(record.state, lines, record.error))
            size = tar.end(shard)
        return packed, size

    # ---------------------------------------------------------------- the whole

    def conclude(self, library: Library) -> dict[str, int] | None:
        """Write the index and the failures once every block is recorded, and remove shards of
        an earlier, larger library; counts, or None while blocks are missing."""
        counts = {"files": 0, "failed": 0, "entries": 0, "samples": 0, "frames": 0}
        shards: set[str] = set()
        blocks = range(library.blocks)
        if any(self._load(library.block(number)) is None for number in blocks):
            return None
        with (
            self.staging.file(self.folder / INDEX) as new_index,
            self.staging.file(self.folder / FAILURES) as new_failures,
            new_index.open("w", encoding="utf-8", newline="\n") as index,
            new_failures.open("w", encoding="utf-8", newline="\n") as failed,
        ):
            for number in blocks:
                record = self._load(library.block(number)) or {"items": []}
                for item in record["items"]:
                    counts["files"] += 1
                    if item.get("error"):
                        counts["failed"] += 1
                        failure = {"source": item["source"], "error": item["error"]}
                        failed.write(json.dumps(failure) + "\n")
                        continue
                    for line in item["lines"]:
                        counts["entries"] += 1
                        counts["samples"] += line["samples"]
                        counts["frames"] += line["frames_valid"]
                        shards.add(line.get("shard", ""))
                        index.write(json.dumps(line) + "\n")
        for name in self.owned.names - shards:
            if SHARD_PATTERN.fullmatch(name):
                self.owned.remove(name)
        for number in self._recorded():
            if number not in blocks:
                self._block(number).unlink(missing_ok=True)
        return counts

    # ---------------------------------------------------------------- names

    def _path(self, block: Block, item: Item, segment: int | None) -> Path:
        """Of the latents."""
        if self.sharded:
            return self._parts(block) / f"{item.index:08d}{_ending(segment)}{self.suffix}"
        return self._beside(item, segment, self.suffix)

    def _beside(self, item: Item, segment: int | None, suffix: str) -> Path:
        """Of latents that are in no shard."""
        return self.folder / f"{item.key}{_ending(segment)}{suffix}"

    def _parts(self, block: Block) -> Path:
        return self.folder / HIDDEN / "parts" / f"{block.number:06d}"

    def _shard(self, block: Block) -> Path:
        return self.folder / SHARD.format(block.number)

    def _block(self, number: int) -> Path:
        return self.folder / HIDDEN / "blocks" / f"{number:06d}.json"

    def _line(self, block: Block, item: Item, metadata: Metadata, size: int) -> dict:
        path = self._path(block, item, metadata.segment)
        return {"file": self._name(path), "size": size} | {
            key: getattr(metadata, key) for key in LISTED
        }

    def _places(self, block: Block, item: Item, entries: int) -> list[tuple[str | None, str]]:
        """Shard and file of the entries of a file."""
        cut = self.settings.segment_frames is not None
        numbers = range(entries) if cut or not entries else [None]
        paths = [self._path(block, item, number) for number in numbers]
        if self.sharded:
            return [(self._shard(block).name, path.name) for path in paths]
        return [(None, self._name(path)) for path in paths]

    def _name(self, path: Path) -> str:
        """A path as records tell it."""
        return printable(path.relative_to(self.folder).as_posix())

    def _load(self, block: Block) -> dict | None:
        """The record of a block, if it is finished with these files and settings. What stands in
        its place and is none is not believed."""
        path = self._block(block.number)
        try:
            record: Any = json_files.read(path, MOST_RECORD_BYTES)
            found = json_files.typed(_Block, record, str(path))
        except EarvaeError:
            return None
        if found.digest != block.digest(self.settings.digest):
            return None
        ours = [printable(item.name) for item in block.items]
        shard = self.sharded and any(one.lines for one in found.items)
        if ours != [one.source for one in found.items] or shard != (found.shard > 0):
            return None
        for item, one in zip(block.items, found.items, strict=True):
            places = self._places(block, item, len(one.lines))
            if places != [line.place for line in one.lines] or bool(one.error) == bool(places):
                return None
        return record

    def _read(self, block: Block) -> tuple[list[Record] | None, int]:
        """The records of a finished block, and the size of its shard."""
        record = self._load(block)
        if record is None:
            return None, 0
        return [
            Record(State(item["bytes"], item["mtime_ns"]), item.get("lines", []), item.get("error"))
            for item in record["items"]
        ], record["shard"]


def _ending(segment: int | None) -> str:
    return "" if segment is None else f"-{segment:04d}"
