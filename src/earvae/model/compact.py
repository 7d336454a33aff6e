"""The plain small architecture: frames of a transform, ConvNeXt blocks, latents, and back again.

Everything is trained end to end; nothing is fixed. On both sides plain linear layers run beside
the blocks, from a frame and its levels to latents and from latents to both. They start as
principal components of training music (``fit_linear_start``): most latents as those of frames, so
that the bass is there at the first step, the others as those of log levels and of the shares of Mid
and Side, so that the treble has the right colour and width. After that they are trained like the
rest.

A frame is ``hop_length`` samples of both channels as MDCT blocks, long ones below ``split_hz`` and
short ones above. Below the split the decoder's blocks add to what the linear layer knows, as shape
times level: the shape in Mid and Side, since most music stands in the middle; the level in Left and
Right, by bands, as a logarithm. So a sound in the middle has one shape in both ears, and a sound at
one side can be as quiet in the other ear as it was. Noise stands for what is not known, as much of
it in each coefficient of Mid and Side as the blocks say (``model/likelihood.py``), at the same
level: what has no pitch need not have a pattern, what has one has it in narrow bands or as tones
(``model/tones.py``), and the treble sounds no earlier than it did.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from earvae.config import CompactConfig
from earvae.model.convnext import convnext_blocks
from earvae.model.envelope import QUIET, EarBands
from earvae.model.layers import without_autocast
from earvae.model.likelihood import QUIET_POWER, Expected, FineSurprise, Surprise
from earvae.model.pca import principal_components
from earvae.model.texture import StoredNoise
from earvae.model.tones import PER_BIN, stored_tones
from earvae.model.transform import TwoResolutions, mid_side

LEVEL_RANGE = 12.0  # natural log units: levels stay within ±104 dB of full scale
TEXTURE_RANGE = 8.0  # likewise, of noise beside the level; products of both fit into float32
FIRST_LEVEL = -6.0  # natural log; what the blocks add where no music tells its level
MID_LATENTS, SIDE_LATENTS = 0.53, 0.22  # of all, that the linear layers hold the bass in
LEAST_POWER = 1e-8  # share of the whole that any component is taken to have at the start
NO_POWER = 1e-20  # of a coefficient: keeps a share of nothing finite
FIRST_PITCH = -3.0  # natural log of a tone's share of its bin's power over that of noise
FIRST_SCALE = -3.0  # a new posterior has std = softplus(-3) = 0.05
# Power that shares of noise and tones are taken to before they are drawn. On average there is half
# a tone where one may be or not, or may be in either of two places; what sounds like music is one.
DECIDED = 4.0


class Told(NamedTuple):
    """What a decoder's blocks say of frames ``[batch, frames, features]``, before the power of a
    bin is shared: as :class:`Expected`, but ``texture`` is of noise and tones together, and
    ``pitch`` and ``high_pitch``, ``[batch, frames, 2, tones]`` each, are natural logarithms of a
    tone's power over that of the noise."""

    mean: Tensor
    texture: Tensor
    pitch: Tensor
    high_pitch: Tensor
    level: Tensor


