"""εar-VAE2 for inference: the same numbers, with less moved about in memory.

What differs from ``model/earvae2.py``, which stays the definition and does all but the blocks:

- ``[frames, bins, channels]`` in memory ("channels last"), the order in which the kernels of
  convolutions compute: torch would rearrange every tensor at every call;
- a transposed convolution as a plain one that gives the outputs of a stride side by side;
- activations and sums a few frames at a time, which stay in a core's cache;
- weights normalised, and the activations' logarithms exponentiated, once;
- products in bfloat16, if asked. What goes from block to block, the activations, the ends of both
  networks and the refiner stay in float32.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earvae.engine import passes, workers
from earvae.engine.workers import scratch
from earvae.model.earvae2 import EarVAE2Decoder, EarVAE2Encoder
from earvae.model.layers import SNAKE_EPSILON, fold_weight_norm
from earvae.model.spec_layers import DecoderBlock, EncoderBlock, SpecSnakeBeta

STRETCH = 1 << 18  # values that a thread works on at a time


class FastEncoder(nn.Module):
    """As :class:`earvae.model.earvae2.EarVAE2Encoder`, from which it is made.

    ``dtype`` is that of the blocks' products.
    """

    def __init__(self, source: EarVAE2Encoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.context_frames = source.context_frames
        network = fold_weight_norm(copy.deepcopy(source))
        network.encoder_stream = nn.Sequential(
            *(Down(block, dtype) for block in network.encoder_stream)
        )
        network.post_concat_block = Down(network.post_concat_block, dtype)
        self.network = network.requires_grad_(False)

    @torch.inference_mode(False)  # a setting of the thread, and the workers are others
    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        return self.network(audio)


class FastDecoder(nn.Module):
    """As :class:`earvae.model.earvae2.EarVAE2Decoder`, from which it is made.

    ``dtype`` is that of the blocks' products.
    """

    def __init__(self, source: EarVAE2Decoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.context_frames, self.tail_deficit = source.context_frames, source.tail_deficit
        network = fold_weight_norm(copy.deepcopy(source))
        network.pre_split_block = Up(network.pre_split_block, dtype)
        network.decoder_stream = nn.Sequential(
            *(Up(block, dtype) for block in network.decoder_stream)
        )
        self.network = network.requires_grad_(False)

    @torch.inference_mode(False)
    @torch.no_grad()
    def forward(self, latents: Tensor) -> Tensor:
        return self.network(latents)


# ------------------------------------------------------------------------------------- blocks
# Inside of them spectra are [batch, frames, bins, channels], contiguous.


class Block(nn.Module):
    """What the encoder's and the decoder's blocks have in common."""

    def __init__(self, source: EncoderBlock | DecoderBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.stride = source.stride
        self.before = Snake(source.act, source.conv1.in_channels, dtype)
        self.conv1 = Convolution(source.conv1, dtype)
        self.between = Snake(source.act, source.conv1.out_channels, dtype)
        self.projection = Convolution(source.projection, dtype)


class Down(Block):
    """A block of the encoder, ``[batch, in, frames, bins]`` to ``[batch, out, …]``."""

    def __init__(self, source: EncoderBlock, dtype: torch.dtype) -> None:
        super().__init__(source, dtype)
        self.conv2 = Convolution(source.conv2, dtype)

    def forward(self, x: Tensor) -> Tensor:
        h = channels_last(x)
        y = self.conv2(self.between(self.conv1(self.before(h))))
        if self.stride != (1, 1):
            h = channels_last(F.avg_pool2d(channels_first(h), self.stride))
        return channels_first(y.float() + self.projection(h))


class Up(Block):
    """A block of the decoder, ``[batch, in, frames, bins]`` to ``[batch, out, …]``."""

    def __init__(self, source: DecoderBlock, dtype: torch.dtype) -> None:
        super().__init__(source, dtype)
        self.transposed = Transposed(source.transposed_conv, dtype)

    def forward(self, x: Tensor) -> Tensor:
        h = channels_last(x)
        y = self.transposed(self.between(self.conv1(self.before(h))))
        shortcut = self.projection(h).float().repeat_interleave(self.stride[0], 1)
        return channels_first(self._sum(y, shortcut))

    def _sum(self, y: Tensor, shortcut: Tensor) -> Tensor:
        """``y``, perhaps a view, and ``shortcut`` repeated along the bins; float32."""
        out = y.new_empty(y.shape, dtype=torch.float32)
        wide = y.unflatten(2, (-1, self.stride[1])).flatten(0, 1)  # [rows, bins, stride, channels]
        sums, narrow = out.view(wide.shape), shortcut.flatten(0, 1).unsqueeze(2)

        def stretch(start: int, stop: int) -> None:
            part = sums[start:stop]
            part.copy_(wide[start:stop])
            part.add_(narrow[start:stop])

        workers.run(stretch, _spans(sums))
        return out


class Snake(nn.Module):
    """SpecSnakeBeta's two vectors, exponentiated once, for every value of a frame."""

    alpha: Tensor
    amplitude: Tensor

    def __init__(self, source: SpecSnakeBeta, channels: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        amplitude = 1 / (source.beta.detach().exp() + SNAKE_EPSILON)
        self.register_buffer("alpha", source.alpha.detach().exp().repeat_interleave(channels))
        self.register_buffer("amplitude", amplitude.repeat_interleave(channels))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.empty_like(x, dtype=self.dtype)
        rows, results = x.view(-1, len(self.alpha)), out.view(-1, len(self.alpha))

        def stretch(start: int, stop: int) -> None:
            values = rows[start:stop]
            if values.dtype != torch.float32:
                values = scratch("wide", tuple(values.shape)).copy_(values)
            passes.fastest().snake(values, 0, self.alpha, self.amplitude, results[start:stop])

        workers.run(stretch, _spans(rows))
        return out


class Convolution(nn.Module):
    """A convolution whose weights are in the kernels' order."""

    weight: Tensor
    bias: Tensor

    def __init__(self, source: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.stride, self.padding = source.stride, source.padding
        _keep(self, source.weight, source.bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = channels_first(x.to(self.weight.dtype))
        return channels_last(F.conv2d(x, self.weight, self.bias, self.stride, self.padding))


class Transposed(nn.Module):
    """A transposed convolution: every block of a stride's outputs comes from a few neighbours."""

    weight: Tensor
    bias: Tensor

    def __init__(self, source: nn.ConvTranspose2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.stride = source.stride
        taps = [k // s for k, s in zip(source.kernel_size, self.stride, strict=True)]
        weight = source.weight.unflatten(3, (taps[1], -1)).unflatten(2, (taps[0], -1))
        weight = weight.flip(2, 4).permute(3, 5, 1, 0, 2, 4)  # [stride, stride, out, in, *taps]
        self.outputs = weight.shape[:3]
        bias = source.bias.repeat(self.stride[0] * self.stride[1])
        _keep(self, weight.flatten(0, 2), bias, dtype)
        # `padding` outputs are cut off in front: whole blocks are not computed, others skipped.
        cut = [divmod(p, s) for p, s in zip(source.padding, self.stride, strict=True)]
        self.padding = [n - 1 - blocks for n, (blocks, _) in zip(taps, cut, strict=True)]
        self.skip = [skip for _, skip in cut]

    def forward(self, x: Tensor) -> Tensor:
        frames, bins = (n * s for n, s in zip(x.shape[1:3], self.stride, strict=True))
        y = F.conv2d(channels_first(x), self.weight, self.bias, padding=self.padding)
        y = channels_last(y).unflatten(
            3, self.outputs
        )  # [batch, frames, bins, stride, stride, out]
        y = y.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return y.narrow(1, self.skip[0], frames).narrow(2, self.skip[1], bins)


def channels_last(x: Tensor) -> Tensor:
    """``[batch, channels, frames, bins]`` as ``[batch, frames, bins, channels]``, contiguous."""
    return x.permute(0, 2, 3, 1).contiguous()


def channels_first(x: Tensor) -> Tensor:
    """``[batch, frames, bins, channels]`` as ``[batch, channels, frames, bins]``; not moved."""
    return x.permute(0, 3, 1, 2)


def _keep(module: nn.Module, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
    weight = weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
    module.register_buffer("weight", weight)
    module.register_buffer("bias", bias.detach().to(dtype))


def _spans(rows: Tensor) -> list[tuple[int, int]]:
    longest = max(1, STRETCH * len(rows) // rows.numel())
    return workers.spans(len(rows), longest, 1, torch.get_num_threads())
