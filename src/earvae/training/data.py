"""Training crops from folders, manifests or shards of audio of any rate and length.

Crop i of a data set is a function of its seed, its sources and i alone: it does not depend on how
many workers decode, on what was drawn before, or on where a run was interrupted.
"""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from earvae.audio import RATES, AudioFileError, AudioSource
from earvae.config import AugmentationConfig, ConfigError, DataConfig, FilterConfig, SourceConfig
from earvae.training.held_out import TRAIN, VALIDATION, held_out
from earvae.training.shards import Segment, is_remote, read_index

AUDIO_SUFFIXES = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif"}
ATTEMPTS = 20  # draws for one crop before it is given up as silence
RESAMPLER_MARGIN = 0.05  # seconds read on both sides so that filter edges fall outside the crop
LISTING_THREADS = 16  # that open files while a source is listed; they mostly wait for the disk

# Even at 6 kb/s a compressed file has 64 samples for each byte; a header that tells many more is
# not believed.
MOST_SAMPLES_PER_BYTE = 1000

TRUE_PEAK_MARGIN = 64  # samples
BANDWIDTH_FRAME = 1024  # samples
DITHER_POWER = 2.0**-32  # of triangular dither and rounding to 16 bits: a quarter of a step squared

DROP_REASONS = ("broken", "silent", "true_peak", "bandwidth")
AUGMENTATIONS = ("gain", "swap_channels", "flip_polarity", "mono", "bass", "limit")


@dataclass(frozen=True, slots=True)
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

    @property
    def name(self) -> str:
        """The path, as messages name it."""
        return str(self.path)

    def open(self) -> soundfile.SoundFile:
        """The file. Raises OSError or SoundFileError."""
        return soundfile.SoundFile(self.path)


def list_tracks(source: SourceConfig) -> tuple[list[Track] | list[Segment], list[str]]:
    """The usable tracks of a source, and one line for each file left out.

    A folder is searched recursively, and has the splits ``train`` and ``validation`` (``held_out``
    tells which track is in which); a manifest is JSON Lines whose ``file`` is relative to it and
    whose ``split`` says it; an index of shards yields segments. Files are opened for their length,
    and their last sample is read, unless the manifest tells ``duration``, ``rate`` and
    ``channels``. Those whose header does not tell the truth are read to their end.

    Raises ConfigError, naming the source, if it is missing, is none of these, or holds no usable
    track.
    """
    name = source.tracks
    path = Path(name).expanduser()
    if source.split is not None and name.endswith(".json"):
        raise ConfigError(f"{name}: has no splits; leave `split` out")
    if source.split not in (None, TRAIN, VALIDATION) and path.is_dir():
        raise ConfigError(f"{name}: has the splits {TRAIN} and {VALIDATION}, as any folder")
    if name.endswith(".json"):
        tracks, left_out = read_index(name if is_remote(name) else str(path))
    elif is_remote(name):
        raise ConfigError(f"{name}: a remote source must be the index.json of shards")
    elif path.is_dir():
        tracks, left_out = _sorted_out(_inspect_all(_audio_files(path)))
        if source.split is not None:
            held = held_out([track.path for track in tracks], path)
            wanted = source.split == VALIDATION
            tracks = [track for track, out in zip(tracks, held, strict=True) if out == wanted]
    elif path.is_file():
        tracks, left_out = _manifest_tracks(path, source.split)
    else:
        raise ConfigError(f"{name}: no such folder, manifest or index of shards")
    if not tracks:
        what = f"split {source.split!r}" if source.split else "audio file"
        hint = f"; use {path / 'index.json'}" if (path / "index.json").is_file() else ""
        hint = f" ({len(left_out)} left out; {left_out[0]})" if left_out else hint
        raise ConfigError(f"{name}: no usable {what}{hint}")
    return tracks, left_out


