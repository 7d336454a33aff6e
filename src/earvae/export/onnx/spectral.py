"""The shipped model's architecture as ONNX nodes, in the order of ``model/spectral.py``."""

from __future__ import annotations

from earvae.config import CLASS_LATENTS
from earvae.export.onnx.frame_decoder import compressed, draw, mid_side, powers
from earvae.export.onnx.frames import (
    per_block,
    sections,
    to_audio,
    to_frames,
    to_two_resolutions,
)
from earvae.export.onnx.graph import Value
from earvae.export.onnx.layers import convnext_blocks, layer_norm, linear
from earvae.model.adaptive import AdaptiveCode
from earvae.model.envelope import POWER_FLOOR, QUIET, EnvelopeCode
from earvae.model.spectral import LEVEL_FLOOR, SpectralDecoder, SpectralEncoder


def encode(encoder: SpectralEncoder, audio: Value) -> tuple[Value, Value]:
    """``[batch, 2, frames·hop]`` to the posterior's mean and scale, ``[batch, latent, frames]``."""
    graph, code, envelope = audio.graph, encoder.code, encoder.envelope
    frames = to_frames(encoder.transform, audio)  # [batch, frames, 2·hop]
    linear_latents, chosen = _code_encode(code, frames)
    level = _level(linear_latents, encoder.config.level_frames)  # [batch, frames, 1]
    unit = level * (chosen @ code.residual_std)
    residual = (frames - _code_decode(code, linear_latents, chosen)) / unit
    levels = _levels(envelope, residual)  # [batch, frames, bands], mean removed
    coarse = levels @ (envelope.basis / envelope.std)
    spectra = _signed_sqrt(residual), _signed_sqrt(linear_latents / level)
    x = linear(encoder.input, graph.concat(*spectra, levels, axis=2))
    x = convnext_blocks(encoder.blocks, x + linear(encoder.class_input, chosen))
    x = linear(encoder.output, layer_norm(encoder.norm, x))
    mean, scale = x.split(2, axis=2)
    fixed = graph.concat(linear_latents, chosen @ code.codewords, axis=2)
    fixed_scale = graph.weight(encoder, "fixed_scale", encoder.fixed_scale)
    fixed_scale = fixed_scale.op("Expand", fixed.op("Shape"))
    return (
        graph.concat(fixed, coarse + mean, axis=2).transpose(0, 2, 1),
        graph.concat(fixed_scale, scale, axis=2).transpose(0, 2, 1),
    )


def decode(decoder: SpectralDecoder, latents: Value, first_frame: Value) -> Value:
    """``[batch, latent, frames]``, the first of them at ``first_frame [1]`` of the file, to
    ``[batch, 2, frames·hop]``."""
    graph, code, config = latents.graph, decoder.code, decoder.config
    latents = latents.transpose(0, 2, 1)  # [batch, frames, latent]
    fixed = config.linear_channels + CLASS_LATENTS
    linear_latents = latents.slice(2, 0, config.linear_channels)
    chosen = _nearest_class(code, latents.slice(2, config.linear_channels, fixed))
    frames = _code_decode(code, linear_latents, chosen)
    mean = to_two_resolutions(decoder.transform, to_audio(decoder.code_transform, frames))
    levels = (powers(decoder.bands, mid_side(mean)) / QUIET**2 + 1.0).op("Log") / 10.0 - 1.0
    colour = graph.concat(levels, latents.slice(2, fixed), axis=2)
    long, _ = sections(decoder.transform.sections, mean)
    long = long.reshape(0, 0, 2 * decoder.transform.long.bins)
    seen = graph.concat(compressed(long), colour, axis=2)
    level, texture = linear(decoder.linear_level, colour), linear(decoder.linear_texture, colour)
    return draw(decoder, seen, mean, level, texture, first_frame)


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
    power = per_block(envelope, frames * frames, average)
    return (power + POWER_FLOOR).op("Log") - envelope.mean


def _level(latents: Value, frames: int) -> Value:
    """RMS of ``[batch, frames, channels]`` around each frame, ``[batch, frames, 1]``."""
    power = (latents * latents).op("ReduceMean", axes=[2], keepdims=1)
    power = power.transpose(0, 2, 1).op(  # [batch, 1, frames], zeros beyond
        "AveragePool", kernel_shape=[frames], pads=[frames // 2] * 2, count_include_pad=1
    )
    return (power + LEVEL_FLOOR**2).op("Sqrt").transpose(0, 2, 1)


def _signed_sqrt(x: Value) -> Value:
    return x / (x.op("Abs") + 1e-3).op("Sqrt")
