"""Shards: many tracks in few tar files, read at random places from a disk or over a network.

A shard is a plain tar file in the layout of WebDataset: a sample is two neighbouring members,
``KEY.flac`` (or ``KEY.wav``) and ``KEY.json``. ``index.json`` beside the shards says where the
audio of every sample lies, so that any one of them is a single read of known offset and size::

    {"format": "earvae-shards", "version": 1, "segment_seconds": 30.0,
     "shards":  [{"file": "shard-000000.tar", "bytes": 1003417600}, …],
     "sources": [{"path": "album/song.wav", "sha256": "…", "rounded": false}, …],
     "samples": [{"member": "0000000-0000.flac", "shard": 0, "offset": 512, "size": 4207123,
                  "crc32": 123, "frames": 1323000, "rate": 44100, "channels": 2,
                  "source": 0, "first_frame": 0}, …]}

Offsets and sizes are bytes; ``source`` and ``shard`` count from 0 in the lists above them;
``rounded`` says that the source holds samples finer than 24 bits.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import struct
import tarfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from earvae.audio import AudioFileError, AudioSource
from earvae.config import ConfigError, FilterConfig

FORMAT = "earvae-shards"
VERSION = 1
INDEX = "index.json"
JOURNAL = "index.unfinished"  # what an interrupted pack has finished, a line for each shard
SHARD = "shard-{:06d}.tar"
SHARD_PATTERN = re.compile(r"shard-\d{6}\.tar(\.unfinished)?")
RETRY_SECONDS = (0.5, 1.0, 2.0)  # waits before a remote read is tried again
FULL_SCALE = 2**23  # of 24-bit integers


# ------------------------------------------------------------------------------ reading


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a track inside a shard. ``frames`` at ``rate`` Hz, 1 or 2 ``channels``."""

    shard: str  # path or URL of the tar file
    offset: int  # bytes
    size: int  # bytes
    crc32: int
    frames: int
    rate: int
    channels: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.rate

    @property
    def name(self) -> str:
        """The place, as messages name it."""
        return f"{self.shard} at byte {self.offset}"

    def open(self) -> soundfile.SoundFile:
        """The audio, in memory. Raises OSError or SoundFileError."""
        data = fetch(self.shard, self.offset, self.size)
        if zlib.crc32(data) != self.crc32:
            raise OSError(f"{self.shard}: damaged at byte {self.offset}")
        return soundfile.SoundFile(io.BytesIO(data))


def is_remote(location: str) -> bool:
    """Whether ``location`` is a URL and not a path."""
    return "://" in location


def fetch(location: str, offset: int = 0, size: int | None = None) -> bytes:
    """``size`` bytes (None: to the end) from ``offset`` of a file, or of a URL known to fsspec.

    A remote read that fails is tried again after each of ``RETRY_SECONDS``. Nothing stays open,
    so worker processes may be forked at any time. Raises OSError.
    """
    if is_remote(location):
        data = _fetch_remote(location, offset, size)
    else:
        with open(location, "rb") as file:
            file.seek(offset)
            data = file.read(-1 if size is None else size)
    if size is not None and len(data) != size:
        raise OSError(f"{location}: gave {len(data)} bytes where {size} were asked for")
    return data


def _fetch_remote(location: str, offset: int, size: int | None) -> bytes:
    try:
        import fsspec
    except ModuleNotFoundError:
        raise OSError("URLs need the package fsspec: pip install 'earvae[train]'") from None
    try:
        system, path = fsspec.core.url_to_fs(location)  # kept by fsspec, for each process
    except (ImportError, ValueError) as error:  # a package is missing, or no such kind of URL
        raise OSError(f"{location}: {error}") from None
    end = None if size is None else offset + size
    for wait in (*RETRY_SECONDS, None):
        try:
            return system.cat_file(path, start=offset, end=end)
        except FileNotFoundError:
            raise OSError(f"{location}: no such file") from None
        except PermissionError as error:
            raise OSError(f"{location}: {error}") from None
        except Exception as error:  # every file system raises what its own library raises
            if wait is None:
                raise OSError(f"{location}: {error or type(error).__name__}") from None
            time.sleep(wait)
    raise AssertionError("unreachable")


def read_index(location: str) -> tuple[list[Segment], list[str]]:
    """The segments that an index lists, and one line for each shard with something missing.

    Local shards are looked for; remote ones are taken to be there. Raises ConfigError if the
    index cannot be read or is none.
    """
    try:
        index = json.loads(fetch(location))
        if index["format"] != FORMAT or index["version"] != VERSION:
            raise ValueError
        return _segments(index, location)
    except OSError as error:
        reason = error.strerror or str(error).removeprefix(f"{location}: ")
        raise ConfigError(f"{location}: cannot be read: {reason}") from None
    except (ValueError, KeyError, TypeError, IndexError):
        raise ConfigError(f"{location}: is not an index that `earvae shards` wrote") from None


