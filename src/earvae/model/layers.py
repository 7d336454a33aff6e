"""The building blocks of the paper's convolutional stacks (docs/paper.md).

Activation and weight-normalised convolutions under their published parameter names. Every layer
also knows its arithmetic: ``output_length`` and ``input_range`` say, without running it, how long
its output is and which inputs an output depends on. From these the encoder and decoder derive
how much context a chunk of a longer signal needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

NARROW = 16  # input channels below which a strided convolution stays in float32 on a CPU
SNAKE_EPSILON = 1e-9  # the published model's: keeps 1/β finite when log β is very negative


def without_autocast(x: Tensor) -> torch.autocast:
    """A context without autocast on the device of ``x``.

    For what touches audio, latents and the posterior: bfloat16 holds audio to 48 dB only, and a
    log-magnitude or phase loss of audio so rounded has another gradient.
    """
    return torch.autocast(x.device.type, enabled=False)


def full_precision(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)`` outside autocast, in the precision of the layer's own parameters."""
    with without_autocast(x):
        return layer(x.to(next(layer.parameters()).dtype))


class Constants(nn.Module):
    """A module whose buffers and parameters are float32 at least.

    ``half()``, ``bfloat16()`` and ``to(dtype)`` leave them as they are, since eleven bits of a
    transform or of a frequency would be heard; ``double()`` takes them along.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def kept(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            narrow = changed.dtype in (torch.float16, torch.bfloat16)
            return tensor.to(changed.device) if narrow else changed

        return super()._apply(kept, recurse)


class SnakeBeta(Constants):
    """x + sin²(αx) / (β + 1e-9), with α and β per channel, stored as logarithms.

    Any ``[batch, channels, time]``. After BigVGAN (Lee et al. 2023) and Snake (Ziyin et al.
    2020). Under autocast and in a half model the result is float32, as the parameters are: αx
    needs a small absolute error, which eight or eleven bits of a large α or x do not give.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        frequency = self.alpha.exp()[:, None]
        amplitude = 1 / (self.beta.exp()[:, None] + SNAKE_EPSILON)
        return torch.addcmul(x, amplitude, torch.sin(frequency * x).square())

    def output_length(self, length: int) -> int:
        return length

    def input_range(self, first: int, last: int) -> tuple[int, int]:
        return first, last


