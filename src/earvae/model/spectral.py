"""The compact architecture: MDCT frames, a protected linear code, wide blocks at the frame rate.

The first ``linear_channels`` latents are the fixed PCA code of a frame, which holds the bass to
some 20-50 dB and is never trained. The other latents are learned; from all of them the decoder
adds a residual. Three structural rules keep the residual in its place:

- it is zero wherever the linear code alone keeps 99 % of the energy (the bass);
- elsewhere it is drawn in units of what the linear code leaves of that bin in music;
- both sides divide by the local level, which the linear latents tell. A louder input gives
  proportionally louder linear latents, the same learned latents and a proportionally louder
  output; silence gives silence.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earvae.config import SpectralConfig
from earvae.model.linear import LinearCode
from earvae.model.transform import FrameTransform

LEVEL_FLOOR = 1e-4  # of the linear latents' unit variance: 80 dB below music, so silence is quiet
PROTECTED_SHARE = 0.99  # a bin the linear code keeps this well belongs to it alone
GAIN_BANDS = 20  # per channel and MDCT block
GAIN_RANGE = 5.0  # natural log units: the learned gain stays within ±43 dB


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution in time, then a pointwise MLP (Liu et al. 2022), with layer scale."""

    def __init__(self, width: int, hidden: int, kernel: int, layer_scale: float) -> None:
        super().__init__()
        # A 2-D convolution over [batch, width, frames, 1] in channels-last memory: the same
        # numbers as a 1-D one, several times faster on CPUs, and no transposition.
        self.depthwise = nn.Conv2d(
            width, width, (kernel, 1), padding=(kernel // 2, 0), groups=width
        )
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, frames, width]`` to the same shape."""
        y = self.depthwise(x.transpose(1, 2).unsqueeze(-1)).squeeze(-1).transpose(1, 2)
        y = self.contract(F.gelu(self.expand(self.norm(y)), approximate="tanh"))
        return x + self.scale * y


def _blocks(config: SpectralConfig, count: int) -> nn.Sequential:
    """``count`` ConvNeXt blocks of the configured width."""
    hidden = config.width * config.expansion
    return nn.Sequential(
        *(ConvNeXtBlock(config.width, hidden, config.kernel, 0.3) for _ in range(count))
    )


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
    """Audio to posterior parameters. ``code`` is shared with the decoder, and fixed."""

    def __init__(self, config: SpectralConfig, code: LinearCode) -> None:
        super().__init__()
        self.config = config
        self.transform = FrameTransform(config.hop_length, config.mdct_length)
        self.code = code
        self.input = nn.Linear(self.transform.features + config.linear_channels, config.width)
        self.blocks = _blocks(config, config.encoder_blocks)
        self.norm = nn.LayerNorm(config.width)
        learned = config.latent_channels - config.linear_channels
        self.output = nn.Linear(config.width, 2 * learned)
        self.linear_scale = nn.Parameter(torch.full((config.linear_channels,), -6.0))
        with torch.no_grad():  # start with a small posterior noise: softplus(-3) = 0.05
            self.output.bias[learned:].fill_(-3.0)

    @property
    def context_frames(self) -> int:
        """Frames on each side beyond which nothing reaches a frame's posterior."""
        config = self.config
        return 1 + config.level_frames // 2 + config.encoder_blocks * (config.kernel // 2)

    def forward(self, audio: Tensor) -> Tensor:
        """``[batch, 2, frames·hop]`` audio to ``[batch, 2·latent, frames]`` (mean ‖ scale)."""
        frames = self.transform(audio)  # [batch, frames, 2·hop]
        linear = self.code.encode(frames)  # [batch, frames, linear]
        level = local_level(linear, self.config.level_frames)
        residual = (frames - self.code.decode(linear)) / (self.code.residual_std * level)
        x = self.input(torch.cat([signed_sqrt(residual), signed_sqrt(linear / level)], dim=2))
        x = self.output(self.norm(self.blocks(x)))  # [batch, frames, 2·learned]
        mean, scale = x.chunk(2, dim=2)
        linear_scale = self.linear_scale.expand_as(linear)
        return torch.cat([linear, mean, linear_scale, scale], dim=2).transpose(1, 2)


class SpectralDecoder(nn.Module):
    """Latents to audio: the linear code's reconstruction plus a learned, bounded residual."""

    tail_deficit = 0

    def __init__(self, config: SpectralConfig, code: LinearCode) -> None:
        super().__init__()
        self.config = config
        self.transform = FrameTransform(config.hop_length, config.mdct_length)
        self.code = code
        self.input = nn.Linear(config.latent_channels, config.width)
        self.blocks = _blocks(config, config.decoder_blocks)
        self.norm = nn.LayerNorm(config.width)
        self.shape = nn.Linear(config.width, self.transform.features)
        bands = _band_interpolation(config)
        self.gain = nn.Linear(config.width, bands.shape[0])
        self.register_buffer("bands", bands, persistent=False)
        with torch.no_grad():  # start at the linear code, a little away from it
            self.shape.weight.mul_(0.1)
            self.shape.bias.zero_()
            self.gain.weight.mul_(0.1)
            self.gain.bias.zero_()

    @property
    def context_frames(self) -> int:
        """Frames on each side beyond which no latent reaches a frame's samples."""
        config = self.config
        return 1 + config.level_frames // 2 + config.decoder_blocks * (config.kernel // 2)

    def forward(self, latents: Tensor) -> Tensor:
        """``[batch, latent, frames]`` latents to ``[batch, 2, frames·hop]`` audio."""
        latents = latents.transpose(1, 2)  # [batch, frames, latent]
        linear = latents[..., : self.config.linear_channels]
        learned = latents[..., self.config.linear_channels :]
        level = local_level(linear, self.config.level_frames)
        x = self.input(torch.cat([signed_sqrt(linear / level), learned], dim=2))
        x = self.norm(self.blocks(x))  # [batch, frames, width]
        log_gain = GAIN_RANGE * torch.tanh(self.gain(x) / GAIN_RANGE) @ self.bands
        residual = self.shape(x) * log_gain.exp()  # [batch, frames, 2·hop]
        unit = self.code.residual_std * (self.code.explained() < PROTECTED_SHARE)
        return self.transform.inverse(self.code.decode(linear) + residual * unit * level)


def _band_interpolation(config: SpectralConfig) -> Tensor:
    """Weights that spread GAIN_BANDS gains per channel and block over the bins of a frame.

    Band centres are equally spaced on the Mel scale, weights fall linearly between neighbours:
    ``[channels·blocks·bands, 2·hop]``, columns summing to 1.
    """
    bins = (torch.arange(config.mdct_length) + 0.5) * config.sample_rate / 2 / config.mdct_length
    mel = 2595 * torch.log10(1 + bins / 700)
    top = 2595 * math.log10(1 + config.sample_rate / 2 / 700)
    position = mel / top * (GAIN_BANDS - 1)
    hats = (1 - (position[None, :] - torch.arange(GAIN_BANDS)[:, None]).abs()).clamp_min(0)
    copies = 2 * config.hop_length // config.mdct_length
    return torch.block_diag(*[hats] * copies)
