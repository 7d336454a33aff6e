"""Models and the linear baseline as systems."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from earvae.evaluation.excerpts import SAMPLE_RATE, content_of
from earvae.evaluation.systems.system import System, UnusableSystem, resampled
from earvae.model.vae import EarVAE

LINEAR_CODE = Path(__file__).parent / "linear_code.safetensors"
CHUNK_FRAMES = 430  # about ten seconds of transform frames
CONTEXT_FRAMES = 2  # what a frame's samples depend on beyond their own frame


def parameter_count(model: nn.Module) -> int:
    """Parameters of a network."""
    return sum(parameter.numel() for parameter in model.parameters())


class EarVAESystem(System):
    """An εar-VAE with the posterior mean as latents, as ``earvae reconstruct`` runs it: with the
    fastest engine that equals the plain model within rounding.

    Args:
        vae: ``EarVAE`` in evaluation mode, on its device.
        name: of the row.
    """

    def __init__(self, vae: EarVAE, name: str = "earvae") -> None:
        self.vae, self.name = vae, name
        self.parameters = parameter_count(vae)
        frames = vae.sample_rate / vae.hop_length
        self.hop = round(SAMPLE_RATE / frames)
        self.floats_per_second = vae.latent_channels * frames
        self.description = (
            f"εar-VAE, {vae.config.architecture}, {vae.latent_channels} latents at "
            f"{frames:.2f} Hz, weights {vae.identity}"
        )
        self.settings = {"codec": "earvae", "weights": vae.identity}

    @cached_property
    def _prepared(self) -> EarVAE:
        from earvae.engine import accelerate

        return accelerate(self.vae)

    def round_trip(self, audio: Tensor) -> Tensor:
        from earvae import codec

        ours = resampled(audio, SAMPLE_RATE, self.vae.sample_rate, None)
        decoded = codec.reconstruct(self._prepared, ours[None])[0]
        return resampled(decoded, self.vae.sample_rate, SAMPLE_RATE, audio.shape[1])


class LinearBaseline(System):
    """The optimal fixed linear code of music: PCA of MDCT frames, ``components`` numbers each.

    The code was fitted on training music (tools/fit_linear_code.py) and comes with the package;
    of its components, sorted by variance, any first ones are the best code of that size.

    Raises UnusableSystem for more components than it has.
    """

    def __init__(self, components: int, name: str | None = None, path: Path = LINEAR_CODE) -> None:
        from earvae.model.transform import FrameTransform

        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        basis = load_file(path)["basis"].float()  # [features, components]
        if not 1 <= components <= basis.shape[1]:
            raise UnusableSystem(
                f"linear:{components}: this code has 1 to {basis.shape[1]} components"
            )
        self.basis = basis[:, :components]
        self.hop = int(metadata["hop_length"])
        self.transform = FrameTransform(self.hop, int(metadata["mdct_length"]))
        self.name = name or f"linear-{components}"
        self.floats_per_second = components * SAMPLE_RATE / self.hop
        self.description = f"best fixed linear code, {components} components of MDCT frames"
        fit = content_of(path)
        self.settings = {"codec": "linear", "components": components, "fit": fit}

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


class Oobleck(System):
    """A folder that diffusers' ``AutoencoderOobleck`` loads; posterior mean.

    The network hears the whole excerpt at once, so its memory grows with the excerpt.
    Raises UnusableSystem where diffusers is missing or the folder holds no such model.
    """

    def __init__(self, folder: Path, name: str | None = None, device: str = "cpu") -> None:
        try:
            from diffusers import AutoencoderOobleck
        except ImportError:
            raise UnusableSystem(
                f"oobleck:{folder}: needs diffusers: pip install diffusers"
            ) from None
        if not (folder / "config.json").is_file():
            raise UnusableSystem(
                f"oobleck:{folder}: no folder of a diffusers model (no config.json)"
            )
        try:
            model = AutoencoderOobleck.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise UnusableSystem(
                f"oobleck:{folder}: {str(error).strip().splitlines()[0]}"
            ) from None
        self.model, self.device = model.eval().to(device), device
        config = model.config
        self.rate, self.channels = config.sampling_rate, config.audio_channels
        stride = math.prod(config.downsampling_ratios)
        self.stride, self.hop = stride, round(stride * SAMPLE_RATE / self.rate)
        if self.channels != 2:
            raise UnusableSystem(
                f"oobleck:{folder}: has {self.channels} audio channels, 2 are needed"
            )
        self.name = name or "oobleck"
        self.parameters = parameter_count(model)
        self.floats_per_second = config.decoder_input_channels * self.rate / stride
        self.description = f"AutoencoderOobleck of {folder.name}"
        weights = sorted(path for path in folder.iterdir() if path.is_file())
        contents = {path.name: content_of(path) for path in weights}
        self.settings = {"codec": "oobleck", "files": contents}

    @torch.no_grad()
    def round_trip(self, audio: Tensor) -> Tensor:
        ours = resampled(audio, SAMPLE_RATE, self.rate, None)
        samples = ours.shape[1]
        padded = nn.functional.pad(ours, (0, -samples % self.stride))[None].to(self.device)
        latents = self.model.encode(padded).latent_dist.mode()
        decoded = self.model.decode(latents).sample[0, :, :samples].float().cpu()
        return resampled(decoded, self.rate, SAMPLE_RATE, audio.shape[1])
