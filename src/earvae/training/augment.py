"""Random changes of crops (``AugmentationConfig``): drawn one by one, made over a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from earvae.config import AugmentationConfig

AUGMENTATIONS = (
    "gain", "swap_channels", "flip_polarity", "mono", "bass", "equaliser", "width", "limit"
)  # fmt: skip
BASS_CORNER = 150.0  # Hz
OCTAVES = tuple(31.25 * 2**n for n in range(10))  # Hz, at which the equaliser's gains are drawn


@dataclass(frozen=True)
class Changes:
    """What is changed in one crop, in the order in which it is done; the default is nothing."""

    bass_db: float | None = None
    equaliser_db: tuple[float, ...] | None = None  # at OCTAVES
    width_db: float | None = None
    limit_rms: float | None = None  # of full scale
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
        values = (self.gain_db, self.bass_db, self.equaliser_db, self.width_db, self.limit_rms)
        gain, *rest = (value is not None for value in values)
        return np.array([gain, self.swap_channels, self.flip_polarity, self.mono, *rest])


def draw_changes(config: AugmentationConfig, random: np.random.Generator) -> Changes:
    """The changes of one crop, drawn in this order. What is off draws no random number."""

    def level(decibels: tuple[float, float]) -> float | None:
        return None if decibels == (0.0, 0.0) else random.uniform(*decibels)

    def curve(decibels: float) -> tuple[float, ...] | None:
        return tuple(random.normal(0, decibels, len(OCTAVES))) if decibels else None

    def happens(probability: float) -> bool:
        return probability > 0 and random.random() < probability

    return Changes(
        bass_db=level(config.bass_db),
        equaliser_db=curve(config.equaliser_db),
        width_db=level(config.width_db),
        limit_rms=random.uniform(0.2, 0.4) if happens(config.limit) else None,
        mono=happens(config.mono),
        gain_db=level(config.gain_db),
        swap_channels=happens(config.swap_channels),
        flip_polarity=happens(config.flip_polarity),
    )


def make_changes(audio: Tensor, changes: Sequence[Changes], sample_rate: int) -> Tensor:
    """``[batch, 2, samples]`` float32 with the changes of each item made, where it lies.

    Nothing waits for the device.
    """
    rows = [
        [0.0 if c.bass_db is None else 10 ** (c.bass_db / 20) - 1 for c in changes],
        [c.limit_rms or 0.0 for c in changes],  # 0: not limited
        [float(c.mono) for c in changes],
        [c.gain for c in changes],
        [float(c.swap_channels) for c in changes],
        [1.0 if c.width_db is None else 10 ** (c.width_db / 20) for c in changes],
    ]
    on_device = to_device(torch.tensor(rows), audio.device)
    bass, limit, mono, gain, swap, width = on_device[:, :, None, None]  # each [batch, 1, 1]
    if any(rows[0]):
        audio = bass_shelf(audio, bass, sample_rate)
    if any(c.equaliser_db for c in changes):
        flat = (0.0,) * len(OCTAVES)
        curves = torch.tensor([c.equaliser_db or flat for c in changes], dtype=torch.float32)
        audio = equalise(audio, to_device(curves, audio.device), sample_rate)
    if any(factor != 1 for factor in rows[5]):
        middle = audio.mean(dim=1, keepdim=True)
        audio = middle + width * (audio - middle)
    if any(rows[1]):
        audio = torch.where(limit > 0, soft_limit(audio, limit), audio)
    if any(rows[2]):
        audio = torch.where(mono > 0, audio.mean(dim=1, keepdim=True), audio)
    if any(factor != 1 for factor in rows[3]):
        audio = audio * gain
    if any(rows[4]):
        audio = torch.where(swap > 0, audio.flip(1), audio)
    return audio


def bass_shelf(audio: Tensor, extra: Tensor | float, sample_rate: int) -> Tensor:
    """A first-order low shelf below ``BASS_CORNER``, zero-phase, in the spectrum.

    ``extra`` is how much the gain at 0 Hz exceeds 1.
    """
    samples = audio.shape[-1]
    frequency = torch.fft.rfftfreq(samples, 1 / sample_rate, device=audio.device)
    low = 1 / (1 + (frequency / BASS_CORNER) ** 2)  # share of the band below the corner
    return torch.fft.irfft(torch.fft.rfft(audio) * (1 + extra * low), n=samples)


def equalise(audio: Tensor, decibels: Tensor, sample_rate: int) -> Tensor:
    """Gains ``[batch, len(OCTAVES)]`` in dB at OCTAVES on audio ``[batch, 2, samples]``, linear
    between them over the octaves, zero-phase, in the spectrum."""
    samples = audio.shape[-1]
    frequency = torch.fft.rfftfreq(samples, 1 / sample_rate, device=audio.device)
    place = (frequency.clamp_min(OCTAVES[0]) / OCTAVES[0]).log2().clamp_max(len(OCTAVES) - 1)
    below = place.long().clamp_max(len(OCTAVES) - 2)
    gain = torch.lerp(decibels[:, below], decibels[:, below + 1], (place - below)[None])
    factor = (10 ** (gain / 20))[:, None]  # [batch, 1, bins]
    return torch.fft.irfft(torch.fft.rfft(audio) * factor, n=samples)


def soft_limit(audio: Tensor, target_rms: Tensor | float) -> Tensor:
    """Amplify ``[..., 2, samples]`` to ``target_rms`` (of full scale) and saturate smoothly below
    ±1, as loud masters are.
    """
    rms = audio.square().mean(dim=(-2, -1), keepdim=True).sqrt() + 1e-9
    return torch.tanh(audio * (target_rms / rms))


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """``values`` on ``device``; a copy from the CPU to a GPU is queued and not waited for."""
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