def _audio_files(folder: Path) -> list[Path]:
    return sorted(
        Path(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in AUDIO_SUFFIXES
    )


def _inspect_all(paths: list[Path]) -> list[Track | str]:
    with ThreadPoolExecutor(LISTING_THREADS) as pool:
        return list(pool.map(_inspect, paths))


def _inspect(path: Path) -> Track | str:
    """The track in a file, or the line that says why it is left out."""
    try:
        info = soundfile.info(path)
        size = path.stat().st_size
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        return f"{path}: not readable: {error}"
    track = Track(path, info.frames, info.samplerate, info.channels)
    if track.channels > 2 or track.rate not in RATES or track.frames == 0:
        return _usable(track)
    if 0 < track.frames < MOST_SAMPLES_PER_BYTE * size and _reachable(path, track.frames - 1):
        return _usable(track)
    try:
        return _usable(replace(track, frames=_counted(path)))
    except (AudioFileError, soundfile.SoundFileError) as error:
        line = str(error)
        return line if line.startswith(str(path)) else f"{path}: not readable: {line}"


def _reachable(path: Path, place: int) -> bool:
    """Whether the sample at ``place`` can be read."""
    try:
        with soundfile.SoundFile(path) as file:
            file.seek(place)
            return len(file.read(1)) == 1
    except (soundfile.SoundFileError, ValueError, AssertionError):
        return False


def _counted(path: Path) -> int:
    """Samples of a file whose header does not tell them, as a stream's does not, or tells more
    than there are. It is read once to its end. The last one is not counted: after a read soundfile
    seeks to its end, and the very end of such a file cannot be sought.

    Raises AudioFileError if it is damaged, or if one cannot read at any place in it.
    """
    frames = sum(block.shape[1] for block in AudioSource(path).blocks()) - 1
    if not (_reachable(path, frames - 1) and _reachable(path, frames // 2)):
        raise AudioFileError(
            f"{path}: its header does not tell its length, and only its beginning can be reached; "
            "write it anew, for instance with `ffmpeg -i IN OUT.flac`"
        )
    return frames


def _usable(track: Track) -> Track | str:
    if track.channels > 2:
        return f"{track.path}: {track.channels} channels; only mono and stereo are used"
    if track.rate not in RATES:
        return f"{track.path}: its header says {track.rate} Hz, which no music has"
    if track.frames < 1:
        return f"{track.path}: holds no audio"
    return track


def _sorted_out(found: list[Track | str]) -> tuple[list[Track], list[str]]:
    tracks = [track for track in found if isinstance(track, Track)]
    return tracks, [line for line in found if isinstance(line, str)]


def _manifest_tracks(manifest: Path, split: str | None) -> tuple[list[Track], list[str]]:
    found: list[Track | str | Path] = []
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{manifest}: cannot be read as a manifest in JSON Lines") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            path, own_split = manifest.parent / entry["file"], entry.get("split")
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise ConfigError(
                f"{manifest}: line {number} is not a JSON object with a `file`"
            ) from None
        if split is None or own_split == split:
            found.append(_told(path, entry))
    opened = iter(_inspect_all([path for path in found if isinstance(path, Path)]))
    return _sorted_out([next(opened) if isinstance(one, Path) else one for one in found])


def manifest_splits(manifest: Path) -> set[str]:
    """The names of the splits in a manifest; none if it cannot be read as one."""
    try:
        lines = manifest.read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines if line.strip()]
        return {entry["split"] for entry in entries if isinstance(entry.get("split"), str)}
    except (OSError, ValueError, AttributeError):
        return set()


def _told(path: Path, entry: dict) -> Track | str | Path:
    """The track as its manifest line describes it, or ``path`` where that is not enough."""
    duration, rate, channels = (entry.get(key) for key in ("duration", "rate", "channels"))
    if not (isinstance(rate, int) and rate > 0 and isinstance(channels, int)):
        return path
    if not (isinstance(duration, int | float) and 0 < duration < 1e9):
        return path
    if not path.is_file():
        return f"{path}: no such file"
    # The manifest rounds to milliseconds; what it may have added is taken off again.
    return _usable(Track(path, int((duration - 0.0005) * rate), rate, channels))


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
        if limit is not None and limit > 0.45 * sample_rate:
            raise ConfigError(
                f"filters.bandwidth_hz: {limit:g} Hz leaves nothing to judge above it at "
                f"{sample_rate} Hz; use at most {0.45 * sample_rate:g}"
            )
        self.config = config
        self.sample_rate = sample_rate
        self.left_out: list[str] = []
        self._stretch: tuple[int, int, np.ndarray] | None = None  # see _fetched
        by_source = []
        for source in config.sources:
            tracks, left_out = list_tracks(source)
            self.left_out += left_out
            by_source.append(self._long_enough(source, tracks))
        self._draw_from(by_source)
        self.source_ends = _cumulative([source.weight for source in config.sources])

    def _draw_from(self, by_source: list[list[Track | Segment]]) -> None:
        """Take these tracks of each source."""
        self.tracks = [track for tracks in by_source for track in tracks]
        counts = [len(tracks) for tracks in by_source]
        self.first = [sum(counts[:number]) for number in range(len(counts))]  # track of a source
        # For each source, where its tracks end, of 0...1.
        self.ends = [_cumulative([track.duration for track in tracks]) for tracks in by_source]

    def _long_enough(
        self, source: SourceConfig, tracks: list[Track | Segment]
    ) -> list[Track | Segment]:
        """The tracks that hold a whole crop, or all where the config asks for padding."""
        if self.config.short_tracks == "pad":
            return tracks
        seconds = self.config.crop_samples / self.sample_rate
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
        random = np.random.default_rng((self.config.seed, index))
        source, shared = draw_from(self.source_ends, random), None
        if self.config.crops_per_fetch > 1:
            source, shared = self._fetched(index)
        audio = np.zeros((2, self.config.crop_samples), np.float32)
        dropped = np.zeros(len(DROP_REASONS), np.int64)
        augmented = np.zeros(len(AUGMENTATIONS), bool)
        for _ in range(ATTEMPTS):
            drawn = self._read(source, random) if shared is None else shared
            shared = None  # refused, it is followed by draws of the item's own
            reason = "broken"
            if len(drawn):
                reason = refused(drawn, self.config.filters, self.sample_rate)
            if reason is None:
                audio, augmented = augment(
                    drawn, self.config.augmentation, random, self.sample_rate
                )
                break
            dropped[DROP_REASONS.index(reason)] += 1
        return {
            "audio": torch.from_numpy(audio),
            "source": torch.tensor(source),
            "dropped": torch.from_numpy(dropped),
            "augmented": torch.from_numpy(augmented),
        }

    def _read(self, source: int, random: np.random.Generator, crops: int = 1) -> np.ndarray:
        """A stretch of a track of a source, as long as ``crops`` or as the track; ``[0, 0]`` if it
        is broken.
        """
        track = self.tracks[self.first[source] + draw_from(self.ends[source], random)]
        place = random.random()
        one = self.config.crop_samples
        samples = max(one, min(crops * one, int(track.duration * self.sample_rate)))
        try:
            return read_crop(track, place, samples, self.sample_rate)
        except (soundfile.SoundFileError, OSError, ValueError, AssertionError):
            return np.zeros((0, 0), np.float32)  # soundfile asserts on some damaged files

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
            self._stretch = (block, source, self._read(source, random, together))
        _, source, stretch = self._stretch
        start = (stretch.shape[1] - self.config.crop_samples) * number // (together - 1)
        return source, stretch[:, max(0, start) :][:, : self.config.crop_samples]


def _cumulative(weights: list[float]) -> np.ndarray:
    sums = np.cumsum(np.array(weights, np.float64))
    return sums / sums[-1]


def draw_from(ends: np.ndarray, random: np.random.Generator) -> int:
    """A number in proportion to the steps of ``ends``, a cumulative distribution."""
    return min(int(np.searchsorted(ends, random.random(), side="right")), len(ends) - 1)


def read_crop(track: Track | Segment, place: float, samples: int, sample_rate: int) -> np.ndarray:
    """``[2, samples]`` float32 at ``sample_rate``, from ``place`` (0…1) of where a crop fits.

    Raises SoundFileError, OSError, or ValueError on audio that is of another rate or shorter than
    it should be, or not finite.
    """
    ratio = track.rate / sample_rate
    margin = 0 if track.rate == sample_rate else round(RESAMPLER_MARGIN * track.rate)
    wanted = round(samples * ratio)
    first = int(place * max(0, track.frames - wanted))
    start, stop = max(0, first - margin), min(track.frames, first + wanted + margin)
    with track.open() as file:
        if file.samplerate != track.rate or file.channels > 2:
            raise ValueError("another rate or other channels than listed")
        file.seek(start)
        audio = file.read(stop - start, dtype="float32", always_2d=True)
    if len(audio) < stop - start:
        raise ValueError("ends early")
    if not np.isfinite(audio).all():
        raise ValueError("holds non-finite samples")
    if track.rate != sample_rate:
        audio = soxr.resample(audio, track.rate, sample_rate)
    skip = round((first - start) / ratio)
    audio = audio[skip : skip + samples].T
    if len(audio) == 1:
        audio = np.repeat(audio, 2, axis=0)
    return np.pad(audio, ((0, 0), (0, samples - audio.shape[1])))


# ------------------------------------------------------------------------------ filters


def refused(audio: np.ndarray, filters: FilterConfig, sample_rate: int) -> str | None:
    """Which of ``DROP_REASONS`` speaks against a crop ``[2, samples]``; None if it is good."""
    if np.abs(audio).max() < 10 ** (filters.silence_db / 20):
        return "silent"
    if filters.true_peak_db is not None and true_peak_db(audio) > filters.true_peak_db:
        return "true_peak"
    if filters.bandwidth_hz is not None and not reaches(audio, filters.bandwidth_hz, sample_rate):
        return "bandwidth"
    return None


def true_peak_db(audio: np.ndarray) -> float:
    """The largest true peak of ``[channels, samples]``, dB of full scale.

    The signal is oversampled four times (ITU-R BS.1770-4, annex 2). Of the outermost
    ``TRUE_PEAK_MARGIN`` samples, where a cut rings that the music does not have, only the samples
    themselves count.
    """
    fine = soxr.resample(audio.T, 1, 4)[4 * TRUE_PEAK_MARGIN : -4 * TRUE_PEAK_MARGIN]
    return 20 * np.log10(max(np.abs(audio).max(), np.abs(fine).max(initial=0), 1e-9))


def reaches(audio: np.ndarray, bandwidth_hz: float, sample_rate: int) -> bool:
    """Whether the spectrum of ``[channels, samples]`` reaches ``bandwidth_hz``.

    It does if, in a fifth of the frames, the kilohertz above it holds more power than 6 dB over
    the noise of dithered 16-bit audio. That noise, and no level relative to the crop, is the
    measure, for it fills the place above the cut of a lossy or resampled copy, and it lies as
    high in quiet crops as in loud ones. The median over frequency passes over single lines, such
    as a pilot tone at -60 dB; a fifth, and not one, passes over the moments in which a decoder
    clipped. Frames of digital silence do not count. Genuine crops so dull that their treble
    drowns in that noise are refused with the rest.
    """
    return levels_reach(band_levels(audio, bandwidth_hz, sample_rate), sample_rate)


def band_levels(audio: np.ndarray, bandwidth_hz: float, sample_rate: int) -> np.ndarray:
    """Median power per hertz in the kilohertz above ``bandwidth_hz``, of each frame that is not
    digital silence. ``audio`` is ``[channels, samples]``.
    """
    padded = np.pad(audio, ((0, 0), (0, max(0, BANDWIDTH_FRAME - audio.shape[1]))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, BANDWIDTH_FRAME, axis=1)
    frames = frames[:, :: BANDWIDTH_FRAME // 2]  # [channels, frames, samples]
    window = np.hanning(BANDWIDTH_FRAME)
    power = np.square(np.abs(np.fft.rfft(frames * window))).mean(axis=0)
    power *= 2 / (sample_rate * np.square(window).sum())  # per hertz; full scale 1
    frequency = np.fft.rfftfreq(BANDWIDTH_FRAME, 1 / sample_rate)
    band = (frequency >= bandwidth_hz) & (frequency <= bandwidth_hz + 1000)
    return np.median(power[power.sum(axis=1) > 0][:, band], axis=1)


def levels_reach(level: np.ndarray, sample_rate: int) -> bool:
    """Whether a fifth of the frames' levels (:func:`band_levels`) lies above the noise."""
    floor = 4 * DITHER_POWER * 2 / sample_rate
    return bool(level.size) and bool(np.quantile(level, 0.8) > floor)


# ------------------------------------------------------------------------------ augmentation


def augment(
    audio: np.ndarray, config: AugmentationConfig, random: np.random.Generator, sample_rate: int
) -> tuple[np.ndarray, np.ndarray]:
    """Random changes of ``[2, samples]``, and which of ``AUGMENTATIONS`` were made (bool).

    With the default config, none.
    """
    changes = draw_changes(config, random)
    if changes.bass_db is not None:
        audio = bass_shelf(audio, changes.bass_db, sample_rate)
    if changes.limit_rms is not None:
        audio = soft_limit(audio, changes.limit_rms)
    if changes.mono:
        audio = np.repeat(audio.mean(axis=0, keepdims=True), 2, axis=0)
    if changes.gain_db is not None:
        audio = audio * 10 ** (changes.gain_db / 20)
    if changes.swap_channels:
        audio = audio[::-1]
    if changes.flip_polarity:
        audio = -audio
    return np.ascontiguousarray(audio, dtype=np.float32), changes.applied()


@dataclass(frozen=True)
class Changes:
    """What is changed in one crop, in the order in which it is done; the default is nothing."""

    bass_db: float | None = None
    limit_rms: float | None = None
    mono: bool = False
    gain_db: float | None = None
    swap_channels: bool = False
    flip_polarity: bool = False

    def applied(self) -> np.ndarray:
        """Which of ``AUGMENTATIONS`` these are, bool ``[len(AUGMENTATIONS)]``."""
        made = {
            "gain": self.gain_db is not None,
            "swap_channels": self.swap_channels,
            "flip_polarity": self.flip_polarity,
            "mono": self.mono,
            "bass": self.bass_db is not None,
            "limit": self.limit_rms is not None,
        }
        return np.array([made[name] for name in AUGMENTATIONS])


def draw_changes(config: AugmentationConfig, random: np.random.Generator) -> Changes:
    """The random numbers of :func:`augment`. They do not depend on the audio."""
    bass_db = limit_rms = gain_db = None
    mono = swap = flip = False
    if config.bass_db != (0.0, 0.0):
        bass_db = random.uniform(*config.bass_db)
    if config.limit and random.random() < config.limit:
        limit_rms = random.uniform(0.2, 0.4)
    if config.mono:
        mono = random.random() < config.mono
    if config.gain_db != (0.0, 0.0):
        gain_db = random.uniform(*config.gain_db)
    if config.swap_channels:
        swap = random.random() < config.swap_channels
    if config.flip_polarity:
        flip = random.random() < config.flip_polarity
    return Changes(bass_db, limit_rms, mono, gain_db, swap, flip)


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


# ------------------------------------------------------------------------------ loading


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
    dataset: CropDataset,
    start: int,
    stop: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> DataLoader:
    """Batches of crops start…stop−1: the items' tensors, stacked. ``rank`` of ``world_size``
    takes its consecutive share of every global batch. ``pin_memory`` is for copies to a GPU that
    nothing waits for.
    """
    config = dataset.config
    return DataLoader(
        dataset,
        batch_size=config.batch_size,
        sampler=RangeSampler(start, stop, config.batch_size, rank, world_size),
        num_workers=config.workers,
        worker_init_fn=_start_worker,
        persistent_workers=False,
        pin_memory=pin_memory,
    )


def _start_worker(_worker: int) -> None:
    """One thread each. Signals are the main process's to act on: one sent to the whole group must
    not take the workers away before it has saved. They end with it in any case.
    """
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
