"""Short-time spectra of stereo audio as real planes, and the way back for their gradients."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

SQRT_HALF = 0.5**0.5


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
        window = torch.hann_window(length, device="cpu")  # also where a network has no memory yet
        self.gain = 1 / window.double().square().sum().sqrt().item()
        self.register_buffer("window", window, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        samples = audio.shape[-1]
        hops = max(4, -(-samples // self.hop))
        audio = nn.functional.pad(audio, (0, hops * self.hop - samples))
        hop = audio.unflatten(-1, (hops, self.hop))
        frames = torch.cat([hop[..., i : hops - 3 + i, :] for i in range(4)], dim=-1)
        return torch.fft.rfft(frames.mul_(self._scaled_window(audio.dtype)))

    def _scaled_window(self, dtype: torch.dtype) -> Tensor:
        return self.window.to(dtype) * self.gain

    def adjoint(self, gradient: Tensor, samples: int) -> Tensor:
        """The transpose of ``forward``: a gradient of spectra becomes one of audio.

        Args:
            gradient: complex [..., frames, bins], derivative by the real part + j times that by
                the imaginary part; overwritten.
            samples: length of the audio.
        Returns: [..., samples].
        """
        gradient[..., 1:-1] *= 0.5  # the inverse real FFT counts these bins twice
        frames = torch.fft.irfft(gradient, n=self.length, norm="forward")
        frames.mul_(self._scaled_window(frames.dtype))
        count = frames.shape[-2]
        audio = frames.new_zeros(*frames.shape[:-2], count + 3, self.hop)
        for i, quarter in enumerate(frames.split(self.hop, dim=-1)):
            audio[..., i : i + count, :] += quarter
        return audio.flatten(-2)[..., :samples]


class Planes(NamedTuple):
    """Spectra of a channel pair as real planes, each contiguous [batch, 2, frames, bins]."""

    real: Tensor
    imag: Tensor
    power: Tensor
    """|X|^2 + floor^2 for a floor on the magnitude: never 0."""


def planes(spectrum: Tensor, floor: float) -> Planes:
    """The planes of a spectrum [batch, 2, frames, bins, 2], the real view of a complex one."""
    real, imag = (part.contiguous() for part in spectrum.unbind(-1))
    return Planes(real, imag, _power(real, imag, floor))


def mid_side(pair: Planes, floor: float) -> Planes:
    """(L + R) / sqrt 2 and (L - R) / sqrt 2 from L and R, by linearity of the transform."""
    real, imag = rotated(pair.real), rotated(pair.imag)
    return Planes(real, imag, _power(real, imag, floor))


def rotated(pair: Tensor) -> Tensor:
    """(a + b) / sqrt 2 and (a - b) / sqrt 2 from a and b, [batch, 2, ...]: its own transpose."""
    first, second = pair[:, 0] * SQRT_HALF, pair[:, 1]
    both = torch.empty_like(pair)
    torch.add(first, second, alpha=SQRT_HALF, out=both[:, 0])
    torch.sub(first, second, alpha=SQRT_HALF, out=both[:, 1])
    return both


def gradient(ours: Planes, radial: Tensor | None, angular: Tensor | None) -> tuple[Tensor, Tensor]:
    """The gradient by X, its real and imaginary planes, from those by log |X| and by phase.

    d log X = d log|X| + j d phi, hence (radial + j angular) X / |X|^2. Bins below the floor
    get less, down to none at X = 0. Both slopes are overwritten.
    """
    if radial is None:
        radial = torch.zeros_like(ours.power)
    radial.div_(ours.power)
    real, imag = radial * ours.real, radial.mul_(ours.imag)
    if angular is not None:
        angular.div_(ours.power)
        real.addcmul_(angular, ours.imag, value=-1)
        imag.addcmul_(angular, ours.real)
    return real, imag


def _power(real: Tensor, imag: Tensor, floor: float) -> Tensor:
    return torch.addcmul(real.new_full((), floor**2), real, real).addcmul_(imag, imag)


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in float64 if it is that already, else in float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
