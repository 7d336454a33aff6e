"""The paper's encoder and decoder for inference on CPUs: the same numbers, fewer operations.

What differs from ``model/oobleck.py``, which stays the definition:

- ``[time, channels]`` in memory, so that every convolution is a few plain matrix products;
- dilated and strided convolutions with 1.3 to 4.4 times fewer multiplications
  (:mod:`~earvae.engine.bilinear`), their weights transformed once, in float64;
- activation, transforms and sums as few passes over rows that fit a core's cache
  (:mod:`~earvae.engine.passes`), time split over threads once per layer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earvae.engine import passes, workers
from earvae.engine.bilinear import SEVEN_TAPS, SEVEN_TAPS_COARSE, TWO_TAPS, Bilinear
from earvae.engine.workers import scratch
from earvae.model.layers import SNAKE_EPSILON, SnakeBeta, WeightNormConv1d, fold_weight_norm
from earvae.model.oobleck import (
    DecoderBlock,
    EncoderBlock,
    OobleckDecoder,
    OobleckEncoder,
    ResidualUnit,
)

# Rows a thread works on at a time: few enough for its cache, many enough to make the products'
# weights, read anew for every stretch, worth reading.
STRETCH = 1 << 18  # values
SHORTEST, LONGEST = 1024, 2048  # rows, however wide or narrow


@dataclass(frozen=True)
class Arithmetic:
    """How the layers multiply: which algorithm for seven taps, and the products' precision."""

    seven_taps: Bilinear
    dtype: torch.dtype = torch.float32


EXACT = Arithmetic(SEVEN_TAPS)
FAST = Arithmetic(SEVEN_TAPS_COARSE, torch.bfloat16)


class Snake(nn.Module):
    """SnakeBeta's two vectors, exponentiated once."""

    alpha: Tensor
    amplitude: Tensor

    def __init__(self, source: SnakeBeta) -> None:
        super().__init__()
        self.register_buffer("alpha", source.alpha.detach().float().exp())
        self.register_buffer("amplitude", 1 / (source.beta.detach().float().exp() + SNAKE_EPSILON))

    def run(self, x: Tensor, first: int, out: Tensor) -> None:
        """Rows ``first`` … of ``x [time, channels]`` into ``out``; zeros beyond its ends."""
        passes.fastest().snake(x, first, self.alpha, self.amplitude, out)


