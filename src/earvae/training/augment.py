"""Random changes of crops (``AugmentationConfig``): drawn one by one, made over a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from earvae.config import AugmentationConfig
from earvae.objective.weighting import k_weighting_sections

AUGMENTATIONS = (
    "gain", "swap_channels", "flip_polarity", "mono", "bass", "equaliser", "width", "limit",
    "mix", "resample", "treble", "compress", "saturate",
)  # fmt: skip
MIX_DB = (-12.0, 0.0)  # level of what is added, against what is there
RATIOS = (1.5, 5.0)  # of the compressor
THRESHOLDS_DB = (-8.0, 2.0)  # of it, over the level of the crop
DRIVES = (0.1, 0.6)  # of the saturation
LOUDNESS = (-14.0, -7.0)  # LUFS, which the limiter brings a crop to
BASS_CORNER, TREBLE_CORNER = 150.0, 6000.0  # Hz, of the shelves
OCTAVES = tuple(31.25 * 2**n for n in range(10))  # Hz, at which the equaliser's gains are drawn
SPEED_STEP = 1 / 64  # of the speeds drawn: a batch is resampled in as many goes as there are speeds
FADED = 512  # samples before and after a resampled crop, which its ends are faded in
LEVEL_SECONDS = 0.01  # between the levels that a compressor looks at
CEILING = 0.97  # of full scale, which the limiter keeps to
MOST_GAIN_DB = 40.0  # that the limiter makes up
LIMITER_BLOCK = 32  # samples, whose highest peak the limiter looks at
LIMITER_REACH = 12  # blocks before and after a peak that are turned down with it: 9 ms at 44.1 kHz


@dataclass(frozen=True)
class Changes:
    """What is changed in one crop, in the order in which it is done; the default is nothing."""

    mix_db: float | None = None  # level of another crop that is added
    speed: float | None = None
    bass_db: float | None = None
    treble_db: float | None = None
    equaliser_db: tuple[float, ...] | None = None  # at OCTAVES
    width_db: float | None = None
    compress: tuple[float, float] | None = None  # ratio, and threshold in dB
    drive: float | None = None  # of the saturation
    limit_lufs: float | None = None
    mono: bool = False
    gain_db: float | None = None
    swap_channels: bool = False
    flip_polarity: bool = False

    @property
    def gain(self) -> float:
        """The factor of the crop, polarity included."""
        gain = 1.0 if self.gain_db is None else 10 ** (self.gain_db / 20)
        return -gain if self.flip_polarity else gain

    def applied(self) -> np.ndarray:
        """Which of ``AUGMENTATIONS`` these are, bool ``[len(AUGMENTATIONS)]``."""
        values = (
            self.gain_db, self.swap_channels or None, self.flip_polarity or None, self.mono or None,
            self.bass_db, self.equaliser_db, self.width_db, self.limit_lufs, self.mix_db,
            self.speed, self.treble_db, self.compress, self.drive,
        )  # fmt: skip
        return np.array([value is not None for value in values])


def draw_changes(config: AugmentationConfig, random: np.random.Generator) -> Changes:
    """The changes of one crop, drawn in this order. What is off draws no random number."""

    def level(decibels: tuple[float, float]) -> float | None:
        return None if decibels == (0.0, 0.0) else random.uniform(*decibels)

    def curve(decibels: float) -> tuple[float, ...] | None:
        return tuple(random.normal(0, decibels, len(OCTAVES))) if decibels else None

    def happens(probability: float) -> bool:
        return probability > 0 and random.random() < probability

    def speed(most: float) -> float | None:
        steps = int(most / SPEED_STEP)
        return 1 + SPEED_STEP * int(random.integers(-steps, steps + 1)) if steps else None

    return Changes(
        mix_db=random.uniform(*MIX_DB) if happens(config.mix) else None,
        speed=speed(config.resample),
        bass_db=level(config.bass_db),
        treble_db=level(config.treble_db),
        equaliser_db=curve(config.equaliser_db),
        width_db=level(config.width_db),
        compress=(
            (random.uniform(*RATIOS), random.uniform(*THRESHOLDS_DB))
            if happens(config.compress)
            else None
        ),
        drive=random.uniform(*DRIVES) if happens(config.saturate) else None,
        limit_lufs=random.uniform(*LOUDNESS) if happens(config.limit) else None,
        mono=happens(config.mono),
        gain_db=level(config.gain_db),
        swap_channels=happens(config.swap_channels),
        flip_polarity=happens(config.flip_polarity),
    )


def samples_to_read(crop_samples: int, config: AugmentationConfig) -> int:
    """Samples that a crop is cut as, so that it is still long enough at the highest speed."""
    if not config.resample:
        return crop_samples
    return math.ceil((crop_samples + 2 * FADED) * (1 + config.resample))


def make_changes(
    audio: Tensor,
    changes: Sequence[Changes],
    sample_rate: int,
    samples: int | None = None,
    added: Tensor | None = None,
) -> Tensor:
    """``[batch, 2, samples]`` float32 with the changes of each item made, where it lies.

    ``audio`` and ``added``, what is mixed with it, are as long as :func:`samples_to_read` says, of
    which ``samples`` are left (None: all). Nothing waits for the device.
    """

    def some(values: Sequence[Any], change: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """``change(items, values)`` of the items whose value is not None; values come as
        ``[items, values of each, 1]``."""
        chosen = [number for number, value in enumerate(values) if value is not None]
        if not chosen:
            return audio
        given = torch.tensor([values[number] for number in chosen], dtype=torch.float32)
        given = to_device(given.reshape(len(chosen), -1, 1), audio.device)
        if len(chosen) == len(audio):
            return change(audio, given)
        index = to_device(torch.tensor(chosen), audio.device)
        return audio.index_copy(0, index, change(audio[index], given))

    if added is not None:
        gains = [0.0 if c.mix_db is None else 10 ** (c.mix_db / 20) for c in changes]
        audio = mix(audio, added, to_device(torch.tensor(gains)[:, None, None], audio.device))
    if samples is not None and audio.shape[-1] > samples:
        audio = at_speeds(audio, [c.speed or 1.0 for c in changes], samples)
    flat = (0.0,) * len(OCTAVES)
    curves = [
        None
        if c.bass_db is c.treble_db is c.equaliser_db is None
        else (
            *(10 ** ((db or 0) / 20) - 1 for db in (c.bass_db, c.treble_db)),
            *(c.equaliser_db or flat),
        )
        for c in changes
    ]
    audio = some(curves, lambda a, db: equalise(a, db[:, 2:, 0], sample_rate, db[:, 0], db[:, 1]))
    audio = some([c.width_db for c in changes], widen)
    audio = some(
        [c.compress for c in changes],
        lambda a, how: compress(a, how[:, :1], how[:, 1:], sample_rate),
    )
    audio = some([c.drive for c in changes], saturate)
    audio = some([c.limit_lufs for c in changes], lambda a, lufs: limit(a, lufs, sample_rate))
    audio = some([c.mono or None for c in changes], lambda a, _: a.mean(1, True).expand_as(a))
    audio = some([None if c.gain == 1 else c.gain for c in changes], torch.mul)
    return some([c.swap_channels or None for c in changes], lambda a, _: a.flip(1))


def mix(audio: Tensor, added: Tensor, gains: Tensor) -> Tensor:
    """``[batch, 2, samples]`` and ``added``, at ``gains`` ``[batch, 1, 1]`` of the same RMS; the
    sum of two unlike ones has the RMS of the first."""

    def rms(sound: Tensor) -> Tensor:
        return sound.square().mean(dim=(1, 2), keepdim=True).sqrt()

    return (audio + added * (gains * rms(audio) / (rms(added) + 1e-9))) / (1 + gains**2).sqrt()


def at_speeds(audio: Tensor, speeds: Sequence[float], samples: int) -> Tensor:
    """The first ``[batch, 2, samples]`` of each item played at its speed, with its pitch.

    Resampled in the spectrum: above half the rate nothing is left, and an item at less than
    speed 1 has nothing up there. All begin ``FADED`` samples late, the ends being faded.
    """
    out = torch.empty_like(audio[..., :samples])
    length = samples + 2 * FADED
    for speed in sorted(set(speeds)):
        chosen = [number for number, own in enumerate(speeds) if own == speed]
        index = to_device(torch.tensor(chosen), audio.device)
        source = round(length * speed)
        fade = torch.linspace(0, torch.pi / 2, int(FADED * speed), device=audio.device).sin()
        item = audio[index, :, :source]
        item[..., : len(fade)] *= fade
        item[..., source - len(fade) :] *= fade.flip(0)
        item = torch.fft.irfft(torch.fft.rfft(item), n=length)  # its bins up to half the rate
        out.index_copy_(0, index, item[..., FADED : FADED + samples] * (length / source))
    return out


def widen(audio: Tensor, decibels: Tensor) -> Tensor:
    """``[batch, 2, samples]`` with ``decibels`` ``[batch, 1, 1]`` more of Side."""
    middle = audio.mean(dim=1, keepdim=True)
    return middle + 10 ** (decibels / 20) * (audio - middle)


def equalise(
    audio: Tensor,
    decibels: Tensor,
    sample_rate: int,
    bass: Tensor | float = 0.0,
    treble: Tensor | float = 0.0,
) -> Tensor:
    """Gains ``[batch, len(OCTAVES)]`` in dB at OCTAVES on audio ``[batch, 2, samples]``, linear
    between them over the octaves; and first-order shelves: ``bass`` ``[batch, 1]`` is by how much
    the gain at 0 Hz exceeds 1, ``treble`` that far above TREBLE_CORNER. Zero-phase, in the
    spectrum."""
    samples = audio.shape[-1]
    frequency = torch.fft.rfftfreq(samples, 1 / sample_rate, device=audio.device)
    place = (frequency.clamp_min(OCTAVES[0]) / OCTAVES[0]).log2().clamp_max(len(OCTAVES) - 1)
    below = place.long().clamp_max(len(OCTAVES) - 2)
    gain = torch.lerp(decibels[:, below], decibels[:, below + 1], (place - below)[None])
    low = 1 / (1 + (frequency / BASS_CORNER) ** 2)  # share of the band below the corner
    high = 1 - 1 / (1 + (frequency / TREBLE_CORNER) ** 2)
    factor = 10 ** (gain / 20) * (1 + bass * low) * (1 + treble * high)
    return torch.fft.irfft(torch.fft.rfft(audio) * factor[:, None], n=samples)


def compress(
    audio: Tensor, ratio: Tensor | float, threshold_db: Tensor | float, sample_rate: int
) -> Tensor:
    """Turn ``[batch, 2, samples]`` down, both channels alike, where its level of
    ``LEVEL_SECONDS`` is above the threshold, in dB over the level of all of it: of each dB there
    above, 1 / ``ratio`` is left. ``ratio`` 1 leaves it as it is.
    """
    hop = round(LEVEL_SECONDS * sample_rate)
    power = F.avg_pool1d(audio.square().mean(dim=1, keepdim=True), hop, hop, ceil_mode=True)
    power = F.avg_pool1d(power, 5, 1, 2, count_include_pad=False)  # attack and release
    whole = audio.square().mean(dim=(1, 2), keepdim=True)
    above = 10 * ((power + 1e-12) / (whole + 1e-12)).log10() - threshold_db
    gain_db = (1 / ratio - 1) * above.clamp_min(0)
    return audio * _stretched(10 ** (gain_db / 20), hop, audio.shape[-1])


def saturate(audio: Tensor, drive: Tensor | float) -> Tensor:
    """Bend ``[batch, 2, samples]`` by tanh, as far as ``drive`` (of its RMS, 1 bends much), at the
    level it had; at twice the rate, so that what it adds above half of that does not fold back.
    """
    samples = audio.shape[-1]
    rms = audio.square().mean(dim=(1, 2), keepdim=True).sqrt() + 1e-9
    double = torch.fft.irfft(2 * torch.fft.rfft(audio / rms), n=2 * samples)
    bent = torch.fft.rfft(torch.tanh(double * drive))[..., : samples // 2 + 1] / 2
    bent = torch.fft.irfft(bent, n=samples)
    return bent * rms / (bent.square().mean(dim=(1, 2), keepdim=True).sqrt() + 1e-9)


def limit(audio: Tensor, loudness: Tensor | float, sample_rate: int) -> Tensor:
    """Bring ``[batch, 2, samples]`` to a loudness, in LUFS, with no sample above ``CEILING``.

    A limiter that looks ahead, both channels alike. What it takes away is made up for twice, so
    it comes close; silence is amplified by at most ``MOST_GAIN_DB``.
    """
    weights = _k_weights(audio.shape[-1], sample_rate, audio.device)
    gain_db = torch.zeros_like(audio[:, :1, :1])
    out = audio
    for _ in range(3):
        gain_db = (gain_db + loudness - _loudness(out, weights)).clamp_max(MOST_GAIN_DB)
        out = _below_ceiling(audio * 10 ** (gain_db / 20))
    return out


def lufs(audio: Tensor, sample_rate: int) -> Tensor:
    """Loudness ``[batch, 1, 1]`` of ``[batch, 2, samples]`` in LUFS after ITU-R BS.1770, without
    its gates, which crops are too short for."""
    return _loudness(audio, _k_weights(audio.shape[-1], sample_rate, audio.device))


def _loudness(audio: Tensor, weights: Tensor) -> Tensor:
    power = torch.fft.rfft(audio).abs().square() * weights
    heard = power.sum(dim=(1, 2), keepdim=True)  # no product of matrices: it rounds by batch size
    return 10 * (heard + 1e-12).log10() - 0.691


def _k_weights(samples: int, sample_rate: int, device: torch.device) -> Tensor:
    """Of each bin's squared magnitude in the K-weighted mean power."""
    turns = torch.fft.rfftfreq(samples, device=device).double()
    z = torch.polar(torch.ones_like(turns), -2 * torch.pi * turns)
    weight = torch.ones_like(turns)
    for (b0, b1, b2), (a0, a1, a2) in k_weighting_sections(sample_rate):
        weight = weight * ((b0 + b1 * z + b2 * z * z) / (a0 + a1 * z + a2 * z * z)).abs().square()
    return (weight * 2 / samples**2).float()


def _below_ceiling(audio: Tensor) -> Tensor:
    """A gain that falls before every peak above ``CEILING`` and rises after it."""
    peaks = F.max_pool1d(
        audio.abs().amax(dim=1, keepdim=True), LIMITER_BLOCK, LIMITER_BLOCK, ceil_mode=True
    )
    gain = (CEILING / peaks.clamp_min(1e-9)).clamp_max(1)
    # The lowest of the blocks around, averaged over one fewer on each side: so the gain between
    # the middles of two blocks is nowhere above what either needs.
    reach = LIMITER_REACH
    gain = -F.max_pool1d(-gain, 2 * reach + 3, 1, reach + 1)
    gain = F.avg_pool1d(gain, 2 * reach + 1, 1, reach, count_include_pad=False)
    return audio * _stretched(gain, LIMITER_BLOCK, audio.shape[-1])


def _stretched(gains: Tensor, block: int, samples: int) -> Tensor:
    """Gains ``[batch, 1, blocks]`` of blocks of samples, for each sample: theirs in the middle of
    a block, linear in between."""
    return F.interpolate(gains, scale_factor=block, mode="linear")[..., :samples]


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """``values`` on ``device``; a copy from the CPU to a GPU is queued and not waited for."""
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
