"""The shipped model's architecture as ONNX nodes, in the order of ``model/spectral.py``."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor, nn

from earvae.config import CLASS_LATENTS
from earvae.export.onnx.graph import Value
from earvae.export.onnx.layers import gelu_tanh, layer_norm, linear
from earvae.model.adaptive import AdaptiveCode
from earvae.model.envelope import POWER_FLOOR, EnvelopeCode
from earvae.model.spectral import (
    GAIN_RANGE,
    LEVEL_FLOOR,
    PROTECTED_SHARE,
    SpectralDecoder,
    SpectralEncoder,
)
from earvae.model.transform import MDCT, FrameTransform


def encode(encoder: SpectralEncoder, audio: Value) -> tuple[Value, Value]:
    """``[batch, 2, frames·hop]`` to the posterior's mean and scale, ``[batch, latent, frames]``."""
    graph, code, envelope = audio.graph, encoder.code, encoder.envelope
    frames = _frames(encoder.transform, audio)  # [batch, frames, 2·hop]
    linear_latents, chosen = _code_encode(code, frames)
    level = _level(linear_latents, encoder.config.level_frames)  # [batch, frames, 1]
    unit = level * (chosen @ code.residual_std)
    residual = (frames - _code_decode(code, linear_latents, chosen)) / unit
    levels = _levels(envelope, residual)  # [batch, frames, bands], mean removed
    coarse = levels @ (envelope.basis / envelope.std)
    spectra = _signed_sqrt(residual), _signed_sqrt(linear_latents / level)
    x = linear(encoder.input, graph.concat(*spectra, levels, axis=2))
    x = _blocks(encoder.blocks, x + linear(encoder.class_input, chosen))
    x = linear(encoder.output, layer_norm(encoder.norm, x))
    mean, scale = x.split(2, axis=2)
    fixed = graph.concat(linear_latents, chosen @ code.codewords, axis=2)
    fixed_scale = graph.weight(encoder, "fixed_scale", encoder.fixed_scale)
    fixed_scale = fixed_scale.op("Expand", fixed.op("Shape"))
    return (
        graph.concat(fixed, coarse + mean, axis=2).transpose(0, 2, 1),
        graph.concat(fixed_scale, scale, axis=2).transpose(0, 2, 1),
    )


def decode(decoder: SpectralDecoder, latents: Value) -> Value:
    """``[batch, latent, frames]`` to ``[batch, 2, frames·hop]``."""
    graph, code, envelope, config = latents.graph, decoder.code, decoder.envelope, decoder.config
    latents = latents.transpose(0, 2, 1)  # [batch, frames, latent]
    fixed = config.linear_channels + CLASS_LATENTS
    linear_latents = latents.slice(2, 0, config.linear_channels)
    chosen = _nearest_class(code, latents.slice(2, config.linear_channels, fixed))
    learned = latents.slice(2, fixed)
    level = _level(linear_latents, config.level_frames)
    x = graph.concat(_signed_sqrt(linear_latents / level), learned, axis=2)
    x = linear(decoder.input, x) + linear(decoder.class_input, chosen)
    x = layer_norm(decoder.norm, _blocks(decoder.blocks, x))
    coarse = learned @ ((envelope.basis * envelope.std).T / 2) + envelope.mean / 2
    gain = ((linear(decoder.gain, x) + coarse) / GAIN_RANGE).op("Tanh") * GAIN_RANGE
    gain = _per_block(envelope, gain, envelope.weights).op("Exp")
    unit = chosen @ (code.residual_std * (code.explained < PROTECTED_SHARE))
    residual = linear(decoder.shape, x) * gain * (level * unit)
    frames = (_code_decode(code, linear_latents, chosen) + residual) * decoder.makeup
    return _audio(decoder.transform, frames)


# ------------------------------------------------------------------------------------- the codes


def _code_encode(code: AdaptiveCode, frames: Value) -> tuple[Value, Value]:
    """Latents ``[batch, frames, channels]`` and classes, one-hot ``[batch, frames, classes]``."""
    subspace, basis = _bases(code, frames)
    every = (frames @ subspace @ basis).reshape(0, 0, code.classes, code.channels)
    kept = (every * every).sum(3)  # energy, [batch, frames, classes]
    chosen = _one_hot(kept.op("ArgMax", axis=2, keepdims=0), code)
    components = (every * chosen.unsqueeze(3)).sum(2)
    return components / (chosen @ code.std), chosen


def _code_decode(code: AdaptiveCode, latents: Value, chosen: Value) -> Value:
    """Latents and classes, as above, to ``[batch, frames, features]``."""
    subspace, basis = _bases(code, latents)
    components = latents * (chosen @ code.std)
    every = (chosen.unsqueeze(3) * components.unsqueeze(2)).reshape(0, 0, -1)
    return every @ basis.transpose(1, 0) @ subspace.transpose(1, 0)


def _bases(code: AdaptiveCode, x: Value) -> tuple[Value, Value]:
    """``[features, subspace]`` and ``[subspace, classes·channels]``."""
    return tuple(x.graph.weight(code, name, getattr(code, name)) for name in ("subspace", "basis"))


