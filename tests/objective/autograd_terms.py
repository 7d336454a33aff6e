"""The spectral terms once more, written with complex numbers for automatic differentiation.

Slow and plain: what the analytic gradients are checked against, by automatic differentiation and
by finite differences, and what ``benchmarks/objective.py`` times the single pass against.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import librosa
import numpy as np
import torch
from torch import Tensor


def stft(audio: Tensor, length: int) -> Tensor:
    """[..., samples] -> [..., frames, bins]; the samples fill whole hops."""
    window = torch.hann_window(length, device=audio.device).to(audio.dtype)
    window = window / window.square().sum().sqrt()
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


@cache
def mel_filters(length: int) -> np.ndarray:
    """Bands as librosa has them at 44.1 kHz, as many of 64, 32, … as have a bin each."""
    for count in (64, 32, 16, 8, 4):
        filters = librosa.filters.mel(sr=44_100, n_fft=length, n_mels=count, dtype=np.float64)
        if filters.any(axis=1).all():
            break
    return filters.astype(np.float32)  # as the objective keeps them


def mel(ours: Tensor, target: Tensor, log_floor: float) -> Tensor:
    filters = torch.from_numpy(mel_filters(2 * (ours.shape[-1] - 1))).to(ours.real).T
    ours, target = ((x.real**2 + x.imag**2 + log_floor**2).sqrt() @ filters for x in (ours, target))
    return (ours.log() - target.log()).abs().mean()


TERMS = (
    "magnitude_linear", "magnitude_log", "magnitude_mel", "correlation_intra",
    "correlation_inter", "instantaneous_frequency", "group_delay",
)  # fmt: skip


class Weighting(NamedTuple):
    """How bins of the phase terms are weighted, and with whose magnitudes."""

    kind: str
    level_floor: float
    epsilon: float  # of the released correlation, for a window of unit energy

    def __call__(self, energy: Tensor) -> Tensor:
        """Weights with mean 1; constant in automatic differentiation."""
        energy = energy.detach()
        if self.kind == "none":
            return torch.ones_like(energy)
        weight = energy if self.kind == "energy" else energy.sqrt()
        floor = self.level_floor**2 if self.kind == "energy" else self.level_floor
        return weight / (weight.mean(dim=(-2, -1), keepdim=True) + floor)

    def incoherence(self, energy: Tensor, cosine: Tensor) -> Tensor:
        if self.kind == "none":
            energy = energy.detach()
            cosine = cosine * energy / (energy + self.epsilon)
        return (self(energy) * (1 - cosine)).mean()


def intra(ours: Tensor, target: Tensor, weighting: Weighting, at: Tensor) -> Tensor:
    cosine = torch.cos(ours.angle() - target.angle())
    return weighting.incoherence(at.abs() * target.abs(), cosine)


def inter(ours: Tensor, target: Tensor, weighting: Weighting, at: Tensor) -> Tensor:
    def between(spectrum: Tensor) -> Tensor:
        return spectrum[:, 0] * spectrum[:, 1].conj()

    energy = (between(at).abs() * between(target).abs()).sqrt()
    cosine = torch.cos(between(ours).angle() - between(target).angle())
    return weighting.incoherence(energy, cosine)


def released_angle(spectrum: Tensor) -> Tensor:
    """In [-pi, pi): a real bin, at 0 Hz or half the rate, has -pi where it is negative."""
    angle = spectrum.angle()
    return torch.where(angle == torch.pi, -angle, angle)


def phase_step(ours: Tensor, target: Tensor, dim: int, weighting: Weighting, wrap: bool) -> Tensor:
    """Instantaneous frequency (dim -2) or group delay (dim -1).

    Wrapped: by products of neighbours. Else as released: the plain difference of the steps.
    """

    def step(spectrum: Tensor) -> Tensor:
        count = spectrum.shape[dim] - 1
        return spectrum.narrow(dim, 1, count) * spectrum.narrow(dim, 0, count).conj()

    if wrap:
        difference = (step(ours) * step(target).conj()).angle()
    else:
        difference = (released_angle(ours) - released_angle(target)).diff(dim=dim)
    return (weighting(step(target).abs()) * difference.abs()).mean()


def terms(audio: Tensor, target: Tensor, config, weights_at=None, names=None) -> dict[str, Tensor]:
    """Every raw term of the config, averaged over its resolutions.

    ``weights_at``: audio whose magnitudes weigh the bins of the correlation terms, if not
    ``audio`` itself; ``names``: only these terms.
    """
    weights_at = audio if weights_at is None else weights_at
    found: dict[str, list[Tensor]] = {}
    for length in config.resolutions:
        spectra = [stft(x, length) for x in (audio, target, weights_at)]
        for name in names or TERMS:
            found.setdefault(name, []).append(term(name, *spectra, config))
    return {name: torch.stack(values).mean() for name, values in found.items()}


def term(name: str, ours: Tensor, target: Tensor, at: Tensor, config) -> Tensor:
    """One raw term of left-right spectra at one resolution."""
    if name.startswith("magnitude"):
        ours, target = (channels(x, config.magnitude_channels) for x in (ours, target))
        if name == "magnitude_mel":
            return mel(ours, target, config.log_floor)
        linear, log = magnitude(ours, target, config.log_floor, config.level_floor)
        return linear if name == "magnitude_linear" else log
    length = 2 * (ours.shape[-1] - 1)
    # the window's energy is 3/8 of its length
    weighting = Weighting(config.phase_weighting, config.level_floor, 1e-8 / (0.375 * length))
    if name == "correlation_inter":
        return inter(ours, target, weighting, at)
    ours, target, at = (channels(x, config.phase_channels) for x in (ours, target, at))
    if name == "correlation_intra":
        return intra(ours, target, weighting, at)
    dim = {"instantaneous_frequency": -2, "group_delay": -1}[name]
    return phase_step(ours, target, dim, weighting, config.phase_wrap)
