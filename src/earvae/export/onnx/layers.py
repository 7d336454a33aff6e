"""Layers that several architectures have, as ONNX nodes."""

from __future__ import annotations

from torch import nn

from earvae.export.onnx.graph import Value
from earvae.model.transformer import LayerNorm


def linear(layer: nn.Linear, x: Value) -> Value:
    """A linear map of the last axis."""
    y = x @ x.graph.weight(layer, "weight", layer.weight.T)
    return y if layer.bias is None else y + x.graph.weight(layer, "bias", layer.bias)


def layer_norm(layer: nn.LayerNorm | LayerNorm, x: Value) -> Value:
    """Normalisation over the last axis, eps 1e-5 as in every architecture."""
    ours = isinstance(layer, LayerNorm)
    gain, offset = (layer.gamma, layer.beta) if ours else (layer.weight, layer.bias)
    tensors = x.graph.weight(layer, "weight", gain), x.graph.weight(layer, "bias", offset)
    return x.op("LayerNormalization", *tensors, axis=-1, epsilon=1e-5)