class CompactEncoder(nn.Module):
    """Audio to posterior parameters.

    ``[batch, 2, frames·hop]`` (full scale ±1) to ``[batch, 2·latent, frames]``: the mean, then
    the scale of each latent.
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        self.transform = transform(config)
        self.bands = EarBands(self.transform, config.sample_rate)
        features, levels = self.transform.features, self.bands.levels
        bins, (of_mid, of_side, of_levels) = self.transform.long.bins, latents_by_kind(config)
        self.linear_mid = nn.Linear(bins, of_mid, bias=False)
        self.linear_side = nn.Linear(bins, of_side, bias=False)
        self.linear_level = nn.Linear(2 * levels, of_levels)
        self.input = nn.Linear(features + levels, config.width)
        self.blocks = convnext_blocks(config, config.encoder_blocks)
        reach = config.encoder_blocks * (config.kernel // 2)
        self.context_frames = self.transform.context_frames + reach
        self.norm = nn.LayerNorm(config.width)
        self.output = nn.Linear(config.width, 2 * config.latent_channels)
        with torch.no_grad():
            for linear in (self.linear_mid, self.linear_side):
                nn.init.eye_(linear.weight)  # the lowest bins, where there is no music to fit on
            self.linear_level.weight.zero_()
            self.linear_level.bias.zero_()
            self.output.weight.mul_(0.1)
            self.output.bias[: config.latent_channels].zero_()
            self.output.bias[config.latent_channels :].fill_(FIRST_SCALE)

    def forward(self, audio: Tensor) -> Tensor:
        with without_autocast(audio):
            frames = self.transform(audio.to(self.transform.dtype))  # [batch, frames, features]
            levels = self.bands.measure(frames)
            own = self.output.weight.dtype
            mid, side = self.transform.long_of(frames).to(own).chunk(2, dim=2)
            colour = torch.cat([levels, self.bands.shares(frames) / 10], dim=2).to(own)
            linear = [self.linear_mid(mid), self.linear_side(side), self.linear_level(colour)]
            seen = torch.cat([compressed(frames), levels], dim=2)
        x = self.norm(self.blocks(self.input(seen.to(own))))  # [batch, frames, width]
        with without_autocast(audio):
            mean, scale = self.output(x.to(own)).chunk(2, dim=2)
            mean = torch.cat(linear, dim=2) + mean
            return torch.cat([mean, scale], dim=2).transpose(1, 2)


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
        self.transform = transform(config)
        self.bands = EarBands(self.transform, config.sample_rate)
        features, levels = self.transform.features, self.bands.levels
        bins, self.kinds = self.transform.long.bins, latents_by_kind(config)
        of_mid, of_side, of_levels = self.kinds
        self.linear_mid = nn.Linear(of_mid, bins, bias=False)
        self.linear_side = nn.Linear(of_side, bins, bias=False)
        self.linear_level = nn.Linear(of_levels, levels)
        self.linear_texture = nn.Linear(of_levels, levels)
        self.input = nn.Linear(config.latent_channels + 2 * bins, config.width)
        self.blocks = convnext_blocks(config, config.decoder_blocks)
        self.context_frames = 1 + config.decoder_blocks * (config.kernel // 2)
        self.norm = nn.LayerNorm(config.width)
        self.shape = nn.Linear(config.width, 2 * bins)
        self.level = nn.Linear(config.width, levels, bias=False)
        self.noise = StoredNoise(features)
        self.texture = nn.Linear(config.width, features)
        tones = stored_tones(self.transform, config.tones_hz, config.sample_rate)
        self.tones, self.high_tones = tones
        self.pitch = nn.Linear(config.width, 2 * self.tones.count)
        high = 2 * self.high_tones.count
        self.pitch_high = nn.Linear(config.width, high) if high else None
        frequencies = self.transform.frequencies(config.sample_rate)[: features // 2]
        self.surprise = Surprise(self.bands, frequencies, tones)
        self.fine_surprise = FineSurprise(self.transform, tones, config.sample_rate)
        with torch.no_grad():
            for linear in (self.linear_mid, self.linear_side):
                nn.init.eye_(linear.weight)
            self.linear_level.weight.zero_()
            self.linear_level.bias.fill_(FIRST_LEVEL)
            self.linear_texture.weight.zero_()
            self.linear_texture.bias.zero_()
            for layer in (self.level, self.texture, self.shape):
                layer.weight.mul_(0.1)
            self.texture.bias.zero_()
            self.shape.bias.zero_()
            for layer, of in ((self.pitch, self.tones), (self.pitch_high, self.high_tones)):
                if layer is not None:
                    layer.weight.mul_(0.1)
                    layer.bias.copy_(of.first_pitch(FIRST_PITCH + math.log(PER_BIN)).repeat(2))

    def forward(
        self, latents: Tensor, first_frame: int | Tensor = 0, music: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Audio; with ``music``, which it is to be, ``[batch, 2, frames·hop]``, also the surprise
        at that: its negative log likelihood, a scalar (``model/likelihood.py``)."""
        told = self.tell(latents)
        audio = self.draw(self.expect(told, DECIDED), first_frame)
        if music is None:
            return audio
        with without_autocast(music):
            music, expected = music.to(self.transform.dtype), self.expect(told)
            surprise = self.surprise(expected, self.transform(music))
            left_over = music - self.transform.inverse(expected.mean)
            return audio, surprise + self.fine_surprise(expected, left_over, music)

    def tell(self, latents: Tensor) -> Told:
        """What ``[batch, latent, frames]`` tell of the frames, ``[batch, frames, features]``."""
        own = self.shape.weight.dtype
        latents = latents.transpose(1, 2).to(own)  # [batch, frames, latent]
        mid, side, of_levels = latents.split(self.kinds, dim=2)
        with without_autocast(latents):
            linear = self._wide(torch.cat([self.linear_mid(mid), self.linear_side(side)], dim=2))
        # Where the spectrum that the linear layer knows is strong, the rest of it is as well.
        seen = torch.cat([latents, compressed(linear).to(own)], dim=2)
        x = self.norm(self.blocks(self.input(seen)))  # [batch, frames, width]
        with without_autocast(latents):
            x = x.to(own)
            level = self._wide(self.linear_level(of_levels) + self.level(x))
            level = self.bands.spread(_bounded(level, LEVEL_RANGE))
            texture = self.bands.spread(self._wide(self.linear_texture(of_levels)))
            texture = _bounded(texture + self._wide(self.texture(x)), TEXTURE_RANGE)
            ears = mid_side(self._wide(self.shape(x)), -1) * self.transform.long_of(level).exp()
            mean = self.transform.frames_of_long(linear + mid_side(ears, -1))
            pitch = self._wide(self.pitch(x)).unflatten(-1, (2, -1))
            high_pitch = pitch[..., :0]
            if self.pitch_high is not None:
                high_pitch = self._wide(self.pitch_high(x)).unflatten(-1, (2, -1))
            return Told(mean, texture, pitch, high_pitch, level)

    def expect(self, told: Told, decided: float = 1.0) -> Expected:
        """The power of each bin shared among noise and the bin's tones, by their shares to the
        power of ``decided``."""
        texture = told.texture.unflatten(-1, (2, -1))
        long, short = texture.split(self.transform.sections, dim=-1)
        long, pitch = self.tones.shares(long, decided * told.pitch)
        short, high_pitch = self.high_tones.shares(short, decided * told.high_pitch)
        texture = torch.cat([long, short], dim=-1).flatten(-2)
        return Expected(told.mean, texture, pitch, high_pitch, told.level)

    def draw(self, expected: Expected, first_frame: int | Tensor = 0) -> Tensor:
        """Audio ``[batch, 2, frames·hop]`` with the noise of the frames from ``first_frame`` on."""
        with without_autocast(expected.mean):
            noise = self.noise(first_frame, expected.mean.shape[1])
            low = self.tones(expected.pitch.exp(), first_frame)
            high = self.high_tones(expected.high_pitch.exp(), first_frame)
            tones = torch.cat([low, high], dim=-1).flatten(-2)  # [batch, frames, features]
            drawn = expected.texture.exp() * noise + tones
            ears = mid_side(drawn * self._unmasked(expected), -1) * self._audible(expected)
            audio = self.transform.inverse(expected.mean + mid_side(ears, -1))
            return audio.to(self.shape.weight.dtype)

    def _unmasked(self, expected: Expected) -> Tensor:
        """Gains of Mid and Side for what is drawn, ``[batch, frames, features]``, 0 to 1: smaller
        the deeper it lies below what is known of the same in its band, which masks it."""
        level = (2 * expected.level).exp().unflatten(-1, (2, -1)).mean(dim=-2).repeat(1, 1, 2)
        power = level * torch.cat(self.surprise.variances(expected), dim=-1)
        known = self.bands.spread(self.bands.power(mid_side(expected.mean, -1)))
        return power / (power + known + NO_POWER)

    def _audible(self, expected: Expected) -> Tensor:
        """Gains of Left and Right for what is drawn, smaller the deeper it lies below the noise
        that the likelihood takes to be in every recording: silence is drawn as silence. And no
        frame of it is louder than full scale, whatever blocks say of what they were never shown."""
        power = torch.cat(self.surprise.variances(expected), dim=-1).unflatten(-1, (2, -1))
        power = (2 * expected.level).exp() * power.mean(dim=-2).repeat(1, 1, 2)
        square = power.unflatten(-1, (2, -1)).sum(dim=-1) / self.config.hop_length  # a mean
        within = (1 + square.amax(dim=-1, keepdim=True).square()) ** -0.25  # by the louder ear
        audible = power / (power.square() + QUIET_POWER**2).sqrt()
        return expected.level.exp() * audible * within

    def _wide(self, x: Tensor) -> Tensor:
        """In the precision that audio is computed in, which is not that of a half model."""
        return x.to(self.transform.dtype)


