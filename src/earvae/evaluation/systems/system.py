"""What every system has: the interface, and what it hands back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from earvae.audio import resample
from earvae.errors import EarvaeError
from earvae.evaluation.excerpts import Excerpt, Track
from earvae.evaluation.metrics.signal import HOP


class UnusableSystem(EarvaeError):
    """A system that cannot be set up or fails on a track: one line that says what to do."""


@dataclass(frozen=True)
class Reconstruction:
    """What became of an excerpt."""

    audio: Tensor
    """float32 ``[2, samples]`` at ``SAMPLE_RATE``; may be longer or shorter than the excerpt."""
    lead: int = 0
    """Samples that it holds ahead of the excerpt's first."""
    kbps: float | None = None
    """Bit rate that was spent, container included."""


class System(ABC):
    """Anything that makes a reconstruction of a track: a subclass has ``settings`` and
    ``round_trip``, and perhaps more to tell in ``reconstruct``."""

    name: str
    """Short; letters, digits, ``.``, ``-`` and ``_`` only. It names files."""
    description: str
    parameters: int | None = None
    """Of a network."""
    kbps: float | None = None
    """Bit rate asked for, of codecs with a bitstream."""
    floats_per_second: float | None = None
    """Rate of continuous latents, of codecs that have them."""
    sanity = False
    """Whether it only shows what the metrics do: such rows are not ranked."""
    settings: dict
    """Plain values that identify the system: equal settings, equal reconstructions."""
    hop = HOP
    """Samples at ``SAMPLE_RATE`` in a frame, of codecs that have them."""

    def settings_for(self, track: Track) -> dict:
        """The settings, for one track. Raises UnusableSystem or AudioFileError."""
        return self.settings

    def is_for(self, track: Track) -> bool:
        """Whether it should have a reconstruction of a track: having none is a failure then."""
        return True

    @abstractmethod
    def round_trip(self, audio: Tensor) -> Tensor:
        """float32 ``[2, samples]`` at ``SAMPLE_RATE`` to ``[2, about as many samples]``.

        Raises UnusableSystem, also where it takes no audio but has ready files.
        """

    def reconstruct(self, excerpt: Excerpt) -> Reconstruction:
        """The system's version of an excerpt. Raises UnusableSystem or AudioFileError."""
        return Reconstruction(self.round_trip(excerpt.audio))


def resampled(audio: Tensor, source_rate: int, target_rate: int, samples: int | None) -> Tensor:
    """``[channels, samples]`` at another rate, ``samples`` in all where that is given."""
    if source_rate == target_rate:
        return audio
    blocks = (block.numpy() for block in audio.split(1 << 16, dim=1))
    pieces = resample(blocks, source_rate, target_rate, samples)
    return torch.cat([torch.from_numpy(piece) for piece in pieces], dim=1)
