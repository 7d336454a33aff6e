"""Training crops from folders or manifests of audio files of any rate and length.

Crop i of a data set is a function of its seed and i alone: it does not depend on how many
workers decode, on what was drawn before, or on where a run was interrupted.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from earvae.config import AugmentationConfig, ConfigError, DataConfig

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif"}
ATTEMPTS = 20  # draws for one crop before it is given up as silence
RESAMPLER_MARGIN = 0.05  # seconds read on both sides so that filter edges fall outside the crop


@dataclass(frozen=True)
class Track:
    """An audio file that can be drawn from. ``frames`` at ``rate`` Hz, 1 or 2 ``channels``."""

    path: Path
    frames: int
    rate: int
    channels: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.rate


def list_tracks(source: str | Path, split: str | None = None) -> tuple[list[Track], list[str]]:
    """The usable tracks of a folder or manifest, and one line for each file left out.

    Raises ConfigError if the source is missing, is no manifest, or holds no usable track.
    """
    source = Path(source).expanduser()
    if source.is_dir():
        files = sorted(p for p in source.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES)
    elif source.is_file():
        files = _manifest_files(source, split)
    else:
        raise ConfigError(f"{source}: no such folder or manifest (data.tracks)")
    tracks, left_out = [], []
    for path in files:
        try:
            info = soundfile.info(path)
        except (soundfile.SoundFileError, OSError) as error:
            left_out.append(f"{path}: not readable: {error}")
            continue
        if info.channels > 2:
            left_out.append(f"{path}: {info.channels} channels; only mono and stereo are used")
        elif info.frames < 1:
            left_out.append(f"{path}: holds no audio")
        else:
            tracks.append(Track(path, info.frames, info.samplerate, info.channels))
    if not tracks:
        what = f"split {split!r}" if split else "audio file"
        raise ConfigError(f"{source}: no usable {what} (data.tracks)")
    return tracks, left_out


def _manifest_files(manifest: Path, split: str | None) -> list[Path]:
    files = []
    for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            file, own_split = entry["file"], entry.get("split")
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise ConfigError(
                f"{manifest}: line {number} is not a JSON object with a `file`"
            ) from None
        if split is None or own_split == split:
            files.append(manifest.parent / file)
    return files


class CropDataset(Dataset):
    """Random stereo crops. Item i is ``{"audio": [2, samples] float32, "skipped": count}``.

    A track is drawn with a probability proportional to its duration, then a place in it. Near
    silence, broken and non-finite audio is drawn again and counted. A track shorter than a crop
    is followed by zeros. Mono is duplicated.
    """

    def __init__(self, config: DataConfig, sample_rate: int, tracks: list[Track]) -> None:
        self.config = config
        self.sample_rate = sample_rate
        self.samples = config.crop_samples
        self.tracks = tracks
        durations = np.array([track.duration for track in tracks])
        self.cumulative = np.cumsum(durations / durations.sum())

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        random = np.random.default_rng((self.config.seed, index))
        floor = 10 ** (self.config.silence_db / 20)
        audio = np.zeros((2, self.samples), np.float32)
        skipped = 0
        for _ in range(ATTEMPTS):
            choice = np.searchsorted(self.cumulative, random.random(), side="right")
            track = self.tracks[min(choice, len(self.tracks) - 1)]
            place = random.random()
            try:
                drawn = read_crop(track, place, self.samples, self.sample_rate)
            except (soundfile.SoundFileError, OSError, ValueError):
                skipped += 1
                continue
            if np.abs(drawn).max() >= floor:
                audio = augment(drawn, self.config.augmentation, random, self.sample_rate)
                break
            skipped += 1
        return {"audio": torch.from_numpy(audio), "skipped": torch.tensor(skipped)}


def read_crop(track: Track, place: float, samples: int, sample_rate: int) -> np.ndarray:
    """``[2, samples]`` float32 at ``sample_rate``, from ``place`` (0…1) of where a crop fits.

    Raises ValueError on audio that is short of what the header says, or not finite.
    """
    ratio = track.rate / sample_rate
    margin = 0 if track.rate == sample_rate else round(RESAMPLER_MARGIN * track.rate)
    wanted = round(samples * ratio)
    first = int(place * max(0, track.frames - wanted))
    start, stop = max(0, first - margin), min(track.frames, first + wanted + margin)
    with soundfile.SoundFile(track.path) as file:
        file.seek(start)
        audio = file.read(stop - start, dtype="float32", always_2d=True)
    if len(audio) < stop - start:
        raise ValueError(f"{track.path}: ends early")
    if not np.isfinite(audio).all():
        raise ValueError(f"{track.path}: holds non-finite samples")
    if track.rate != sample_rate:
        audio = soxr.resample(audio, track.rate, sample_rate)
    skip = round((first - start) / ratio)
    audio = audio[skip : skip + samples].T
    if len(audio) == 1:
        audio = np.repeat(audio, 2, axis=0)
    return np.pad(audio, ((0, 0), (0, samples - audio.shape[1])))


def augment(
    audio: np.ndarray, config: AugmentationConfig, random: np.random.Generator, sample_rate: int
) -> np.ndarray:
    """Random changes of ``[2, samples]``; with the default config, none."""
    if config.bass_db != (0.0, 0.0):
        audio = bass_shelf(audio, random.uniform(*config.bass_db), sample_rate)
    if config.limit and random.random() < config.limit:
        audio = soft_limit(audio, random.uniform(0.2, 0.4))
    if config.gain_db != (0.0, 0.0):
        audio = audio * 10 ** (random.uniform(*config.gain_db) / 20)
    if config.swap_channels and random.random() < config.swap_channels:
        audio = audio[::-1]
    if config.flip_polarity and random.random() < config.flip_polarity:
        audio = -audio
    return np.ascontiguousarray(audio, dtype=np.float32)


def bass_shelf(
    audio: np.ndarray, gain_db: float, sample_rate: int, corner: float = 150.0
) -> np.ndarray:
    """A first-order low shelf of ``gain_db`` below ``corner`` Hz, zero-phase, in the spectrum."""
    frequency = np.fft.rfftfreq(audio.shape[1], 1 / sample_rate)
    low = 1 / (1 + (frequency / corner) ** 2)  # share of the band below the corner
    gain = 1 + (10 ** (gain_db / 20) - 1) * low
    return np.fft.irfft(np.fft.rfft(audio) * gain, n=audio.shape[1]).astype(np.float32)


def soft_limit(audio: np.ndarray, target_rms: float) -> np.ndarray:
    """Amplify to ``target_rms`` (of full scale) and saturate smoothly below ±1, as loud masters."""
    rms = float(np.sqrt(np.mean(np.square(audio)))) + 1e-9
    return np.tanh(audio * (target_rms / rms)).astype(np.float32)


class RangeSampler(Sampler[int]):
    """Indices start…stop−1, of which this rank takes its consecutive share of every batch."""

    def __init__(
        self, start: int, stop: int, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.start, self.stop = start, stop
        self.batch_size, self.rank, self.world_size = batch_size, rank, world_size

    def __iter__(self):
        for first in range(self.start, self.stop, self.batch_size * self.world_size):
            own = first + self.rank * self.batch_size
            yield from range(own, min(own + self.batch_size, self.stop))

    def __len__(self) -> int:
        whole, rest = divmod(self.stop - self.start, self.batch_size * self.world_size)
        own = min(max(rest - self.rank * self.batch_size, 0), self.batch_size)
        return whole * self.batch_size + own


def make_loader(
    config: DataConfig,
    sample_rate: int,
    start: int,
    stop: int,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader:
    """Batches ``{"audio": [batch, 2, samples], "skipped": [batch]}`` of crops start…stop−1."""
    tracks, left_out = list_tracks(config.tracks, config.split)
    dataset = CropDataset(config, sample_rate, tracks)
    dataset.left_out = left_out
    return DataLoader(
        dataset,
        batch_size=config.batch_size,
        sampler=RangeSampler(start, stop, config.batch_size, rank, world_size),
        num_workers=config.workers,
        worker_init_fn=_start_worker,
        persistent_workers=False,
    )


def _start_worker(_worker: int) -> None:
    """One thread each. Signals are the main process's to act on: one sent to the whole group must
    not take the workers away before it has saved. They end with it in any case.
    """
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
