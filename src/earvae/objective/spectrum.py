"""One short-time spectrum per signal and resolution, shared by every term of the objective.

A term sees spectra as planes of real and imaginary parts. With X = |X| e^(j phi), it gives its
value and its slope: the derivative with respect to log |X| (``radial``) or phi (``angular``) of
every bin of the reconstruction. The caller weights and adds the slopes, and ``gradient`` turns
the sum into the gradient with respect to X. So each term stays a formula of a few lines, and all
of them share one pass back through the transform.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Planes(NamedTuple):
    """Spectra of a channel pair as real planes, each contiguous [batch, 2, frames, bins]."""

    real: Tensor
    imag: Tensor
    power: Tensor
    """|X|^2 + floor^2, for the floor given to ``planes``: never 0."""


class Term(NamedTuple):
    """One term of the objective: plain mathematics, without its weight in the sum.

    The slope is ``scale * plane``. The two are kept apart so that the caller, who multiplies by
    a weight and adds, passes over the plane once.
    """

    value: Tensor
    """Per item, [batch]."""
    plane: Tensor
    """[batch, channels, frames, bins]."""
    scale: Tensor
    """[batch] or [batch, channels]."""

    def slope_scale(self, weight: Tensor) -> Tensor:
        """``weight * scale``, shaped to multiply ``plane``."""
        scale = weight * self.scale
        return scale.reshape(*scale.shape, *(1,) * (self.plane.ndim - scale.ndim))


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


def planes(spectrum: Tensor, floor: float) -> Planes:
    """Planes of a complex spectrum [batch, 2, frames, bins], or of its real view [..., 2]."""
    view = torch.view_as_real(spectrum) if spectrum.is_complex() else spectrum
    real, imag = (part.contiguous() for part in view.unbind(-1))
    return Planes(real, imag, _power(real, imag, floor))


def sum_difference(pair: Planes, floor: float) -> Planes:
    """L + R and L - R from L and R: Mid and Side times sqrt 2, by linearity of the transform."""
    real, imag = _sum_difference(pair.real), _sum_difference(pair.imag)
    return Planes(real, imag, _power(real, imag, floor))


def gradient(ours: Planes, radial: Tensor | None, angular: Tensor | None) -> Planes:
    """The gradient with respect to X, as planes, from those by log magnitude and by phase.

    d log X = d log|X| + j d phi, hence (radial + j angular) X / |X|^2. Bins below the floor
    get less, down to none at X = 0. The third plane is the reconstruction's power.
    """
    if radial is None:
        radial = torch.zeros_like(ours.power)
    radial = radial / ours.power
    real, imag = radial * ours.real, radial * ours.imag
    if angular is not None:
        angular = angular / ours.power
        real.addcmul_(angular, ours.imag, value=-1)
        imag.addcmul_(angular, ours.real)
    return Planes(real, imag, ours.power)


def add_sum_difference(gradient: Planes, of_sums: Planes) -> None:
    """Adds the gradient with respect to L + R and L - R to that with respect to L and R."""
    for total, part in ((gradient.real, of_sums.real), (gradient.imag, of_sums.imag)):
        total += _sum_difference(part)


def _sum_difference(pair: Tensor) -> Tensor:
    left, right = pair.unbind(1)
    both = torch.empty_like(pair)
    torch.add(left, right, out=both[:, 0])
    torch.sub(left, right, out=both[:, 1])
    return both


def _power(real: Tensor, imag: Tensor, floor: float) -> Tensor:
    return (real * real).addcmul_(imag, imag).add_(floor**2)
