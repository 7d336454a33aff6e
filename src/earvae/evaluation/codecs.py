"""What can be evaluated: the interface, the sanity rows, and folders of ready files.

A new codec is a subclass of :class:`Codec` with ``round_trip`` and ``settings``; a line in
``registry.py`` gives it a name on the command line. Models are in ``models.py``, ordinary lossy
codecs in ``ffmpeg.py``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from earvae.audio import AudioFileError, AudioSource, resample
from earvae.evaluation.align import MAX_LAG
from earvae.evaluation.excerpts import (
    RECONSTRUCTION_ENDING,
    SAMPLE_RATE,
    Excerpt,
    Track,
    content_of,
    read_stretch,
)
from earvae.tracks import SUFFIXES


class CodecError(Exception):
    """A codec that cannot be set up or fails on a track: one line that says what to do."""


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
    """Anything that has a reconstruction of a track."""

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

    @property
    @abstractmethod
    def settings(self) -> dict:
        """Plain values that identify the system: equal settings, equal reconstructions."""

    def settings_for(self, track: Track) -> dict:
        """The same for one track. Raises CodecError or AudioFileError."""
        return self.settings

    @abstractmethod
    def reconstruct(self, excerpt: Excerpt) -> Reconstruction:
        """The system's version of an excerpt. Raises CodecError or AudioFileError."""


class Codec(System):
    """A system that takes any audio there and back."""

    @abstractmethod
    def round_trip(self, audio: Tensor) -> Tensor:
        """float32 ``[2, samples]`` at ``SAMPLE_RATE`` to ``[2, about as many samples]``."""

    def reconstruct(self, excerpt: Excerpt) -> Reconstruction:
        return Reconstruction(self.round_trip(excerpt.audio))


def resampled(audio: Tensor, source_rate: int, target_rate: int, samples: int | None) -> Tensor:
    """``[channels, samples]`` at another rate, ``samples`` in all where that is given."""
    if source_rate == target_rate:
        return audio
    blocks = (block.numpy() for block in audio.split(1 << 16, dim=1))
    pieces = resample(blocks, source_rate, target_rate, samples)
    return torch.cat([torch.from_numpy(piece) for piece in pieces], dim=1)


# ------------------------------------------------------------------------------ sanity rows


class Identity(Codec):
    """The reference itself: what the metrics give at best."""

    sanity = True

    def __init__(self, name: str = "identity") -> None:
        self.name, self.description = name, "the reference itself"

    @property
    def settings(self) -> dict:
        return {"codec": "identity"}

    def round_trip(self, audio: Tensor) -> Tensor:
        return audio


class Flip(Codec):
    """Polarity of both channels flipped: inaudible, and no metric here should mind."""

    sanity = True

    def __init__(self, name: str = "flip") -> None:
        self.name, self.description = name, "the reference with its polarity flipped"

    @property
    def settings(self) -> dict:
        return {"codec": "flip"}

    def round_trip(self, audio: Tensor) -> Tensor:
        return -audio


class Mono(Codec):
    """Both channels replaced by their mean: Mid is kept, Side is lost."""

    sanity = True

    def __init__(self, name: str = "mono") -> None:
        self.name, self.description = name, "the reference folded down to mono"

    @property
    def settings(self) -> dict:
        return {"codec": "mono"}

    def round_trip(self, audio: Tensor) -> Tensor:
        return audio.mean(dim=0, keepdim=True).repeat(2, 1)


# ------------------------------------------------------------------------------ ready files


class Folder(System):
    """Reconstructions that lie in a folder, of the whole tracks, at any rate.

    A track ``a/song.flac`` has its reconstruction in ``a/song_vae_rec.*`` (the published naming)
    or ``a/song.*`` below the folder, in any format that can be read.

    Raises CodecError where there is no such folder.
    """

    def __init__(self, folder: Path, name: str) -> None:
        if not folder.is_dir():
            raise CodecError(f"folder:{folder}: no such folder")
        self.folder, self.name = folder, name
        self.description = f"ready reconstructions in {folder.name or folder}"

    @property
    def settings(self) -> dict:
        return {"codec": "folder"}

    def settings_for(self, track: Track) -> dict:
        return self.settings | {"content": content_of(self.file_of(track))}

    def file_of(self, track: Track) -> Path:
        """The reconstruction of a track. Raises CodecError where there is none, or several."""
        below = Path(track.name).parent
        stem = Path(track.name).stem
        parent = self.folder / below
        for wanted in (stem + RECONSTRUCTION_ENDING, stem):
            same_name = parent / (wanted + Path(track.name).suffix)
            found = [parent / (wanted + suffix) for suffix in sorted(SUFFIXES)]
            found = [same_name, *(path for path in found if path != same_name)]
            found = [p for p in found if p.is_file() and not p.samefile(track.path)]
            if same_name in found or len(found) == 1:
                return found[0]
            if found:
                names = ", ".join(path.name for path in found)
                raise CodecError(f"{parent}: several files could be it: {names}; keep one")
        raise CodecError(f"{self.folder}: no reconstruction of {track.name}")

    def reconstruct(self, excerpt: Excerpt) -> Reconstruction:
        margin = MAX_LAG / SAMPLE_RATE
        source = AudioSource(self.file_of(excerpt.track), downmix=True)
        start = max(0.0, excerpt.start - margin)
        audio = read_stretch(source, start, excerpt.start - start + excerpt.seconds + margin)
        if not audio.shape[1]:
            raise AudioFileError(f"{source.path}: holds nothing of the stretch that is compared")
        return Reconstruction(audio, lead=round((excerpt.start - start) * SAMPLE_RATE))