def _nearest_class(code: AdaptiveCode, points: Value) -> Value:
    """The classes whose points are nearest to ``[batch, frames, 2]``, one-hot."""
    apart = points.unsqueeze(2) - code.codewords
    return _one_hot((apart * apart).sum(3).op("ArgMin", axis=2, keepdims=0), code)


def _one_hot(index: Value, code: AdaptiveCode) -> Value:
    """``[batch, frames]`` to float ``[batch, frames, classes]``."""
    return index.op("OneHot", [code.classes], [0.0, 1.0], axis=-1)


def _levels(envelope: EnvelopeCode, frames: Value) -> Value:
    """Log powers of bands, ``[batch, frames, blocks·bands]``, less their mean in music."""
    average = (envelope.weights / envelope.weights.sum(dim=1, keepdim=True)).T
    power = _per_block(envelope, frames * frames, average)
    return (power + POWER_FLOOR).op("Log") - envelope.mean


def _per_block(envelope: EnvelopeCode, x: Value, matrix: Tensor) -> Value:
    """``[batch, frames, blocks·n]`` times ``[n, m]``, block by block: ``[…, blocks·m]``."""
    return (x.reshape(0, 0, envelope.blocks, -1) @ matrix).reshape(0, 0, -1)


def _level(latents: Value, frames: int) -> Value:
    """RMS of ``[batch, frames, channels]`` around each frame, ``[batch, frames, 1]``."""
    power = (latents * latents).op("ReduceMean", axes=[2], keepdims=1)
    power = power.transpose(0, 2, 1).op(  # [batch, 1, frames], zeros beyond
        "AveragePool", kernel_shape=[frames], pads=[frames // 2] * 2, count_include_pad=1
    )
    return (power + LEVEL_FLOOR**2).op("Sqrt").transpose(0, 2, 1)


def _signed_sqrt(x: Value) -> Value:
    return x / (x.op("Abs") + 1e-3).op("Sqrt")


# ------------------------------------------------------------------------------------- the network


def _blocks(blocks: nn.Sequential, x: Value) -> Value:
    """ConvNeXt blocks, ``[batch, frames, width]`` in and out."""
    for block in blocks:
        depthwise = block.depthwise
        width, kernel = depthwise.out_channels, depthwise.kernel_size[0]
        weight = x.graph.weight(depthwise, "weight", depthwise.weight[..., 0])
        bias = x.graph.weight(depthwise, "bias", depthwise.bias)
        shape = {"kernel_shape": [kernel], "pads": [kernel // 2] * 2, "group": width}
        y = x.transpose(0, 2, 1).op("Conv", weight, bias, **shape).transpose(0, 2, 1)
        y = layer_norm(block.norm, y)
        y = linear(block.contract, gelu_tanh(linear(block.expand, y)))
        x = x + y * x.graph.weight(block, "scale", block.scale)
    return x


# ------------------------------------------------------------------------------------ the transform


def _frames(transform: FrameTransform, audio: Value) -> Value:
    """``[batch, 2, frames·hop]`` audio to ``[batch, frames, 2·hop]`` MDCT frames."""
    mdct, hop = transform.mdct, transform.features // 2
    x = _mid_side(audio).reshape(0, 2, -1, mdct.block)
    x = (_rotate(mdct, x, 1.0) @ mdct.dct).reshape(0, 2, -1, hop)
    return x.transpose(0, 2, 1, 3).reshape(0, 0, 2 * hop)


def _audio(transform: FrameTransform, frames: Value) -> Value:
    """``[batch, frames, 2·hop]`` MDCT frames to ``[batch, 2, frames·hop]`` audio."""
    mdct, hop = transform.mdct, transform.features // 2
    x = frames.reshape(0, 0, 2, hop).transpose(0, 2, 1, 3)  # [batch, 2, frames, hop]
    x = x.reshape(0, 2, -1, mdct.block) @ mdct.dct
    return _mid_side(_rotate(mdct, x, -1.0).reshape(0, 2, -1))


def _mid_side(audio: Value) -> Value:
    """L/R to M/S and back, ``[batch, 2, samples]``."""
    matrix = np.array([[1, 1], [1, -1]]) * math.sqrt(0.5)
    return audio.graph.op("MatMul", matrix, audio)


def _rotate(mdct: MDCT, x: Value, sign: float) -> Value:
    """Rotate the mirrored sample pairs around every inner boundary of ``[batch, 2, n, block]``."""
    half = mdct.block // 2
    start, stop = x.slice(3, 0, half), x.slice(3, half)
    before, after = stop.slice(2, 0, -1).flip(3), start.slice(2, 1)  # from the boundary, each way
    own, other = mdct.own, sign * mdct.other
    new_before, new_after = before * own - after * other, after * own + before * other
    last = x.graph.concat(new_before.flip(3), stop.slice(2, -1), axis=2)
    first = x.graph.concat(start.slice(2, 0, 1), new_after, axis=2)
    return x.graph.concat(first, last, axis=3)
