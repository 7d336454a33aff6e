"""Frames of the compact architecture as ONNX nodes: MDCTs."""

from __future__ import annotations

import math

import numpy as np

from earvae.export.onnx.graph import Value
from earvae.model.transform import MDCT, TwoResolutions


def to_two_resolutions(transform: TwoResolutions, audio: Value) -> Value:
    """``[batch, 2, frames·hop]`` audio to ``[batch, frames, features]``."""
    audio = _mid_side(audio)
    low = _blocks(transform.long, audio)  # [batch, 2, frames, bins]
    treble = audio - _samples(transform.long, low)
    high = _blocks(transform.short, treble).reshape(0, 2, -1, transform.sections[1])
    frames = audio.graph.concat(low, high, axis=3).transpose(0, 2, 1, 3)
    return frames.reshape(0, 0, transform.features)


def from_two_resolutions(transform: TwoResolutions, frames: Value) -> Value:
    """``[batch, frames, features]`` to ``[batch, 2, frames·hop]`` audio."""
    low, high = sections(transform.sections, frames)  # [batch, frames, 2, …] each
    low, high = low.transpose(0, 2, 1, 3), high.transpose(0, 2, 1, 3)
    high = high.reshape(0, 2, -1, transform.short.bins)
    return _mid_side(_samples(transform.long, low) + _samples(transform.short, high))


def sections(sizes: list[int], frames: Value) -> tuple[Value, Value]:
    """What a frame ``[batch, frames, 2·(long + short)]`` has of both, ``[batch, frames, 2, …]``
    each; ``sizes`` are those two."""
    both = frames.reshape(0, 0, 2, sum(sizes))
    return both.slice(3, 0, sizes[0]), both.slice(3, sizes[0])


def _blocks(mdct: MDCT, audio: Value) -> Value:
    """``[batch, 2, samples]`` to coefficients ``[batch, 2, blocks, bins]``."""
    return _rotate(mdct, audio.reshape(0, 2, -1, mdct.block), 1.0) @ mdct.dct


def _samples(mdct: MDCT, coefficients: Value) -> Value:
    """``[batch, 2, blocks, bins]`` coefficients to ``[batch, 2, samples]``."""
    return _rotate(mdct, coefficients @ mdct.dct.T, -1.0).reshape(0, 2, -1)


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