def _segments(index: dict, location: str) -> tuple[list[Segment], list[str]]:
    shards = [_beside(location, shard["file"]) for shard in index["shards"]]
    there = [
        shard["bytes"] if is_remote(location) else _size(path)
        for shard, path in zip(index["shards"], shards, strict=True)
    ]
    fields = ("offset", "size", "crc32", "frames", "rate", "channels")
    segments, lost = [], [0] * len(shards)
    for sample in index["samples"]:
        segment = Segment(shards[sample["shard"]], *(sample[field] for field in fields))
        if segment.offset + segment.size > there[sample["shard"]]:
            lost[sample["shard"]] += 1
        else:
            segments.append(segment)
    left_out = [
        f"{path}: {'cut off' if bytes_there else 'missing'}; {count} of its segments left out"
        for path, bytes_there, count in zip(shards, there, lost, strict=True)
        if count
    ]
    return segments, left_out


def _beside(location: str, name: str) -> str:
    if is_remote(location):
        return location.rsplit("/", 1)[0] + "/" + name
    return str(Path(location).parent / name)


def _size(path: str | Path) -> int:
    """Bytes of a file; 0 if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


# ------------------------------------------------------------------------------ packing


@dataclass(frozen=True)
class Packed:
    """What a folder of shards holds, one line for every file left out, and one for every file
    that the filters refused."""

    index: dict
    left_out: list[str]
    refused: list[str]

    @property
    def seconds(self) -> float:
        """Of audio."""
        return sum(sample["frames"] / sample["rate"] for sample in self.index["samples"])

    @property
    def bytes(self) -> int:
        """Of all shards."""
        return sum(shard["bytes"] for shard in self.index["shards"])

    @property
    def rounded(self) -> int:
        """Sources with samples finer than 24 bits: float, or decoded from a lossy format."""
        return sum(source["rounded"] for source in self.index["sources"])

    @property
    def float_segments(self) -> int:
        """Segments with peaks beyond full scale."""
        return sum(sample["member"].endswith(".wav") for sample in self.index["samples"])


def pack(
    files: Sequence[Path],
    root: Path,
    folder: Path,
    segment_seconds: float = 30.0,
    shard_bytes: int = 1_000_000_000,
    tell: Callable[[str], None] = print,
    filters: FilterConfig | None = None,
) -> Packed:
    """Pack audio files, in the order given, into shards and an index in ``folder``.

    A track longer than ``segment_seconds`` is cut into equal segments of at most that length, so
    that a random crop reads little. What is lost: a crop never crosses a cut. Segments are 24-bit
    FLAC at the track's own rate and channels, exact where the source has 24 bits or fewer; finer
    samples (float, lossy formats) are rounded. A segment with a peak beyond full scale, which
    FLAC would clip, is a 32-bit float WAV.

    A shard ends with the first track that takes it to ``shard_bytes``. The same files give the
    same bytes. Files are named in the index by their path from ``root``. A file that cannot be
    read to its end is left out whole, and so is one that ``filters`` refuse: as in the paper they
    judge a whole track.

    Shards appear under their names when they are complete, the index last. A pack that was
    interrupted goes on after its last complete shard, provided that files (names, sizes and
    times of change) and options are the same; else it starts anew. What an earlier pack left in
    ``folder`` is replaced.

    Raises OSError where ``folder`` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    names = [Path(os.path.relpath(path, root)).as_posix() for path in files]
    journal = folder / JOURNAL
    identity = _identity(files, names, segment_seconds, shard_bytes, filters)
    records = _finished(journal, identity)
    journal.write_text("".join(f"{line}\n" for line in [identity, *map(json.dumps, records)]))
    position = records[-1]["next"] if records else 0
    if position:
        tell(f"goes on after {position} of {len(files)} tracks")
    while position < len(files):
        path = folder / SHARD.format(sum(record["bytes"] > 0 for record in records))
        record = _write_shard(path, files, names, position, segment_seconds, shard_bytes, filters)
        with journal.open("a") as file:
            file.write(json.dumps(record) + "\n")
        records.append(record)
        position = record["next"]
        for line in record["left_out"] + record["refused"]:
            tell(f"left out: {line}")
        if record["bytes"]:
            tell(f"{path.name}: {position} of {len(files)} tracks")
    index = _index(records, segment_seconds)
    listed = {shard["file"] for shard in index["shards"]}
    for path in folder.iterdir():
        if SHARD_PATTERN.fullmatch(path.name) and path.name not in listed:
            path.unlink()
    temporary = folder / f"{INDEX}.unfinished"
    temporary.write_text(json.dumps(index))
    os.replace(temporary, folder / INDEX)
    journal.unlink()
    left_out, refused = (
        [line for record in records for line in record[kind]] for kind in ("left_out", "refused")
    )
    return Packed(index, left_out, refused)


def _identity(
    files: Sequence[Path],
    names: list[str],
    segment_seconds: float,
    shard_bytes: int,
    filters: FilterConfig | None,
) -> str:
    """Changes with whatever may change the shards."""
    states: list = [VERSION, segment_seconds, shard_bytes, filters and filters.model_dump()]
    for path, name in zip(files, names, strict=True):
        try:
            status = path.stat()
            states.append((name, status.st_size, status.st_mtime_ns))
        except OSError:
            states.append(name)
    return hashlib.sha256(json.dumps(states).encode()).hexdigest()


