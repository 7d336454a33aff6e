"""What the small architectures' decoders have in common, as ONNX nodes, in the order of
``model/frame_decoder.py``."""

from __future__ import annotations

import math

from torch import Tensor

from earvae.export.onnx.frames import from_two_resolutions, sections
from earvae.export.onnx.graph import Value
from earvae.export.onnx.layers import convnext_blocks, layer_norm, linear
from earvae.model.envelope import LEAST_SHARE, QUIET, Bands, EarBands
from earvae.model.frame_decoder import LEVEL_RANGE, TEXTURE_RANGE, FrameDecoder
from earvae.model.likelihood import QUIET_POWER
from earvae.model.tones import PER_BIN, StoredTones


def draw(
    decoder: FrameDecoder, seen: Value, mean: Value, level: Value, texture: Value, first: Value
) -> Value:
    """Audio ``[batch, 2, frames·hop]`` of what latents tell, each ``[batch, frames, …]``: what the
    blocks see, the mean of the frames, log levels and log textures of bands. ``first [1]`` is the
    place of the first frame in its file."""
    graph, bins, features = seen.graph, decoder.tones.bins, decoder.transform.features
    x = layer_norm(decoder.norm, convnext_blocks(decoder.blocks, linear(decoder.input, seen)))
    count = seen.op("Shape", start=1, end=2)
    level = _spread(decoder.bands, bounded(level + linear(decoder.level, x), LEVEL_RANGE))
    texture = _spread(decoder.bands, texture) + linear(decoder.texture, x)
    texture = bounded(texture, TEXTURE_RANGE)
    # Noise and tones share the power of each long bin.
    noise_long, noise_short = sections(decoder.transform.sections, texture)
    pitch = linear(decoder.pitch, x).reshape(0, 0, 2, bins, PER_BIN)
    nothing = noise_long.unsqueeze(4) * 0.0
    shares = graph.concat(nothing, pitch, axis=4).op("LogSoftmax", axis=4) * 0.5
    shares = (shares + noise_long.unsqueeze(4)).op("Exp")  # [batch, frames, 2, bins, 1 + PER_BIN]
    noise_long = shares.slice(4, 0, 1).reshape(0, 0, 2, bins)
    noise = graph.concat(noise_long, noise_short.op("Exp"), axis=3)  # its strength
    pitch = shares.slice(4, 1).reshape(0, 0, 2, decoder.tones.count)
    gain = level.op("Exp") * _audible(decoder, noise, pitch, level)
    drawn = noise.reshape(0, 0, features) * _stored(decoder.noise.table, first, count)
    long, short = sections(decoder.transform.sections, drawn)
    drawn = graph.concat(long + _tones(decoder.tones, pitch, first, count), short, axis=3)
    drawn = mid_side(drawn.reshape(0, 0, features)) * gain
    shape = mid_side(linear(decoder.shape, x)) * level.op("Exp")
    return from_two_resolutions(decoder.transform, mean + mid_side(shape + drawn))


def _audible(decoder: FrameDecoder, noise: Value, pitch: Value, level: Value) -> Value:
    """Gains of Left and Right that leave out what was taken to be in every recording."""
    tones = (pitch * pitch) @ decoder.tones.dense_power()  # [batch, frames, 2, bins]
    power = noise * noise
    long = power.slice(3, 0, decoder.tones.bins) + tones
    power = noise.graph.concat(long, power.slice(3, decoder.tones.bins), axis=3)
    power = power.op("ReduceMean", axes=[2], keepdims=0)  # [batch, frames, features / 2]
    power = noise.graph.concat(power, power, axis=2) * (level * 2.0).op("Exp")
    share = (power * 0.0 + 1.0) - (power * 0.0 + QUIET_POWER) / power
    return share.op("Max", 0.0).op("Sqrt")


def _stored(table: Tensor, first_frame: Value, frames: Value) -> Value:
    """``frames`` rows of ``table``, which comes again, from ``first_frame`` on; both int64
    ``[1]``."""
    graph = first_frame.graph
    index = graph.op("Range", first_frame.op("Squeeze"), (first_frame + frames).op("Squeeze"), 1)
    return graph.op("Gather", table, index.op("Mod", len(table)))


def _tones(tones: StoredTones, strength: Value, first_frame: Value, frames: Value) -> Value:
    """Coefficients ``[batch, frames, 2, bins]`` of tones of ``strength [batch, frames, 2,
    bins·PER_BIN]``."""
    table = _stored(tones.dense(), first_frame, frames)  # [frames, 2, tones, bins]
    strength = strength.reshape(0, 0, 2, 1, tones.count)
    return (strength @ table).reshape(0, 0, 2, tones.bins)


def bounded(logs: Value, most: float) -> Value:
    """Natural logs kept within ±``most``."""
    return (logs / most).op("Tanh") * most


def powers(bands: EarBands, frames: Value) -> Value:
    """Mean power in each band of what ``frames`` are of, ``[batch, frames, levels]``."""
    low, high = sections(bands.sections, frames * frames)
    low, high = (
        _per_block(band, part, (band.weights / band.weights.sum(dim=1, keepdim=True)).T)
        for band, part in ((bands.low, low), (bands.high, high))
    )
    return frames.graph.concat(low, high, axis=3).reshape(0, 0, bands.levels)


def shares(bands: EarBands, frames: Value) -> Value:
    """Log amplitudes of Mid and Side, 1 on average, ``[batch, frames, levels]``."""
    middle, side = (powers(bands, frames) + QUIET**2).split(2, axis=2)
    both = (middle + side) * 0.5
    share = frames.graph.concat(middle / both, side / both, axis=2)
    return share.op("Max", LEAST_SHARE).op("Log") * 0.5


def _spread(bands: EarBands, levels: Value) -> Value:
    """Values of bands ``[batch, frames, levels]`` at every coefficient."""
    low, high = sections([bands.low.levels, bands.high.levels], levels)
    low = _per_block(bands.low, low, bands.low.weights)
    high = _per_block(bands.high, high, bands.high.weights)
    return levels.graph.concat(low, high, axis=3).reshape(0, 0, 2 * sum(bands.sections))


def _per_block(bands: Bands, x: Value, matrix: Tensor) -> Value:
    """``[batch, frames, 2, blocks·n]`` times ``[n, m]``, block by block: ``[…, blocks·m]``."""
    n, m = matrix.shape
    return (x.reshape(0, 0, 2, bands.blocks, n) @ matrix).reshape(0, 0, 2, bands.blocks * m)


def mid_side(frames: Value) -> Value:
    """M/S to L/R and back, the two halves of ``[batch, frames, features]``."""
    one, other = frames.split(2, axis=2)
    return frames.graph.concat(one + other, one - other, axis=2) * math.sqrt(0.5)


def compressed(x: Value, quiet: float = QUIET) -> Value:
    return (x / quiet).op("Asinh") / 10.0
