"""εar-VAE2 computed the way its published inference code does, as a row to compare with.

The same weights and numbers, but for the order of roundings: norms of weights at every call,
activations one operation at a time, a shortcut repeated to the full resolution before its
convolution, everything in torch's default order of memory, the whole file at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from earvae.model.earvae2 import BINS, SPECTRUM_HOP, EarVAE2Decoder, EarVAE2Encoder
from earvae.model.layers import SNAKE_EPSILON
from earvae.model.spec_layers import DecoderBlock, EncoderBlock, SpecSnakeBeta


def encode(encoder: EarVAE2Encoder, audio: Tensor) -> Tensor:
    """Audio ``[batch, 2, frames·1920]`` to posterior parameters."""
    batch, hop = len(audio), SPECTRUM_HOP
    padded = F.pad(audio.flatten(0, 1), (hop, hop // 2))
    window = torch.hann_window(2 * hop, device=audio.device)
    spectra = torch.stft(padded, 2 * hop, hop, window=window, center=False, return_complex=True)
    spectra = torch.view_as_real(spectra[:, :hop]).permute(0, 3, 2, 1).contiguous()
    x = encoder.input_conv(spectra)
    for block in encoder.encoder_stream:
        x = _down(block, x)
    x = _down(encoder.post_concat_block, x.unflatten(0, (batch, 2)).flatten(1, 2))
    return encoder.bottleneck_block(x.transpose(2, 3).flatten(1, 2))


def decode(decoder: EarVAE2Decoder, latents: Tensor) -> Tensor:
    """Latents to audio ``[batch, 2, frames·1920 − 480]``; the samples behind these click."""
    batch, hop = len(latents), SPECTRUM_HOP
    x = decoder.bottleneck_block(latents).unflatten(1, (-1, BINS[-1])).transpose(2, 3)
    left, right = _up(decoder.pre_split_block, x).chunk(2, dim=1)
    x = torch.stack([left, right], 1).flatten(0, 1)
    for block in decoder.decoder_stream:
        x = _up(block, x)
    spectra = decoder.output_conv(x)
    spectra = F.pad(spectra, (0, 1)) if decoder.refiner is None else decoder.refiner(spectra)
    complex_spectra = torch.complex(*spectra.unbind(1)).transpose(1, 2)
    length = (complex_spectra.shape[2] - 1) * hop
    window = torch.hann_window(2 * hop, device=latents.device)
    audio = torch.istft(complex_spectra, 2 * hop, hop, window=window, center=True, length=length)
    return audio.unflatten(0, (batch, 2))


def _snake(activation: SpecSnakeBeta, x: Tensor) -> Tensor:
    alpha, beta = activation.alpha.exp(), activation.beta.exp()
    return x + (1.0 / (beta + SNAKE_EPSILON)) * torch.pow(torch.sin(x * alpha), 2)


def _down(block: EncoderBlock, x: Tensor) -> Tensor:
    y = block.conv2(_snake(block.act, block.conv1(_snake(block.act, x))))
    return y + block.projection(F.avg_pool2d(x, block.stride))


def _up(block: DecoderBlock, x: Tensor) -> Tensor:
    y = block.transposed_conv(_snake(block.act, block.conv1(_snake(block.act, x))))
    repeated = F.interpolate(x, scale_factor=[float(s) for s in block.stride], mode="nearest")
    shortcut = block.projection(repeated)
    return y[:, :, : shortcut.shape[2], : shortcut.shape[3]] + shortcut
