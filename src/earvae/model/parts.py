"""What a model is made of, and where each architecture is put together: one function for each."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from earvae.config import CompactConfig, EarVAE2Config, ModelConfig, OobleckConfig
from earvae.model.compact import CompactDecoder, CompactEncoder
from earvae.model.earvae2 import EarVAE2Decoder, EarVAE2Encoder
from earvae.model.oobleck import OobleckDecoder, OobleckEncoder
from earvae.model.transformer import LatentTransformer


class Parts(NamedTuple):
    """The networks of a model. Encoder and decoder also know how far they see, in whole frames.

    - ``encoder``: audio ``[batch, 2, frames·hop]`` to posterior parameters
      ``[batch, 2·latent, frames]``. Its ``context_frames`` is the number of frames that a chunk
      needs on each side for the posterior between them to equal that of the whole signal.
    - ``transformers``: latents ``[batch, latent, frames]`` to the same shape, all frames at once;
      None where the architecture has none.
    - ``decoder``: latents to audio ``[batch, 2, frames·hop − tail_deficit]``, which may overshoot
      ±1; has ``context_frames`` and ``tail_deficit`` (samples). One that adds noise takes the
      place of the first frame in its file as well (:func:`draws_noise`).
    """

    encoder: nn.Module
    transformers: LatentTransformer | None
    decoder: nn.Module


def draws_noise(network: nn.Module) -> bool:
    """Whether what ``network`` makes depends on where in its file the first frame lies."""
    return getattr(network, "draws_noise", False)


def build(config: ModelConfig) -> Parts:
    """New parts with random weights, of the architecture that ``config`` is of.

    Drawn in the order of :class:`Parts`, so that a seed gives the weights that it always gave.
    """
    if isinstance(config, OobleckConfig):
        encoder = OobleckEncoder(config)
        transformers = None if config.transformer is None else LatentTransformer(config)
        return Parts(encoder, transformers, OobleckDecoder(config))
    if isinstance(config, CompactConfig):
        return Parts(CompactEncoder(config), None, CompactDecoder(config))
    if isinstance(config, EarVAE2Config):
        return Parts(EarVAE2Encoder(config), None, EarVAE2Decoder(config))
    raise TypeError(f"no architecture is known for a {type(config).__name__}")
