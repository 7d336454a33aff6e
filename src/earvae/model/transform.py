"""The fixed transform of the compact architecture: MDCTs in M/S.

The MDCT (Princen, Johnson, Bradley 1987; sine window) is written as what it is: an orthogonal
rotation of the samples around every block boundary, then a DCT-IV of every block. At the two
ends of a signal there is nothing to rotate with, so nothing is rotated. n·N samples therefore
give exactly n blocks, without padding, and the inverse returns exactly those samples.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earvae.model.layers import Constants

OVERLAP = 4  # short bins below the split that hold the lower slope of what is above


def mid_side(x: Tensor, dim: int = 1) -> Tensor:
    """L/R to M/S and back, the two halves of ``dim``: M = (L+R)/√2, S = (L−R)/√2 (orthonormal)."""
    left, right = x.chunk(2, dim)
    return torch.cat([left + right, left - right], dim) * math.sqrt(0.5)


class MDCT(Constants):
    """Orthonormal lapped transform, blocks of an even number of samples, sine window of 2·block.

    A block depends on half a block beyond each of its ends, and on nothing else. Of its bins only
    those ``kept`` are computed, and the others taken as zero.
    """

    def __init__(self, block: int, kept: slice = slice(None)) -> None:
        super().__init__()
        self.block = block
        self.first, self.bins = range(block)[kept].start, len(range(block)[kept])
        n = torch.arange(block, dtype=torch.float64) + 0.5
        dct = math.sqrt(2 / block) * torch.cos(math.pi / block * n[:, None] * n[None, :])
        angle = math.pi / (2 * block) * (block / 2 + n[: block // 2])
        # Not persistent: derived from the block length, so a checkpoint need not carry them.
        dct = dct[:, kept].float()  # of all bins, symmetric and its own inverse
        self.register_buffer("dct", dct, persistent=False)
        self.register_buffer("own", torch.sin(angle).float(), persistent=False)
        self.register_buffer("other", torch.cos(angle).float(), persistent=False)

    def _rotate(self, blocks: Tensor, sign: float) -> Tensor:
        """Rotate the mirrored sample pairs around every inner block boundary."""
        half = self.block // 2
        before = blocks[..., :-1, half:].flip(-1)  # distance from the boundary, going back
        after = blocks[..., 1:, :half]
        new_before = self.own * before - sign * self.other * after
        new_after = self.own * after + sign * self.other * before
        last = torch.cat([new_before.flip(-1), blocks[..., -1:, half:]], dim=-2)
        first = torch.cat([blocks[..., :1, :half], new_after], dim=-2)
        return torch.cat([first, last], dim=-1)

    def forward(self, audio: Tensor) -> Tensor:
        """``[..., n·block]`` samples to ``[..., n, bins]`` coefficients."""
        blocks = audio.unflatten(-1, (-1, self.block))
        return self._rotate(blocks, 1.0) @ self.dct

    def inverse(self, coefficients: Tensor) -> Tensor:
        """``[..., n, bins]`` coefficients to ``[..., n·block]`` samples."""
        return self._rotate(coefficients @ self.dct.T, -1.0).flatten(-2)


class TwoResolutions(nn.Module):
    """Stereo audio to frames of M/S MDCT coefficients, finer in frequency below ``split_hz`` and
    in time above, and back.

    Below, where partials stand apart, the blocks are as long as the hop. What these leave is
    treble, where it matters more when something sounds; it has blocks of ``short_length``. A frame
    holds first Mid, then Side; within a channel the bins of the long block from low to high, then
    the short blocks one after the other. At the split the short bins overlap the long ones by
    OVERLAP bins, and what little the treble has below them is lost (of music as a whole, 50 dB
    below it at least).
    """

    def __init__(
        self, hop_length: int, short_length: int, split_hz: float, sample_rate: int
    ) -> None:
        super().__init__()
        top = sample_rate / 2
        long_bins = min(max(1, round(split_hz / top * hop_length)), hop_length)
        first = int(split_hz / top * short_length) - OVERLAP
        self.long = MDCT(hop_length, slice(long_bins))
        self.short = MDCT(short_length, slice(min(max(first, 0), short_length - 1), None))
        self.blocks = hop_length // short_length  # short ones in a frame
        self.sections = [long_bins, self.blocks * self.short.bins]  # of a channel
        self.features = 2 * sum(self.sections)
        self.context_frames = 2  # how far a frame's coefficients reach

    @property
    def dtype(self) -> torch.dtype:
        """Precision that it computes in: float32, or float64 in a model of that."""
        return self.long.dct.dtype

    def forward(self, audio: Tensor) -> Tensor:
        """``[batch, 2, frames·hop]`` audio to ``[batch, frames, features]``."""
        audio = mid_side(audio)
        low = self.long(audio)  # [batch, 2, frames, bins]
        treble = audio - self.long.inverse(low)
        high = self.short(treble).unflatten(2, (-1, self.blocks)).flatten(3)
        return torch.cat([low, high], dim=3).transpose(1, 2).flatten(2)

    def inverse(self, frames: Tensor) -> Tensor:
        """``[batch, frames, features]`` to ``[batch, 2, frames·hop]`` audio."""
        low, high = frames.unflatten(2, (2, -1)).transpose(1, 2).split(self.sections, dim=3)
        high = high.unflatten(3, (self.blocks, -1)).flatten(2, 3)
        return mid_side(self.long.inverse(low) + self.short.inverse(high))

    def long_of(self, frames: Tensor) -> Tensor:
        """The long blocks' bins alone, ``[..., features]`` to ``[..., 2·bins]``."""
        return frames.unflatten(-1, (2, -1))[..., : self.long.bins].flatten(-2)

    def frames_of_long(self, long: Tensor) -> Tensor:
        """Frames ``[..., features]`` of the long blocks' bins ``[..., 2·bins]`` and no treble."""
        return F.pad(long.unflatten(-1, (2, -1)), (0, self.sections[1])).flatten(-2)

    def frequencies(self, sample_rate: int) -> Tensor:
        """Centre frequency in Hz of every feature of a frame, ``[features]``."""
        low = _centres(self.long.block, sample_rate)[: self.long.bins]
        high = _centres(self.short.block, sample_rate)[-self.short.bins :]
        return torch.cat([low, high.repeat(self.blocks)]).repeat(2)


def _centres(bins: int, sample_rate: int) -> Tensor:
    """Hz, of the ``bins`` of an MDCT."""
    return (torch.arange(bins) + 0.5) * sample_rate / (2 * bins)
