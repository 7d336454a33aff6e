"""The decoder that the small architectures have in common: frames of a mean, noise and tones.

What a frame's latents tell by themselves, each architecture says in its own way (``told``): a mean,
a level by bands of Left and Right, and shares of Mid and Side. ConvNeXt blocks over frames add the
rest: a shape times level for the mean, and how the power of what is not known stands in every
coefficient, as noise or as tones (``model/likelihood.py`` has the law, and teaches it).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earvae.config import CompactConfig, SpectralConfig
from earvae.model.convnext import convnext_blocks
from earvae.model.envelope import QUIET, EarBands
from earvae.model.layers import without_autocast
from earvae.model.likelihood import QUIET_POWER, Expected, FineSurprise, Surprise
from earvae.model.texture import StoredNoise
from earvae.model.tones import PER_BIN, StoredTones
from earvae.model.transform import TwoResolutions, mid_side

LEVEL_RANGE = 12.0  # natural log units: levels stay within ±104 dB of full scale
TEXTURE_RANGE = 8.0  # likewise, of noise beside the level; products of both fit into float32
FIRST_LEVEL = -6.0  # natural log; what the blocks add where no music tells its level
FIRST_PITCH = -3.0  # natural log of a tone's share of its bin's power over that of noise


class Told(NamedTuple):
    """What a frame's latents tell by themselves: ``seen [batch, frames, inputs]``, what the blocks
    see; ``mean [batch, frames, features]``; log ``level`` in Left and Right, and log ``texture``
    in Mid and Side, by bands, ``[batch, frames, levels]``."""

    seen: Tensor
    mean: Tensor
    level: Tensor
    texture: Tensor


class FrameDecoder(nn.Module):
    """Latents to audio: what is told of frames, plus what blocks add.

    ``[batch, latent, frames]`` to ``[batch, 2, frames·hop]``, which may overshoot ±1. The noise
    goes by ``first_frame``, the place of the first latent frame in its file: one for all, or int64
    ``[batch]``. What is told comes from :meth:`told` of the architecture.

    Args:
        config: of the architecture.
        inputs: values a frame that the blocks see.
    """

    tail_deficit = 0
    draws_noise = True

    def __init__(self, config: CompactConfig | SpectralConfig, inputs: int) -> None:
        super().__init__()
        self.config = config
        self.transform = transform(config)
        self.bands = EarBands(self.transform, config.sample_rate)
        features, levels = self.transform.features, self.bands.levels
        self.input = nn.Linear(inputs, config.width)
        self.blocks = convnext_blocks(config, config.decoder_blocks)
        self.context_frames = 1 + config.decoder_blocks * (config.kernel // 2)
        self.norm = nn.LayerNorm(config.width)
        self.shape = nn.Linear(config.width, features)
        self.level = nn.Linear(config.width, levels, bias=False)
        self.noise = StoredNoise(features)
        self.texture = nn.Linear(config.width, features)
        self.tones = StoredTones(self.transform)
        self.pitch = nn.Linear(config.width, 2 * self.tones.count)
        frequencies = self.transform.frequencies(config.sample_rate)[: features // 2]
        self.surprise = Surprise(self.bands, frequencies, self.tones)
        self.fine_surprise = FineSurprise(self.transform, config.sample_rate)
        with torch.no_grad():
            for layer in (self.level, self.texture, self.shape, self.pitch):
                layer.weight.mul_(0.1)
            self.texture.bias.zero_()
            self.shape.bias.zero_()
            self.pitch.bias.fill_(FIRST_PITCH)

    def told(self, latents: Tensor) -> Told:
        """What ``[batch, frames, latent]`` tell without the blocks."""
        raise NotImplementedError

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
            music = music.to(self.transform.dtype)
            surprise = self.surprise(expected, self.transform(music))
            left_over = music - self.transform.inverse(expected.mean)
            return audio, surprise + self.fine_surprise(expected, left_over, music)

    def expect(self, latents: Tensor) -> Expected:
        """What ``[batch, latent, frames]`` tell of the frames, ``[batch, frames, features]``."""
        own = self.input.weight.dtype
        with without_autocast(latents):
            told = self.told(latents.transpose(1, 2))
        x = self.norm(self.blocks(self.input(told.seen.to(own))))  # [batch, frames, width]
        with without_autocast(latents):
            x = x.to(own)
            level = self._wide(told.level + self.level(x))
            level = self.bands.spread(_bounded(level, LEVEL_RANGE))
            texture = self.bands.spread(self._wide(told.texture))
            texture = _bounded(texture + self._wide(self.texture(x)), TEXTURE_RANGE)
            texture, pitch = self._shared(texture, self._wide(self.pitch(x)))
            shape = mid_side(mid_side(self._wide(self.shape(x)), -1) * level.exp(), -1)
            return Expected(self._wide(told.mean) + shape, texture, pitch, level)

    def _shared(self, texture: Tensor, pitch: Tensor) -> tuple[Tensor, Tensor]:
        """The power of each long bin, shared among noise and the bin's tones: log strengths of
        noise in all coefficients, and of tones ``[batch, frames, 2, bins, PER_BIN]``."""
        bins = self.tones.bins
        texture = texture.unflatten(-1, (2, -1))
        weights = F.pad(pitch.unflatten(-1, (2, bins, PER_BIN)), (1, 0))  # noise first
        shares = texture[..., :bins, None] + weights.log_softmax(dim=-1) / 2
        texture = torch.cat([shares[..., 0], texture[..., bins:]], dim=-1)
        return texture.flatten(-2), shares[..., 1:]

    def draw(self, expected: Expected, first_frame: int | Tensor = 0) -> Tensor:
        """Audio ``[batch, 2, frames·hop]`` with the noise of the frames from ``first_frame`` on."""
        with without_autocast(expected.mean):
            noise = self.noise(first_frame, expected.mean.shape[1])
            tones = self.tones(expected.pitch.exp(), first_frame)  # [batch, frames, 2, bins]
            drawn = expected.texture.exp() * noise + self.transform.with_treble(tones.flatten(-2))
            ears = mid_side(drawn, -1) * self._audible(expected)
            audio = self.transform.inverse(expected.mean + mid_side(ears, -1))
            return audio.to(self.input.weight.dtype)

    def _audible(self, expected: Expected) -> Tensor:
        """Gains of Left and Right, less what was taken to be there in every recording: silence is
        drawn as silence."""
        middle, side = self.surprise.variances(expected)
        power = (2 * expected.level).exp() * ((middle + side) / 2).repeat(1, 1, 2)
        return expected.level.exp() * (1 - QUIET_POWER / power).clamp_min(0).sqrt()

    def _wide(self, x: Tensor) -> Tensor:
        """In the precision that audio is computed in, which is not that of a half model."""
        return x.to(self.transform.dtype)


def transform(config: CompactConfig | SpectralConfig) -> TwoResolutions:
    """The transform of a compact model, and of a spectral one's decoder."""
    return TwoResolutions(
        config.hop_length, config.short_length, config.split_hz, config.sample_rate
    )


def _bounded(logs: Tensor, most: float) -> Tensor:
    """Natural logs kept within ±``most``, smoothly."""
    return most * torch.tanh(logs / most)


def compressed(x: Tensor, quiet: float = QUIET) -> Tensor:
    """asinh(x / quiet) / 10: linear below ``quiet``, a signed logarithm above."""
    return torch.asinh(x / quiet) / 10
