"""εar-VAE2 (arXiv 2608.19843): encoder, decoder and refiner over complex spectra, 48 kHz.

Left and Right go through one stream of shared weights each; they meet when little but time is
left. Names of modules are the published ones.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earvae.config import EarVAE2Config, RefinerConfig
from earvae.model.layers import without_autocast
from earvae.model.spec_layers import (
    Bottleneck,
    DecoderBlock,
    EncoderBlock,
    SpectrumTransform,
    Stream,
    conv2d,
    input_range,
)

SPECTRUM_HOP = 480  # samples; also the bins of a spectrum without its Nyquist bin
MULTIPLES = (1, 2, 2, 4, 4, 4, 8, 8)  # of the width, at the input and after each block
STRIDES = ((1, 2), (1, 2), (1, 3), (1, 2), (1, 2), (2, 2), (2, 1))  # (time, frequency) of a block
BINS = (480, 240, 120, 40, 20, 10, 5, 5)  # at the input and after each block
FRAMES = 4  # spectra a latent frame
PHASE_BINS, BOTH_BINS = 30, 80  # up to 1.5 kHz the phase is refined, up to 4 kHz both
MAGNITUDE_FLOOR = 1e-8


class EarVAE2Encoder(nn.Module):
    """Audio ``[batch, 2, frames·1920]`` to posterior parameters ``[batch, 2·latent, frames]``.

    Attributes:
        context_frames: as :class:`earvae.model.parts.Parts` says.
    """

    def __init__(self, config: EarVAE2Config) -> None:
        super().__init__()
        widths = [config.channels * multiple for multiple in MULTIPLES]
        self.transform = SpectrumTransform(SPECTRUM_HOP)
        self.input_conv = conv2d(2, widths[0], (7, 7))
        self.encoder_stream = Stream(
            *(
                EncoderBlock(inputs, outputs, bins, stride)
                for (inputs, outputs), bins, stride in zip(
                    pairwise(widths), BINS, STRIDES, strict=False
                )
            )
        )
        self.post_concat_block = EncoderBlock(2 * widths[-1], widths[-1], BINS[-1])
        folded = widths[-1] * BINS[-1]
        self.bottleneck_block = Bottleneck(folded, folded, 2 * config.latent_channels)
        first, last = input_range([*self.encoder_stream, self.post_concat_block], 0, 0)
        first, last = first - 3 - 1, last + 3  # the first convolution; a window begins a hop before
        self.context_frames = max(-(first // FRAMES), last // FRAMES)

    def forward(self, audio: Tensor) -> Tensor:
        batch = audio.shape[0]
        with without_autocast(audio):
            signal = audio.flatten(0, 1).to(self.transform.analysis.dtype)
            spectra = self.transform(signal).to(self.input_conv.bias.dtype)
            x = self.input_conv(spectra)
        x = self.encoder_stream(x)
        x = self.post_concat_block(x.unflatten(0, (batch, 2)).flatten(1, 2))
        with without_autocast(x):
            x = x.to(self.bottleneck_block.act.alpha.dtype)
            return self.bottleneck_block(x.transpose(2, 3).flatten(1, 2))


class EarVAE2Decoder(nn.Module):
    """Latents ``[batch, latent, frames]`` to audio ``[batch, 2, frames·1920 − 480]``.

    The last 480 samples lie under the falling half of one window alone and are not given.

    Attributes:
        context_frames, tail_deficit: as :class:`earvae.model.parts.Parts` says.
    """

    tail_deficit = SPECTRUM_HOP

    def __init__(self, config: EarVAE2Config) -> None:
        super().__init__()
        widths = [config.decoder_width * multiple for multiple in MULTIPLES][::-1]
        folded = widths[0] * BINS[-1]
        self.bottleneck_block = Bottleneck(config.latent_channels, folded, folded)
        self.pre_split_block = DecoderBlock(widths[0], 2 * widths[0], BINS[-1])
        self.decoder_stream = Stream(
            *(
                DecoderBlock(inputs, outputs, bins, stride)
                for (inputs, outputs), bins, stride in zip(
                    pairwise(widths), BINS[:0:-1], STRIDES[::-1], strict=True
                )
            )
        )
        self.output_conv = conv2d(widths[-1], 2, (7, 7))
        self.refiner = None if config.refiner is None else BandedRefiner(config.refiner)
        self.transform = SpectrumTransform(SPECTRUM_HOP)
        reach = 3 + (self.refiner.reach if self.refiner else 0)
        first, last = -reach, FRAMES - 1 + reach + 1  # a sample needs the spectrum after it too
        first, last = input_range([self.pre_split_block, *self.decoder_stream], first, last)
        self.context_frames = max(-first, last)

    def forward(self, latents: Tensor) -> Tensor:
        batch = latents.shape[0]
        with without_autocast(latents):
            x = self.bottleneck_block(latents.to(self.bottleneck_block.act.alpha.dtype))
        x = self.pre_split_block(x.unflatten(1, (-1, BINS[-1])).transpose(2, 3))
        left, right = x.chunk(2, dim=1)
        x = self.decoder_stream(torch.stack([left, right], 1).flatten(0, 1))
        with without_autocast(x):
            own = self.output_conv.bias.dtype
            spectra = self.output_conv(x.to(own))
            spectra = spectra.to(self.transform.synthesis.dtype)
            spectra = F.pad(spectra, (0, 1)) if self.refiner is None else self.refiner(spectra)
            return self.transform.inverse(spectra).unflatten(0, (batch, 2)).to(own)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution in time, LayerNorm, pointwise MLP, layer scale (Liu et al. 2022).

    ``[batch, width, frames]`` to the same. Published names and numbers; the small models have a
    block of their own (``convnext.py``), which is faster on a CPU.
    """

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        width = config.width
        self.dwconv = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1 = nn.Linear(width, config.hidden)
        self.pwconv2 = nn.Linear(config.hidden, width)
        self.gamma = nn.Parameter(torch.full((width,), 1 / config.blocks))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).transpose(1, 2))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.transpose(1, 2)


