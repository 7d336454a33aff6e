"""What frameworks of latent diffusion ask of an autoencoder, computed in exact chunks.

They count in whole frames: n·hop samples are n frames and back, whatever the architecture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from earvae import codec
from earvae.model.posterior import Posterior
from earvae.model.vae import EarVAE


def encode(vae: EarVAE, audio: Tensor, chunk_frames: int | None = None) -> Posterior:
    """Posterior of ``[batch, 2, samples]`` audio, ``⌈samples / hop⌉`` frames, as ``vae.encode``,
    in memory that does not grow with the model's activations. Raises ValueError as that does."""
    vae.check_audio(audio)
    audio = F.pad(audio, (0, -audio.shape[2] % vae.hop_length))
    chunk_frames = chunk_frames or codec.chunk_of(vae)
    stream = codec.encoder_stream(vae, chunk_frames, chunk_frames)
    parameters = stream.push(audio) + stream.finish(audio.shape[2] // vae.hop_length)
    return Posterior(torch.cat(parameters, dim=2), vae.config.std_floor)


def decode(vae: EarVAE, latents: Tensor, chunk_frames: int | None = None) -> Tensor:
    """Audio ``[batch, 2, frames·hop]`` of ``[batch, latent, frames]`` latents, as ``vae.decode``.

    Where latents have a gradient, all at once, so that it reaches them. Raises ValueError as that
    does.
    """
    vae.check_latents(latents)
    if torch.is_grad_enabled() and latents.requires_grad:
        return vae.decode(latents)
    missing = vae.decoder.tail_deficit
    samples = latents.shape[2] * vae.hop_length - missing
    return F.pad(codec.decode(vae, latents, samples, chunk_frames), (0, missing))
