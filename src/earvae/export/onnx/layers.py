"""Layers that several architectures have, as ONNX nodes."""

from __future__ import annotations

import math

from torch import nn

from earvae.export.onnx.graph import Value
from earvae.model.layers import SNAKE_EPSILON, SnakeBeta
from earvae.model.spec_layers import SpecSnakeBeta
from earvae.model.transformer import LayerNorm


def linear(layer: nn.Linear, x: Value) -> Value:
    """A linear map of the last axis."""
    y = x @ x.graph.weight(layer, "weight", layer.weight.T)
    return y if layer.bias is None else y + x.graph.weight(layer, "bias", layer.bias)


def layer_norm(layer: nn.LayerNorm | LayerNorm, x: Value) -> Value:
    """Normalisation over the last axis."""
    ours = isinstance(layer, LayerNorm)
    gain, offset = (layer.gamma, layer.beta) if ours else (layer.weight, layer.bias)
    tensors = x.graph.weight(layer, "weight", gain), x.graph.weight(layer, "bias", offset)
    epsilon = 1e-5 if ours else layer.eps
    return x.op("LayerNormalization", *tensors, axis=-1, epsilon=epsilon)


def snake(layer: SnakeBeta | SpecSnakeBeta, x: Value) -> Value:
    """x + sin²(αx) / β, per channel of ``[batch, channels, time]`` or per bin, the last axis."""
    alpha, beta = layer.alpha.exp(), layer.beta.exp()
    if isinstance(layer, SnakeBeta):
        alpha, beta = alpha[:, None], beta[:, None]
    sine = (x * alpha).op("Sin")
    return x + sine * sine * (1 / (beta + SNAKE_EPSILON))


def gelu(x: Value) -> Value:
    """x/2 · (1 + erf(x/√2))."""
    return x * ((x * math.sqrt(0.5)).op("Erf") + 1.0) * 0.5


def gelu_tanh(x: Value) -> Value:
    """The tanh approximation of GELU: x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³)))."""
    inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
    return x * 0.5 * (inner.op("Tanh") + 1.0)
