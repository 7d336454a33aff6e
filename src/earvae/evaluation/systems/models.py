"""Models as systems."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from earvae.audio import sha256_of
from earvae.evaluation.excerpts import SAMPLE_RATE
from earvae.evaluation.systems.system import System, UnusableSystem, resampled
from earvae.model.vae import EarVAE


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
        contents = {path.name: sha256_of(path) for path in weights}
        self.settings = {"codec": "oobleck", "files": contents}

    @torch.no_grad()
    def round_trip(self, audio: Tensor) -> Tensor:
        ours = resampled(audio, SAMPLE_RATE, self.rate, None)
        samples = ours.shape[1]
        padded = nn.functional.pad(ours, (0, -samples % self.stride))[None].to(self.device)
        latents = self.model.encode(padded).latent_dist.mode()
        decoded = self.model.decode(latents).sample[0, :, :samples].float().cpu()
        return resampled(decoded, self.rate, SAMPLE_RATE, audio.shape[1])
