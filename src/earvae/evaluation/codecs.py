"""What can be evaluated: one small class each.

A new codec is a subclass of :class:`Codec` with ``round_trip`` and ``settings``; a line in
``registry.py`` gives it a name on the command line.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from earvae.audio import READABLE_SUFFIXES, AudioFileError, AudioSource, resample
from earvae.evaluation.align import MAX_LAG
from earvae.evaluation.excerpts import (
    RECONSTRUCTION_ENDING,
    SAMPLE_RATE,
    Excerpt,
    Track,
    content_of,
    read_stretch,
)

LINEAR_CODE = Path(__file__).parent / "linear_code.safetensors"
CHUNK_FRAMES = 430  # about ten seconds of transform frames
CONTEXT_FRAMES = 2  # what a frame's samples depend on beyond their own frame


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


def parameter_count(model: nn.Module) -> int:
    """Parameters of a network."""
    return sum(parameter.numel() for parameter in model.parameters())


# ------------------------------------------------------------------------------ sanity rows


class Identity(Codec):
    """The reference itself: what the metrics give at best."""

    def __init__(self, name: str = "identity") -> None:
        self.name, self.description = name, "the reference itself"

    @property
    def settings(self) -> dict:
        return {"codec": "identity"}

    def round_trip(self, audio: Tensor) -> Tensor:
        return audio


class Flip(Codec):
    """Polarity of both channels flipped: inaudible, and no metric here should mind."""

    def __init__(self, name: str = "flip") -> None:
        self.name, self.description = name, "the reference with its polarity flipped"

    @property
    def settings(self) -> dict:
        return {"codec": "flip"}

    def round_trip(self, audio: Tensor) -> Tensor:
        return -audio


class Mono(Codec):
    """Both channels replaced by their mean: Mid is kept, Side is lost."""

    def __init__(self, name: str = "mono") -> None:
        self.name, self.description = name, "the reference folded down to mono"

    @property
    def settings(self) -> dict:
        return {"codec": "mono"}

    def round_trip(self, audio: Tensor) -> Tensor:
        return audio.mean(dim=0, keepdim=True).repeat(2, 1)


# ------------------------------------------------------------------------------ models


class EarVAECodec(Codec):
    """An εar-VAE with the posterior mean as latents, as ``earvae reconstruct`` runs it.

    Args:
        vae: ``EarVAE`` in evaluation mode, on its device.
        name: of the row.
    """

    def __init__(self, vae: nn.Module, name: str = "earvae") -> None:
        self.vae, self.name = vae, name
        self.parameters = parameter_count(vae)
        frames = vae.sample_rate / vae.hop_length
        self.floats_per_second = vae.latent_channels * frames
        self.identity = vae.identity
        self.description = (
            f"εar-VAE, {vae.config.architecture}, {vae.latent_channels} latents at "
            f"{frames:.2f} Hz, weights {self.identity}"
        )

    @property
    def settings(self) -> dict:
        return {"codec": "earvae", "weights": self.identity}

    def round_trip(self, audio: Tensor) -> Tensor:
        from earvae import codec

        ours = resampled(audio, SAMPLE_RATE, self.vae.sample_rate, None)
        decoded = codec.reconstruct(self.vae, ours[None])[0]
        return resampled(decoded, self.vae.sample_rate, SAMPLE_RATE, audio.shape[1])


class LinearBaseline(Codec):
    """The optimal fixed linear code of music: PCA of MDCT frames, ``components`` numbers each.

    The code was fitted on training music (tools/fit_linear_code.py) and comes with the package;
    of its components, sorted by variance, any first ones are the best code of that size.

    Raises CodecError for more components than it has.
    """

    def __init__(self, components: int, name: str | None = None, path: Path = LINEAR_CODE) -> None:
        from earvae.model.transform import FrameTransform

        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        basis = load_file(path)["basis"].float()  # [features, components]
        if not 1 <= components <= basis.shape[1]:
            raise CodecError(f"linear:{components}: this code has 1 to {basis.shape[1]} components")
        self.basis = basis[:, :components]
        self.hop = int(metadata["hop_length"])
        self.transform = FrameTransform(self.hop, int(metadata["mdct_length"]))
        self.name = name or f"linear-{components}"
        self.floats_per_second = components * SAMPLE_RATE / self.hop
        self.description = f"best fixed linear code, {components} components of MDCT frames"
        self.fit = content_of(path)

    @property
    def settings(self) -> dict:
        return {"codec": "linear", "components": self.basis.shape[1], "fit": self.fit}

    @torch.no_grad()
    def round_trip(self, audio: Tensor) -> Tensor:
        samples, hop = audio.shape[1], self.hop
        frames = math.ceil(samples / hop)
        result = torch.empty_like(audio)
        for start in range(0, frames, CHUNK_FRAMES):
            stop = min(start + CHUNK_FRAMES, frames)
            low, high = max(0, start - CONTEXT_FRAMES), min(frames, stop + CONTEXT_FRAMES)
            piece = audio[:, low * hop : high * hop]
            piece = nn.functional.pad(piece, (0, (high - low) * hop - piece.shape[1]))
            coefficients = self.transform(piece[None])  # [1, frames, features]
            coded = coefficients @ self.basis @ self.basis.T
            decoded = self.transform.inverse(coded)[0]
            end = min(stop * hop, samples)
            result[:, start * hop : end] = decoded[:, (start - low) * hop : end - low * hop]
        return result


class Oobleck(Codec):
    """A folder that diffusers' ``AutoencoderOobleck`` loads; posterior mean.

    The network hears the whole excerpt at once, so its memory grows with the excerpt.
    Raises CodecError where diffusers is missing or the folder holds no such model.
    """

    def __init__(self, folder: Path, name: str | None = None, device: str = "cpu") -> None:
        try:
            from diffusers import AutoencoderOobleck
        except ImportError:
            raise CodecError(f"oobleck:{folder}: needs diffusers: pip install diffusers") from None
        if not (folder / "config.json").is_file():
            raise CodecError(f"oobleck:{folder}: no folder of a diffusers model (no config.json)")
        try:
            model = AutoencoderOobleck.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise CodecError(f"oobleck:{folder}: {str(error).strip().splitlines()[0]}") from None
        self.model, self.device = model.eval().to(device), device
        config = model.config
        self.rate, self.channels = config.sampling_rate, config.audio_channels
        self.hop = math.prod(config.downsampling_ratios)
        if self.channels != 2:
            raise CodecError(f"oobleck:{folder}: has {self.channels} audio channels, 2 are needed")
        self.name = name or "oobleck"
        self.parameters = parameter_count(model)
        self.floats_per_second = config.decoder_input_channels * self.rate / self.hop
        self.description = f"AutoencoderOobleck of {folder.name}"
        weights = sorted(path for path in folder.iterdir() if path.is_file())
        self.content = {path.name: content_of(path) for path in weights}

    @property
    def settings(self) -> dict:
        return {"codec": "oobleck", "files": self.content}

    @torch.no_grad()
    def round_trip(self, audio: Tensor) -> Tensor:
        ours = resampled(audio, SAMPLE_RATE, self.rate, None)
        samples = ours.shape[1]
        padded = nn.functional.pad(ours, (0, -samples % self.hop))[None].to(self.device)
        latents = self.model.encode(padded).latent_dist.mode()
        decoded = self.model.decode(latents).sample[0, :, :samples].float().cpu()
        return resampled(decoded, self.rate, SAMPLE_RATE, audio.shape[1])


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
            found = [parent / (wanted + suffix) for suffix in sorted(READABLE_SUFFIXES)]
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
