"""Crops out of memory: all tracks are decoded once, and a batch is one gathering by index.

What is held is int16 at the model's rate, with a factor for each track. float16 takes as much
room and has 11 bits of mantissa, so its error lies 68 dB below whatever sounds; that of int16 lies
98 dB below full scale, and 16-bit files at the model's rate are held exactly. A track with peaks
beyond full scale gets a larger factor: nothing is clipped, and nothing wraps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from earvae.audio import resampled_length
from earvae.config import ConfigError, DataConfig, FilterConfig
from earvae.training.data import (
    ATTEMPTS,
    DROP_REASONS,
    Changes,
    CropDataset,
    RangeSampler,
    Track,
    draw_changes,
    draw_from,
)
from earvae.training.memory import free_bytes
from earvae.training.quality import judge
from earvae.training.shards import Segment

PEAK_BLOCK = 64  # samples for which the largest value is kept, to know silence without the audio
MOST_THREADS = 8  # that decode while the cache is filled
STEPS = 32_768  # of int16 to full scale
BASS_CORNER = 150.0  # Hz, as in data.bass_shelf

Tell = Callable[[int, int], None]  # is told how many tracks of how many are decoded


def _silently(done: int, tracks: int) -> None:
    pass


# ------------------------------------------------------------------------------ what is held


@dataclass(frozen=True)
class AudioCache:
    """Decoded tracks one after another.

    Attributes:
        audio: int16 ``[2, samples]`` on the device that holds it.
        peaks: of each ``PEAK_BLOCK`` samples the largest absolute value, full scale 1, on the CPU.
        start: by track, its first sample in ``audio``, a multiple of ``PEAK_BLOCK``.
        samples: by track, how many there are, with the zeros that follow a short one.
        scale: by track, the factor from int16 to full scale 1.
        refused: by track, why it is not here, or None.
    """

    audio: Tensor
    peaks: np.ndarray
    start: np.ndarray
    samples: np.ndarray
    scale: np.ndarray
    refused: list[str | None]

    def peak(self, start: int, samples: int) -> float:
        """Largest absolute value of the blocks that these samples touch, full scale 1."""
        last = (start + samples - 1) // PEAK_BLOCK
        return float(self.peaks[start // PEAK_BLOCK : last + 1].max())

    def gather(self, starts: Sequence[int], samples: int) -> Tensor:
        """int16 ``[len(starts), 2, samples]``, where the audio is."""
        on_cpu = self.audio.device.type == "cpu"
        return (gather_slices if on_cpu else gather_by_index)(self.audio, starts, samples)


def gather_slices(audio: Tensor, starts: Sequence[int], samples: int) -> Tensor:
    """Slices of ``audio`` ``[2, n]`` from ``starts``: ``[len(starts), 2, samples]``, copied one by
    one. On a CPU that takes a third of the time of an index.
    """
    return torch.stack([audio[:, first : first + samples] for first in starts])


def gather_by_index(audio: Tensor, starts: Sequence[int], samples: int) -> Tensor:
    """The same by one index into a view of all stretches of ``samples``: one kernel on a GPU."""
    index = to_device(torch.tensor(starts), audio.device)
    return audio.unfold(1, samples, 1)[:, index].transpose(0, 1)


def fill(
    tracks: Sequence[Track | Segment],
    sample_rate: int,
    filters: FilterConfig,
    device: torch.device,
    shortest: int = 0,
    copies: int = 1,
    tell: Tell = _silently,
) -> AudioCache:
    """Decode ``tracks`` at ``sample_rate`` onto ``device``, by several threads.

    A track that is damaged, or that ``filters`` refuse as a whole, is left out with its reason. One
    of fewer than ``shortest`` samples is followed by zeros. Raises ConfigError if ``copies`` of it
    all need more memory than is free.
    """
    lengths = [resampled_length(t.frames, t.rate, sample_rate) for t in tracks]
    samples = np.array([max(length, shortest) for length in lengths], np.int64)
    blocks = -(-samples // PEAK_BLOCK)
    start = (np.cumsum(blocks) - blocks) * PEAK_BLOCK
    total = int(blocks.sum()) * PEAK_BLOCK
    threads = min(MOST_THREADS, os.cpu_count() or 1, len(tracks))
    _refuse_if_too_large(total, sample_rate, device, copies, threads * max(lengths))
    audio = torch.zeros(2, total, dtype=torch.int16, device=device)
    peaks = np.zeros(total // PEAK_BLOCK, np.float32)
    scale = np.ones(len(tracks), np.float32)

    def load(number: int) -> str | None:
        try:
            decoded = _decoded(tracks[number], sample_rate, lengths[number])
        except (soundfile.SoundFileError, OSError, ValueError, AssertionError) as error:
            return f"damaged: {error}"  # soundfile asserts on some damaged files
        if reason := judge(decoded, filters, sample_rate):
            return f"refused as a whole: {reason}"
        first = int(start[number])
        peaks[first // PEAK_BLOCK :][: -(-lengths[number] // PEAK_BLOCK)] = _block_peaks(decoded)
        scale[number] = _scale(decoded)
        held = torch.from_numpy(np.rint(decoded / scale[number]).astype(np.int16))
        audio[:, first : first + lengths[number]] = held.to(device)
        return None

    refused = []
    with ThreadPoolExecutor(threads) as pool:
        for done, reason in enumerate(pool.map(load, range(len(tracks))), 1):
            refused.append(reason)
            tell(done, len(tracks))
    return AudioCache(audio, peaks, start, samples, scale, refused)


def _refuse_if_too_large(
    total: int, sample_rate: int, device: torch.device, copies: int, decoding: int
) -> None:
    need = copies * (2 * total * torch.int16.itemsize)
    work = copies * decoding * 2 * 4 * 3  # decoded, resampled and rounded at the same time
    if device.type == "cpu":
        need += work
    free = free_bytes(device)
    if free is not None and need > free:
        each = f" in each of {copies} processes" if copies > 1 else ""
        raise ConfigError(
            f"data.cache: {total / sample_rate / 3600:.2f} h of audio at {sample_rate} Hz{each} "
            f"need {need} bytes ({need / 1e9:.2f} GB), and {free} ({free / 1e9:.2f} GB) are free "
            f"on {device}; use fewer tracks, or cache: none"
        )


def _decoded(track: Track | Segment, sample_rate: int, samples: int) -> np.ndarray:
    """``[2, samples]`` float32. Raises what :func:`earvae.training.data.read_crop` raises."""
    with track.open() as file:
        if file.samplerate != track.rate or file.channels > 2:
            raise ValueError("another rate or other channels than listed")
        audio = file.read(track.frames, dtype="float32", always_2d=True)
    if len(audio) < track.frames:
        raise ValueError(f"ends after {len(audio)} of {track.frames} samples")
    if not np.isfinite(audio).all():
        raise ValueError("holds non-finite samples")
    if track.rate != sample_rate:
        audio = soxr.resample(audio, track.rate, sample_rate)[:samples]
        audio = np.pad(audio, ((0, samples - len(audio)), (0, 0)))
    return np.repeat(audio.T, 2, axis=0) if audio.shape[1] == 1 else audio.T


def _scale(audio: np.ndarray) -> np.float32:
    """A 16-bit file stays as it is; what goes beyond its range is scaled to fit."""
    if audio.max() <= (STEPS - 1) / STEPS and audio.min() >= -1:
        return np.float32(1 / STEPS)
    return np.float32(np.abs(audio).max() / (STEPS - 1))


def _block_peaks(audio: np.ndarray) -> np.ndarray:
    """``[2, samples]`` to one value for each ``PEAK_BLOCK`` samples."""
    loudest = np.abs(audio).max(axis=0)
    loudest = np.pad(loudest, (0, -len(loudest) % PEAK_BLOCK))
    return loudest.reshape(-1, PEAK_BLOCK).max(axis=1)


# ------------------------------------------------------------------------------ crops


@dataclass(frozen=True)
class Draw:
    """A crop as numbers. ``scale`` 0 makes it silence."""

    source: int
    start: int
    scale: float
    changes: Changes
    dropped: np.ndarray


# The last cache that was filled. Stages of one run mostly draw from the same tracks, and a cache
# is too large to be there twice.
_filled: tuple[object, AudioCache] | None = None


class CachedCrops(CropDataset):
    """The crops of :class:`CropDataset`, out of memory.

    Crop i is the one that decoding gives for i, up to the rounding to 16 bits and, for tracks of
    another rate, to where resampling begins; so it depends on the seed, the sources and i alone.
    Two things differ. ``filters`` judge true peak and bandwidth of whole tracks, as in the paper:
    such tracks, and damaged ones, are left out from the beginning. And a crop counts as silent by
    the blocks of ``PEAK_BLOCK`` samples that it touches.

    Args:
        device: where the audio is held; the CPU for ``cache: ram``.
        copies: processes of this machine that each hold the audio, for the check of memory.
        tell: is told how many tracks of how many are decoded.

    Raises ConfigError as :class:`CropDataset` does, for too little memory, and for a source of
    which no track is left.
    """

    def __init__(
        self,
        config: DataConfig,
        sample_rate: int,
        device: torch.device,
        copies: int = 1,
        tell: Tell = _silently,
    ) -> None:
        global _filled
        super().__init__(config, sample_rate)
        filters = config.filters.model_copy(update={"silence_db": -np.inf})  # is judged by crop
        shortest = config.crop_samples if config.short_tracks == "pad" else 0
        key = (tuple(self.tracks), sample_rate, filters, device, shortest)
        if _filled is None or _filled[0] != key:
            _filled = None  # before the next one takes its room
            cache = fill(self.tracks, sample_rate, filters, device, shortest, copies, tell)
            _filled = (key, cache)
        self.cache = _filled[1]
        self._leave_out_refused()

    def _leave_out_refused(self) -> None:
        kept = np.array([reason is None for reason in self.cache.refused])
        self.left_out += [
            f"{track.name}: {reason}"
            for track, reason in zip(self.tracks, self.cache.refused, strict=True)
            if reason
        ]
        bounds = [*self.first, len(self.tracks)]
        by_source = []
        for source, first, last in zip(self.config.sources, bounds, bounds[1:], strict=False):
            by_source.append([self.tracks[i] for i in range(first, last) if kept[i]])
            if not by_source[-1]:
                raise ConfigError(
                    f"{source.tracks}: no track is left; {self.tracks[first].name}: "
                    f"{self.cache.refused[first]}"
                )
        self._draw_from(by_source)
        self.start = self.cache.start[kept]
        self.samples = self.cache.samples[kept]
        self.scale = self.cache.scale[kept]

    def draw(self, index: int) -> Draw:
        """The random numbers of crop ``index``, in the order in which decoding draws them."""
        wanted = self.config.crop_samples
        random = np.random.default_rng((self.config.seed, index))
        source = draw_from(self.source_ends, random)
        dropped = np.zeros(len(DROP_REASONS), np.int64)
        for _ in range(ATTEMPTS):
            track = self.first[source] + draw_from(self.ends[source], random)
            first = int(random.random() * max(0, int(self.samples[track]) - wanted))
            start = int(self.start[track]) + first
            if self.cache.peak(start, wanted) >= 10 ** (self.config.filters.silence_db / 20):
                changes = draw_changes(self.config.augmentation, random)
                return Draw(source, start, float(self.scale[track]), changes, dropped)
            dropped[DROP_REASONS.index("silent")] += 1
        return Draw(source, 0, 0.0, Changes(), dropped)

    def batch(self, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """The items of :class:`CropDataset`, stacked: ``audio`` on ``device``, the rest on the
        CPU. Nothing waits for the device.
        """
        draws = [self.draw(index) for index in indices]
        gathered = self.cache.gather([draw.start for draw in draws], self.config.crop_samples)
        return {
            "audio": changed(to_device(gathered, device), draws, self.sample_rate),
            "source": torch.tensor([draw.source for draw in draws]),
            "dropped": torch.from_numpy(np.stack([draw.dropped for draw in draws])),
            "augmented": torch.from_numpy(np.stack([draw.changes.applied() for draw in draws])),
        }

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        batch = self.batch([index], self.cache.audio.device)
        return {name: values[0] for name, values in batch.items()}

    def batches(
        self, start: int, stop: int, device: torch.device, rank: int = 0, world_size: int = 1
    ) -> Iterator[dict[str, Tensor]]:
        """Batches of crops start…stop−1, as :func:`earvae.training.data.make_loader` shares them
        among ranks.
        """
        size = self.config.batch_size
        indices = iter(RangeSampler(start, stop, size, rank, world_size))
        while some := list(islice(indices, size)):
            yield self.batch(some, device)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """``values`` on ``device``; a copy from the CPU to a GPU is queued and not waited for."""
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


# ------------------------------------------------------------------------------ augmentation


def changed(gathered: Tensor, draws: Sequence[Draw], sample_rate: int) -> Tensor:
    """int16 ``[batch, 2, samples]`` as float32 with each item's changes made, where it lies.

    The same mathematics as :func:`earvae.training.data.augment`, over the batch at once.
    """
    changes = [draw.changes for draw in draws]
    bass = [0.0 if c.bass_db is None else 10 ** (c.bass_db / 20) - 1 for c in changes]
    target = [c.limit_rms or 0.0 for c in changes]  # 0: not limited
    mono = [float(c.mono) for c in changes]
    swap = [float(c.swap_channels) for c in changes]
    gain = [
        (1.0 if c.gain_db is None else 10 ** (c.gain_db / 20)) * (-1 if c.flip_polarity else 1)
        for c in changes
    ]
    # Only the limiter is not linear: the gain comes after it, elsewhere at once with the scale.
    late = [g if t else 1.0 for g, t in zip(gain, target, strict=True)]
    scale = [d.scale * g / after for d, g, after in zip(draws, gain, late, strict=True)]
    rows = torch.tensor([scale, bass, target, mono, swap, late])
    columns = to_device(rows, gathered.device)[:, :, None, None]  # each [batch, 1, 1]
    audio = gathered * columns[0]
    if any(bass):
        audio = _bass_shelf(audio, columns[1], sample_rate)
    if any(target):
        rms = audio.square().mean(dim=(1, 2), keepdim=True).sqrt() + 1e-9
        audio = torch.where(columns[2] > 0, torch.tanh(audio * (columns[2] / rms)), audio)
    if any(mono):
        audio = torch.where(columns[3] > 0, audio.mean(dim=1, keepdim=True), audio)
    if any(swap):
        audio = torch.where(columns[4] > 0, audio.flip(1), audio)
    return audio * columns[5] if any(target) else audio


def _bass_shelf(audio: Tensor, extra: Tensor, sample_rate: int) -> Tensor:
    """``extra`` ``[batch, 1, 1]`` is how much the gain at 0 Hz exceeds 1."""
    samples = audio.shape[2]
    frequency = torch.fft.rfftfreq(samples, 1 / sample_rate, device=audio.device)
    low = 1 / (1 + (frequency / BASS_CORNER) ** 2)
    return torch.fft.irfft(torch.fft.rfft(audio) * (1 + extra * low), n=samples)
