"""Short-time spectra of stereo audio as real planes, and the way back for their gradients."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

CHANNELS = {"lr": slice(0, 2), "ms": slice(2, 4), "mslr": slice(0, 4)}
"""Where the channels Left, Right, Mid and Side lie in ``Planes``."""


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
        window = torch.hann_window(length)
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
    """Spectra as real planes [batch, channels, frames, bins], in the order of ``CHANNELS``."""

    real: Tensor
    imag: Tensor
    power: Tensor
    """|X|^2 + floor^2: never 0."""

    def channels(self, which: str) -> Planes:
        """Views of the channels ``which``, a key of ``CHANNELS``."""
        return Planes(*(plane[:, CHANNELS[which]] for plane in self))


def planes(spectrum: Tensor, floor: float, mid_side: bool) -> Planes:
    """The planes of a spectrum of Left and Right, with those of Mid and Side if ``mid_side``.

    M = (L + R) / sqrt 2 and S = (L - R) / sqrt 2, by linearity of the transform.

    Args:
        spectrum: complex [batch, 2, frames, bins], or its real view [..., 2].
        floor: added to each magnitude, as a root of squares.
    """
    view = torch.view_as_real(spectrum) if spectrum.is_complex() else spectrum
    real, imag = view.unbind(-1)
    if mid_side:
        real, imag = _with_mid_side(real), _with_mid_side(imag)
    else:
        real, imag = real.contiguous(), imag.contiguous()
    return Planes(real, imag, (real * real).addcmul_(imag, imag).add_(floor**2))


def _with_mid_side(left_right: Tensor) -> Tensor:
    left, right = left_right.unbind(1)
    mid, side = (left + right).mul_(0.5**0.5), (left - right).mul_(0.5**0.5)
    return torch.stack((left, right, mid, side), dim=1)


def of_left_right(gradient: Tensor) -> Tensor:
    """A gradient by L and R [batch, 2, ...] from one by L, R, M and S; one by L and R as it is."""
    if gradient.shape[1] == 2:
        return gradient
    left, right, mid, side = gradient.unbind(1)
    left.add_(mid + side, alpha=0.5**0.5)
    right.add_(mid - side, alpha=0.5**0.5)
    return gradient[:, :2]


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in float64 if it is that already, else in float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
