"""The compact architecture as ONNX nodes, in the order of ``model/compact.py``."""

from __future__ import annotations

import math

from torch import Tensor

from earvae.export.onnx.frames import from_two_resolutions, sections, to_two_resolutions
from earvae.export.onnx.graph import Value
from earvae.export.onnx.layers import convnext_blocks, layer_norm, linear
from earvae.model.compact import (
    DECIDED,
    LEVEL_RANGE,
    NO_POWER,
    TEXTURE_RANGE,
    CompactDecoder,
    CompactEncoder,
)
from earvae.model.envelope import LEAST_SHARE, QUIET, Bands, EarBands
from earvae.model.likelihood import QUIET_POWER
from earvae.model.tones import NOTHING, StoredTones


def encode(encoder: CompactEncoder, audio: Value) -> tuple[Value, Value]:
    """``[batch, 2, frames·hop]`` to the posterior's mean and scale, ``[batch, latent, frames]``."""
    graph = audio.graph
    frames = to_two_resolutions(encoder.transform, audio)  # [batch, frames, features]
    ears = _powers(encoder.bands, _mid_side(frames))
    levels = (ears / QUIET**2 + 1.0).op("Log") / 10.0 - 1.0
    x = linear(encoder.input, graph.concat(_compressed(frames), levels, axis=2))
    x = layer_norm(encoder.norm, convnext_blocks(encoder.blocks, x))
    mean, scale = linear(encoder.output, x).split(2, axis=2)
    long, _ = sections(encoder.transform.sections, frames)
    bins = encoder.transform.long.bins
    mid, side = (part.reshape(0, 0, bins) for part in long.split(2, axis=2))
    colour = graph.concat(levels, _shares(encoder.bands, frames) / 10.0, axis=2)
    mid, side = linear(encoder.linear_mid, mid), linear(encoder.linear_side, side)
    mean = graph.concat(mid, side, linear(encoder.linear_level, colour), axis=2) + mean
    return mean.transpose(0, 2, 1), scale.transpose(0, 2, 1)


def decode(decoder: CompactDecoder, latents: Value, first_frame: Value) -> Value:
    """``[batch, latent, frames]``, the first of them at ``first_frame [1]`` of the file, to
    ``[batch, 2, frames·hop]``."""
    latents = latents.transpose(0, 2, 1)  # [batch, frames, latent]
    bins = decoder.transform.long.bins
    of_mid, of_side, _ = decoder.kinds
    mid, side = latents.slice(2, 0, of_mid), latents.slice(2, of_mid, of_mid + of_side)
    of_levels = latents.slice(2, of_mid + of_side)
    mid, side = linear(decoder.linear_mid, mid), linear(decoder.linear_side, side)
    bass = latents.graph.concat(mid, side, axis=2)  # [batch, frames, 2·bins]
    x = latents.graph.concat(latents, _compressed(bass), axis=2)
    x = layer_norm(decoder.norm, convnext_blocks(decoder.blocks, linear(decoder.input, x)))
    count = latents.op("Shape", start=1, end=2)
    level = linear(decoder.linear_level, of_levels) + linear(decoder.level, x)
    level = _bounded(level, LEVEL_RANGE)
    level = _spread(decoder.bands, level).op("Exp")
    texture = _spread(decoder.bands, linear(decoder.linear_texture, of_levels))
    texture = _bounded(texture + linear(decoder.texture, x), TEXTURE_RANGE)
    # Noise and tones share the power of each bin.
    low, high = decoder.tones, decoder.high_tones
    noise_long, noise_short = sections(decoder.transform.sections, texture)
    noise_long, pitch = _shared(low, noise_long, linear(decoder.pitch, x) * DECIDED)
    high_pitch = None
    if decoder.pitch_high is not None:
        high_pitch = linear(decoder.pitch_high, x) * DECIDED
        noise_short, high_pitch = _shared(high, noise_short, high_pitch)
    noise = latents.graph.concat(noise_long, noise_short, axis=3).op("Exp")  # its strength
    drawn = noise.reshape(0, 0, decoder.transform.features)
    drawn = drawn * _stored(decoder.noise.table, first_frame, count)
    long, short = sections(decoder.transform.sections, drawn)
    long = long + _tones(low, pitch, first_frame, count)
    if high_pitch is not None:
        short = short + _tones(high, high_pitch, first_frame, count)
    drawn = latents.graph.concat(long, short, axis=3)
    drawn = drawn.reshape(0, 0, decoder.transform.features)
    long, _ = sections(decoder.transform.sections, level)
    shape = _mid_side(_mid_side(linear(decoder.shape, x)) * long.reshape(0, 0, 2 * bins))
    long, short = (bass + shape).reshape(0, 0, 2, bins), noise_short * 0.0
    mean = latents.graph.concat(long, short, axis=3).reshape(0, 0, decoder.transform.features)
    power = _power(decoder, noise, pitch, high_pitch)  # [batch, frames, 2, features / 2]
    drawn = _mid_side(drawn * _unmasked(decoder, power, level, mean))
    drawn = drawn * level * _audible(decoder, power, level)
    return from_two_resolutions(decoder.transform, mean + _mid_side(drawn))