def _finished(journal: Path, identity: str) -> list[dict]:
    """The records of shards that an interrupted pack of the same files has completed."""
    lines = journal.read_text().splitlines() if journal.is_file() else []
    if not lines or lines[0] != identity:
        return []
    records: list[dict] = []
    for line in lines[1:]:
        try:
            record = json.loads(line)
        except ValueError:
            break  # interrupted while it wrote this line
        if record["bytes"] and _size(journal.parent / record["file"]) != record["bytes"]:
            break
        records.append(record)
    return records


def _index(records: list[dict], segment_seconds: float) -> dict:
    shards: list[dict] = []
    sources: list[dict] = []
    samples: list[dict] = []
    for record in records:
        for sample in record["samples"]:
            source = sample["source"] + len(sources)
            samples.append(sample | {"shard": len(shards), "source": source})
        sources += record["sources"]
        if record["bytes"]:
            shards.append({"file": record["file"], "bytes": record["bytes"]})
    return {
        "format": FORMAT, "version": VERSION, "segment_seconds": segment_seconds,
        "shards": shards, "sources": sources, "samples": samples,
    }  # fmt: skip


def _write_shard(
    path: Path,
    files: Sequence[Path],
    names: list[str],
    position: int,
    segment_seconds: float,
    shard_bytes: int,
    filters: FilterConfig | None,
) -> dict:
    """Write the tracks from ``position`` on into one shard; what it holds, and the next position.

    Its bytes are 0, and there is no file, if none of the tracks left could be read.
    """
    record: dict = {
        "file": path.name, "bytes": 0, "sources": [], "samples": [], "left_out": [], "refused": [],
    }  # fmt: skip
    temporary = path.with_name(f"{path.name}.unfinished")
    try:
        with temporary.open("wb") as shard:
            while position < len(files) and shard.tell() < shard_bytes:
                start = shard.tell()
                source = {"path": names[position]}
                try:
                    samples = _add_track(
                        shard, files[position], source, position, segment_seconds, filters
                    )
                except (AudioFileError, Refused) as error:
                    shard.seek(start)
                    shard.truncate()
                    kind = "refused" if isinstance(error, Refused) else "left_out"
                    record[kind].append(str(error))
                else:
                    number = len(record["sources"])
                    record["samples"] += [sample | {"source": number} for sample in samples]
                    record["sources"].append(source)
                position += 1
            shard.write(bytes(2 * tarfile.BLOCKSIZE))  # the end of a tar file
            shard.write(bytes(-shard.tell() % tarfile.RECORDSIZE))
            if record["samples"]:
                record["bytes"] = shard.tell()
        if record["bytes"]:
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return record | {"next": position}


class Refused(Exception):
    """A track that the filters refuse; the message names it."""


def _add_track(
    shard: BinaryIO,
    path: Path,
    source: dict,
    position: int,
    segment_seconds: float,
    filters: FilterConfig | None,
) -> list[dict]:
    """Append a track's segments to a shard; what the index says of them.

    ``source`` gets ``sha256`` and ``rounded``. Raises AudioFileError if the file is damaged,
    Refused by the filters.
    """
    from earvae.training.quality import TrackJudge  # which needs this module

    track = AudioSource(path)
    source["sha256"] = sha256(path)
    source["rounded"] = False
    longest = max(1, round(segment_seconds * track.rate))
    frames = track.info.header_samples or longest
    pieces = -(-frames // longest)
    samples: list[dict] = []
    first = 0
    judged = TrackJudge(filters, track.rate) if filters else None
    for block in track.blocks(-(-frames // pieces)):
        if judged:
            judged.add(block)
        try:
            suffix, data, rounded = encode(block, track.rate)
        except soundfile.SoundFileError as error:
            raise AudioFileError(f"{path}: cannot be stored as FLAC: {error}") from None
        key = f"{position:07d}-{len(samples):04d}"
        audio = {"frames": block.shape[1], "rate": track.rate, "channels": track.channels}
        origin = {"source": source["path"], "sha256": source["sha256"], "first_frame": first}
        offset = add_member(shard, key + suffix, data)
        add_member(shard, key + ".json", json.dumps(origin | audio).encode())
        place = {"member": key + suffix, "offset": offset, "size": len(data)}
        samples.append(place | {"crc32": zlib.crc32(data), "first_frame": first} | audio)
        source["rounded"] |= rounded
        first += block.shape[1]
    if judged and (reason := judged.verdict()):
        raise Refused(f"{path}: refused as a whole: {reason}")
    return samples


def add_member(shard: BinaryIO, name: str, data: bytes) -> int:
    """Append a file to a tar; the offset of its first byte. No time, no owner."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    shard.write(member.tobuf(tarfile.USTAR_FORMAT))
    offset = shard.tell()
    shard.write(data)
    shard.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    return offset


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while data := file.read(2**20):
                digest.update(data)
    except OSError as error:
        raise AudioFileError(f"{path}: cannot be read: {error.strerror}") from None
    return digest.hexdigest()


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