class BandedRefiner(nn.Module):
    """What is added to a decoded spectrum: phase at the bottom, magnitude at the top.

    ``[batch, 2, frames, 480]`` to ``[batch, 2, frames, 481]``, real and imaginary part: below
    1.5 kHz the phase alone changes, up to 4 kHz phase and magnitude, above the magnitude alone;
    the Nyquist bin is the refiner's own. A new one changes nothing: its last layer is zero.

    Attributes:
        reach: spectra on each side that a refined one depends on.
    """

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        width, bins = config.width, SPECTRUM_HOP
        self.embed = nn.Conv1d(2 * bins, width, 7, padding=3)
        self.norm = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.convnext = nn.Sequential(*(ConvNeXtBlock(config) for _ in range(config.blocks)))
        self.final_norm = nn.LayerNorm(width, eps=config.norm_epsilon)
        self.out = nn.Linear(width, bins + BOTH_BINS - PHASE_BINS + 2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.reach = 3 * (1 + config.blocks)

    def forward(self, spectra: Tensor) -> Tensor:
        x = spectra.transpose(2, 3).flatten(1, 2).to(self.out.weight.dtype)
        x = self.norm(self.embed(x).transpose(1, 2)).transpose(1, 2)
        x = self.final_norm(self.convnext(x).transpose(1, 2))
        both = BOTH_BINS - PHASE_BINS
        sizes = (PHASE_BINS, both, both, SPECTRUM_HOP - BOTH_BINS, 2)
        low, magnitude, phase, high, nyquist = self.out(x).to(spectra.dtype).split(sizes, dim=-1)
        real, imaginary = spectra.unbind(1)
        # The angle as a direction, and a floor inside the root: silence has a gradient.
        size = (real.square() + imaginary.square()).clamp_min(MAGNITUDE_FLOOR**2).sqrt()
        silent = size <= MAGNITUDE_FLOOR
        cosine, sine = torch.where(silent, 1, real / size), torch.where(silent, 0, imaginary / size)
        turn = F.pad(torch.cat([low, phase], -1), (0, SPECTRUM_HOP - BOTH_BINS))
        change = F.pad(torch.cat([magnitude, high], -1), (PHASE_BINS, 0))
        refined = (size + change).clamp_min(MAGNITUDE_FLOOR)
        real = refined * (cosine * turn.cos() - sine * turn.sin())
        imaginary = refined * (sine * turn.cos() + cosine * turn.sin())
        return torch.cat([torch.stack([real, imaginary], 1), nyquist.transpose(1, 2)[..., None]], 3)