class Convolution(nn.Module):
    """Correlation of rows ``[time, in]`` with ``weight [out, in, taps]``, all steps ``dilation``.

    ``tile`` is the number of outputs it makes at once.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        algorithm: Bilinear,
        dtype: torch.dtype,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.algorithm, self.dilation = algorithm, dilation
        self.tile = algorithm.outputs * dilation
        self.reach = dilation * (algorithm.taps - 1)  # rows of input beyond those of output
        self.register_buffer("weight", _transformed(weight, algorithm).to(dtype))
        self.register_buffer("bias", _bias(bias, len(weight)))

    def input_rows(self, rows: int) -> int:
        """Rows of input that ``rows`` rows of output take: whole tiles."""
        return -(-rows // self.tile) * self.tile + self.reach

    def run(self, h: Tensor, out: Tensor) -> None:
        """``h [input_rows(rows), in]`` to ``out [rows, out]``, float32."""
        products, narrow, wide = self.weight.shape
        tiles = (h.shape[0] - self.reach) // self.algorithm.outputs
        dtype = self.weight.dtype
        factors = scratch("factors", (tiles, products, narrow), dtype)
        passes.fastest().spread(h, self.algorithm, self.dilation, factors)
        result = scratch("result", (products, tiles, wide), dtype)
        torch.bmm(factors.transpose(0, 1), self.weight, out=result)
        passes.fastest().gather(result, self.algorithm, self.dilation, self.bias, out)


class Unit(nn.Module):
    """A residual unit: ``[time, channels]`` to the same."""

    weight: Tensor
    bias: Tensor

    def __init__(self, source: ResidualUnit, arithmetic: Arithmetic) -> None:
        super().__init__()
        before, wide, between, point = source.layers
        self.before, self.between = Snake(before), Snake(between)  # one and the same in the paper
        self.convolution = Convolution(
            wide.effective_weight().detach(),
            wide.bias,
            arithmetic.seven_taps,
            arithmetic.dtype,
            wide.dilation,
        )
        weight = point.effective_weight().detach()[:, :, 0].t()
        self.register_buffer("weight", weight.to(arithmetic.dtype).contiguous())
        self.register_buffer("bias", _bias(point.bias, weight.shape[1]))

    def run(self, x: Tensor, out: Tensor) -> None:
        length, channels = x.shape
        convolution = self.convolution

        def stretch(start: int, stop: int) -> None:
            rows = stop - start
            h = scratch("h", (convolution.input_rows(rows), channels))
            first = start - convolution.reach // 2
            self.before.run(x, first, h)
            y = scratch("y", (rows, channels))
            convolution.run(h, y)
            active = scratch("active", (rows, channels), self.weight.dtype)
            self.between.run(y, 0, active)
            z = scratch("z", (rows, channels), self.weight.dtype)
            torch.mm(active, self.weight, out=z)
            passes.fastest().add(x[start:stop], z, self.bias, out[start:stop])

        workers.run(stretch, _spans(length, channels, convolution.tile))


class Down(nn.Module):
    """Activation and strided convolution: ``[time, in]`` to ``[time / stride, out]``.

    A kernel of two strides is two taps over blocks of a stride's samples.
    """

    def __init__(self, snake: SnakeBeta, source: WeightNormConv1d, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.snake, self.stride, self.padding = Snake(snake), source.stride, source.padding
        self.output_length = source.output_length
        weight = source.effective_weight().detach().unflatten(2, (2, source.stride))
        weight = weight.permute(0, 3, 1, 2).flatten(1, 2)  # [out, stride·in, 2]
        self.convolution = Convolution(weight, source.bias, TWO_TAPS, arithmetic.dtype)

    def run(self, x: Tensor) -> Tensor:
        channels, convolution = x.shape[1] * self.stride, self.convolution
        out = x.new_empty(self.output_length(x.shape[0]), convolution.weight.shape[2])

        def stretch(start: int, stop: int) -> None:
            blocks = convolution.input_rows(stop - start)
            h = scratch("h", (blocks * self.stride, x.shape[1]))
            first = start * self.stride - self.padding
            self.snake.run(x, first, h)
            convolution.run(h.view(blocks, channels), out[start:stop])

        workers.run(stretch, _spans(out.shape[0], channels, convolution.tile))
        return out


class Up(nn.Module):
    """Activation and transposed convolution: ``[time, in]`` to ``[time · stride, out]``.

    Every block of a stride's outputs comes from two neighbouring inputs.
    """

    def __init__(self, snake: SnakeBeta, source: nn.Module, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.snake, self.stride, self.padding = Snake(snake), source.stride, source.padding
        weight = source.effective_weight().detach().unflatten(2, (2, source.stride)).flip(2)
        self.channels = weight.shape[1]
        weight = weight.permute(3, 1, 0, 2).flatten(0, 1)  # [stride·out, in, 2]
        bias = None if source.bias is None else source.bias.repeat(self.stride)
        self.convolution = Convolution(weight, bias, TWO_TAPS, arithmetic.dtype)

    def run(self, x: Tensor) -> Tensor:
        convolution = self.convolution
        out = x.new_empty(x.shape[0] + 1, convolution.weight.shape[2])  # all blocks anyone feeds

        def stretch(start: int, stop: int) -> None:
            h = scratch("h", (convolution.input_rows(stop - start), x.shape[1]))
            self.snake.run(x, start - 1, h)
            convolution.run(h, out[start:stop])

        workers.run(stretch, _spans(out.shape[0], out.shape[1], convolution.tile))
        rows = out.view(-1, self.channels)
        return rows[self.padding : rows.shape[0] - self.padding]


class FastStack(nn.Module):
    """What the fast encoder and decoder have in common: the layers between the first and the last.

    A subclass has ``_one``, which takes an item of the batch through them all.
    """

    def __init__(self, source: OobleckEncoder | OobleckDecoder, arithmetic: Arithmetic) -> None:
        super().__init__()
        self.context_frames = source.context_frames
        first, *blocks, snake, last = source.layers
        self.first, self.last = (fold_weight_norm(copy.deepcopy(layer)) for layer in (first, last))
        self.snake = Snake(snake)
        self.layers = nn.ModuleList(_prepared(blocks, arithmetic))

    @torch.inference_mode(False)  # a setting of the thread, and the workers are others
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Float32 ``[batch, channels, time]`` to ``[batch, channels', time']``, as the source."""
        return torch.stack([self._one(item) for item in x.float()])

    def _between(self, x: Tensor) -> Tensor:
        """Rows ``[time, channels]`` through all blocks; two buffers take turns in their units."""
        spare = None
        for layer in self.layers:
            if isinstance(layer, Unit):
                spare = torch.empty_like(x) if spare is None else spare
                layer.run(x, spare)
                x, spare = spare, x
            else:
                x, spare = layer.run(x), None
        return x


class FastEncoder(FastStack):
    """As :class:`earvae.model.oobleck.OobleckEncoder`, from which it is made."""

    def _one(self, audio: Tensor) -> Tensor:
        """``[2, frames·hop]`` to ``[2·latent, frames]``."""
        x = self._between(_narrow_to_wide(self.first, audio))
        h = torch.empty_like(x)
        self.snake.run(x, 0, h)
        return _conv(self.last, h.t())


