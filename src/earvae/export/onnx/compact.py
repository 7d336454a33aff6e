"""The compact architecture as ONNX nodes, in the order of ``model/compact.py``."""

from __future__ import annotations

import math

from earvae.export.onnx.frames import per_block, to_audio, to_frames
from earvae.export.onnx.graph import Value
from earvae.export.onnx.layers import convnext_blocks, layer_norm, linear
from earvae.model.compact import (
    LEVEL_RANGE,
    QUIET,
    TEXTURE_RANGE,
    CompactDecoder,
    CompactEncoder,
    EarBands,
)
from earvae.model.texture import PERIOD, StoredNoise


def encode(encoder: CompactEncoder, audio: Value) -> tuple[Value, Value]:
    """``[batch, 2, frames·hop]`` to the posterior's mean and scale, ``[batch, latent, frames]``."""
    frames = to_frames(encoder.transform, audio)  # [batch, frames, 2·hop]
    seen = audio.graph.concat(_compressed(frames), _measured(encoder.bands, frames), axis=2)
    x = convnext_blocks(encoder.blocks, linear(encoder.input, seen))
    mean, scale = linear(encoder.output, layer_norm(encoder.norm, x)).split(2, axis=2)
    mean = linear(encoder.linear, frames) + mean
    return mean.transpose(0, 2, 1), scale.transpose(0, 2, 1)


def decode(decoder: CompactDecoder, latents: Value, first_frame: Value) -> Value:
    """``[batch, latent, frames]``, the first of them at ``first_frame [1]`` of the file, to
    ``[batch, 2, frames·hop]``."""
    latents = latents.transpose(0, 2, 1)  # [batch, frames, latent]
    x = latents.graph.concat(latents, _compressed(latents, 0.1), axis=2)
    x = layer_norm(decoder.norm, convnext_blocks(decoder.blocks, linear(decoder.input, x)))
    noise = _noise(decoder.noise, first_frame, latents.op("Shape", start=1, end=2))
    texture = _bounded(linear(decoder.texture, x), TEXTURE_RANGE).op("Exp") * noise
    level = _bounded(linear(decoder.level, x), LEVEL_RANGE)
    level = per_block(decoder.bands, level, decoder.bands.weights)
    shape = _mid_side(linear(decoder.shape, x) + texture)
    shape = _mid_side(shape * level.op("Exp"))
    return to_audio(decoder.transform, linear(decoder.linear, latents) + shape)


def _noise(noise: StoredNoise, first_frame: Value, frames: Value) -> Value:
    """``[frames, features]`` from ``first_frame`` on, both int64 ``[1]``."""
    graph = first_frame.graph
    index = graph.op("Range", first_frame.op("Squeeze"), (first_frame + frames).op("Squeeze"), 1)
    return graph.op("Gather", noise.table, index.op("Mod", PERIOD))


def _bounded(logs: Value, most: float) -> Value:
    """Natural logs kept within ±``most``."""
    return (logs / most).op("Tanh") * most


def _measured(bands: EarBands, frames: Value) -> Value:
    """Log RMS of each band of Left and Right, ``[batch, frames, levels]``."""
    channels = _mid_side(frames)
    average = (bands.weights / bands.weights.sum(dim=1, keepdim=True)).T
    power = per_block(bands, channels * channels, average)
    return (power / QUIET**2 + 1.0).op("Log") / 10.0 - 1.0


def _mid_side(frames: Value) -> Value:
    """M/S to L/R and back, the two halves of ``[batch, frames, 2·hop]``."""
    one, other = frames.split(2, axis=2)
    return frames.graph.concat(one + other, one - other, axis=2) * math.sqrt(0.5)


def _compressed(x: Value, quiet: float = QUIET) -> Value:
    return (x / quiet).op("Asinh") / 10.0
