"""A model as stable-audio-tools' pretransform: what its trainers encode and decode with.

>>> from earvae.adapters import stable_audio
>>> model.pretransform = stable_audio.EarVAEPretransform(vae)      # of a diffusion model of theirs

or ``register()`` before a model is made, and in its JSON configuration

>>> "pretransform": {"type": "earvae", "config": {"weights": "ear-vae-44k"}}
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from earvae.adapters import whole_frames
from earvae.model.vae import EarVAE

FACTORY = "create_pretransform_from_config"
TYPE = "earvae"


class _Pretransform(nn.Module):
    """The base class of pretransforms, where stable-audio-tools is not there."""

    def __init__(self, enable_grad: bool, io_channels: int, is_discrete: bool) -> None:
        super().__init__()
        self.enable_grad, self.io_channels, self.is_discrete = enable_grad, io_channels, is_discrete


try:
    from stable_audio_tools.models.pretransforms import Pretransform
except ImportError:
    Pretransform = _Pretransform


class EarVAEPretransform(Pretransform):
    """An εar-VAE with the interface of stable-audio-tools' pretransforms; never trained by them.

    A subclass of ``stable_audio_tools.models.pretransforms.Pretransform`` where that package is
    installed. Long audio is computed in exact chunks.

    Args:
        vae: the model.
        sample: encode to a draw from the posterior, as their own VAEs do; else to its mean.
        normalise: latents with mean 0 and std 1 by channel, by the statistics that ``earvae stats
            --write`` put into the model. For latents encoded beforehand, by ``earvae library
            --normalise`` and the same statistics.

    Raises ValueError where ``normalise`` finds no statistics.
    """

    scale = 1.0  # what their trainers divide pre-encoded latents by
    num_quantizers = codebook_size = None

    def __init__(self, vae: EarVAE, sample: bool = True, normalise: bool = False) -> None:
        config = vae.config
        super().__init__(enable_grad=False, io_channels=config.audio_channels, is_discrete=False)
        self.vae = vae.eval().requires_grad_(False)
        self.sample = sample
        self.encoded_channels = vae.latent_channels
        self.downsampling_ratio = vae.hop_length
        self.sample_rate = vae.sample_rate
        if normalise and (config.latents_mean is None or config.latents_std is None):
            raise ValueError(
                "normalise: this model has no latents_mean and latents_std; measure its latents "
                "with `earvae stats LATENTS --write MODEL`"
            )
        self.normalise = normalise
        mean, std = (config.latents_mean, config.latents_std) if normalise else (0.0, 1.0)
        for name, values in (("mean", mean), ("std", std)):
            column = torch.tensor(values, dtype=torch.float32).reshape(-1, 1)
            self.register_buffer(name, column, persistent=False)  # [channels or 1, 1]

    def encode(self, x: Tensor) -> Tensor:
        """Latents ``[batch, encoded_channels, ⌈samples / downsampling_ratio⌉]``, float32, of audio
        ``[batch, 2, samples]``. Raises ValueError as ``EarVAE.encode``."""
        posterior = whole_frames.encode(self.vae, x)
        latents = posterior.sample() if self.sample else posterior.mode()
        return (latents.float() - self.mean) / self.std

    def decode(self, z: Tensor) -> Tensor:
        """Audio ``[batch, 2, frames·downsampling_ratio]``, float32, of latents ``[batch,
        encoded_channels, frames]``. Raises ValueError as ``EarVAE.decode``."""
        return whole_frames.decode(self.vae, z.float() * self.std + self.mean).float()

    def load_state_dict(self, state_dict: dict[str, Tensor], strict: bool = True) -> Any:
        """Weights of the model, without a prefix."""
        return self.vae.load_state_dict(state_dict, strict=strict)


def register() -> None:
    """Let stable-audio-tools' configurations name ``{"type": "earvae", "config": {…}}``.

    ``config`` holds ``weights`` (what ``EarVAE.from_pretrained`` takes; without it the model that
    comes with the package), and ``sample`` and ``normalise`` of :class:`EarVAEPretransform`.
    Raises ModuleNotFoundError where the package is missing; a model of another rate than the
    configuration's is a ValueError when it is made.
    """
    original = getattr(import_module("stable_audio_tools.models.factory"), FACTORY)
    if getattr(original, "knows_earvae", False):
        return

    def create(config: dict[str, Any], sample_rate: int) -> nn.Module:
        if config.get("type") != TYPE:
            return original(config, sample_rate)
        words = dict(config.get("config", {}))
        vae = EarVAE.from_pretrained(words.pop("weights", None))
        if vae.sample_rate != sample_rate:
            raise ValueError(
                f"the pretransform's model is for {vae.sample_rate} Hz, the configuration says "
                f"sample_rate: {sample_rate}"
            )
        return EarVAEPretransform(vae, **words)

    create.knows_earvae = True  # type: ignore[attr-defined]
    for name, module in list(sys.modules.items()):  # those that imported it by name as well
        if name.startswith("stable_audio_tools.") and getattr(module, FACTORY, None) is original:
            setattr(module, FACTORY, create)
