"""A data pack: short excerpts, spread evenly over all tracks, in one small shard.

For machines that get little data over a thin line. The tracks, one after another, are a row of
slots of equal length, which are taken in the order of :func:`golden_order`. So however early that
ends, what was taken is spread evenly over all tracks, each as often as it is long; nothing is taken
twice; and the same files give the same bytes.

Ogg Vorbis is copied packet by packet (:mod:`earvae.training.ogg`) wherever the copy decodes to
exactly the samples of the original. Everything else is coded as Vorbis of ``VORBIS_QUALITY`` at the
track's own rate, or, if so asked for, as 24-bit FLAC.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from earvae import atomic
from earvae.config import ConfigError, FilterConfig
from earvae.tracks import printable
from earvae.training.crops import read_samples
from earvae.training.filters import TrackJudge, is_silent
from earvae.training.ogg import NotPlainVorbis, VorbisFile
from earvae.training.sources import Track
from earvae.training.tar_read import Recording, size_of
from earvae.training.tar_write import (
    SHARD,
    Packed,
    add_sample,
    encode,
    shard_file,
    source_entry,
    start_anew,
    write_index,
)

VORBIS_QUALITY = 0.6  # of 0...1; about 192 kb/s of stereo at 44.1 kHz
GOLDEN = (math.sqrt(5) - 1) / 2
BLOCK_SAMPLES = 65_536  # handed to the encoder at once; some versions fail on long ones
SHORTEST_COPY = 0.5  # of the length asked for; where pages are longer than that, audio is coded

Codec = Literal["vorbis", "flac"]


@dataclass(frozen=True)
class Slot:
    """A stretch of a track that an excerpt may lie in, in samples of the track's rate."""

    track: int
    start: int
    stop: int


@dataclass(frozen=True)
class Excerpt:
    """A coded excerpt. ``first_frame`` is its place in its track."""

    slot: Slot
    suffix: str
    data: bytes
    first_frame: int
    frames: int
    copied: bool  # bit for bit what was in the file
    rounded: bool  # decodes to other samples than the file


@dataclass(frozen=True)
class PackedExcerpts(Packed):
    """What a pack of excerpts holds. ``short``: tracks that no excerpt fits into; ``silent``:
    excerpts passed over.
    """

    short: int
    silent: int

    @property
    def copied(self) -> int:
        """Excerpts whose packets were copied."""
        return sum(sample["copied"] for sample in self.index["samples"])


def pack_excerpts(
    tracks: Sequence[Track],
    folder: Path,
    seconds: float,
    size: int,
    filters: FilterConfig | None = None,
    codec: Codec = "vorbis",
    report: Callable[[str], None] = print,
) -> PackedExcerpts:
    """Excerpts of at most ``seconds`` from ``tracks``: as many as fit into ``size`` bytes.

    Writes one shard and its index into ``folder``; ``tracks: FOLDER/index.json`` trains on it.
    ``size`` counts both. A copied excerpt begins and ends with a page and may be shorter by
    that. ``filters`` judge true peak and bandwidth of whole tracks, and silence of each excerpt.

    Raises ConfigError where nothing fits, WriteError where ``folder`` cannot be written.
    """
    cutter = _Cutter(tracks, filters or FilterConfig(), codec)
    slots = list(slots_of(tracks, seconds))
    short = len(tracks) - len({slot.track for slot in slots})
    chosen: list[Excerpt] = []
    used, tenths = 4 * tarfile.RECORDSIZE, 0  # the ends of the tar and of the index
    sources: set[int] = set()
    for slot in golden_order(slots):
        if (excerpt := cutter.excerpt(slot)) is None:
            continue
        name = len(json.dumps(printable(tracks[slot.track].below)))
        used += _bytes_in_shard(len(excerpt.data)) + 2 * name
        if slot.track not in sources:
            used += 150 + name  # of the index
        if used > size:
            break
        sources.add(slot.track)
        chosen.append(excerpt)
        if used > (tenths + 1) * size / 10:
            tenths = int(10 * used / size)
            report(f"{len(chosen)} excerpts, {used / 1e6:.1f} of {size / 1e6:g} MB")
    chosen = [one for one in chosen if one.slot.track not in cutter.left_out]  # damaged further on
    left_out, refused = (
        [lines[number] for number in sorted(lines)] for lines in (cutter.left_out, cutter.refused)
    )
    if not chosen:
        small = f"an excerpt of {seconds:g} s is larger than {size} bytes"
        if not slots:
            small = f"none of {short} tracks is as long as {seconds:g} s"
        raise ConfigError(f"no excerpt: {[*refused, *left_out, small][0]}")
    chosen.sort(key=lambda excerpt: (excerpt.slot.track, excerpt.first_frame))
    record = _write_shard(folder, tracks, chosen)
    index = write_index(folder, [record], seconds)
    return PackedExcerpts(index, left_out, refused, short, cutter.silent)