def _shared(tones: StoredTones, noise: Value, pitch: Value) -> tuple[Value, Value]:
    """Log strengths of noise ``[batch, frames, 2, blocks·bins]``, and strengths of tones ``[batch,
    frames, 2, tones]``."""
    before, after = tones.missing
    end, bins = tones.lowest + tones.owners, tones.kept + tones.above
    noise = noise.reshape(0, 0, 2, tones.blocks, bins)
    own = noise.slice(4, tones.lowest, end) * 2.0
    whole = own.op("ReduceLogSumExp", axes=[3], keepdims=0).unsqueeze(4)  # […, owners, 1]
    pitch = pitch.reshape(0, 0, 2, tones.count)
    pitch = pitch.op("Pad", [0, 0, 0, before, 0, 0, 0, after], NOTHING)
    pitch = pitch.reshape(0, 0, 2, tones.owners, tones.each)
    shares = noise.graph.concat(whole * 0.0, pitch, axis=4).op("LogSoftmax", axis=4)
    left = shares.slice(4, 0, 1).reshape(0, 0, 2, 1, tones.owners) * 0.5
    left = left.op("Pad", [0, 0, 0, 0, tones.lowest, 0, 0, 0, 0, bins - end])
    pitch = ((shares.slice(4, 1) + whole) * 0.5).op("Exp").reshape(0, 0, 2, -1)
    pitch = pitch.slice(3, before, before + tones.count)
    return (noise + left).reshape(0, 0, 2, tones.blocks * bins), pitch


def _tones(tones: StoredTones, strength: Value, first_frame: Value, frames: Value) -> Value:
    """Coefficients of the blocks, ``[batch, frames, 2, blocks·bins]``, of tones of ``strength
    [batch, frames, 2, tones]``."""
    both = strength.graph.concat(strength, strength, axis=3)
    return _placed(tones, both * _stored(tones.turns, first_frame, frames) @ tones.waves)


def _placed(tones: StoredTones, kept: Value) -> Value:
    """``[batch, frames, 2, blocks·kept]`` among all bins, ``[…, blocks·bins]``."""
    kept = kept.reshape(0, 0, 2, tones.blocks, tones.kept)
    kept = kept.op("Pad", [0, 0, 0, 0, 0, 0, 0, 0, 0, tones.above])
    return kept.reshape(0, 0, 2, tones.blocks * (tones.kept + tones.above))


def _power(decoder: CompactDecoder, noise: Value, pitch: Value, high_pitch: Value | None) -> Value:
    """Of what is drawn in Mid and Side, of strengths ``noise``, ``pitch`` and ``high_pitch``,
    before its level: ``[batch, frames, 2, features / 2]``."""
    power, bins = noise * noise, decoder.transform.long.bins
    low, high = decoder.tones, decoder.high_tones
    long, short = power.slice(3, 0, bins), power.slice(3, bins)
    long = long + _placed(low, (pitch * pitch) @ low.leaning)
    if high_pitch is not None:
        short = short + _placed(high, (high_pitch * high_pitch) @ high.leaning)
    return noise.graph.concat(long, short, axis=3)


def _unmasked(decoder: CompactDecoder, power: Value, level: Value, mean: Value) -> Value:
    """How much of Mid and Side, drawn with ``power``, is above what is known of them, the
    ``mean``, ``[batch, frames, features]``."""
    features = decoder.transform.features
    gain = (level * level).reshape(0, 0, 2, features // 2).op("ReduceMean", axes=[2], keepdims=1)
    power = (power * gain).reshape(0, 0, features)
    known = _spread(decoder.bands, _powers(decoder.bands, mean))
    return power / (power + known + NO_POWER)


def _audible(decoder: CompactDecoder, power: Value, level: Value) -> Value:
    """How much of Left and Right is above the noise that is taken to be in every recording, and
    within full scale, ``[batch, frames, features]``."""
    half = decoder.transform.features // 2
    power = power.op("ReduceMean", axes=[2], keepdims=0)  # [batch, frames, features / 2]
    power = power.graph.concat(power, power, axis=2) * level * level
    audible = power / (power * power + QUIET_POWER**2).op("Sqrt")
    square = power.reshape(0, 0, 2, half).op("ReduceMean", axes=[3], keepdims=1)
    square = square * (half / decoder.config.hop_length)
    square = square.op("ReduceMax", axes=[2], keepdims=0)  # of the louder ear
    return audible * (square * square + 1.0).op("Pow", -0.25)


def _stored(table: Tensor, first_frame: Value, frames: Value) -> Value:
    """``frames`` rows of ``table``, which comes again, from ``first_frame`` on; both int64
    ``[1]``."""
    graph = first_frame.graph
    index = graph.op("Range", first_frame.op("Squeeze"), (first_frame + frames).op("Squeeze"), 1)
    return graph.op("Gather", table, index.op("Mod", len(table)))


def _bounded(logs: Value, most: float) -> Value:
    """Natural logs kept within ±``most``."""
    as_they_are = 0.75 * most
    kept, room = logs.op("Clip", -as_they_are, as_they_are), most - as_they_are
    return kept + ((logs - kept) / room).op("Tanh") * room


def _powers(bands: EarBands, frames: Value) -> Value:
    """Mean power in each band of what ``frames`` are of, ``[batch, frames, levels]``."""
    low, high = sections(bands.sections, frames * frames)
    low, high = (
        _per_block(band, part, (band.weights / band.weights.sum(dim=1, keepdim=True)).T)
        for band, part in ((bands.low, low), (bands.high, high))
    )
    return frames.graph.concat(low, high, axis=3).reshape(0, 0, bands.levels)


def _shares(bands: EarBands, frames: Value) -> Value:
    """Log amplitudes of Mid and Side, 1 on average, ``[batch, frames, levels]``."""
    middle, side = (_powers(bands, frames) + QUIET**2).split(2, axis=2)
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


def _mid_side(frames: Value) -> Value:
    """M/S to L/R and back, the two halves of ``[batch, frames, features]``."""
    one, other = frames.split(2, axis=2)
    return frames.graph.concat(one + other, one - other, axis=2) * math.sqrt(0.5)


def _compressed(x: Value) -> Value:
    return (x / QUIET).op("Asinh") / 10.0
