"""The compact architecture as ONNX nodes, in the order of ``model/compact.py``."""

from __future__ import annotations

from earvae.export.onnx.frame_decoder import compressed, draw, mid_side, powers, shares
from earvae.export.onnx.frames import sections, to_two_resolutions, with_treble
from earvae.export.onnx.graph import Value
from earvae.export.onnx.layers import convnext_blocks, layer_norm, linear
from earvae.model.compact import CompactDecoder, CompactEncoder
from earvae.model.envelope import QUIET


def encode(encoder: CompactEncoder, audio: Value) -> tuple[Value, Value]:
    """``[batch, 2, frames·hop]`` to the posterior's mean and scale, ``[batch, latent, frames]``."""
    graph = audio.graph
    frames = to_two_resolutions(encoder.transform, audio)  # [batch, frames, features]
    ears = powers(encoder.bands, mid_side(frames))
    levels = (ears / QUIET**2 + 1.0).op("Log") / 10.0 - 1.0
    x = linear(encoder.input, graph.concat(compressed(frames), levels, axis=2))
    x = layer_norm(encoder.norm, convnext_blocks(encoder.blocks, x))
    mean, scale = linear(encoder.output, x).split(2, axis=2)
    long, _ = sections(encoder.transform.sections, frames)
    long = long.reshape(0, 0, 2 * encoder.transform.long.bins)
    colour = graph.concat(levels, shares(encoder.bands, frames) / 10.0, axis=2)
    mean = linear(encoder.linear, long) + linear(encoder.linear_level, colour) + mean
    return mean.transpose(0, 2, 1), scale.transpose(0, 2, 1)


def decode(decoder: CompactDecoder, latents: Value, first_frame: Value) -> Value:
    """``[batch, latent, frames]``, the first of them at ``first_frame [1]`` of the file, to
    ``[batch, 2, frames·hop]``."""
    latents = latents.transpose(0, 2, 1)  # [batch, frames, latent]
    seen = latents.graph.concat(latents, compressed(latents, 0.1), axis=2)
    mean = with_treble(decoder.transform, linear(decoder.linear, latents))
    level, texture = linear(decoder.linear_level, latents), linear(decoder.linear_texture, latents)
    return draw(decoder, seen, mean, level, texture, first_frame)
