"""The shipped model's architecture: MDCT frames, a protected linear code, ConvNeXt blocks.

The first ``linear_channels`` latents are a fixed linear code of a frame, which holds the bass to
some 20-50 dB and is never trained; two more tell which of its bases was used. The other latents
are learned; from all of them the decoder adds a residual. Three structural rules keep the residual
in its place:

- it is zero wherever the linear code alone keeps 99 % of the energy (the bass), and it is alone
  where the linear code keeps next to nothing (above 4 kHz, where that code is exactly zero);
- elsewhere it is drawn in units of what the linear code leaves of that bin in such music;
- both sides divide by the local level, which the linear latents tell. A louder input gives
  proportionally louder linear latents, the same learned latents and a proportionally louder
  output; silence gives silence.

L1 asks for less than is there of what cannot be known, so a trained decoder is a little too quiet.
Its last factor, ``makeup``, is fixed after training and gives the loudness back
(tools/match_loudness.py).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earvae.config import CLASS_LATENTS, SpectralConfig
from earvae.model.adaptive import AdaptiveCode, fit_adaptive_code
from earvae.model.convnext import convnext_blocks
from earvae.model.envelope import QUIET, EarBands, EnvelopeCode, fit_envelope_code
from earvae.model.frame_decoder import FIRST_LEVEL, FrameDecoder, Told, compressed, transform
from earvae.model.layers import without_autocast
from earvae.model.transform import FrameTransform

LEVEL_FLOOR = 1e-4  # 80 dB below music, where linear latents have variance 1: silence is quiet
RIDGE = 1e-4  # of the linear laws that levels start from


def signed_sqrt(x: Tensor) -> Tensor:
    """√|x| with the sign of x: evens out the range of spectra. Linear below 1e-3, so that the
    gradient stays finite."""
    return x * (x.abs() + 1e-3).rsqrt()


def local_level(linear: Tensor, frames: int) -> Tensor:
    """RMS of linear latents ``[batch, frames, channels]``, averaged over ``frames`` frames around:
    ``[batch, frames, 1]``, at least LEVEL_FLOOR."""
    power = linear.square().mean(dim=2).unsqueeze(1)  # [batch, 1, frames]
    power = F.avg_pool1d(power, frames, stride=1, padding=frames // 2)
    return (power + LEVEL_FLOOR**2).sqrt().transpose(1, 2)


class SpectralEncoder(nn.Module):
    """Audio to posterior parameters. Both codes are shared with the decoder, and fixed."""

    def __init__(self, config: SpectralConfig, code: AdaptiveCode, envelope: EnvelopeCode) -> None:
        super().__init__()
        self.config = config
        self.transform = FrameTransform(config.hop_length, config.mdct_length)
        self.code = code
        self.envelope = envelope
        features = self.transform.features + config.linear_channels + envelope.levels
        self.input = nn.Linear(features, config.width)
        self.class_input = nn.Linear(config.linear_classes, config.width, bias=False)
        self.blocks = convnext_blocks(config, config.encoder_blocks)
        self.context_frames = (
            1 + config.level_frames // 2 + config.encoder_blocks * (config.kernel // 2)
        )
        self.norm = nn.LayerNorm(config.width)
        learned = config.learned_channels
        self.output = nn.Linear(config.width, 2 * learned)
        fixed = config.linear_channels + CLASS_LATENTS
        self.fixed_scale = nn.Parameter(torch.full((fixed,), -6.0))
        with torch.no_grad():
            self.output.weight[:learned].mul_(0.1)  # start at the envelope code, nearly
            self.output.bias[:learned].zero_()
            self.output.bias[learned:].fill_(-3.0)  # and a small posterior noise: 0.05

    def forward(self, audio: Tensor) -> Tensor:
        """``[batch, 2, frames·hop]`` audio to ``[batch, 2·latent, frames]`` (mean ‖ scale)."""
        with without_autocast(audio):
            frames = self.transform(audio.to(self.transform.dtype))  # [batch, frames, 2·hop]
            linear, chosen = self.code.encode(frames)  # [batch, frames, linear], one-hot classes
            residual, level = self.residual(frames, linear, chosen)
            levels = self.envelope.measure(residual)  # [batch, frames, blocks·bands]
            coarse = self.envelope.encode(levels)  # [batch, frames, learned]
        spectra = torch.cat([signed_sqrt(residual), signed_sqrt(linear / level)], dim=2)
        own = self.output.weight.dtype  # of a model cast to half precision or double, another one
        x = self.input(torch.cat([spectra, levels - self.envelope.mean], dim=2).to(own))
        x = self.blocks(x + self.class_input(chosen.to(own)))
        with without_autocast(x):
            mean, scale = self.output(self.norm(x.to(own))).chunk(2, dim=2)  # [.., .., learned]
        fixed = torch.cat([linear, self.code.points_of(chosen)], dim=2)
        fixed_scale = self.fixed_scale.expand_as(fixed)
        return torch.cat([fixed, coarse + mean, fixed_scale, scale], dim=2).to(own).transpose(1, 2)

    def residual(self, frames: Tensor, linear: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """What the linear code leaves, in units of the local level and of what it leaves of each
        bin in music of that class, ``[batch, frames, 2·hop]``; and that level."""
        level = local_level(linear, self.config.level_frames)
        unit = chosen @ self.code.residual_std * level
        return (frames - self.code.decode(linear, chosen)) / unit, level


class SpectralDecoder(FrameDecoder):
    """Latents to audio: the linear code's reconstruction, and what the blocks add to it.

    The blocks see that reconstruction, in frames of the decoder's own transform, and the learned
    latents.
    """

    def __init__(self, config: SpectralConfig, code: AdaptiveCode) -> None:
        own = transform(config)
        levels = EarBands(own, config.sample_rate).levels
        told = levels + config.learned_channels
        super().__init__(config, 2 * own.long.bins + told)
        self.code_transform = FrameTransform(config.hop_length, config.mdct_length)
        self.code = code
        self.context_frames += 1 + self.transform.context_frames
        self.linear_level = nn.Linear(told, levels)
        self.linear_texture = nn.Linear(told, levels)
        with torch.no_grad():
            for layer in (self.linear_level, self.linear_texture):
                layer.weight.zero_()
                layer.bias.zero_()
            self.linear_level.bias.fill_(FIRST_LEVEL)

    def told(self, latents: Tensor) -> Told:
        mean, colour = self.read(latents)
        own = self.input.weight.dtype
        bass = compressed(self.transform.long_of(mean))
        level, texture = self.linear_level(colour.to(own)), self.linear_texture(colour.to(own))
        return Told(torch.cat([bass, colour], dim=2), mean, level, texture)

    def read(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The linear code's frames ``[batch, frames, features]`` of ``[batch, frames, latent]``;
        and their levels, with the learned latents, ``[batch, frames, levels + learned]``."""
        latents = latents.to(self.transform.dtype)
        channels = [self.config.linear_channels, CLASS_LATENTS, self.config.learned_channels]
        linear, point, learned = latents.split(channels, dim=2)
        frames = self.code.decode(linear, self.code.nearest(point))
        mean = self.transform(self.code_transform.inverse(frames))
        return mean, torch.cat([self.bands.measure(mean), learned], dim=2)


