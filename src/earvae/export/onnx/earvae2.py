"""εar-VAE2 as ONNX nodes, in the order of ``model/earvae2.py``."""

from __future__ import annotations

from torch import nn

from earvae.export.onnx.graph import Value
from earvae.export.onnx.layers import gelu, layer_norm, linear, snake
from earvae.model.earvae2 import (
    BINS,
    BOTH_BINS,
    MAGNITUDE_FLOOR,
    PHASE_BINS,
    SPECTRUM_HOP,
    BandedRefiner,
    EarVAE2Decoder,
    EarVAE2Encoder,
)
from earvae.model.spec_layers import Bottleneck, DecoderBlock, EncoderBlock, SpectrumTransform


def encode(encoder: EarVAE2Encoder, audio: Value) -> list[Value]:
    """``[batch, 2, frames·1920]`` to the posterior: mean, scale ``[batch, latent, frames]``."""
    x = _spectra(encoder.transform, audio.op("Flatten", axis=2))  # [2·batch, samples]
    x = _convolution(encoder.input_conv, x)
    for block in encoder.encoder_stream:
        x = _encoder_block(block, x)
    joined = encoder.post_concat_block.conv1.in_channels
    x = _encoder_block(encoder.post_concat_block, x.reshape(-1, joined, 0, BINS[-1]))
    folded = encoder.bottleneck_block.conv1.in_channels
    x = x.transpose(0, 1, 3, 2).reshape(0, folded, -1)
    return _bottleneck(encoder.bottleneck_block, x).split(2, axis=1)


def decode(decoder: EarVAE2Decoder, latents: Value) -> Value:
    """``[batch, latent, frames]`` to ``[batch, 2, frames·1920 − 480]``."""
    bins = BINS[-1]
    x = _bottleneck(decoder.bottleneck_block, latents)
    width = decoder.pre_split_block.conv1.in_channels
    x = x.reshape(0, width, bins, -1).transpose(0, 1, 3, 2)
    x = _decoder_block(decoder.pre_split_block, x)
    x = x.reshape(-1, width, 0, bins)  # Left and Right, [2·batch, …]
    for block in decoder.decoder_stream:
        x = _decoder_block(block, x)
    spectra = _convolution(decoder.output_conv, x)
    if decoder.refiner is None:
        spectra = _pad(spectra, after=1)
    else:
        spectra = _refined(decoder.refiner, spectra)
    return _audio(decoder.transform, spectra).reshape(-1, 2, 0)


# ------------------------------------------------------------------------------------- the blocks


def _encoder_block(block: EncoderBlock, x: Value) -> Value:
    y = _convolution(block.conv1, snake(block.act, x))
    y = _convolution(block.conv2, snake(block.act, y))
    if block.stride != (1, 1):
        x = x.op("AveragePool", kernel_shape=block.stride, strides=block.stride)
    return y + _convolution(block.projection, x)


