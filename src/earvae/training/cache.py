"""Crops out of memory: all tracks are decoded once, and a batch is one gathering by index.

What is held is int16 at the model's rate, with a factor for each track. float16 takes as much
room and has 11 bits of mantissa, so its error lies 68 dB below whatever sounds; that of int16 lies
98 dB below full scale, and 16-bit files at the model's rate are held exactly. A track with peaks
beyond full scale gets a larger factor: nothing is clipped, and nothing wraps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import soxr
import torch
from torch import Tensor
from torch.utils.data import default_collate

from earvae.audio import resampled_length
from earvae.config import ConfigError, DataConfig, FilterConfig
from earvae.training.augment import make_changes, to_device
from earvae.training.crops import BROKEN, CropDataset, read_samples
from earvae.training.filters import refusal_of_track
from earvae.training.memory import free_bytes
from earvae.training.tar_read import Recording

PEAK_BLOCK = 64  # samples for which the largest value is kept, to know silence without the audio
MOST_THREADS = 8  # that decode while the cache is filled
STEPS = 32_768  # of int16 to full scale

Progress = Callable[[int, int], None]  # is called with how many tracks of how many are decoded


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
    tracks: Sequence[Recording],
    sample_rate: int,
    filters: FilterConfig,
    device: torch.device,
    shortest: int = 0,
    copies: int = 1,
    progress: Progress | None = None,
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
        except BROKEN as error:
            return f"damaged: {error}"
        if reason := refusal_of_track(decoded, filters, sample_rate):
            return reason
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
            if progress:
                progress(done, len(tracks))
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


def _decoded(track: Recording, sample_rate: int, samples: int) -> np.ndarray:
    """``[2, samples]`` float32. Raises what :func:`read_samples` raises."""
    audio = read_samples(track, 0, track.frames)
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


class LastDecoded:
    """The cache that was filled last. Stages of one run mostly draw from the same tracks, and a
    cache is too large to be there twice.
    """

    def __init__(self) -> None:
        self._key: object = None
        self._cache: AudioCache | None = None

    def fill(self, tracks: Sequence[Recording], *options, copies: int, progress) -> AudioCache:
        """What :func:`fill` gives; at once if the last call was for the same tracks and options."""
        key = (tuple(tracks), *options)
        if self._key != key:
            self._key = self._cache = None  # before the next one takes its room
            self._cache = fill(tracks, *options, copies=copies, progress=progress)
            self._key = key
        return self._cache


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
        progress: is called with how many tracks of how many are decoded.
        last: of the run, where what an earlier stage decoded may serve again.

    Raises ConfigError as :class:`CropDataset` does, for too little memory, and for a source of
    which no track is left.
    """

    def __init__(
        self,
        config: DataConfig,
        sample_rate: int,
        device: torch.device,
        copies: int = 1,
        progress: Progress | None = None,
        last: LastDecoded | None = None,
    ) -> None:
        super().__init__(config, sample_rate)
        filters = config.filters.model_copy(update={"silence_db": -np.inf})  # is judged by crop
        shortest = self.samples_read if config.short_tracks == "pad" else 0
        last = last or LastDecoded()
        self.cache = last.fill(
            self.tracks, sample_rate, filters, device, shortest, copies=copies, progress=progress
        )
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

    def _take(self, number: int, place: float, crops: int = 1) -> tuple[int, float]:
        """A crop's first sample in the cache, and the factor to full scale 1."""
        last = max(0, int(self.samples[number]) - crops * self.samples_read)
        return int(self.start[number]) + int(place * last), float(self.scale[number])

    def _refused(self, content: tuple[int, float]) -> str | None:
        peak = self.cache.peak(content[0], self.samples_read)
        return "silent" if peak < 10 ** (self.config.filters.silence_db / 20) else None

    def batch(self, indices: Sequence[int], device: torch.device) -> dict[str, Tensor]:
        """The items of :class:`CropDataset`, stacked: ``audio`` on ``device``, the rest on the
        CPU. Nothing waits for the device.
        """
        draws = [self.draw(index) for index in indices]
        audio = self._gathered([draw.content for draw in draws], device)
        added = [draw.added for draw in draws]
        added = self._gathered(added, device) if any(added) else None
        changes = [draw.changes for draw in draws]
        audio = make_changes(audio, changes, self.sample_rate, self.config.crop_samples, added)
        return {"audio": audio} | default_collate([draw.tensors() for draw in draws])

    def _gathered(
        self, contents: Sequence[tuple[int, float] | None], device: torch.device
    ) -> Tensor:
        """The audio of contents, ``[len(contents), 2, samples_read]``, silence for None."""
        starts, scales = zip(*(content or (0, 0.0) for content in contents), strict=True)
        gathered = to_device(self.cache.gather(starts, self.samples_read), device)
        return gathered * to_device(torch.tensor(scales)[:, None, None], device)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        batch = self.batch([index], self.cache.audio.device)
        return {name: values[0] for name, values in batch.items()}