class FastDecoder(FastStack):
    """As :class:`earvae.model.oobleck.OobleckDecoder`, from which it is made."""

    def __init__(self, source: OobleckDecoder, arithmetic: Arithmetic) -> None:
        super().__init__(source, arithmetic)
        self.tail_deficit = source.tail_deficit

    def _one(self, latents: Tensor) -> Tensor:
        """``[latent, frames]`` to ``[2, frames·hop − tail_deficit]``."""
        x = self._between(_conv(self.first, latents).t().contiguous())
        return _wide_to_narrow(self.snake, self.last, x)


# --------------------------------------------------------------------------- parts


def _prepared(
    blocks: list[EncoderBlock | DecoderBlock], arithmetic: Arithmetic
) -> Iterator[Unit | Down | Up]:
    """The layers of all blocks in their order; an activation goes with its strided convolution."""
    for block in blocks:
        for layer in block.layers:
            if isinstance(layer, ResidualUnit):
                yield Unit(layer, arithmetic)
            elif isinstance(layer, SnakeBeta):
                snake = layer
            else:
                strided = Down if isinstance(layer, WeightNormConv1d) else Up
                yield strided(snake, layer, arithmetic)


def _narrow_to_wide(layer: WeightNormConv1d, audio: Tensor) -> Tensor:
    """A convolution of few channels ``[few, time]`` to rows ``[time, many]``, as one product."""
    taps, padding = layer.kernel_size, layer.padding
    rows = F.pad(audio, (padding, padding)).t().contiguous()  # [time + 2·padding, few]
    few, length = audio.shape
    weight = layer.weight.permute(2, 1, 0).flatten(0, 1)  # [taps·few, many]
    out = audio.new_empty(length, weight.shape[1])

    def stretch(start: int, stop: int) -> None:
        window = rows.as_strided((stop - start, taps * few), (few, 1), start * few)
        torch.addmm(layer.bias, window.contiguous(), weight, out=out[start:stop])

    workers.run(stretch, _spans(length, out.shape[1], 1))
    return out


def _wide_to_narrow(snake: Snake, layer: WeightNormConv1d, x: Tensor) -> Tensor:
    """Activation and a convolution of rows ``[time, many]`` to few channels ``[few, time]``.

    One product gives every tap's contribution; the taps are then summed along the diagonal.
    """
    taps, padding = layer.kernel_size, layer.padding
    few, many, _ = layer.weight.shape
    weight = layer.weight.permute(1, 2, 0).flatten(1)  # [many, taps·few]
    out = x.new_empty(few, x.shape[0])

    def stretch(start: int, stop: int) -> None:
        rows = stop - start
        h = scratch("h", (rows + taps - 1, many))
        snake.run(x, start - padding, h)
        each = torch.mm(h, weight)  # [rows + taps − 1, taps·few]
        diagonal = each.as_strided((rows, taps, few), (taps * few, taps * few + few, 1))
        out[:, start:stop] = diagonal.sum(1).t()

    workers.run(stretch, _spans(x.shape[0], many, 1))
    return out if layer.bias is None else out + layer.bias[:, None]


def _conv(layer: WeightNormConv1d, x: Tensor) -> Tensor:
    """At the latents' rate, where nothing better pays: ``[in, T]`` to ``[out, T]``."""
    out: list[Tensor] = []
    workers.run(lambda start, stop: out.append(layer(x.unsqueeze(0))[0]), [(0, x.shape[1])])
    return out[0]


def _transformed(weight: Tensor, algorithm: Bilinear) -> Tensor:
    """``[out, in, taps]`` to the weights of the products, ``[products, in, out]``, float32.

    Summed in float64, a few input channels at a time so as to need little memory.
    """
    filters = torch.from_numpy(algorithm.filter)
    by_tap = weight.permute(2, 1, 0).contiguous()  # [taps, in, out]
    out = torch.empty(algorithm.products, *by_tap.shape[1:])
    step = max(1, (1 << 20) // by_tap.shape[2])
    for start in range(0, by_tap.shape[1], step):
        some = by_tap[:, start : start + step].double()
        out[:, start : start + step] = torch.tensordot(filters, some, dims=1)
    return out


def _bias(bias: Tensor | None, channels: int) -> Tensor:
    return torch.zeros(channels) if bias is None else bias.detach().float().clone()


def _spans(length: int, channels: int, multiple: int) -> list[tuple[int, int]]:
    longest = min(LONGEST, max(SHORTEST, STRETCH // channels))
    return workers.spans(length, longest, multiple, torch.get_num_threads())
