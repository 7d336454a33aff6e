"""Packing music into shards and an index (:mod:`earvae.training.tar_read` has the format).

Shards appear under their names when they are complete, the index last. Nothing in them tells a
time or an owner: the same files give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from earvae import atomic, json_files, tar
from earvae.audio import AudioFileError, AudioSource, sha256_of
from earvae.config import FilterConfig
from earvae.errors import EarvaeError, WriteError, about
from earvae.json_files import JsonError
from earvae.owned import PACK, Owned
from earvae.regular import ReadError, read_regular
from earvae.tracks import printable
from earvae.training.filters import TrackJudge
from earvae.training.sources import Track
from earvae.training.tar_read import FORMAT, VERSION, size_of

INDEX = "index.json"
JOURNAL = "index.unfinished"  # what an interrupted pack has finished, a line for each shard
SHARD = "shard-{:06d}.tar"
SHARD_PATTERN = re.compile(r"shard-\d{6}\.tar")
MOST_BYTES = 2**31  # of an index
FULL_SCALE = 2**23  # of 24-bit integers


@dataclass(frozen=True)
class Packed:
    """What a folder of shards holds, one line for every file left out, and one for every file
    that the filters refused."""

    index: dict
    left_out: list[str]
    refused: list[str]

    @property
    def seconds(self) -> float:
        """Duration of the audio."""
        return sum(sample["frames"] / sample["rate"] for sample in self.index["samples"])

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard["bytes"] for shard in self.index["shards"])

    @property
    def rounded(self) -> int:
        """Sources that are not stored exactly: finer than 24 bits, or coded anew."""
        return sum(source["rounded"] for source in self.index["sources"])

    @property
    def float_samples(self) -> int:
        """Samples with peaks beyond full scale."""
        return sum(sample["member"].endswith(".wav") for sample in self.index["samples"])


# ------------------------------------------------------------------------------ whole tracks


@dataclass(frozen=True)
class Packer:
    """Whole tracks, in the order given, into shards and an index in ``folder``.

    A track longer than ``segment_seconds`` is cut into equal segments of at most that length, so
    that a random crop reads little. What is lost: a crop never crosses a cut. Segments are 24-bit
    FLAC at the track's own rate and channels, exact where the source has 24 bits or fewer; finer
    samples (float, lossy formats) are rounded. A segment with a peak beyond full scale, which
    FLAC would clip, is a 32-bit float WAV.

    A shard ends with the first track that takes it to ``shard_bytes``. A file that cannot be read
    to its end is left out whole, and so is one that ``filters`` refuse: as in the paper they judge
    a whole track. The index names tracks as their source does.
    """

    tracks: Sequence[Track]
    folder: Path
    segment_seconds: float = 30.0
    shard_bytes: int = 1_000_000_000
    filters: FilterConfig | None = None
    report: Callable[[str], None] = print
    replace: bool = False

    def pack(self) -> Packed:
        """Write everything.

        A pack that was interrupted goes on after its last complete shard, provided that files
        (names, sizes and times of change) and options are the same; else it starts anew. An
        earlier pack in ``folder`` is replaced; one that holds other tracks, too, only if
        ``replace``. Raises WriteError for these, for files that are no pack's, and where it cannot
        be written.
        """
        owned = owned_by_packs(self.folder)
        owned.claim(INDEX, JOURNAL)
        with owned.alone(self.report), atomic.writing(self.folder):
            start_anew(self.folder, self.tracks, self.replace)
            journal = self.folder / JOURNAL
            records = self._finished(journal)
            lines = [self._identity, *map(json.dumps, records)]
            journal.write_text("".join(f"{line}\n" for line in lines))
            position = records[-1]["next"] if records else 0
            if position:
                self.report(f"goes on after {position} of {len(self.tracks)} tracks")
            while position < len(self.tracks):
                number = sum(record["bytes"] > 0 for record in records)
                owned.claim(SHARD.format(number))
                record = self._write_shard(self.folder / SHARD.format(number), position)
                with journal.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                records.append(record)
                position = record["next"]
                for line in record["left_out"] + record["refused"]:
                    self.report(f"left out: {line}")
                if record["bytes"]:
                    self.report(f"{record['file']}: {position} of {len(self.tracks)} tracks")
            index = write_index(self.folder, records, self.segment_seconds, owned)
            journal.unlink()
        left_out, refused = (
            [line for record in records for line in record[kind]]
            for kind in ("left_out", "refused")
        )
        return Packed(index, left_out, refused)

    @property
    def _identity(self) -> str:
        """A hash that changes with whatever may change the shards."""
        filters = self.filters and self.filters.model_dump()
        states: list = [VERSION, self.segment_seconds, self.shard_bytes, filters]
        for track in self.tracks:
            name = printable(track.below)
            try:
                status = os.stat(track.path)
                states.append((name, status.st_size, status.st_mtime_ns))
            except OSError:
                states.append(name)
        return hashlib.sha256(json.dumps(states).encode()).hexdigest()

    def _finished(self, journal: Path) -> list[dict]:
        """The records of shards that an interrupted pack of the same files has completed."""
        lines = journal.read_text(errors="replace").splitlines() if journal.is_file() else []
        if not lines or lines[0] != self._identity:
            return []
        records: list[dict] = []
        for line in lines[1:]:
            try:
                record = json_files.parse(line, str(journal))
                size = record["bytes"]
                if size and size_of(journal.parent / record["file"]) != size:
                    break
            except (JsonError, KeyError, TypeError):
                break  # interrupted while it wrote this line
            records.append(record)
        return records

    def _write_shard(self, path: Path, position: int) -> dict:
        """Write the tracks from ``position`` on into one shard; what it holds, and the next
        position. Its bytes are 0, and there is no file, if none of the tracks left could be read.
        """
        record = new_record(path) | {"left_out": [], "refused": []}
        with shard_file(path, record) as shard:
            while position < len(self.tracks) and shard.tell() < self.shard_bytes:
                track, start = self.tracks[position], shard.tell()
                try:
                    add_track(shard, record, track, position, self._pieces(track))
                except (EarvaeError, Refused) as error:
                    shard.seek(start)
                    shard.truncate()
                    kind = "refused" if isinstance(error, Refused) else "left_out"
                    record[kind].append(str(error))
                position += 1
        return record | {"next": position}

    def _pieces(self, track: Track) -> Iterator[Piece]:
        """The segments of a track. Raises EarvaeError where it cannot be read, Refused by the
        filters."""
        with about(track.path):
            audio = AudioSource(track.path)
            if (audio.rate, audio.channels) != (track.rate, track.channels):
                raise AudioFileError(f"{track.name}: another rate or other channels than listed")
            longest = max(1, round(self.segment_seconds * audio.rate))
            frames = audio.info.header_samples or longest
            count = -(-frames // longest)
            first = 0
            judge = TrackJudge(self.filters, audio.rate) if self.filters else None
            for block in audio.blocks(-(-frames // count)):
                if judge:
                    judge.add(block)
                try:
                    suffix, data, rounded = encode(block, audio.rate)
                except soundfile.SoundFileError as error:
                    raise AudioFileError(
                        f"{track.name}: cannot be stored as FLAC: {error}"
                    ) from None
                yield Piece(suffix, data, first, block.shape[1], rounded)
                first += block.shape[1]
        if judge and (reason := judge.refusal()):
            raise Refused(f"{track.name}: {reason}")


class Refused(Exception):
    """A track that the filters refuse; the message names it."""


# ------------------------------------------------------------------------------ files of a pack


def owned_by_packs(folder: Path) -> Owned:
    """What in ``folder`` packs have written. Raises WriteError if something else has a name that
    they need.
    """
    index = _earlier(folder / INDEX)
    before = [shard["file"] for shard in index["shards"]] if index else []
    shards = [name for name in before if SHARD_PATTERN.fullmatch(name)]
    owned = Owned(folder, PACK, [INDEX, *shards] if index else ())
    there = [path.name for path in folder.glob("shard-*.tar") if SHARD_PATTERN.fullmatch(path.name)]
    owned.check(INDEX, JOURNAL, *sorted(there))
    return owned


def start_anew(folder: Path, tracks: Sequence[Track], replace: bool) -> None:
    """Take the index away: without it, a pack is not one.

    Raises WriteError, without ``replace``, if what is packed already holds other tracks as well.
    """
    held = (_earlier(folder / INDEX) or {"sources": []})["sources"]
    for line in _lines(folder / JOURNAL)[1:]:
        held = held + (_object(line, ("sources",)) or {"sources": []})["sources"]
    names = {printable(track.below) for track in tracks}
    lost = [source["path"] for source in held if source["path"] not in names]
    if lost and not replace:
        raise WriteError(
            f"{folder}: holds a pack with {len(lost)} tracks that are not among these "
            f"({lost[0]}{', …' if len(lost) > 1 else ''}); use another folder, or --replace"
        )
    (folder / INDEX).unlink(missing_ok=True)
    atomic.sweep(folder)


def _earlier(path: Path) -> dict | None:
    """The index of an earlier pack; None where there is none, or something else."""
    index = _object("\n".join(_lines(path)), ("sources", "shards", "format"))
    return index if index and index["format"] == FORMAT else None


def _lines(path: Path) -> list[str]:
    try:
        return read_regular(path, MOST_BYTES).decode("utf-8", "replace").splitlines()
    except ReadError:
        return []


def _object(text: str, keys: tuple[str, ...]) -> dict | None:
    """A JSON object that has these keys, sources and shards being lists of objects, or None."""
    try:
        found = json.loads(text)
        [source["path"] for source in found["sources"]]
        [shard["file"] for shard in found.get("shards", ())]
        return found if all(key in found for key in keys) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


@dataclass(frozen=True)
class Piece:
    """Coded audio of a track, from ``first_frame`` of it. ``rounded``: it decodes to other samples
    than the track; ``copied``: its bits are the file's.
    """

    suffix: str
    data: bytes
    first_frame: int
    frames: int
    rounded: bool
    copied: bool = False


def new_record(path: Path) -> dict:
    """What is to be known of a shard for the index: nothing yet."""
    return {"file": path.name, "bytes": 0, "sources": [], "samples": []}


@contextmanager
def shard_file(path: Path, record: dict) -> Iterator[BinaryIO]:
    """A shard to add tracks to; at the end it has its name, is a whole tar, and its size is in the
    record. Without samples there is no file.
    """
    with atomic.file(path) as temporary, temporary.open("w+b") as shard:
        yield shard
        tar.end(shard)
    if record["samples"]:
        record["bytes"] = size_of(path)
    else:
        path.unlink()


def add_track(
    shard: BinaryIO, record: dict, track: Track, position: int, pieces: Iterable[Piece]
) -> None:
    """Append pieces of a track to a shard, each with its description, and to the record.

    ``position`` is the track's among all, for names. Raises AudioFileError and whatever ``pieces``
    raises; the record is then as before.
    """
    source = source_entry(track)
    samples = []
    for piece in pieces:
        key = f"{position:07d}-{len(samples):04d}"
        place = {
            "first_frame": piece.first_frame, "frames": piece.frames,
            "rate": track.rate, "channels": track.channels,
        }  # fmt: skip
        origin = {"source": source["path"], "sha256": source["sha256"]}
        offset = tar.append(shard, key + piece.suffix, piece.data)
        tar.append(shard, key + ".json", json.dumps(origin | place).encode())
        member = {
            "member": key + piece.suffix, "offset": offset, "size": len(piece.data),
            "crc32": zlib.crc32(piece.data), "copied": piece.copied,
            "source": len(record["sources"]),
        }  # fmt: skip
        samples.append(member | place)
        source["rounded"] |= piece.rounded
    record["sources"].append(source)
    record["samples"] += samples


def write_index(
    folder: Path, records: Sequence[dict], segment_seconds: float, owned: Owned
) -> dict:
    """Write the index of shards, from a record of each, and remove those of earlier packs.

    A record has the shard's ``file`` and ``bytes``, its ``sources``, and its ``samples``, whose
    ``source`` counts in that list. Returns the index. Raises WriteError.
    """
    shards: list[dict] = []
    sources: list[dict] = []
    samples: list[dict] = []
    for record in records:
        for sample in record["samples"]:
            numbers = {"shard": len(shards), "source": sample["source"] + len(sources)}
            samples.append(sample | numbers)
        sources += record["sources"]
        if record["bytes"]:
            shards.append({"file": record["file"], "bytes": record["bytes"]})
    index = {
        "format": FORMAT, "version": VERSION, "segment_seconds": segment_seconds,
        "shards": shards, "sources": sources, "samples": samples,
    }  # fmt: skip
    listed = [shard["file"] for shard in shards]
    for name in owned.names - set(listed):
        if SHARD_PATTERN.fullmatch(name):
            owned.remove(name)
    atomic.write(folder / INDEX, json.dumps(index))
    owned.keep(INDEX, JOURNAL, *listed)
    return index


def source_entry(track: Track) -> dict:
    """What an index says of a source; ``rounded`` until something was. Raises AudioFileError."""
    return {"path": printable(track.below), "sha256": sha256_of(track.path), "rounded": False}


def encode(audio: np.ndarray, rate: int) -> tuple[str, bytes, bool]:
    """float32 ``[channels, samples]`` as a file: its suffix, its bytes, whether it was rounded.

    24-bit FLAC, or float WAV where a sample is beyond what 24 bits hold, -1 to 1 - 2⁻²³.
    """
    scaled = audio.T.astype(np.float64) * FULL_SCALE
    whole = np.rint(scaled)
    if whole.min() < -FULL_SCALE or whole.max() > FULL_SCALE - 1:
        return ".wav", _float_wav(audio, rate), False
    file = io.BytesIO()
    upper_bits = whole.astype(np.int32) << 8  # 32-bit samples, of which FLAC takes the upper 24
    soundfile.write(file, upper_bits, rate, format="FLAC", subtype="PCM_24")
    return ".flac", file.getvalue(), bool((whole != scaled).any())


def _float_wav(audio: np.ndarray, rate: int) -> bytes:
    """A WAV file of float32 samples. (libsndfile would write the time of day into it.)"""
    channels, frames = audio.shape
    data = np.ascontiguousarray(audio.T, "<f4").tobytes()
    width = 4 * channels  # bytes
    chunks = (
        struct.pack("<4sIHHIIHHH", b"fmt ", 18, 3, channels, rate, rate * width, width, 32, 0)
        + struct.pack("<4sII", b"fact", 4, frames)
        + struct.pack("<4sI", b"data", len(data))
        + data
    )
    return struct.pack("<4sI4s", b"RIFF", 4 + len(chunks), b"WAVE") + chunks
