"""The building blocks of εar-VAE2: activations and convolutions over time and frequency.

Everything here works on spectra ``[batch, channels, frames, bins]``. Names of parameters are the
published ones; weight normalisation is torch's own parametrization, whose names they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from earvae.model.layers import SNAKE_EPSILON, Constants, SnakeBeta

Pair = tuple[int, int]  # (time, frequency)
FREQUENCY_FLOOR = 1e-6  # of the first α: the lowest bin is at 0 Hz


class SpecSnakeBeta(Constants):
    """x + sin²(αx) / (β + 1e-9), α and β per frequency bin, stored as logarithms.

    ``[batch, channels, frames, bins]`` to the same; in a half model float32, as
    :class:`~earvae.model.layers.SnakeBeta`. α begins at a bin's frequency over the mean
    of all (arXiv 2608.19843).
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        frequency = torch.arange(bins) / max(1.0, (bins - 1) / 2)
        self.alpha = nn.Parameter((frequency + FREQUENCY_FLOOR).log())
        self.beta = nn.Parameter(torch.zeros(bins))

    def forward(self, x: Tensor) -> Tensor:
        amplitude = 1 / (self.beta.exp() + SNAKE_EPSILON)
        return torch.addcmul(x, amplitude, torch.sin(self.alpha.exp() * x).square())


