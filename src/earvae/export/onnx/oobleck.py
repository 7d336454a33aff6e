"""The paper's architecture as ONNX nodes: convolutional stacks, and the transformer between."""

from __future__ import annotations

import math

from onnx import TensorProto, helper
from torch import nn

from earvae.errors import EarvaeError
from earvae.export.onnx.graph import Value
from earvae.export.onnx.layers import layer_norm, linear, snake
from earvae.model.layers import (
    Chain,
    SnakeBeta,
    WeightNormConv1d,
    WeightNormConvTranspose1d,
)
from earvae.model.oobleck import OobleckDecoder, OobleckEncoder, ResidualUnit
from earvae.model.transformer import Attention, FeedForward, LatentTransformer, inverse_frequencies

QUERY_BLOCK = 256  # frames whose attention to all others is held at a time


class UnsupportedLayerError(EarvaeError):
    """A layer or architecture that has no ONNX form here; the message names it."""


def encode(encoder: OobleckEncoder, audio: Value) -> list[Value]:
    """``[batch, 2, frames·hop]`` to the posterior's mean and scale, ``[batch, latent, frames]``."""
    return _layer(encoder, audio).split(2, axis=1)


def decode(decoder: OobleckDecoder, latents: Value) -> Value:
    """``[batch, latent, frames]`` to ``[batch, 2, frames·hop − tail_deficit]``."""
    return _layer(decoder, latents)


def _layer(layer: nn.Module, x: Value) -> Value:
    """A layer of a convolutional stack, or a chain of them, ``[batch, channels, time]``."""
    if isinstance(layer, Chain):
        y = x
        for inner in layer.layers:
            y = _layer(inner, y)
        return x + y if isinstance(layer, ResidualUnit) else y
    if isinstance(layer, SnakeBeta):
        return snake(layer, x)
    if isinstance(layer, WeightNormConv1d):
        return _convolution("Conv", layer, x, dilations=[layer.dilation])
    if isinstance(layer, WeightNormConvTranspose1d):
        return _convolution("ConvTranspose", layer, x)
    raise UnsupportedLayerError(
        f"{x.graph.name_of(layer)} is a {type(layer).__name__}, which has no ONNX form in "
        "earvae.export.onnx"
    )


def _convolution(
    kind: str,
    layer: WeightNormConv1d | WeightNormConvTranspose1d,
    x: Value,
    **attributes: list[int],
) -> Value:
    """A plain convolution: the weight norm is folded."""
    tensors = [x.graph.weight(layer, "weight", layer.effective_weight())]
    if layer.bias is not None:
        tensors.append(x.graph.weight(layer, "bias", layer.bias))
    shape = {"kernel_shape": [layer.kernel_size], "strides": [layer.stride]}
    return x.op(kind, *tensors, pads=[layer.padding] * 2, **shape, **attributes)


def transformer(module: LatentTransformer, latents: Value) -> Value:
    """Pre-norm blocks over the whole sequence, ``[batch, latent, frames]`` in and out."""
    x = latents.transpose(0, 2, 1)  # [batch, frames, latent]
    frames = x.op("Shape", start=1, end=2)  # [1]
    rotation = _rotation(module.layers[0].self_attn.head_channels, frames)
    for block in module.layers:
        x = x + _attention(block.self_attn, layer_norm(block.pre_norm, x), rotation, frames)
        x = x + _feed_forward(block.ff, layer_norm(block.ff_norm, x))
    return x.transpose(0, 2, 1)


def _rotation(head_channels: int, frames: Value) -> tuple[Value, Value]:
    """Cosines and sines ``[frames, head channels]`` of the rotary angles."""
    graph, count = frames.graph, frames.op("Squeeze").op("Cast", to=TensorProto.FLOAT)
    position = graph.op("Range", 0.0, count, 1.0).unsqueeze(1)
    angles = position * inverse_frequencies(head_channels)
    angles = graph.concat(angles, angles, axis=-1)
    return angles.op("Cos"), angles.op("Sin")


def _attention(
    attention: Attention, x: Value, rotation: tuple[Value, Value], frames: Value
) -> Value:
    """Full self-attention, ``[batch, frames, channels]`` in and out."""
    head = attention.head_channels
    query, key, value = (
        part.reshape(0, 0, -1, head).transpose(0, 2, 1, 3)
        for part in linear(attention.to_qkv, x).split(3, axis=-1)
    )  # each [batch, heads, frames, head]
    query, key = _rotate(query, rotation), _rotate(key, rotation)
    mixed = _attend(query * (1 / math.sqrt(head)), key, value, frames, head)
    mixed = mixed.transpose(0, 2, 1, 3).reshape(0, 0, attention.to_out.in_features)
    return linear(attention.to_out, mixed)


def _rotate(x: Value, rotation: tuple[Value, Value]) -> Value:
    """Turn the channel pairs (i, i + half) of ``[…, frames, head]``."""
    first, second = x.split(2, axis=-1)
    cos, sin = rotation
    return x * cos + x.graph.concat(-second, first, axis=-1) * sin


def _attend(query: Value, key: Value, value: Value, frames: Value, head: int) -> Value:
    """softmax(q·kᵀ)·v, a block of queries at a time so that memory stays linear in the frames."""
    keys = key.transpose(0, 1, 3, 2)
    short = (-frames).op("Mod", [QUERY_BLOCK])  # frames that the last block lacks
    pads = query.graph.concat([0] * 6, short, [0], axis=0)
    blocks = query.op("Pad", pads).reshape(0, 0, -1, QUERY_BLOCK, head)
    blocks = blocks.transpose(2, 0, 1, 3, 4)  # [blocks, batch, heads, block, head]

    block = f"{query.name}_block"  # names of a subgraph must differ from those around it
    scores, weights, mixed = (f"{block}_{name}" for name in ("scores", "weights", "mixed"))
    shape = [None, None, QUERY_BLOCK, head]
    body = helper.make_graph(
        [
            helper.make_node("MatMul", [block, keys.name], [scores]),
            helper.make_node("Softmax", [scores], [weights], axis=-1),
            helper.make_node("MatMul", [weights, value.name], [mixed]),
        ],
        f"{block}_attention",
        [helper.make_tensor_value_info(block, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(mixed, TensorProto.FLOAT, shape)],
    )
    result = blocks.op("Scan", body=body, num_scan_inputs=1)
    result = result.transpose(1, 2, 0, 3, 4).reshape(0, 0, -1, head)
    return result.op("Slice", [0], frames, [2])  # [batch, heads, frames, head]


def _feed_forward(layer: FeedForward, x: Value) -> Value:
    """SwiGLU: a linear map of value · SiLU(gate)."""
    value, gate = linear(layer.ff[0].proj, x).split(2, axis=-1)
    return linear(layer.ff[2], value * gate * gate.op("Sigmoid"))