def _decoder_block(block: DecoderBlock, x: Value) -> Value:
    y = _convolution(block.conv1, snake(block.act, x))
    y = _transposed(block.transposed_conv, snake(block.act, y))
    shortcut = _convolution(block.projection, x)
    if block.stride != (1, 1):
        scales = [1.0, 1.0, *map(float, block.stride)]
        shortcut = shortcut.op(
            "Resize",
            [],
            scales,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    return y + shortcut


def _bottleneck(block: Bottleneck, x: Value) -> Value:
    y = _convolution(block.conv1, snake(block.act, x))
    y = _convolution(block.conv2, snake(block.act2, y))
    return y + _convolution(block.shortcut, x)


def _convolution(layer: nn.Conv1d | nn.Conv2d, x: Value) -> Value:
    """A plain convolution: the weight norm is folded."""
    return x.op(
        "Conv",
        x.graph.weight(layer, "weight", layer.weight),
        x.graph.weight(layer, "bias", layer.bias),
        kernel_shape=layer.kernel_size,
        strides=layer.stride,
        pads=layer.padding * 2,
        group=layer.groups,
    )


def _transposed(layer: nn.ConvTranspose2d, x: Value) -> Value:
    """A transposed convolution to ``stride`` times the frames and bins, what is over cut off."""
    sizes = zip(layer.kernel_size, layer.stride, layer.padding, strict=True)
    after = [kernel - stride - padding for kernel, stride, padding in sizes]
    return x.op(
        "ConvTranspose",
        x.graph.weight(layer, "weight", layer.weight),
        x.graph.weight(layer, "bias", layer.bias),
        kernel_shape=layer.kernel_size,
        strides=layer.stride,
        pads=[*layer.padding, *after],
    )


# ------------------------------------------------------------------------------------ the refiner


def _refined(refiner: BandedRefiner, spectra: Value) -> Value:
    """``[batch, 2, frames, 480]`` to ``[batch, 2, frames, 481]``."""
    graph = spectra.graph
    x = spectra.transpose(0, 1, 3, 2).reshape(0, 2 * SPECTRUM_HOP, -1)
    x = layer_norm(refiner.norm, _convolution(refiner.embed, x).transpose(0, 2, 1))
    for block in refiner.convnext:  # [batch, frames, width]
        y = _convolution(block.dwconv, x.transpose(0, 2, 1)).transpose(0, 2, 1)
        y = linear(block.pwconv2, gelu(linear(block.pwconv1, layer_norm(block.norm, y))))
        x = x + y * graph.weight(block, "gamma", block.gamma)
    x = linear(refiner.out, layer_norm(refiner.final_norm, x))
    both, above = BOTH_BINS - PHASE_BINS, SPECTRUM_HOP - BOTH_BINS
    sizes = [PHASE_BINS, both, both, above, 2]
    low, magnitude, phase, high, nyquist = graph.ops("Split", len(sizes), x, sizes, axis=2)
    turn = _pad(graph.concat(low, phase, axis=2), after=above, axes=3)
    change = _pad(graph.concat(magnitude, high, axis=2), before=PHASE_BINS, axes=3)
    real, imaginary = (part.op("Squeeze", [1]) for part in spectra.split(2, axis=1))
    size = (real * real + imaginary * imaginary).op("Max", MAGNITUDE_FLOOR**2).op("Sqrt")
    silent = size.op("LessOrEqual", MAGNITUDE_FLOOR)
    cosine = silent.op("Where", 1.0, real / size)
    sine = silent.op("Where", 0.0, imaginary / size)
    refined = (size + change).op("Max", MAGNITUDE_FLOOR)
    turn_cosine, turn_sine = turn.op("Cos"), turn.op("Sin")
    real = refined * (cosine * turn_cosine - sine * turn_sine)
    imaginary = refined * (sine * turn_cosine + cosine * turn_sine)
    parts = graph.concat(real.unsqueeze(1), imaginary.unsqueeze(1), axis=1)
    return graph.concat(parts, nyquist.transpose(0, 2, 1).unsqueeze(3), axis=3)


def _pad(x: Value, before: int = 0, after: int = 0, axes: int = 4) -> Value:
    """Zeros at the ends of the last of ``axes`` axes."""
    others = [0] * (axes - 1)
    return x.op("Pad", [*others, before, *others, after])


# ---------------------------------------------------------------------------------- the transform


def _spectra(transform: SpectrumTransform, audio: Value) -> Value:
    """``[batch, n·hop]`` audio to ``[batch, 2, n, hop]``, real and imaginary part."""
    hop = transform.hop
    blocks = _pad(audio, before=hop, axes=2).reshape(0, -1, hop)
    windows = audio.graph.concat(blocks.slice(1, 0, -1), blocks.slice(1, 1), axis=2)
    return (windows @ transform.analysis).reshape(0, 0, 2, hop).transpose(0, 2, 1, 3)


def _audio(transform: SpectrumTransform, spectra: Value) -> Value:
    """``[batch, 2, n, hop + 1]`` to ``[batch, 1, (n − 1)·hop]`` audio."""
    hop = transform.hop
    blocks = spectra.transpose(0, 2, 1, 3).reshape(0, 0, -1) @ transform.synthesis
    rising, falling = blocks.slice(2, 0, hop), blocks.slice(2, hop)
    return ((falling.slice(1, 0, -1) + rising.slice(1, 1)) / transform.overlap).reshape(0, 1, -1)
