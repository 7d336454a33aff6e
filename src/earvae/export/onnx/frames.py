"""Frames of the spectral and compact architectures as ONNX nodes: the MDCT, bands."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from earvae.export.onnx.graph import Value
from earvae.model.envelope import Bands
from earvae.model.transform import MDCT, FrameTransform


def per_block(bands: Bands, x: Value, matrix: Tensor) -> Value:
    """``[batch, frames, blocks·n]`` times ``[n, m]``, block by block: ``[…, blocks·m]``."""
    return (x.reshape(0, 0, bands.blocks, -1) @ matrix).reshape(0, 0, -1)


def to_frames(transform: FrameTransform, audio: Value) -> Value:
    """``[batch, 2, frames·hop]`` audio to ``[batch, frames, 2·hop]`` MDCT frames."""
    mdct, hop = transform.mdct, transform.features // 2
    x = _mid_side(audio).reshape(0, 2, -1, mdct.block)
    x = (_rotate(mdct, x, 1.0) @ mdct.dct).reshape(0, 2, -1, hop)
    return x.transpose(0, 2, 1, 3).reshape(0, 0, 2 * hop)


def to_audio(transform: FrameTransform, frames: Value) -> Value:
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
