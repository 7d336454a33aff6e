"""The paper's convolutional encoder and decoder (docs/paper.md).

The names and the order of the layers are those of published state dicts.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from earvae.config import OobleckConfig
from earvae.model.layers import (
    Chain,
    SnakeBeta,
    WeightNormConv1d,
    WeightNormConvTranspose1d,
    full_precision,
)

DILATIONS = (1, 3, 9)  # one for each residual unit of a block


class ResidualUnit(Chain):
    """Snake, dilated convolution, the same Snake, pointwise convolution; plus identity.

    ``[batch, channels, time]`` to the same. The activation is one module in two places, so a
    state dict holds its parameters twice (``layers.0`` and ``layers.2``). Without
    ``shared_snake`` there are two, under these same names.
    """

    def __init__(self, channels: int, dilation: int, shared_snake: bool) -> None:
        snake = SnakeBeta(channels)
        super().__init__(
            snake,
            WeightNormConv1d(channels, channels, 7, padding=3 * dilation, dilation=dilation),
            snake if shared_snake else SnakeBeta(channels),
            WeightNormConv1d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        # Under autocast and in a half model the sum is of float32, as the activation's parameters
        # are: rounding would add up.
        return x.to(self.layers[0].alpha.dtype) + self.layers(x)


class EncoderBlock(Chain):
    """Three residual units, then a strided convolution to the next width.

    ``[batch, in, time]`` to ``[batch, out, time / stride]``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, shared_snake: bool
    ) -> None:
        super().__init__(
            *(ResidualUnit(in_channels, dilation, shared_snake) for dilation in DILATIONS),
            SnakeBeta(in_channels),
            WeightNormConv1d(
                in_channels, out_channels, 2 * stride, stride=stride, padding=(stride + 1) // 2
            ),
        )


class DecoderBlock(Chain):
    """A transposed convolution to the next width, then three residual units.

    ``[batch, in, time]`` to ``[batch, out, time · stride]``; one sample less for an odd stride.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, shared_snake: bool
    ) -> None:
        super().__init__(
            SnakeBeta(in_channels),
            WeightNormConvTranspose1d(
                in_channels, out_channels, 2 * stride, stride=stride, padding=(stride + 1) // 2
            ),
            *(ResidualUnit(out_channels, dilation, shared_snake) for dilation in DILATIONS),
        )


class Stack(Chain):
    """A whole encoder or decoder. Its first and last convolution are outside autocast.

    Attributes:
        recompute: in training, keep only what goes from layer to layer and compute the rest again
            for the gradient, one block at a time: less memory for a third more arithmetic.
    """

    recompute = False

    def forward(self, x: Tensor) -> Tensor:
        first, *between, last = self.layers
        x = full_precision(first, x)
        for layer in between:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(layer, x, use_reentrant=False)
            else:
                x = layer(x)
        return full_precision(last, x)


class OobleckEncoder(Stack):
    """Audio to posterior parameters: convolutions only.

    Audio ``[batch, 2, frames·hop]`` (full scale ±1) to ``[batch, 2·latent, frames]``: the mean,
    then the scale of each latent.

    Attributes:
        context_frames: frames of audio that a chunk needs on each side for the posterior of the
            frames between them to equal that of the whole signal.
    """

    def __init__(self, config: OobleckConfig) -> None:
        widths = _widths(config)
        super().__init__(
            WeightNormConv1d(config.audio_channels, widths[0], 7, padding=3),
            *(
                EncoderBlock(narrow, wide, stride, config.shared_snake)
                for (narrow, wide), stride in zip(pairwise(widths), config.strides, strict=True)
            ),
            SnakeBeta(widths[-1]),
            WeightNormConv1d(widths[-1], 2 * config.latent_channels, 3, padding=1),
        )
        hop = config.hop_length
        first, last = self.input_range(0, 0)  # samples behind frame 0, whose own are 0 … hop − 1
        self.context_frames = max(_ceil(-first, hop), _ceil(last - (hop - 1), hop))


class OobleckDecoder(Stack):
    """Latents to audio: convolutions only, the encoder mirrored, no final tanh.

    Latents ``[batch, latent, frames]`` to audio ``[batch, 2, frames·hop − tail_deficit]``, which
    may overshoot ±1.

    Attributes:
        context_frames: latent frames that a chunk needs on each side for the audio of the frames
            between them to equal that of the whole sequence.
        tail_deficit: samples that the output ends short of whole frames; odd strides cause it
            (32 for the 48 kHz variant, 0 for the 44.1 kHz model).
    """

    def __init__(self, config: OobleckConfig) -> None:
        widths = _widths(config)[::-1]
        strides = config.strides[::-1]
        super().__init__(
            WeightNormConv1d(config.latent_channels, widths[0], 7, padding=3),
            *(
                DecoderBlock(wide, narrow, stride, config.shared_snake)
                for (wide, narrow), stride in zip(pairwise(widths), strides, strict=True)
            ),
            SnakeBeta(widths[-1]),
            WeightNormConv1d(widths[-1], config.audio_channels, 7, padding=3, bias=False),
        )
        hop = config.hop_length
        self.tail_deficit = hop - self.output_length(1)
        first, last = self.input_range(0, hop - 1)  # frames behind the samples of frame 0
        self.context_frames = max(-first, last)


def _widths(config: OobleckConfig) -> list[int]:
    """Channels ahead of the first block and after each, at audio rate first."""
    return [config.channels, *(config.channels * multiple for multiple in config.multiples)]


def _ceil(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)
