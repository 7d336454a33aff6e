"""The plain small architecture: frames of a transform, ConvNeXt blocks, latents, and back again.

Everything is trained end to end; nothing is fixed. On both sides a plain linear layer runs beside
the blocks, from frame to latents and from latents to frame. It starts as the principal components
of training frames (``fit_linear_start``), so that the bass is there at the first step, and is
then trained like the rest.

A frame is ``hop_length`` samples of both channels as MDCT blocks. The decoder's blocks give it as
shape times level: the shape in Mid and Side, since most music stands in the middle; the level in
Left and Right, by bands, as a logarithm. So a sound in the middle has one shape in both ears, and
a sound at one side can be as quiet in the other ear as it was. Noise stands for what is not known,
as much of it in each coefficient of Mid and Side as the blocks say (``model/likelihood.py``): what
has no pitch need not have a pattern, and what has one has it in narrow bands.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earvae.config import CompactConfig
from earvae.model.convnext import convnext_blocks
from earvae.model.envelope import Bands
from earvae.model.layers import without_autocast
from earvae.model.likelihood import Expected, Surprise
from earvae.model.pca import principal_components
from earvae.model.texture import StoredNoise
from earvae.model.transform import FrameTransform, mid_side

QUIET = 1e-4  # coefficient below which spectra are compressed no further: about -80 dB of music
LEVEL_RANGE = 12.0  # natural log units: levels stay within ±104 dB of full scale
TEXTURE_RANGE = 8.0  # likewise, of noise beside the level; products of both fit into float32
FIRST_LEVEL = -6.0  # natural log; what the blocks add where no music tells its level
LEAST_POWER = 1e-8  # share of the strongest component's that any is taken to have at the start
FIRST_TEXTURE = -1.0  # natural log of the noise over a shape of order one, at the start
FIRST_SCALE = -3.0  # a new posterior has std = softplus(-3) = 0.05


class CompactEncoder(nn.Module):
    """Audio to posterior parameters.

    ``[batch, 2, frames·hop]`` (full scale ±1) to ``[batch, 2·latent, frames]``: the mean, then
    the scale of each latent.
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        self.transform = FrameTransform(config.hop_length, config.mdct_length)
        self.linear = nn.Linear(self.transform.features, config.latent_channels, bias=False)
        self.bands = EarBands(config)
        self.input = nn.Linear(self.transform.features + self.bands.levels, config.width)
        self.blocks = convnext_blocks(config, config.encoder_blocks)
        self.context_frames = 1 + config.encoder_blocks * (config.kernel // 2)
        self.norm = nn.LayerNorm(config.width)
        self.output = nn.Linear(config.width, 2 * config.latent_channels)
        with torch.no_grad():
            self.linear.weight.copy_(_lowest(self.transform, config))
            self.output.weight.mul_(0.1)
            self.output.bias[: config.latent_channels].zero_()
            self.output.bias[config.latent_channels :].fill_(FIRST_SCALE)

    def forward(self, audio: Tensor) -> Tensor:
        with without_autocast(audio):
            frames = self.transform(audio.to(self.transform.dtype))  # [batch, frames, 2·hop], M/S
            own = self.linear.weight.dtype
            linear = self.linear(frames.to(own))  # [batch, frames, latent]
            seen = torch.cat([compressed(frames), self.bands.measure(frames)], dim=2)
        x = self.norm(self.blocks(self.input(seen.to(own))))  # [batch, frames, width]
        with without_autocast(audio):
            mean, scale = self.output(x.to(own)).chunk(2, dim=2)
            return torch.cat([linear + mean, scale], dim=2).transpose(1, 2)


class CompactDecoder(nn.Module):
    """Latents to audio: a linear layer, plus what the blocks add.

    ``[batch, latent, frames]`` to ``[batch, 2, frames·hop]``, which may overshoot ±1. The noise
    goes by ``first_frame``, the place of the first latent frame in its file: one for all, or int64
    ``[batch]``.
    """

    tail_deficit = 0
    draws_noise = True

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        self.transform = FrameTransform(config.hop_length, config.mdct_length)
        self.linear = nn.Linear(config.latent_channels, self.transform.features, bias=False)
        self.bands = EarBands(config)
        self.input = nn.Linear(2 * config.latent_channels, config.width)
        self.blocks = convnext_blocks(config, config.decoder_blocks)
        self.context_frames = 1 + config.decoder_blocks * (config.kernel // 2)
        self.norm = nn.LayerNorm(config.width)
        self.shape = nn.Linear(config.width, self.transform.features)
        self.level = nn.Linear(config.width, self.bands.levels)
        self.noise = StoredNoise(self.transform.features)
        self.texture = nn.Linear(config.width, self.transform.features)
        self.surprise = Surprise(self.bands, config.sample_rate)
        with torch.no_grad():
            self.linear.weight.copy_(_lowest(self.transform, config).T)
            self.level.weight.mul_(0.1)
            self.level.bias.fill_(FIRST_LEVEL)
            self.texture.weight.mul_(0.1)
            self.texture.bias.fill_(FIRST_TEXTURE)

    def forward(
        self, latents: Tensor, first_frame: int | Tensor = 0, music: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Audio; with ``music``, which it is to be, ``[batch, 2, frames·hop]``, also the surprise
        at that: its negative log likelihood, a scalar (``model/likelihood.py``)."""
        expected = self.expect(latents)
        audio = self.draw(expected, first_frame)
        if music is None:
            return audio
        with without_autocast(music):
            return audio, self.surprise(expected, self.transform(music.to(self.transform.dtype)))

    def expect(self, latents: Tensor) -> Expected:
        """What ``[batch, latent, frames]`` tell of the frames, ``[batch, frames, 2·hop]``."""
        own = self.linear.weight.dtype
        latents = latents.transpose(1, 2).to(own)  # [batch, frames, latent]
        x = self.input(torch.cat([latents, compressed(latents, 0.1)], dim=2))
        x = self.norm(self.blocks(x))  # [batch, frames, width]
        with without_autocast(latents):
            x = x.to(own)
            level = self.bands.spread(_bounded(self._wide(self.level(x)), LEVEL_RANGE))
            texture = _bounded(self._wide(self.texture(x)), TEXTURE_RANGE)
            shape = mid_side(mid_side(self._wide(self.shape(x)), -1) * level.exp(), -1)
            return Expected(self._wide(self.linear(latents)) + shape, texture, level)

    def draw(self, expected: Expected, first_frame: int | Tensor = 0) -> Tensor:
        """Audio ``[batch, 2, frames·hop]`` with the noise of the frames from ``first_frame`` on."""
        with without_autocast(expected.mean):
            noise = self.noise(first_frame, expected.mean.shape[1])
            return self.transform.inverse(expected.drawn(noise)).to(self.linear.weight.dtype)

    def _wide(self, x: Tensor) -> Tensor:
        """In the precision that audio is computed in, which is not that of a half model."""
        return x.to(self.transform.dtype)


class EarBands(Bands):
    """Bands of Left and Right, measured on frames ``[..., 2·hop]`` of Mid and Side."""

    def __init__(self, config: CompactConfig) -> None:
        blocks = 2 * config.hop_length // config.mdct_length
        super().__init__(config.mdct_length, blocks, config.sample_rate)

    def power(self, frames: Tensor) -> Tensor:
        """Mean power of each band, ``[..., levels]``."""
        return super().power(mid_side(frames, -1))

    def measure(self, frames: Tensor) -> Tensor:
        """Log RMS of each band, ``[..., levels]``, scaled to ±1 for levels down to QUIET."""
        return (self.power(frames) / QUIET**2 + 1).log() / 10 - 1


def _bounded(logs: Tensor, most: float) -> Tensor:
    """Natural logs kept within ±``most``, smoothly."""
    return most * torch.tanh(logs / most)


def compressed(x: Tensor, quiet: float = QUIET) -> Tensor:
    """asinh(x / quiet) / 10: linear below ``quiet``, a signed logarithm above."""
    return torch.asinh(x / quiet) / 10


def _lowest(transform: FrameTransform, config: CompactConfig) -> Tensor:
    """``[latent, 2·hop]``: a latent for each of the lowest coefficients, as a linear layer starts
    where there is no music to fit it on."""
    order = transform.frequencies(config.sample_rate).argsort(stable=True)
    return F.one_hot(order[: config.latent_channels], transform.features).float()


@torch.no_grad()
def fit_linear_start(
    encoder: CompactEncoder, decoder: CompactDecoder, audio: Iterable[Tensor]
) -> None:
    """Start both linear layers as the principal components of frames of training music, and the
    decoder's levels as the mean ones of what these leave.

    ``audio``: batches ``[batch, 2, frames·hop]``. The latents then have unit variance. No mean is
    taken off: the MDCT of music has none. Raises ValueError if all is silent.
    """
    frames = torch.cat([encoder.transform(batch).flatten(0, 1) for batch in audio])
    if not frames.any():
        raise ValueError("no audible frame to start the linear layers from")
    covariance = torch.zeros((), dtype=torch.float64)
    for some in frames.split(4096):  # [frames, 2·hop]
        covariance = covariance + some.double().T @ some.double() / len(frames)
    basis, power = principal_components(covariance, encoder.config.latent_channels)
    # Music of fewer dimensions than latents leaves some without power: they must not be amplified.
    std = power.clamp_min(float(power[0]) * LEAST_POWER).sqrt()
    encoder.linear.weight.copy_((basis / std).T)
    decoder.linear.weight.copy_(basis * std)
    power = torch.zeros_like(decoder.level.bias)
    for some in frames.split(4096):
        left = some - decoder.linear(encoder.linear(some))
        power += decoder.bands.power(left).sum(dim=0) / len(frames)
    decoder.level.bias.copy_(power.clamp_min(QUIET**2).log() / 2)
