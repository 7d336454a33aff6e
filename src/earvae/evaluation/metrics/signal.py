"""One version of a stretch of music, as metrics take it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TypeVar

import torch
from torch import Tensor

HOP = 1024  # samples, of a codec that does not tell

Result = TypeVar("Result")


class Signal:
    """Audio, and what has been computed of it alone, so that many comparisons with one target
    analyse the target once.

    Args:
        audio: ``[channels, samples]``, float32, full scale = 1.
        sample_rate: Hz.
        hop: samples in a frame of the codec that made it; where it may have a pattern of its own.
    Raises:
        ValueError: another number of dimensions, or values that are not finite.
    """

    def __init__(self, audio: Tensor, sample_rate: int = 44_100, hop: int = HOP) -> None:
        if audio.ndim != 2:
            raise ValueError(f"a track is [channels, samples], not {list(audio.shape)}")
        if not torch.isfinite(audio.sum()):
            raise ValueError("a signal holds values that are not finite")
        self.audio, self.sample_rate, self.hop = audio.detach(), sample_rate, hop
        self._known: dict[Hashable, object] = {}

    def once(self, analysis: Callable[..., Result], *more: Hashable) -> Result:
        """``analysis(audio, sample_rate, *more)``, kept after the first call: for small results."""
        key = (analysis, *more)
        if key not in self._known:
            self._known[key] = analysis(self.audio, self.sample_rate, *more)
        return self._known[key]