def _bytes_in_shard(data: int) -> int:
    """Size of an excerpt: two members of a tar file with their headers, a line in the index."""
    whole = -(-data // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return 3 * tarfile.BLOCKSIZE + whole + 220


def _write_shard(folder: Path, tracks: Sequence[Track], excerpts: Sequence[Excerpt]) -> dict:
    """Write the one shard; its record."""
    sources: dict[int, dict] = {}
    samples: list[dict] = []
    counts: Counter[int] = Counter()
    path = folder / SHARD.format(0)
    with atomic.writing(folder):
        start_anew(folder)
    with shard_file(path) as shard:
        for excerpt in excerpts:
            number = excerpt.slot.track
            track = tracks[number]
            if number not in sources:
                sources[number] = source_entry(track)
            source = sources[number]
            source["rounded"] |= excerpt.rounded
            key = f"{number:07d}-{counts[number]:04d}"
            counts[number] += 1
            audio = Recording(excerpt.frames, track.rate, track.channels)
            sample = add_sample(
                shard, key, excerpt.suffix, excerpt.data, source, excerpt.first_frame, audio
            )
            place = {"source": list(sources).index(number), "copied": excerpt.copied}
            samples.append(sample | place)
    return {
        "file": path.name, "bytes": size_of(path), "sources": list(sources.values()),
        "samples": samples,
    }  # fmt: skip


def slots_of(tracks: Sequence[Track], seconds: float) -> Iterator[Slot]:
    """Stretches of ``seconds`` that do not overlap, from the middle of every track."""
    for number, track in enumerate(tracks):
        length = max(1, round(seconds * track.rate))
        count = track.frames // length
        start = (track.frames - count * length) // 2
        for first in range(start, start + count * length, length):
            yield Slot(number, first, first + length)


def golden_order(slots: Sequence[Slot]) -> list[Slot]:
    """All slots, by the fractional part of their number times the golden ratio.

    Numbers whose fractional part is below a threshold lie as evenly as any can, whatever the
    threshold is (the three-gap theorem), so every beginning of this order is spread evenly.
    """
    order = sorted(range(len(slots)), key=lambda number: number * GOLDEN % 1)
    return [slots[number] for number in order]


# ------------------------------------------------------------------------------ cutting


class _Cutter:
    """Excerpts of tracks, and what became of the rest, by number of the track."""

    def __init__(self, tracks: Sequence[Track], filters: FilterConfig, codec: Codec) -> None:
        self.tracks, self.filters, self.codec = tracks, filters, codec
        self.left_out: dict[int, str] = {}
        self.refused: dict[int, str] = {}
        self.silent = 0
        self._judged: set[int] = set()

    def excerpt(self, slot: Slot) -> Excerpt | None:
        """The excerpt in a slot; None if it is silent or its track is not used."""
        number, track = slot.track, self.tracks[slot.track]
        try:
            if number not in self._judged:
                self._judged.add(number)
                self._judge(number)
            if number in self.left_out or number in self.refused:
                return None
            audio = read_samples(track, slot.start, slot.stop)
            if is_silent(audio, self.filters):
                self.silent += 1
                return None
            if self.codec == "flac":
                suffix, data, rounded = encode(audio.T, track.rate)
                return Excerpt(slot, suffix, data, slot.start, len(audio), False, rounded)
            if (copy := copied(track, slot)) is not None:
                if copy.frames >= SHORTEST_COPY * (slot.stop - slot.start):
                    return copy
            data = encode_vorbis(audio, track.rate)
            return Excerpt(slot, ".ogg", data, slot.start, len(audio), False, True)
        except (soundfile.SoundFileError, OSError, ValueError, AssertionError) as error:
            self.left_out[number] = f"{track.name}: {error}"
            return None

    def _judge(self, number: int) -> None:
        """The verdict of the filters on a whole track, which is decoded for it."""
        if self.filters.true_peak_db is None and self.filters.bandwidth_hz is None:
            return
        track = self.tracks[number]
        judge = TrackJudge(self.filters, track.rate)
        with track.open() as file:
            for block in file.blocks(262_144, dtype="float32", always_2d=True):
                judge.add(block.T)
        if reason := judge.refusal():
            self.refused[number] = f"{track.name}: {reason}"


def copied(track: Track, slot: Slot) -> Excerpt | None:
    """The whole pages of an Ogg Vorbis file that lie in a slot, or None where there are none or
    where the copy does not decode to exactly the samples of the original.
    """
    try:
        file = VorbisFile(track.path.read_bytes())
        ends = file.ends()
        first = bisect_left(ends, slot.start) + 1  # the page after the first one that ends inside
        last = bisect_right(ends, slot.stop) - 1
        if last <= first:
            return None
        # Only a decoder knows how many samples the first packet, which primes it, does not give.
        frames = len(_decoded(file.excerpt(first, last)))
        start = ends[last] - frames
        if frames == 0 or start < slot.start:
            return None
        data = file.excerpt(first, last, origin=start)
        exact = np.array_equal(_decoded(data), read_samples(track, start, ends[last]))
    except (NotPlainVorbis, soundfile.SoundFileError):
        return None
    return Excerpt(slot, ".ogg", data, start, frames, True, False) if exact else None


def encode_vorbis(audio: np.ndarray, rate: int) -> bytes:
    """``[samples, channels]`` as Ogg Vorbis of ``VORBIS_QUALITY``; the same bytes every time."""
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", rate, audio.shape[1], format="OGG", subtype="VORBIS",
        compression_level=1 - VORBIS_QUALITY,
    ) as writer:  # fmt: skip
        for first in range(0, len(audio), BLOCK_SAMPLES):
            writer.write(audio[first : first + BLOCK_SAMPLES])
    pages = VorbisFile(file.getvalue())
    data = pages.excerpt(0, len(pages.pages) - 1)  # without the random serial number and the tags
    if len(_decoded(data)) != len(audio):
        raise ValueError(f"cannot be coded as Vorbis at {rate} Hz")
    return data


def _decoded(data: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)[0]