def _bounded(logs: Tensor, most: float) -> Tensor:
    """Natural logs kept within ±``most``, smoothly; as they are up to three quarters of it."""
    as_they_are = 0.75 * most
    kept, room = logs.clamp(-as_they_are, as_they_are), most - as_they_are
    return kept + room * torch.tanh((logs - kept) / room)


def compressed(x: Tensor) -> Tensor:
    """asinh(x / QUIET) / 10: linear below QUIET, a signed logarithm above."""
    return torch.asinh(x / QUIET) / 10


def transform(config: CompactConfig) -> TwoResolutions:
    """The transform that a compact model's encoder and decoder each have."""
    return TwoResolutions(
        config.hop_length, config.short_length, config.split_hz, config.sample_rate
    )


def latents_by_kind(config: CompactConfig) -> tuple[int, int, int]:
    """How many latents the linear layers give to Mid's bass, to Side's, and to levels, in this
    order. Mid and Side each have their own, so that both ears stay alike: layers that are free to
    mix them learn to hold one ear well and the other badly, which costs the likelihood nothing."""
    mid, side = (round(share * config.latent_channels) for share in (MID_LATENTS, SIDE_LATENTS))
    return mid, side, config.latent_channels - mid - side


@torch.no_grad()
def fit_linear_start(
    encoder: CompactEncoder, decoder: CompactDecoder, audio: Iterable[Tensor]
) -> None:
    """Start the linear layers as principal components of training music: of frames, and of the
    log levels of bands, from which the levels are told of what the former leave.

    ``audio``: batches ``[batch, 2, frames·hop]``. The latents then have unit variance, and those
    of levels zero mean; frames have one by themselves. Raises ValueError if all is silent.
    """
    frames = torch.cat([encoder.transform(batch).flatten(0, 1) for batch in audio])
    if not frames.any():
        raise ValueError("no audible frame to start the linear layers from")
    long = encoder.transform.long_of(frames)
    least = LEAST_POWER * float(long.square().sum(dim=1).mean())
    bass = []
    for values, write, read in zip(
        long.chunk(2, dim=1),
        (encoder.linear_mid, encoder.linear_side),
        (decoder.linear_mid, decoder.linear_side),
        strict=True,
    ):
        basis, std = _components(values, write.out_features, least)
        write.weight.zero_()[: len(std)] = (basis / std).T
        read.weight.zero_()[:, : len(std)] = basis * std
        bass.append(read(write(values)))

    bands = encoder.bands
    levels = torch.cat([
        torch.cat([bands.measure(some), bands.shares(some) / 10], dim=1)
        for some in frames.split(4096)
    ])  # fmt: skip
    mean = levels.mean(dim=0)
    least = LEAST_POWER * float((levels - mean).square().sum(dim=1).mean())
    basis, std = _components(levels - mean, encoder.linear_level.out_features, least)
    encoder.linear_level.weight.zero_()[: len(std)] = (basis / std).T
    encoder.linear_level.bias.zero_()[: len(std)] = -mean @ (basis / std)
    told = (levels - mean) @ (basis / std)  # [frames, latents], uncorrelated
    left = frames - encoder.transform.frames_of_long(torch.cat(bass, dim=1))
    power = torch.cat([bands.power(some) for some in left.split(4096)]).clamp_min(QUIET**2)
    shares = torch.cat([bands.shares(some) for some in left.split(4096)])
    for linear, log in ((decoder.linear_level, power.log() / 2), (decoder.linear_texture, shares)):
        linear.weight.zero_()[:, : len(std)] = (log - log.mean(dim=0)).T @ told / len(told)
        linear.bias.copy_(log.mean(dim=0))


def _components(values: Tensor, count: int, least: float) -> tuple[Tensor, Tensor]:
    """Orthonormal principal components of ``[n, features]``, ``[features, count]``, and their
    standard deviations, ``[count]``, of variances of at ``least`` so much; all there are, where
    features are fewer."""
    covariance = torch.zeros((), dtype=torch.float64)
    for some in values.split(4096):
        covariance = covariance + some.double().T @ some.double() / len(values)
    basis, power = principal_components(covariance, count)
    # Music of fewer dimensions than latents leaves some without power: they must not be amplified.
    std = power.clamp_min(max(least, 1e-30)).sqrt()
    return basis.to(values.dtype), std.to(values.dtype)