class _WeightNormConvolution(nn.Module):
    """A convolution whose weight is g·v/‖v‖, the norm taken over all but the first dimension.

    Salimans and Kingma 2016. ``weight_g [n, 1, 1]``, ``weight_v [n, m, kernel]`` and, unless
    ``bias=False``, ``bias`` are the published names; :meth:`fold` replaces the first two by one
    plain ``weight``. Initialised as torch initialises plain convolutions.
    """

    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        first, second = (
            (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        )
        bound = 1 / math.sqrt(second * kernel_size)
        direction = torch.empty(first, second, kernel_size).uniform_(-bound, bound)
        self.weight_g = nn.Parameter(norm_over_first(direction))
        self.weight_v = nn.Parameter(direction)
        self.bias = (
            nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None
        )

    def effective_weight(self) -> Tensor:
        """The plain convolution weight, in the shape of ``weight_v``."""
        if "weight" in self._parameters:
            return self.weight
        wide = torch.promote_types(self.weight_v.dtype, torch.float32)
        length, direction = self.weight_g.to(wide), self.weight_v.to(wide)
        return (direction * (length / norm_over_first(direction))).to(self.weight_v.dtype)

    def fold(self) -> None:
        """Compute the plain weight once and for all; for inference only."""
        if "weight" not in self._parameters:
            plain = self.effective_weight().detach()
            del self.weight_g, self.weight_v
            self.weight = nn.Parameter(plain, requires_grad=False)


class WeightNormConv1d(_WeightNormConvolution):
    """Weight-normalised convolution, ``[batch, in, time]`` to ``[batch, out, time']``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias)
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.effective_weight(), self.bias
        arguments = self.stride, self.padding, self.dilation
        if x.device.type != "cpu" or self.stride == 1 or weight.shape[1] >= NARROW:
            return F.conv1d(x.to(weight.dtype), weight, bias, *arguments)
        # oneDNN's bfloat16 kernels for AMX give noise here, with torch 2.13; a few channels cost
        # nothing in float32 either.
        wide = torch.promote_types(weight.dtype, torch.float32)
        with torch.autocast("cpu", enabled=False):
            bias = bias if bias is None else bias.to(wide)
            return F.conv1d(x.to(wide), weight.to(wide), bias, *arguments).to(weight.dtype)

    def output_length(self, length: int) -> int:
        reach = self.dilation * (self.kernel_size - 1)
        return (length + 2 * self.padding - reach - 1) // self.stride + 1

    def input_range(self, first: int, last: int) -> tuple[int, int]:
        """First and last input that outputs ``first`` to ``last`` depend on (may be negative)."""
        reach = self.dilation * (self.kernel_size - 1)
        return first * self.stride - self.padding, last * self.stride - self.padding + reach


class WeightNormConvTranspose1d(_WeightNormConvolution):
    """Weight-normalised transposed convolution, ``[batch, in, time]`` to ``[batch, out, time']``.

    The norm is per *input* channel, as the first dimension of its weight is the input's.
    """

    transposed = True

    def forward(self, x: Tensor) -> Tensor:
        weight = self.effective_weight()
        return F.conv_transpose1d(x.to(weight.dtype), weight, self.bias, self.stride, self.padding)

    def output_length(self, length: int) -> int:
        return (length - 1) * self.stride - 2 * self.padding + self.kernel_size

    def input_range(self, first: int, last: int) -> tuple[int, int]:
        """First and last input that outputs ``first`` to ``last`` depend on (may be negative)."""
        earliest = first + self.padding - self.kernel_size + 1
        return -(-earliest // self.stride), (last + self.padding) // self.stride


class Chain(nn.Module):
    """Layers one after another, under the published attribute name ``layers``."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def output_length(self, length: int) -> int:
        """Length of the output for an input of ``length``."""
        for layer in self.layers:
            length = layer.output_length(length)
        return length

    def input_range(self, first: int, last: int) -> tuple[int, int]:
        """First and last input that outputs ``first`` to ``last`` depend on.

        Exact for inputs far from both ends; positions outside the signal are its zero padding.
        """
        for layer in reversed(self.layers):
            first, last = layer.input_range(first, last)
        return first, last


def check_signal(signal: Tensor, name: str, channels: int, unit: str, values: bool) -> None:
    """Raise ValueError unless ``signal`` is ``[batch, channels, n]`` of floating point and holds
    something; with ``values``, which waits for the device, also unless all of it is finite."""
    shape = list(signal.shape) if isinstance(signal, Tensor) else type(signal).__name__
    if not isinstance(signal, Tensor) or signal.ndim != 3 or signal.shape[1] != channels:
        raise ValueError(f"{name} must be [batch, {channels}, {unit}], got {shape}")
    if signal.numel() == 0:
        raise ValueError(f"{name}: there are no {unit} in {shape}")
    if not signal.is_floating_point():
        scale = ""
        if name == "audio" and signal.dtype in (torch.int16, torch.int32):
            scale = f"; divide by {torch.iinfo(signal.dtype).max + 1} for a full scale of ±1"
        raise ValueError(f"{name} must be floating point, got {signal.dtype}{scale}")
    if values and not torch.compiler.is_compiling() and not signal.isfinite().all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")


def norm_over_first(weight: Tensor) -> Tensor:
    """Euclidean norm of each slice along the first dimension, ``[n, m, k]`` to ``[n, 1, 1]``."""
    return torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)


def fold_weight_norm(module: nn.Module) -> nn.Module:
    """Replace weight normalisation by plain weights everywhere in ``module``, in place.

    For inference: saves the normalisation at every call. Afterwards the state dict holds
    ``weight`` in place of the norm and the direction. Returns ``module``.
    """
    for child in list(module.modules()):
        if isinstance(child, _WeightNormConvolution):
            child.fold()
        elif is_parametrized(child, "weight"):  # torch's own, as εar-VAE2 has it
            # Not remove_parametrizations: a copy of a module shares its class with the original,
            # and that function changes the class.
            plain, kind = child.weight.detach(), type_before_parametrizations(child)
            del child.parametrizations
            child.__class__ = kind
            child.weight = nn.Parameter(plain, requires_grad=False)
    return module
