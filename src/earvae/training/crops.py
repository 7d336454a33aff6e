"""Training crops of recordings of any rate and length.

Crop i of a data set is a function of its seed, its sources and i alone: it does not depend on how
many workers decode, on what was drawn before, or on where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor
from torch.utils.data import Dataset

from earvae.audio import AudioFileError, no_sound_in
from earvae.config import ConfigError, DataConfig, SourceConfig
from earvae.training.augment import Changes, draw_changes, make_changes, samples_to_read
from earvae.training.filters import DROP_REASONS, MOST_OF_THE_RATE, refused
from earvae.training.sources import list_tracks
from earvae.training.tar_read import Recording

ATTEMPTS = 20  # draws for one crop before it is given up as silence
RESAMPLER_MARGIN = 0.05  # seconds read on both sides so that filter edges fall outside the crop

# What a damaged recording raises; soundfile asserts on some.
BROKEN = (AudioFileError, soundfile.SoundFileError, OSError, ValueError, AssertionError)


@dataclass(frozen=True)
class Draw:
    """What was drawn for a crop: its source's number, its content (None: silence), the changes of
    it, what is mixed with it (None: nothing), and the draws refused, by reason.
    """

    source: int
    content: Any  # what CropDataset._take gives
    changes: Changes
    added: Any
    dropped: np.ndarray

    def tensors(self) -> dict[str, Tensor]:
        """An item of the data set but for its audio."""
        return {
            "source": torch.tensor(self.source),
            "dropped": torch.from_numpy(self.dropped),
            "augmented": torch.from_numpy(self.changes.applied()),
        }


class CropDataset(Dataset):
    """Random stereo crops from weighted sources.

    A source is drawn by its weight, then a track of it in proportion to its duration, then a
    place in the track. A draw that is broken or that ``config.filters`` refuses is counted, and
    another of the same source is taken; after ``ATTEMPTS`` of them the crop is silence. Tracks
    shorter than a crop are left out, or followed by zeros (``config.short_tracks``). Mono is
    duplicated.

    With ``config.crops_per_fetch`` k, items k·n to k·n + k − 1 are cut side by side from one
    stretch that is decoded once. A batch then holds fewer tracks; k is the distance within which
    items are not shuffled.

    Item i is a dict of tensors: ``audio`` float32 [2, crop_samples]; ``source`` int64, the
    source's number; ``dropped`` int64 [len(DROP_REASONS)], draws refused, by reason;
    ``augmented`` bool [len(AUGMENTATIONS)], which changes were made.

    Attributes: ``tracks``, of all sources; ``left_out``, a line for each file that is not used.

    Raises ConfigError: a source without usable tracks or without one as long as a crop, a
    bandwidth too near to half the rate.
    """

    def __init__(self, config: DataConfig, sample_rate: int) -> None:
        limit = config.filters.bandwidth_hz
        if limit is not None and limit > MOST_OF_THE_RATE * sample_rate:
            raise ConfigError(
                f"filters.bandwidth_hz: {limit:g} Hz leaves nothing to judge above it at "
                f"{sample_rate} Hz; use at most {MOST_OF_THE_RATE * sample_rate:g}"
            )
        self.config = config
        self.sample_rate = sample_rate
        self.samples_read = samples_to_read(config.crop_samples, config.augmentation)
        self.left_out: list[str] = []
        self._stretch: tuple[int, int, np.ndarray] | None = None  # see _fetched
        by_source = []
        for source in config.sources:
            tracks, left_out = list_tracks(source)
            self.left_out += left_out
            by_source.append(self._long_enough(source, tracks))
        self._draw_from(by_source)
        self.source_ends = _cumulative([source.weight for source in config.sources])

    def _draw_from(self, by_source: list[list[Recording]]) -> None:
        """Take these tracks of each source."""
        self.tracks = [track for tracks in by_source for track in tracks]
        counts = [len(tracks) for tracks in by_source]
        self.first = [sum(counts[:number]) for number in range(len(counts))]  # track of a source
        # For each source, where its tracks end, of 0...1.
        self.ends = [_cumulative([track.duration for track in tracks]) for tracks in by_source]

    def _long_enough(self, source: SourceConfig, tracks: list[Recording]) -> list[Recording]:
        """The tracks that hold a whole crop, or all where the config asks for padding."""
        if self.config.short_tracks == "pad":
            return tracks
        seconds = self.samples_read / self.sample_rate
        kept = [t for t in tracks if t.frames >= round(seconds * t.rate)]
        short = [t for t in tracks if t.frames < round(seconds * t.rate)]
        self.left_out += [
            f"{track.name}: {track.duration:.2f} s, shorter than a crop of {seconds:.2f} s"
            for track in short
        ]
        if not kept:
            raise ConfigError(
                f"{source.tracks}: nothing as long as a crop of {seconds:.2f} s (the longest of "
                f"{len(short)} is {max(t.duration for t in short):.2f} s); lower "
                "data.crop_samples, or set data.short_tracks: pad to follow them by silence"
            )
        return kept

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        draw = self.draw(index)
        silence = np.zeros((2, self.samples_read), np.float32)
        audio = torch.from_numpy(silence if draw.content is None else draw.content)[None]
        added = None if draw.added is None else torch.from_numpy(draw.added)[None]
        audio = make_changes(
            audio, [draw.changes], self.sample_rate, self.config.crop_samples, added
        )
        return {"audio": audio[0], **draw.tensors()}

    def draw(self, index: int) -> Draw:
        """The draws that crop ``index`` takes, until one is good."""
        random = np.random.default_rng((self.config.seed, index))
        source, shared = draw_from(self.source_ends, random), None
        if self.config.crops_per_fetch > 1:
            source, shared = self._fetched(index)
        dropped = np.zeros(len(DROP_REASONS), np.int64)
        for _ in range(ATTEMPTS):
            content = shared
            shared = None  # refused, it is followed by draws of the item's own
            if content is None:
                track = self.first[source] + draw_from(self.ends[source], random)
                content = self._take(track, random.random())
            if (reason := self._refused(content)) is None:
                changes = draw_changes(self.config.augmentation, random)
                added = None if changes.mix_db is None else self._another(random)
                if added is None:
                    changes = replace(changes, mix_db=None)
                return Draw(source, content, changes, added, dropped)
            dropped[DROP_REASONS.index(reason)] += 1
        return Draw(source, None, Changes(), None, dropped)

    def _another(self, random: np.random.Generator) -> Any:
        """The content of one more crop of any source; None if it is not good enough."""
        source = draw_from(self.source_ends, random)
        track = self.first[source] + draw_from(self.ends[source], random)
        content = self._take(track, random.random())
        return content if self._refused(content) is None else None

    def _take(self, number: int, place: float, crops: int = 1) -> np.ndarray:
        """A stretch of a track from ``place`` (0…1), as long as ``crops`` or as the track;
        ``[0, 0]`` if it is broken.
        """
        track = self.tracks[number]
        one = self.samples_read
        samples = max(one, min(crops * one, int(track.duration * self.sample_rate)))
        try:
            return read_crop(track, place, samples, self.sample_rate)
        except BROKEN:
            return np.zeros((0, 0), np.float32)

    def _refused(self, content: np.ndarray) -> str | None:
        """Which of ``DROP_REASONS`` speaks against a crop."""
        if not len(content):
            return "broken"
        return refused(content, self.config.filters, self.sample_rate)

    def _fetched(self, index: int) -> tuple[int, np.ndarray]:
        """The source and the crop of an item that shares a decoded stretch with its neighbours.

        The number of their block decides the stretch, the item's number in it the place. Only
        the last stretch is kept: a loader asks for neighbours one after another.
        """
        together = self.config.crops_per_fetch
        block, number = divmod(index, together)
        if self._stretch is None or self._stretch[0] != block:
            random = np.random.default_rng((self.config.seed, block, together))
            source = draw_from(self.source_ends, random)
            track = self.first[source] + draw_from(self.ends[source], random)
            self._stretch = (block, source, self._take(track, random.random(), together))
        _, source, stretch = self._stretch
        start = (stretch.shape[1] - self.samples_read) * number // (together - 1)
        return source, stretch[:, max(0, start) :][:, : self.samples_read]


def _cumulative(weights: Sequence[float]) -> np.ndarray:
    sums = np.cumsum(np.array(weights, np.float64))
    return sums / sums[-1]


def draw_from(ends: np.ndarray, random: np.random.Generator) -> int:
    """A number in proportion to the steps of ``ends``, a cumulative distribution."""
    return min(int(np.searchsorted(ends, random.random(), side="right")), len(ends) - 1)


def read_samples(track: Recording, start: int, stop: int) -> np.ndarray:
    """Samples ``start`` to ``stop`` of a recording as they are, float32 ``[samples, channels]``.

    Raises one of ``BROKEN`` on damage, and on audio that is of another rate than listed, shorter,
    or what no sound has.
    """
    audio, rate = track.read(start, stop)
    if rate != track.rate or audio.shape[1] > 2:
        raise ValueError("another rate or other channels than listed")
    if len(audio) < stop - start:
        raise ValueError(f"ends after {start + len(audio)} of {track.frames} samples")
    if (found := no_sound_in(audio)) is not None:
        raise ValueError(f"holds {found[0]}")
    return audio


def read_crop(track: Recording, place: float, samples: int, sample_rate: int) -> np.ndarray:
    """``[2, samples]`` float32 at ``sample_rate``, from ``place`` (0…1) of where a crop fits.

    Raises what :func:`read_samples` raises.
    """
    ratio = track.rate / sample_rate
    margin = 0 if track.rate == sample_rate else round(RESAMPLER_MARGIN * track.rate)
    wanted = round(samples * ratio)
    first = int(place * max(0, track.frames - wanted))
    start, stop = max(0, first - margin), min(track.frames, first + wanted + margin)
    audio = read_samples(track, start, stop)
    if track.rate != sample_rate:
        audio = soxr.resample(audio, track.rate, sample_rate)
    skip = round((first - start) / ratio)
    audio = audio[skip : skip + samples].T
    if len(audio) == 1:
        audio = np.repeat(audio, 2, axis=0)
    return np.pad(audio, ((0, 0), (0, samples - audio.shape[1])))