@torch.no_grad()
def fit_codes(
    encoder: SpectralEncoder, decoder: SpectralDecoder, audio: Iterable[Tensor], top_hz: float
) -> None:
    """Fit both codes of a new model on training music, batches ``[batch, 2, frames·hop]``, and
    start the decoder's levels from them.

    The linear code is exactly zero above ``top_hz``. There it would keep nothing anyway, and what
    its vectors hold of loud bass would drown what is quiet: the decoder could never be silent.
    Both are rounded to half precision, in which models ship.
    """
    audio = list(audio)
    frames = [encoder.transform(batch) for batch in audio]
    covered = encoder.transform.frequencies(encoder.config.sample_rate) < top_hz
    fit_adaptive_code(encoder.code, frames, covered)
    round_to_half(encoder.code)
    levels = []
    for batch in frames:
        residual, level = encoder.residual(batch, *encoder.code.encode(batch))
        audible = level.squeeze(-1) > 10 * LEVEL_FLOOR
        levels.append(encoder.envelope.measure(residual[audible]))
    fit_envelope_code(encoder.envelope, torch.cat(levels))
    round_to_half(encoder.envelope)
    fit_levels(encoder, decoder, audio)


@torch.no_grad()
def fit_levels(encoder: SpectralEncoder, decoder: SpectralDecoder, audio: Iterable[Tensor]) -> None:
    """Start what the latents tell of the levels of what the linear code leaves, and of its shares
    of Mid and Side, as the linear law that fits training music best."""
    told, levels, shares = [], [], []
    for batch in audio:
        latents = encoder(batch).transpose(1, 2)[..., : encoder.config.latent_channels]
        mean, colour = decoder.read(latents)
        left = decoder.transform(batch) - mean
        told.append(colour.flatten(0, 1))
        levels.append(decoder.bands.power(left).clamp_min(QUIET**2).log().flatten(0, 1) / 2)
        shares.append(decoder.bands.shares(left).flatten(0, 1))
    told = torch.cat(told).double()
    told = torch.cat([told, torch.ones_like(told[:, :1])], dim=1)
    product = told.T @ told
    product.diagonal().add_(RIDGE * product.diagonal().mean())
    for linear, values in ((decoder.linear_level, levels), (decoder.linear_texture, shares)):
        law = torch.linalg.solve(product, told.T @ torch.cat(values).double())
        linear.weight.copy_(law[:-1].T)
        linear.bias.copy_(law[-1])


def round_to_half(code: nn.Module) -> None:
    """Buffers to the nearest numbers of half precision."""
    for buffer in code.buffers():
        buffer.copy_(buffer.half())
