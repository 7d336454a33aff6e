"""A model as diffusers' pipelines use one, of any architecture.

``earvae export --diffusers`` makes a real ``AutoencoderOobleck`` of models that can be one. This is
for all the others: with a transformer, or of frames of a transform. Needs nothing of diffusers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from earvae.adapters import whole_frames
from earvae.model.posterior import Posterior
from earvae.model.vae import EarVAE


@dataclass(frozen=True)
class AutoencoderConfig:
    """What pipelines read of a model's configuration, under diffusers' names.

    ``latents_mean`` and ``latents_std`` by channel, or None: what ``earvae stats --write`` found.
    """

    sampling_rate: int  # Hz
    audio_channels: int
    decoder_input_channels: int  # of the latents
    downsampling_ratios: tuple[int, ...]  # their product is the hop
    latents_mean: tuple[float, ...] | None
    latents_std: tuple[float, ...] | None

    def __getitem__(self, name: str) -> Any:
        return asdict(self)[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The value under a name, as of a dict."""
        return asdict(self).get(name, default)


@dataclass(frozen=True)
class EncoderOutput:
    """What :meth:`DiffusersVAE.encode` gives."""

    latent_dist: Posterior


@dataclass(frozen=True)
class DecoderOutput:
    """What :meth:`DiffusersVAE.decode` gives: audio ``[batch, 2, samples]``."""

    sample: Tensor


class DiffusersVAE(nn.Module):
    """An εar-VAE with the methods and names of diffusers' ``AutoencoderOobleck``.

    For ``StableAudioPipeline(vae=DiffusersVAE(vae), …)`` and training scripts: ``encode(audio)
    .latent_dist``, ``decode(latents).sample``, ``config``, ``dtype``, ``device``. Long audio is
    computed in exact chunks, whatever the architecture; there is nothing to tile or slice.

    Args:
        vae: the model. It stays the caller's, and moves with this module.
    """

    def __init__(self, vae: EarVAE) -> None:
        super().__init__()
        self.vae = vae
        config = vae.config
        strides = tuple(getattr(config, "strides", (config.hop_length,)))
        self.config = AutoencoderConfig(
            config.sample_rate, config.audio_channels, config.latent_channels, strides,
            config.latents_mean, config.latents_std,
        )  # fmt: skip

    @property
    def sampling_rate(self) -> int:
        """Hz."""
        return self.vae.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return self.vae.hop_length

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters, and of what comes out."""
        return self.vae.dtype

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return self.vae.device

    def encode(self, x: Tensor, return_dict: bool = True) -> EncoderOutput | tuple[Posterior]:
        """Posterior of audio ``[batch, 2, samples]``, as ``.latent_dist`` or in a tuple.

        Raises ValueError as ``EarVAE.encode``.
        """
        posterior = whole_frames.encode(self.vae, x)
        return EncoderOutput(posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Tensor]:
        """Audio ``[batch, 2, frames·hop]`` of latents ``[batch, latent, frames]``, as ``.sample``
        or in a tuple. Raises ValueError as ``EarVAE.decode``."""
        audio = whole_frames.decode(self.vae, z)
        return DecoderOutput(audio) if return_dict else (audio,)

    def forward(
        self,
        sample: Tensor,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """Audio through the codec and back: of the posterior's mean, or a draw from it."""
        posterior = whole_frames.encode(self.vae, sample)
        z = posterior.sample(generator) if sample_posterior else posterior.mode()
        return self.decode(z, return_dict)
