"""Short-time spectra of long signals, block by block, so that memory does not grow with length.

The frames are those of a centred STFT of the whole signal (periodic Hann window, hop of a
quarter, ends reflected): frame f has its centre at sample f * hop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

BLOCK = 32_768  # samples; a multiple of every hop, small enough for the processor's caches

Pair = tuple[Tensor, Tensor]
"""Reconstruction and target, ``[..., samples]`` each."""

Filter = Callable[[Pair, int, int], Tensor]
"""``(pair, start, end)`` to the filtered samples from start to end, within the signals, of both:
``[2, ..., end - start]``."""


def unfiltered(pair: Pair, start: int, end: int) -> Tensor:
    """The samples as they are."""
    return torch.stack([audio[..., start:end] for audio in pair]).float()


class Block:
    """A stretch of both signals and the spectra of the frames whose centres lie in it.

    Args:
        pair: the whole signals.
        start: sample of the first centre.
        margin: half the longest window, samples.
        filtered: the filter that the signal passes ahead of the transform.
    """

    def __init__(self, pair: Pair, start: int, margin: int, filtered: Filter) -> None:
        self.margin = margin
        self.span = min(BLOCK, pair[0].shape[-1] + 1 - start)  # a frame may be centred on the end
        end = min(start + self.span, pair[0].shape[-1]) + margin
        self.audio = _reflected(pair, start - margin, end, filtered)

    def spectrum(self, length: int) -> Tensor:
        """Complex ``[2, ..., frames, length / 2 + 1]`` for a window of ``length`` samples."""
        hop = length // 4
        frames = -(-self.span // hop)
        first = self.margin - length // 2
        audio = self.audio[..., first : first + (frames - 1) * hop + length]
        window = torch.hann_window(length, dtype=audio.dtype, device=audio.device)
        return torch.fft.rfft(audio.unfold(-1, length, hop) * window)


def blocks(pair: Pair, longest: int, filtered: Filter = unfiltered) -> Iterator[Block]:
    """All blocks of the signals for windows of up to ``longest`` samples.

    Raises ValueError where the signals are too short to be reflected by half a window.
    """
    samples, margin = pair[0].shape[-1], longest // 2
    if samples <= margin:
        raise ValueError(f"a signal of {samples} samples is too short: the metrics need "
                         f"at least {margin + 1}")  # fmt: skip
    for start in range(0, samples + 1, BLOCK):
        yield Block(pair, start, margin, filtered)


def _reflected(pair: Pair, start: int, end: int, filtered: Filter) -> Tensor:
    """Filtered samples from start to end, mirrored about the first and the last sample."""
    samples = pair[0].shape[-1]
    before, after = max(0, -start), max(0, end - samples)
    low = max(0, min(start, samples - 1 - after))
    high = min(samples, max(end, before + 1))
    inner = filtered(pair, low, high)
    if before or after:
        rows = inner.reshape(1, -1, high - low)
        rows = torch.nn.functional.pad(rows, (before, after), mode="reflect")
        inner = rows.reshape(*inner.shape[:-1], -1)
    first = start - (low - before)
    return inner[..., first : first + end - start]
