"""One short-time spectrum per signal and resolution, shared by every term of the objective."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Spectra(NamedTuple):
    """Spectra of a reconstruction and its target, complex [batch, channels, frames, bins]."""

    reconstruction: Tensor
    target: Tensor


class STFT(nn.Module):
    """Short-time Fourier transform: periodic Hann window, hop of a quarter of the window.

    Frames are valid ones: each lies within the signal, which is padded with zeros only at its
    end, up to a whole number of hops (and to one window at least). A training crop has no
    outside to reflect, and the model's own output is least reliable at the crop's two ends,
    which valid frames weigh least.

    The window is scaled to unit energy, so white noise of RMS r has E|X|^2 = r^2 in every bin
    at every resolution, and one magnitude floor serves all of them.

    Args:
        length: window and FFT length in samples, a multiple of 4.

    Shapes: audio [..., samples] -> complex [..., frames, length / 2 + 1].
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.hop = length // 4
        window = torch.hann_window(length, dtype=torch.float64)
        self.register_buffer("window", window / window.square().sum().sqrt(), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        samples = audio.shape[-1]
        hops = max(4, -(-samples // self.hop))
        audio = nn.functional.pad(audio, (0, hops * self.hop - samples))
        hop = audio.unflatten(-1, (hops, self.hop))
        # four shifted views side by side: the gradient is four additions, not a scatter
        frames = torch.cat([hop[..., i : hops - 3 + i, :] for i in range(4)], dim=-1)
        return torch.fft.rfft(frames * self.window.to(audio.dtype))


def mid_side(spectrum: Tensor) -> Tensor:
    """Mid and Side, (L + R)/sqrt 2 and (L - R)/sqrt 2, of [batch, 2, ...]; the same shape.

    The STFT is linear, so this is the STFT of the Mid and Side signals.
    """
    left, right = spectrum.unbind(1)
    return torch.stack((left + right, left - right), dim=1) * math.sqrt(0.5)


def select_channels(spectrum: Tensor, channels: str) -> Tensor:
    """Mid/Side/Left/Right spectra from Left/Right ones.

    Args:
        spectrum: [batch, 2, ...], Left and Right.
        channels: "lr", "ms" or "mslr".
    Returns: [batch, len(channels), ...] in the order named.
    """
    if channels == "lr":
        return spectrum
    if channels == "ms":
        return mid_side(spectrum)
    return torch.cat((mid_side(spectrum), spectrum), dim=1)


def power(spectrum: Tensor) -> Tensor:
    """|X|^2, real, without the square root whose gradient is infinite at 0."""
    return spectrum.real.square() + spectrum.imag.square()


def unit(spectrum: Tensor) -> Tensor:
    """X / |X|, and 0 with a finite gradient where X is 0."""
    magnitude = power(spectrum).clamp(min=1e-24).rsqrt()
    return spectrum * magnitude
