"""Reading the files of a library as the model wants them: batches, and windows of long files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np

from earvae import audio, codec
from earvae.audio import AudioSource
from earvae.errors import EarvaeError, about
from earvae.library.items import Item
from earvae.library.plan import Batch, Geometry, windows
from earvae.library.settings import Settings
from earvae.model.vae import EarVAE


class State(NamedTuple):
    """What is taken to change with a file."""

    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Facts:
    """What is known of a file once it has been read. Samples are per channel."""

    rate: int  # Hz
    channels: int  # 1 or 2, after any downmix
    original_samples: int
    samples: int  # at the model's rate
    sha256: str
    state: State


@dataclass(frozen=True)
class Failure:
    """A file that could not be read: one line that names it."""

    error: str
    state: State


@dataclass(frozen=True)
class LoadedBatch:
    """Audio of a batch, ``[files, 2, frames·hop]``, zeros where a file ends or is not there.

    ``found`` has an element for each file that is wanted, by its place in the batch: its facts,
    why it failed, or None where it turned out to have another length than its header says.
    ``audio`` is None where nothing needs to be computed.
    """

    audio: np.ndarray | None
    found: dict[int, Facts | Failure | None]


@dataclass(frozen=True)
class LoadedWindows:
    """Windows of one file, ``[windows, 2, frames·hop]``, and the frames to keep of each."""

    audio: np.ndarray
    keep: list[tuple[int, int]]


class Reader:
    """Reads files as a model wants them."""

    def __init__(self, vae: EarVAE, settings: Settings, geometry: Geometry) -> None:
        self.vae, self.settings, self.geometry = vae, settings, geometry
        self.hop = vae.hop_length

    def length(self, item: Item) -> int | None:
        """Latent frames by the file's header; None where that does not tell."""
        try:
            with about(item.path):
                header = audio.inspect(item.path)
        except EarvaeError:
            return None
        if not header.header_samples or header.rate not in audio.RATES:
            return None
        return self._frames(self._resampled(header.header_samples, header.rate))

    def batch(
        self, items: Sequence[Item], batch: Batch, wanted: frozenset[int]
    ) -> Iterator[LoadedBatch]:
        """One LoadedBatch. Files that are not wanted (as they are done) are read too, so that
        the computation is the same as if they were, unless nothing wanted can be read."""
        found: dict[int, Facts | Failure | None] = {}
        rows: dict[int, np.ndarray] = {}
        for place in sorted(wanted):
            found[place], rows[place] = self._row(items[place], batch.lengths[place])
        if not any(isinstance(facts, Facts) for facts in found.values()):
            yield LoadedBatch(None, found)
            return
        for place, item in enumerate(items):
            if place not in wanted:
                _, rows[place] = self._row(item, batch.lengths[place], hashed=False)
        whole = np.zeros((len(items), 2, batch.frames * self.hop), np.float32)
        for place in list(rows):
            row = rows.pop(place)
            whole[place, :, : row.shape[1]] = row
        yield LoadedBatch(whole, found)

    def solo(self, item: Item) -> Iterator[LoadedWindows | Facts | Failure]:
        """The windows of a file, then its facts, or why it failed."""
        state = state_of(item.path)
        try:
            with about(item.path):
                digest = audio.sha256_of(item.path)
                source = AudioSource(item.path, self.settings.downmix)
                cut = windows(self._blocks(source), self.hop, self.geometry, self._frames)
                while group := list(islice(cut, self.geometry.windows)):
                    audios, firsts, lasts = zip(*group, strict=True)
                    yield LoadedWindows(np.stack(audios), list(zip(firsts, lasts, strict=True)))
            yield self._facts(source, digest, state)
        except EarvaeError as error:
            yield Failure(str(error), state)

    def probe(self, item: Item) -> str | None:
        """Why a file cannot be read to its end; None if it can."""
        try:
            with about(item.path):
                for _ in self._blocks(AudioSource(item.path, self.settings.downmix)):
                    pass
        except EarvaeError as error:
            return str(error)
        return None

    def _row(
        self, item: Item, frames: int, hashed: bool = True
    ) -> tuple[Facts | Failure | None, np.ndarray]:
        """A file of a batch, ``[2, samples]``; empty if it failed or has other than ``frames``."""
        nothing = np.zeros((2, 0), np.float32)
        state = state_of(item.path)
        try:
            with about(item.path):
                digest = audio.sha256_of(item.path) if hashed else ""
                source = AudioSource(item.path, self.settings.downmix)
                blocks = []
                samples = 0
                for block in self._blocks(source):
                    samples += block.shape[1]
                    if samples > frames * self.hop:
                        return None, nothing
                    blocks.append(block)
        except EarvaeError as error:
            return Failure(str(error), state), nothing
        if self._frames(samples) != frames:
            return None, nothing
        return self._facts(source, digest, state), np.concatenate(blocks, axis=1)

    def _blocks(self, source: AudioSource) -> Iterator[np.ndarray]:
        """Blocks ``[2, n]`` at the model's rate."""
        blocks = audio.to_stereo(source.blocks())
        return audio.resample(blocks, source.rate, self.settings.sample_rate)

    def _frames(self, samples: int) -> int:
        """Latent frames of a file: as `codec.encode` has it, or whole segments."""
        length = self.settings.segment_frames
        if length is None:
            return codec.frames_for(self.vae, samples)
        return -(-samples // (self.hop * length)) * length

    def _resampled(self, samples: int, rate: int) -> int:
        """Samples at the model's rate."""
        return audio.resampled_length(samples, rate, self.settings.sample_rate)

    def _facts(self, source: AudioSource, digest: str, state: State) -> Facts:
        """What is known of a source that has been read to its end."""
        assert source.samples is not None
        samples = self._resampled(source.samples, source.rate)
        return Facts(source.rate, source.channels, source.samples, samples, digest, state)


def state_of(path: str) -> State:
    """Size and time of change; zeros where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return State(0, 0)
    return State(status.st_size, status.st_mtime_ns)