def conv2d(inputs: int, outputs: int, kernel: Pair, stride: Pair = (1, 1)) -> nn.Module:
    """A weight-normalised convolution that gives 1/stride of the frames and bins it gets."""
    padding = [(k - s) // 2 for k, s in zip(kernel, stride, strict=True)]
    padding[1] = (kernel[1] - 1) // 2
    return weight_norm(nn.Conv2d(inputs, outputs, kernel, stride, padding))


def applied(convolution: nn.Module, x: Tensor) -> Tensor:
    """A convolution in its own precision, which in a half model is not the activations'."""
    return convolution(x.to(convolution.bias.dtype))


def strided_kernel(stride: Pair) -> Pair:
    """Of the convolution that changes the resolution: twice the stride, at least three."""
    time, frequency = stride
    return max(3, 2 * time), max(3, 2 * frequency)


class EncoderBlock(nn.Module):
    """Two convolutions, the second strided, each after the same activation; pooled shortcut.

    ``[batch, inputs, frames, bins]`` to ``[batch, outputs, frames/time, bins/frequency]``.
    """

    def __init__(self, inputs: int, outputs: int, bins: int, stride: Pair = (1, 1)) -> None:
        super().__init__()
        self.stride = stride
        self.act = SpecSnakeBeta(bins)
        self.conv1 = conv2d(inputs, inputs, (3, 3))
        self.conv2 = conv2d(inputs, outputs, strided_kernel(stride), stride)
        self.projection = conv2d(inputs, outputs, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = applied(self.conv2, self.act(applied(self.conv1, self.act(x))))
        if self.stride != (1, 1):
            x = F.avg_pool2d(x, self.stride)
        return y + applied(self.projection, x)

    def input_range(self, first: int, last: int) -> Pair:
        """First and last frame that output frames ``first`` to ``last`` depend on."""
        kernel, stride = strided_kernel(self.stride)[0], self.stride[0]
        before = (kernel - stride) // 2
        return first * stride - before - 1, last * stride - before + kernel - 1 + 1


class DecoderBlock(nn.Module):
    """A convolution, then a transposed one, each after the same activation; repeated shortcut.

    ``[batch, inputs, frames, bins]`` to ``[batch, outputs, frames·time, bins·frequency]``.
    """

    def __init__(self, inputs: int, outputs: int, bins: int, stride: Pair = (1, 1)) -> None:
        super().__init__()
        self.stride = stride
        self.act = SpecSnakeBeta(bins)
        self.conv1 = conv2d(inputs, outputs, (3, 3))
        kernel = strided_kernel(stride)
        self.padding = [(k - s) // 2 for k, s in zip(kernel, stride, strict=True)]
        self.transposed_conv = weight_norm(
            nn.ConvTranspose2d(outputs, outputs, kernel, stride, self.padding)
        )
        self.projection = conv2d(inputs, outputs, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = applied(self.transposed_conv, self.act(applied(self.conv1, self.act(x))))
        shortcut = applied(
            self.projection, x
        )  # a 1×1 convolution before it is repeated: fewer of them
        if self.stride != (1, 1):
            shortcut = F.interpolate(shortcut, scale_factor=self.stride, mode="nearest")
        # An odd stride gives one bin more than it should.
        frames, bins = shortcut.shape[2:]
        return y[:, :, :frames, :bins] + shortcut

    def input_range(self, first: int, last: int) -> Pair:
        """First and last frame that output frames ``first`` to ``last`` depend on."""
        kernel, stride, padding = strided_kernel(self.stride)[0], self.stride[0], self.padding[0]
        return -(-(first + padding - kernel + 1) // stride) - 1, (last + padding) // stride + 1


class Stream(nn.Sequential):
    """Blocks one after another.

    Attributes:
        recompute: in training, keep only what goes from block to block and compute the rest again
            for the gradient, one block at a time: less memory for a third more arithmetic.
    """

    recompute = False

    def forward(self, x: Tensor) -> Tensor:
        again = self.recompute and torch.is_grad_enabled()
        for block in self:
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        return x


class Bottleneck(nn.Module):
    """Two pointwise convolutions over time, each after an activation; convolved shortcut.

    ``[batch, inputs, frames]`` to ``[batch, outputs, frames]``.
    """

    def __init__(self, inputs: int, between: int, outputs: int) -> None:
        super().__init__()
        self.act = SnakeBeta(inputs)
        self.conv1 = weight_norm(nn.Conv1d(inputs, between, 1))
        self.act2 = SnakeBeta(between)
        self.conv2 = weight_norm(nn.Conv1d(between, outputs, 1))
        self.shortcut = weight_norm(nn.Conv1d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = applied(self.conv2, self.act2(applied(self.conv1, self.act(x))))
        return y + applied(self.shortcut, x)


class SpectrumTransform(Constants):
    """The short-time Fourier transform of εar-VAE2, and its inverse, in real numbers.

    Windows of ``2·hop`` samples every ``hop``, periodic Hann. Frame ``t`` covers the samples from
    ``(t − 1)·hop`` to ``(t + 1)·hop``; beyond the ends of the signal there is silence.
    """

    def __init__(self, hop: int) -> None:
        super().__init__()
        self.hop, size = hop, 2 * hop
        n = torch.arange(size, dtype=torch.float64)
        window = 0.5 - 0.5 * torch.cos(2 * torch.pi * n / size)
        angle = 2 * torch.pi / size * ((n[:, None] * n[None, : hop + 1]) % size)
        basis = torch.cat([angle.cos()[:, :hop], -angle.sin()[:, :hop]], 1)
        share = torch.full((hop + 1, 1), 2.0, dtype=torch.float64)
        share[[0, -1]] = 1  # 0 Hz and Nyquist stand for themselves alone
        inverse = torch.cat([angle.cos().T * share, -angle.sin().T * share]) / size
        square = window.square().unflatten(0, (2, hop)).sum(0)
        # Not persistent: they follow from the hop.
        self.register_buffer("analysis", (window[:, None] * basis).float(), persistent=False)
        self.register_buffer("synthesis", (inverse * window).float(), persistent=False)
        self.register_buffer("overlap", square.float(), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """``[batch, n·hop]`` audio to ``[batch, 2, n, hop]``: real and imaginary part of ``n``
        frames without their Nyquist bin."""
        blocks = F.pad(audio, (self.hop, 0)).unflatten(-1, (-1, self.hop))
        spectrum = torch.cat([blocks[:, :-1], blocks[:, 1:]], -1) @ self.analysis
        return spectrum.unflatten(-1, (2, self.hop)).transpose(1, 2)

    def inverse(self, spectrum: Tensor) -> Tensor:
        """``[batch, 2, n, hop + 1]``, with the Nyquist bin, to ``[batch, (n − 1)·hop]`` audio.

        The last ``hop`` samples that the frames reach are left out: only the falling half of one
        window lies over them, and dividing by that makes thousands of nothing.
        """
        blocks = (spectrum.transpose(1, 2).flatten(2) @ self.synthesis).unflatten(-1, (2, self.hop))
        return ((blocks[:, :-1, 1] + blocks[:, 1:, 0]) / self.overlap).flatten(1)


def input_range(layers: Sequence[nn.Module], first: int, last: int) -> Pair:
    """First and last frame that what comes out of ``layers`` depends on."""
    for layer in reversed(layers):
        first, last = layer.input_range(first, last)
    return first, last
