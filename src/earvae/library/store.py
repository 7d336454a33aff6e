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

A file is done if the record of its block, or else its own metadata, says that it was made from
the same source with the same settings.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from earvae import tar
from earvae.atomic import Staging
from earvae.audio import AudioFileError, sha256_of
from earvae.latents import file
from earvae.latents.file import Latents, LatentsError, Metadata, sidecar
from earvae.library.items import HIDDEN, Block, Item, Library
from earvae.library.reader import Reader, State, state_of
from earvae.library.settings import Settings
from earvae.tracks import printable

INDEX = "index.jsonl"
FAILURES = "failures.jsonl"
SHARD = "shard-{:06d}.tar"
SHARD_PATTERN = re.compile(r"shard-\d{6,}\.tar")
LISTED = (
    "source source_sha256 sample_rate samples sample_offset track_samples original_rate "
    "original_samples channels frames frames_valid"
).split()
"""Metadata that the index repeats."""


@dataclass(frozen=True)
class Record:
    """What became of a file: ``lines`` of the index, one an entry, or why it failed."""

    state: State  # of the source
    lines: list[dict]
    error: str | None = None


class Store:
    """The output folder of a library."""

    def __init__(self, folder: Path, settings: Settings, staging: Staging) -> None:
        self.folder = folder
        self.staging = staging
        self.settings = settings
        self.sharded = settings.shard_items is not None
        self.suffix = file.NPY if settings.payload == "npy" else file.SUFFIX
        self.sidecar = self.sharded or settings.payload == "npy"

    # ---------------------------------------------------------------- what is done

    def survey(self, block: Block, reader: Reader) -> tuple[list[Record | None], bool]:
        """For each file of a block its record, or None if it is to be encoded; and whether the
        block's own record and shard need no change."""
        recorded, shard = self._read(block)
        if self.sharded and recorded is not None:
            path = self._shard(block)
            size = path.stat().st_size if path.is_file() else 0
            if size == shard and all(
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

    def _same(self, item: Item, record: Record) -> bool:
        """Whether a source and its outputs are as they were."""
        return state_of(item.path) == record.state and all(
            (self.folder / line["file"]).is_file()
            and (self.folder / line["file"]).stat().st_size == line["size"]
            for line in record.lines
        )

    def _recognise(self, block: Block, item: Item) -> Record | None:
        """The record of a file by what its outputs say of themselves; None if it is not done."""
        first = self._path(block, item, None if self.settings.segment_frames is None else 0)
        if not first.is_file():
            return None
        try:
            state, digest = state_of(item.path), sha256_of(item.path)
            segments = self._metadata(first).segments
            lines = []
            for number in range(segments) if segments is not None else (None,):
                path = self._path(block, item, number)
                found = self._metadata(path)
                if (found.settings, found.source_sha256, found.source) != (
                    self.settings.digest, digest, printable(item.name),
                ):  # fmt: skip
                    return None
                lines.append(self._line(block, item, found, path.stat().st_size))
        except (OSError, ValueError, AudioFileError, LatentsError):
            return None
        return Record(state, lines)

    def _metadata(self, path: Path) -> Metadata:
        """Metadata of stored latents. Raises OSError, ValueError or LatentsError."""
        if self.sidecar and path.is_file():
            return file.read_sidecar(path)
        return file.inspect(path).metadata

    # ---------------------------------------------------------------- writing

    def write(self, block: Block, item: Item, state: State, entries: Sequence[Latents]) -> Record:
        """Store a file's entries; its record. Raises WriteError."""
        lines = []
        for entry in entries:
            path = self._path(block, item, entry.metadata.segment)
            if self.sidecar:  # never latents beside a sidecar that is not theirs
                path.unlink(missing_ok=True)
                self.staging.write(sidecar(path), entry.to_sidecar())
            data = entry.to_npy() if self.suffix == file.NPY else entry.to_safetensors()
            self.staging.write(path, data)
            lines.append(self._line(block, item, entry.metadata, len(data)))
        return Record(state, lines)

    def finish(self, block: Block, records: Sequence[Record]) -> None:
        """Pack the block's shard, if it is to have one, and record the block."""
        size = 0
        if self.sharded:
            records, size = self._pack(block, records)
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

    def _pack(self, block: Block, records: Sequence[Record]) -> tuple[list[Record], int]:
        """Join parts to a tar file; the records with places in it, and its bytes (0: no file)."""
        target = self._shard(block)
        if not any(record.lines for record in records):
            target.unlink(missing_ok=True)
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
                    if "error" in item:
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
        if self.sharded:
            for path in self.folder.iterdir():
                if SHARD_PATTERN.fullmatch(path.name) and path.name not in shards:
                    path.unlink()
        for path in (self.folder / HIDDEN / "blocks").iterdir():
            if path.stem.isdigit() and int(path.stem) not in blocks:
                path.unlink()
        return counts

    # ---------------------------------------------------------------- names

    def _path(self, block: Block, item: Item, segment: int | None) -> Path:
        """Of the latents."""
        ending = "" if segment is None else f"-{segment:04d}"
        if self.sharded:
            return self._parts(block) / f"{item.index:08d}{ending}{self.suffix}"
        return self.folder / f"{item.key}{ending}{self.suffix}"

    def _parts(self, block: Block) -> Path:
        return self.folder / HIDDEN / "parts" / f"{block.number:06d}"

    def _shard(self, block: Block) -> Path:
        return self.folder / SHARD.format(block.number)

    def _block(self, number: int) -> Path:
        return self.folder / HIDDEN / "blocks" / f"{number:06d}.json"

    def _line(self, block: Block, item: Item, metadata: Metadata, size: int) -> dict:
        path = self._path(block, item, metadata.segment)
        name = printable(path.relative_to(self.folder).as_posix())
        return {"file": name, "size": size} | {key: getattr(metadata, key) for key in LISTED}

    def _load(self, block: Block) -> dict | None:
        """The record of a block, if it is finished with these files and settings."""
        try:
            record = json.loads(self._block(block.number).read_bytes())
        except (OSError, ValueError):
            return None
        return record if record["digest"] == block.digest(self.settings.digest) else None

    def _read(self, block: Block) -> tuple[list[Record] | None, int]:
        """The records of a finished block, and the size of its shard."""
        record = self._load(block)
        if record is None:
            return None, 0
        return [
            Record(State(item["bytes"], item["mtime_ns"]), item.get("lines", []), item.get("error"))
            for item in record["items"]
        ], record["shard"]
