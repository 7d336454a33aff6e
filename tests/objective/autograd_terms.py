"""The spectral terms once more, written with complex numbers for automatic differentiation.

Slow and plain: what the analytic gradients are checked against.
"""

from __future__ import annotations

import librosa
import numpy as np
import torch
from torch import Tensor


def stft(audio: Tensor, length: int) -> Tensor:
    """[..., samples] -> [..., frames, bins]; the samples fill whole hops."""
    window = torch.hann_window(length, dtype=torch.float64)
    window = (window / window.square().sum().sqrt()).float().to(audio.dtype)
    flat = audio.reshape(-1, audio.shape[-1])
    spectrum = torch.stft(
        flat, length, length // 4, window=window, center=False, return_complex=True
    )
    return spectrum.transpose(-1, -2).reshape(*audio.shape[:-1], -1, length // 2 + 1)


def channels(left_right: Tensor, which: str) -> Tensor:
    left, right = left_right.unbind(1)
    mid_side = torch.stack((left + right, left - right), dim=1) / 2**0.5
    return {"lr": left_right, "ms": mid_side, "mslr": torch.cat((mid_side, left_right), 1)}[which]


def magnitude(ours: Tensor, target: Tensor, log_floor: float, level_floor: float):
    ours = (ours.real**2 + ours.imag**2 + log_floor**2).sqrt()
    target = (target.real**2 + target.imag**2 + log_floor**2).sqrt()
    level = target.mean(dim=(1, 2, 3), keepdim=True).clamp(min=level_floor)
    return ((ours - target).abs() / level).mean(), (ours.log() - target.log()).abs().mean()


def mel(ours: Tensor, target: Tensor, log_floor: float) -> Tensor:
    """Bands as librosa has them at 44.1 kHz, as many of 64, 32, … as have a bin each."""
    length = 2 * (ours.shape[-1] - 1)
    for count in (64, 32, 16, 8, 4):
        filters = librosa.filters.mel(sr=44_100, n_fft=length, n_mels=count, dtype=np.float64)
        if filters.any(axis=1).all():
            break
    # float32 as the objective keeps them
    filters = torch.from_numpy(filters.astype(np.float32)).to(ours.real.dtype).T
    ours, target = ((x.real**2 + x.imag**2 + log_floor**2).sqrt() @ filters for x in (ours, target))
    return (ours.log() - target.log()).abs().mean()


def intra(ours: Tensor, target: Tensor, level_floor: float) -> Tensor:
    cosine = torch.cos(ours.angle() - target.angle())
    return _incoherence((ours.abs() * target.abs()).detach(), cosine, level_floor)


def inter(ours: Tensor, target: Tensor, level_floor: float) -> Tensor:
    def between(spectrum: Tensor) -> Tensor:
        return spectrum[:, 0] * spectrum[:, 1].conj()

    weight = (between(ours).abs() * between(target).abs()).sqrt().detach()
    cosine = torch.cos(between(ours).angle() - between(target).angle())
    return _incoherence(weight, cosine, level_floor)


def _incoherence(weight: Tensor, cosine: Tensor, level_floor: float) -> Tensor:
    weight = weight / (weight.mean(dim=(-2, -1), keepdim=True) + level_floor**2)
    return (weight * (1 - cosine)).mean()


def phase_step(ours: Tensor, target: Tensor, dim: int, level_floor: float) -> Tensor:
    """Instantaneous frequency (dim -2) or group delay (dim -1), by products of neighbours."""

    def step(spectrum: Tensor) -> Tensor:
        count = spectrum.shape[dim] - 1
        return spectrum.narrow(dim, 1, count) * spectrum.narrow(dim, 0, count).conj()

    weight = step(target).abs()
    weight = weight / (weight.mean(dim=(-2, -1), keepdim=True) + level_floor**2)
    return (weight * (step(ours) * step(target).conj()).angle().abs()).mean()


def terms(audio: Tensor, target: Tensor, config) -> dict[str, Tensor]:
    """Every raw term of the config, averaged over its resolutions."""
    found: dict[str, list[Tensor]] = {}
    for length in config.resolutions:
        ours, theirs = stft(audio, length), stft(target, length)
        linear, log = magnitude(
            channels(ours, config.magnitude_channels),
            channels(theirs, config.magnitude_channels),
            config.log_floor,
            config.level_floor,
        )
        of_phase = [channels(x, config.phase_channels) for x in (ours, theirs)]
        values = {
            "magnitude_linear": linear,
            "magnitude_log": log,
            "magnitude_mel": mel(
                channels(ours, config.magnitude_channels),
                channels(theirs, config.magnitude_channels),
                config.log_floor,
            ),
            "correlation_intra": intra(*of_phase, config.level_floor),
            "correlation_inter": inter(ours, theirs, config.level_floor),
            "instantaneous_frequency": phase_step(*of_phase, -2, config.level_floor),
            "group_delay": phase_step(*of_phase, -1, config.level_floor),
        }
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: torch.stack(values).mean() for name, values in found.items()}
