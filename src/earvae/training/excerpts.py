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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from earvae import atomic
from earvae.audio import AudioSource
from earvae.audio.containers import ContainerError
from earvae.config import ConfigError, FilterConfig
from earvae.tracks import printable
from earvae.training.crops import BROKEN, read_samples
from earvae.training.filters import TrackJudge, is_silent
from earvae.training.ogg import VorbisFile
from earvae.training.sources import Track
from earvae.training.tar_write import (
    INDEX,
    JOURNAL,
    SHARD,
    Packed,
    Piece,
    add_track,
    encode,
    new_record,
    owned_by_packs,
    shard_file,
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
    replace: bool = False,
) -> PackedExcerpts:
    """Excerpts of at most ``seconds`` from ``tracks``: as many as fit into ``size`` bytes.

    Writes one shard and its index into ``folder``; ``tracks: FOLDER/index.json`` trains on it.
    ``size`` counts both. A copied excerpt begins and ends with a page and may be shorter by
    that. ``filters`` judge true peak and bandwidth of whole tracks, and silence of each excerpt.

    Raises ConfigError where nothing fits, WriteError as :meth:`Packer.pack`.
    """
    owned = owned_by_packs(folder)
    cutter = _Cutter(tracks, filters or FilterConfig(), codec)
    slots = list(slots_of(tracks, seconds))
    short = len(tracks) - len({slot.track for slot in slots})
    chosen: list[tuple[int, Piece]] = []  # with the number of its track
    used, tenths = 4 * tarfile.RECORDSIZE, 0  # the ends of the tar and of the index
    sources: set[int] = set()
    for slot in golden_order(slots):
        if (piece := cutter.excerpt(slot)) is None:
            continue
        name = len(json.dumps(printable(tracks[slot.track].below)))
        used += _bytes_in_shard(len(piece.data)) + 2 * name
        if slot.track not in sources:
            used += 150 + name  # of the index
        if used > size:
            break
        sources.add(slot.track)
        chosen.append((slot.track, piece))
        if used > (tenths + 1) * size / 10:
            tenths = int(10 * used / size)
            report(f"{len(chosen)} excerpts, {used / 1e6:.1f} of {size / 1e6:g} MB")
    chosen = [one for one in chosen if one[0] not in cutter.left_out]  # damaged further on
    left_out, refused = (
        [lines[number] for number in sorted(lines)] for lines in (cutter.left_out, cutter.refused)
    )
    if not chosen:
        small = f"an excerpt of {seconds:g} s is larger than {size} bytes"
        if not slots:
            small = f"none of {short} tracks is as long as {seconds:g} s"
        raise ConfigError(f"no excerpt: {[*refused, *left_out, small][0]}")
    chosen.sort(key=lambda excerpt: (excerpt[0], excerpt[1].first_frame))
    path = folder / SHARD.format(0)
    record = new_record(path)
    owned.claim(INDEX, JOURNAL, SHARD.format(0))
    with owned.alone(report), atomic.writing(folder):
        start_anew(folder, tracks, replace)
        with shard_file(path, record) as shard:
            for number, excerpts in groupby(chosen, key=itemgetter(0)):
                add_track(shard, record, tracks[number], number, map(itemgetter(1), excerpts))
        index = write_index(folder, [record], seconds, owned)
    return PackedExcerpts(index, left_out, refused, short, cutter.silent)


def _bytes_in_shard(data: int) -> int:
    """Size of an excerpt: two members of a tar file with their headers, a line in the index."""
    whole = -(-data // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return 3 * tarfile.BLOCKSIZE + whole + 220


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

    def excerpt(self, slot: Slot) -> Piece | None:
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
                return Piece(suffix, data, slot.start, len(audio), rounded)
            if (copy := copied(track, slot)) is not None:
                if copy.frames >= SHORTEST_COPY * (slot.stop - slot.start):
                    return copy
            data = encode_vorbis(audio, track.rate)
            return Piece(".ogg", data, slot.start, len(audio), rounded=True)
        except BROKEN as error:
            self.left_out[number] = f"{track.name}: {str(error).removeprefix(f'{track.name}: ')}"
            return None

    def _judge(self, number: int) -> None:
        """The verdict of the filters on a whole track, which is decoded for it."""
        if self.filters.true_peak_db is None and self.filters.bandwidth_hz is None:
            return
        track = self.tracks[number]
        judge = TrackJudge(self.filters, track.rate)
        for block in AudioSource(track.path).blocks():
            judge.add(block)
        if reason := judge.refusal():
            self.refused[number] = f"{track.name}: {reason}"


def copied(track: Track, slot: Slot) -> Piece | None:
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
    except (ContainerError, soundfile.SoundFileError):
        return None
    return Piece(".ogg", data, start, frames, rounded=False, copied=True) if exact else None


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
