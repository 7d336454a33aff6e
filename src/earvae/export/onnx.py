"""A model as ONNX graphs: encoder, decoder and, where there is one, the transformer.

The graphs are written out node by node from the modules, not traced. That is quick, needs only
the ``onnx`` package whatever the version of torch, keeps batch and length dynamic everywhere, and
gives weights the names of the modules they come from. The price is that a new kind of layer needs
a function here; one that is missing is refused by name, and the tests hold the graphs to the
modules' numbers.

A folder holds

- ``encoder.onnx``: ``audio [batch, 2, samples]``, whole frames → ``mean``, ``std``
  ``[batch, latent, frames]``;
- ``transformer.onnx`` (only where the model has one): ``latents`` → ``decoder_latents`` of the same
  shape, over the whole sequence, ahead of the decoder. Memory grows with the frames, not with
  their square;
- ``decoder.onnx``: ``latents`` → ``audio [batch, 2, frames·hop − tail_deficit]``;
- ``runner.py``: reads and writes audio files with these three (``earvae.export.runner``).

Weight norm is folded into plain weights. Metadata inside each file (strings): see
:func:`metadata`.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from earvae.config import CLASS_LATENTS, CompactConfig
from earvae.export import runner
from earvae.model.adaptive import AdaptiveCode
from earvae.model.envelope import POWER_FLOOR, EnvelopeCode
from earvae.model.layers import (
    SNAKE_EPSILON,
    Chain,
    SnakeBeta,
    WeightNormConv1d,
    WeightNormConvTranspose1d,
)
from earvae.model.oobleck import ResidualUnit
from earvae.model.spectral import (
    GAIN_RANGE,
    LEVEL_FLOOR,
    PROTECTED_SHARE,
    ConvNeXtBlock,
    SpectralDecoder,
    SpectralEncoder,
)
from earvae.model.transform import FrameTransform
from earvae.model.transformer import Attention, FeedForward, LatentTransformer, inverse_frequencies
from earvae.model.vae import EarVAE

OPSET = 17  # the first with LayerNormalization
IR_VERSION = 8  # what came with it
QUERY_BLOCK = 256  # frames whose attention to all others is held at a time
HALF_LIMIT = float(np.finfo(np.float16).max)


class UnsupportedLayerError(TypeError):
    """A layer or architecture that this module has no ONNX form for; the message names it."""


def export_onnx(vae: EarVAE, folder: str | Path, half: bool = False) -> list[Path]:
    """Write a model's graphs and the runner into ``folder``; the paths, in that order.

    Args:
        vae: on the CPU, in float32, weight norm not folded (its identity is of these weights).
        half: store weight matrices in float16, which halves the files. They are widened when a
            file is loaded; all computation and all audio stay float32. For weights that were kept
            in half precision anyway (the compact model's) nothing is lost.

    Files are written under temporary names and renamed; a ``transformer.onnx`` of an earlier model
    is removed if this one has none. Raises UnsupportedLayerError or OSError.
    """
    if isinstance(vae.config, CompactConfig):
        raise UnsupportedLayerError(
            f"the model's architecture is {vae.config.architecture!r}, which has no ONNX form yet; "
            "use earvae itself, with PyTorch, to encode and decode with it"
        )
    folder = Path(folder)
    write = {"encoder": encoder_graph, "decoder": decoder_graph}
    if vae.transformers is not None:
        write["transformer"] = transformer_graph
    identity = vae.identity  # reads every weight: once
    graphs = {part: graph(vae, half, identity) for part, graph in write.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
        for part, graph in graphs.items():
            onnx.save(graph, Path(temporary) / f"{part}.onnx")
        shutil.copyfile(runner.__file__, Path(temporary) / "runner.py")
        names = [*(f"{part}.onnx" for part in graphs), "runner.py"]
        for name in names:
            (Path(temporary) / name).chmod(0o644)
            os.replace(Path(temporary) / name, folder / name)
    if vae.transformers is None:
        (folder / "transformer.onnx").unlink(missing_ok=True)
    return [folder / name for name in names]


def metadata(vae: EarVAE, part: str, half: bool, identity: str | None = None) -> dict[str, str]:
    """What a file says of itself.

    ``context_frames`` are the frames that a chunk of this part needs on each side to equal the
    whole; ``-1`` means all (the transformer). ``tail_deficit`` is how many samples the decoder
    ends short of whole frames. ``model`` is :attr:`EarVAE.identity`, computed unless given.
    """
    context = {"transformer": -1}
    if part != "transformer":
        context[part] = getattr(vae, part).context_frames
    return {
        "format": runner.FORMAT,
        "format_version": runner.FORMAT_VERSION,
        "part": part,
        "model": identity or vae.identity,
        "architecture": vae.config.architecture,
        "sample_rate": str(vae.sample_rate),
        "hop_length": str(vae.hop_length),
        "audio_channels": str(vae.config.audio_channels),
        "latent_channels": str(vae.latent_channels),
        "context_frames": str(context[part]),
        "tail_deficit": str(vae.decoder.tail_deficit),
        "has_transformer": str(vae.transformers is not None).lower(),
        "weights": "float16" if half else "float32",
        "config": vae.config.model_dump_json(),
    }


# --------------------------------------------------------------------------- the three graphs


def encoder_graph(vae: EarVAE, half: bool = False, identity: str | None = None) -> onnx.ModelProto:
    """``audio [batch, 2, frames·hop]`` → ``mean``, ``std [batch, latent, frames]``."""
    graph = _Graph(half)
    if isinstance(vae.encoder, SpectralEncoder):
        mean, scale = _spectral_encoder(graph, vae.encoder, "audio")
    else:
        parameters = _layer(graph, vae.encoder, "audio", "encoder")
        mean, scale = graph.split(parameters, 1, 2)
    std = graph.op("Softplus", scale)
    if floor := getattr(vae.config, "std_floor", 0.0):
        std = graph.op("Add", std, graph.constant(floor))
    latents = ["batch", vae.latent_channels, "frames"]
    return graph.finish(
        inputs={"audio": ["batch", vae.config.audio_channels, "samples"]},
        outputs={"mean": (mean, latents), "std": (std, latents)},
        properties=metadata(vae, "encoder", half, identity),
    )


def decoder_graph(vae: EarVAE, half: bool = False, identity: str | None = None) -> onnx.ModelProto:
    """``latents [batch, latent, frames]`` → ``audio [batch, 2, frames·hop − tail_deficit]``."""
    graph = _Graph(half)
    if isinstance(vae.decoder, SpectralDecoder):
        audio = _spectral_decoder(graph, vae.decoder, "latents")
    else:
        audio = _layer(graph, vae.decoder, "latents", "decoder")
    return graph.finish(
        inputs={"latents": ["batch", vae.latent_channels, "frames"]},
        outputs={"audio": (audio, ["batch", vae.config.audio_channels, "samples"])},
        properties=metadata(vae, "decoder", half, identity),
    )


def transformer_graph(
    vae: EarVAE, half: bool = False, identity: str | None = None
) -> onnx.ModelProto:
    """``latents [batch, latent, frames]`` → ``decoder_latents`` of the same shape.

    Raises ValueError for a model without a transformer.
    """
    if vae.transformers is None:
        raise ValueError("this model has no transformer")
    graph = _Graph(half)
    shape = ["batch", vae.latent_channels, "frames"]
    return graph.finish(
        inputs={"latents": shape},
        outputs={"decoder_latents": (_transformer(graph, vae.transformers, "latents"), shape)},
        properties=metadata(vae, "transformer", half, identity),
    )


# --------------------------------------------------------------------------- writing nodes


class _Graph:
    """The nodes and tensors of one graph, in the order they are added.

    Args:
        half: store the matrices given to :meth:`weight` in float16.
    """

    def __init__(self, half: bool = False) -> None:
        self.half = half
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self._constants: dict[tuple, str] = {}
        self._weights: dict[str, str] = {}
        self._count = 0

    def op(self, kind: str, *inputs: str, **attributes) -> str:
        """Add a node of one output; its name."""
        self._count += 1
        name = f"{kind}_{self._count}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def split(self, x: str, axis: int, parts: int) -> list[str]:
        """The names of equal parts along ``axis``."""
        self._count += 1
        name = f"Split_{self._count}"
        names = [f"{name}_{index}" for index in range(parts)]
        self.nodes.append(helper.make_node("Split", [x], names, name=name, axis=axis))
        return names

    def weight(self, tensor: Tensor, name: str) -> str:
        """A tensor of the state dict, under the name that it has there; stored once."""
        if name not in self._weights:
            values = _array(tensor)
            if not self.half or values.ndim < 2 or np.abs(values).max(initial=0) > HALF_LIMIT:
                self._weights[name] = self._tensor(values, name)
            else:
                stored = self._tensor(values.astype(np.float16), name)
                self._weights[name] = self.op("Cast", stored, to=TensorProto.FLOAT)
        return self._weights[name]

    def constant(self, values: object) -> str:
        """Numbers that a model does not learn, kept as given: float32 or int64."""
        array = _array(values) if isinstance(values, Tensor) else np.asarray(values)
        array = array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._tensor(array, f"constant_{len(self._constants)}")
        return self._constants[key]

    def _tensor(self, values: np.ndarray, name: str) -> str:
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def slice(self, x: str, axis: int, start: int, stop: int, step: int = 1) -> str:
        """Like ``x[..., start:stop:step]`` along ``axis``."""
        ends = (self.constant([value]) for value in (start, stop, axis, step))
        return self.op("Slice", x, *ends)

    def finish(
        self,
        inputs: dict[str, list],
        outputs: dict[str, tuple[str, list]],
        properties: dict[str, str],
    ) -> onnx.ModelProto:
        """The checked model. ``outputs`` maps names to the values they are, and their shapes."""
        for name, (value, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [value], [name], name=name))
        graph = helper.make_graph(
            self.nodes,
            f"earvae_{properties['part']}",
            [_value(name, shape) for name, shape in inputs.items()],
            [_value(name, shape) for name, (_, shape) in outputs.items()],
            initializer=self.tensors,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="earvae",
        )
        helper.set_model_props(model, properties)
        onnx.checker.check_model(model)
        return model


def _value(name: str, shape: list) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()


# --------------------------------------------------------------------------- convolutions


def _layer(graph: _Graph, layer: nn.Module, x: str, name: str) -> str:
    """One layer of the convolutional stacks, or a chain of them."""
    if isinstance(layer, Chain):
        y = x
        for index, inner in enumerate(layer.layers):
            y = _layer(graph, inner, y, f"{name}.layers.{index}")
        return graph.op("Add", x, y) if isinstance(layer, ResidualUnit) else y
    for kind, write in _LAYERS.items():
        if isinstance(layer, kind):
            return write(graph, layer, x, name)
    raise UnsupportedLayerError(
        f"{name} is a {type(layer).__name__}, which has no ONNX form in earvae.export.onnx"
    )


def _snake(graph: _Graph, layer: SnakeBeta, x: str, _name: str) -> str:
    """x + amplitude·sin²(frequency·x)."""
    frequency = graph.constant(layer.alpha.exp()[:, None])
    amplitude = graph.constant(1 / (layer.beta.exp()[:, None] + SNAKE_EPSILON))
    sine = graph.op("Sin", graph.op("Mul", x, frequency))
    square = graph.op("Mul", sine, sine)
    return graph.op("Add", x, graph.op("Mul", square, amplitude))


def _convolution(graph: _Graph, layer: WeightNormConv1d, x: str, name: str) -> str:
    return graph.op(
        "Conv",
        x,
        *_weight_and_bias(graph, layer, name),
        kernel_shape=[layer.kernel_size],
        strides=[layer.stride],
        pads=[layer.padding] * 2,
        dilations=[layer.dilation],
    )


def _transposed(graph: _Graph, layer: WeightNormConvTranspose1d, x: str, name: str) -> str:
    return graph.op(
        "ConvTranspose",
        x,
        *_weight_and_bias(graph, layer, name),
        kernel_shape=[layer.kernel_size],
        strides=[layer.stride],
        pads=[layer.padding] * 2,
    )


def _weight_and_bias(graph: _Graph, layer: nn.Module, name: str) -> list[str]:
    tensors = [graph.weight(layer.effective_weight(), f"{name}.weight")]
    if layer.bias is not None:
        tensors.append(graph.weight(layer.bias, f"{name}.bias"))
    return tensors


_LAYERS: dict[type, Callable[..., str]] = {
    SnakeBeta: _snake,
    WeightNormConv1d: _convolution,
    WeightNormConvTranspose1d: _transposed,
}


# --------------------------------------------------------------------------- transformer


def _transformer(graph: _Graph, transformer: LatentTransformer, latents: str) -> str:
    """Pre-norm blocks over the whole sequence, ``[batch, latent, frames]`` in and out."""
    x = graph.op("Transpose", latents, perm=[0, 2, 1])  # [batch, frames, latent]
    frames = graph.op("Shape", x, start=1, end=2)  # [1]
    rotation = _rotation(graph, transformer.layers[0].self_attn.head_channels, frames)
    for index, block in enumerate(transformer.layers):
        name = f"transformers.layers.{index}"
        y = _layer_norm(graph, block.pre_norm.gamma, block.pre_norm.beta, x, f"{name}.pre_norm")
        y = _attention(graph, block.self_attn, y, rotation, frames, f"{name}.self_attn")
        x = graph.op("Add", x, y)
        y = _layer_norm(graph, block.ff_norm.gamma, block.ff_norm.beta, x, f"{name}.ff_norm")
        x = graph.op("Add", x, _feed_forward(graph, block.ff, y, f"{name}.ff.ff"))
    return graph.op("Transpose", x, perm=[0, 2, 1])


def _rotation(graph: _Graph, head_channels: int, frames: str) -> tuple[str, str]:
    """Cosines and sines ``[frames, head channels]`` of the rotary angles."""
    count = graph.op("Cast", graph.op("Squeeze", frames), to=TensorProto.FLOAT)
    position = graph.op("Range", graph.constant(0.0), count, graph.constant(1.0))
    position = graph.op("Unsqueeze", position, graph.constant([1]))
    angles = graph.op("Mul", position, graph.constant(inverse_frequencies(head_channels)))
    angles = graph.op("Concat", angles, angles, axis=-1)
    return graph.op("Cos", angles), graph.op("Sin", angles)


def _attention(
    graph: _Graph,
    attention: Attention,
    x: str,
    rotation: tuple[str, str],
    frames: str,
    name: str,
) -> str:
    """Full self-attention, ``[batch, frames, channels]`` in and out."""
    head = attention.head_channels
    heads = attention.to_out.in_features // head
    qkv = graph.op("MatMul", x, graph.weight(attention.to_qkv.weight.T, f"{name}.to_qkv.weight"))
    query, key, value = (
        graph.op(
            "Transpose",
            graph.op("Reshape", part, graph.constant([0, 0, heads, head])),
            perm=[0, 2, 1, 3],
        )
        for part in graph.split(qkv, -1, 3)
    )  # each [batch, heads, frames, head]
    query, key = _rotate(graph, query, rotation, head), _rotate(graph, key, rotation, head)
    query = graph.op("Mul", query, graph.constant(1 / math.sqrt(head)))
    mixed = _attend(graph, query, key, value, frames, head)
    mixed = graph.op("Transpose", mixed, perm=[0, 2, 1, 3])
    mixed = graph.op("Reshape", mixed, graph.constant([0, 0, heads * head]))
    return graph.op(
        "MatMul", mixed, graph.weight(attention.to_out.weight.T, f"{name}.to_out.weight")
    )


def _rotate(graph: _Graph, x: str, rotation: tuple[str, str], head: int) -> str:
    """Turn the channel pairs (i, i + half) of ``[…, frames, head]``."""
    first, second = graph.split(x, -1, 2)
    turned = graph.op("Concat", graph.op("Neg", second), first, axis=-1)
    cos, sin = rotation
    return graph.op("Add", graph.op("Mul", x, cos), graph.op("Mul", turned, sin))


def _attend(graph: _Graph, query: str, key: str, value: str, frames: str, head: int) -> str:
    """softmax(q·kᵀ)·v, a block of queries at a time so that memory stays linear in the frames."""
    keys = graph.op("Transpose", key, perm=[0, 1, 3, 2])
    size = graph.constant([QUERY_BLOCK])
    short = graph.op("Mod", graph.op("Neg", frames), size)  # frames that the last block lacks
    pads = graph.op("Concat", graph.constant([0] * 6), short, graph.constant([0]), axis=0)
    blocks = graph.op("Pad", query, pads)
    blocks = graph.op("Reshape", blocks, graph.constant([0, 0, -1, QUERY_BLOCK, head]))
    blocks = graph.op("Transpose", blocks, perm=[2, 0, 1, 3, 4])  # [blocks, batch, heads, …]

    part = f"{query}_block"  # names of a subgraph must differ from those around it
    body = helper.make_graph(
        [
            helper.make_node("MatMul", [part, keys], [f"{part}_scores"]),
            helper.make_node("Softmax", [f"{part}_scores"], [f"{part}_weights"], axis=-1),
            helper.make_node("MatMul", [f"{part}_weights", value], [f"{part}_mixed"]),
        ],
        f"{part}_attention",
        [_value(part, [None, None, QUERY_BLOCK, head])],
        [_value(f"{part}_mixed", [None, None, QUERY_BLOCK, head])],
    )
    mixed = graph.op("Scan", blocks, body=body, num_scan_inputs=1)
    mixed = graph.op("Transpose", mixed, perm=[1, 2, 0, 3, 4])  # [batch, heads, blocks, …]
    mixed = graph.op("Reshape", mixed, graph.constant([0, 0, -1, head]))
    return graph.op("Slice", mixed, graph.constant([0]), frames, graph.constant([2]))


def _feed_forward(graph: _Graph, layer: FeedForward, x: str, name: str) -> str:
    """SwiGLU: a linear map of value · SiLU(gate)."""
    y = _linear(graph, layer.ff[0].proj, x, f"{name}.0.proj")
    value, gate = graph.split(y, -1, 2)
    y = graph.op("Mul", value, graph.op("Mul", gate, graph.op("Sigmoid", gate)))
    return _linear(graph, layer.ff[2], y, f"{name}.2")


def _layer_norm(graph: _Graph, gain: Tensor, offset: Tensor, x: str, name: str) -> str:
    """Over the last axis, eps 1e-5 as everywhere in both architectures."""
    gain, offset = (
        graph.weight(tensor, f"{name}.{part}")
        for part, tensor in (("weight", gain), ("bias", offset))
    )
    return graph.op("LayerNormalization", x, gain, offset, axis=-1, epsilon=1e-5)


def _linear(graph: _Graph, layer: nn.Linear, x: str, name: str) -> str:
    y = graph.op("MatMul", x, graph.weight(layer.weight.T, f"{name}.weight"))
    return y if layer.bias is None else graph.op("Add", y, graph.weight(layer.bias, f"{name}.bias"))


# --------------------------------------------------------------------------- compact model


def _spectral_encoder(graph: _Graph, encoder: SpectralEncoder, audio: str) -> tuple[str, str]:
    """``[batch, 2, frames·hop]`` to the posterior's mean and scale, ``[batch, latent, frames]``."""
    code, level_frames = encoder.code, encoder.config.level_frames
    frames = _frames(graph, encoder.transform, audio)  # [batch, frames, 2·hop]
    linear, chosen = _code_encode(graph, code, frames)
    level = _level(graph, linear, level_frames)  # [batch, frames, 1]
    kept = _code_decode(graph, code, linear, chosen)
    unit = graph.op("Mul", level, _of_class(graph, chosen, code.residual_std))
    residual = graph.op("Div", graph.op("Sub", frames, kept), unit)
    relative = graph.op("Div", linear, level)
    levels = _levels(graph, encoder.envelope, residual)  # [batch, frames, bands], mean removed
    coarse = graph.op(
        "MatMul", levels, graph.constant(encoder.envelope.basis / encoder.envelope.std)
    )
    spectra = (_signed_sqrt(graph, residual), _signed_sqrt(graph, relative))
    x = graph.op("Concat", *spectra, levels, axis=2)
    x = _linear(graph, encoder.input, x, "encoder.input")
    x = graph.op("Add", x, _linear(graph, encoder.class_input, chosen, "encoder.class_input"))
    x = _blocks(graph, encoder.blocks, x, "encoder.blocks")
    x = _layer_norm(graph, encoder.norm.weight, encoder.norm.bias, x, "encoder.norm")
    x = _linear(graph, encoder.output, x, "encoder.output")
    mean, scale = graph.split(x, 2, 2)
    mean = graph.op("Add", coarse, mean)
    fixed = graph.op("Concat", linear, _of_class(graph, chosen, code.codewords), axis=2)
    fixed_scale = graph.op(
        "Expand",
        graph.weight(encoder.fixed_scale, "encoder.fixed_scale"),
        graph.op("Shape", fixed),
    )
    return tuple(
        graph.op("Transpose", graph.op("Concat", *parts, axis=2), perm=[0, 2, 1])
        for parts in ((fixed, mean), (fixed_scale, scale))
    )


def _spectral_decoder(graph: _Graph, decoder: SpectralDecoder, latents: str) -> str:
    """``[batch, latent, frames]`` to ``[batch, 2, frames·hop]``."""
    code, envelope, config = decoder.code, decoder.envelope, decoder.config
    latents = graph.op("Transpose", latents, perm=[0, 2, 1])  # [batch, frames, latent]
    linear = graph.slice(latents, 2, 0, config.linear_channels)
    fixed = config.linear_channels + CLASS_LATENTS
    chosen = _class_read(graph, code, graph.slice(latents, 2, config.linear_channels, fixed))
    learned = graph.slice(latents, 2, fixed, config.latent_channels)
    level = _level(graph, linear, config.level_frames)
    relative = _signed_sqrt(graph, graph.op("Div", linear, level))
    x = graph.op("Concat", relative, learned, axis=2)
    x = _linear(graph, decoder.input, x, "decoder.input")
    x = graph.op("Add", x, _linear(graph, decoder.class_input, chosen, "decoder.class_input"))
    x = _blocks(graph, decoder.blocks, x, "decoder.blocks")
    x = _layer_norm(graph, decoder.norm.weight, decoder.norm.bias, x, "decoder.norm")
    gain = _linear(graph, decoder.gain, x, "decoder.gain")
    coarse = graph.op("MatMul", learned, graph.constant((envelope.basis * envelope.std).T / 2))
    coarse = graph.op("Add", coarse, graph.constant(envelope.mean / 2))
    gain = graph.op("Add", gain, coarse)
    gain = graph.op("Tanh", graph.op("Div", gain, graph.constant(GAIN_RANGE)))
    gain = graph.op("Mul", gain, graph.constant(GAIN_RANGE))
    gain = graph.op("Exp", _per_block(graph, envelope, gain, envelope.bands))
    residual = graph.op("Mul", _linear(graph, decoder.shape, x, "decoder.shape"), gain)
    unit = _of_class(graph, chosen, code.residual_std * (code.explained < PROTECTED_SHARE))
    residual = graph.op("Mul", residual, graph.op("Mul", level, unit))
    kept = _code_decode(graph, code, linear, chosen)
    frames = graph.op("Mul", graph.op("Add", kept, residual), graph.constant(decoder.makeup))
    return _audio(graph, decoder.transform, frames)


def _code_encode(graph: _Graph, code: AdaptiveCode, frames: str) -> tuple[str, str]:
    """Latents ``[batch, frames, channels]`` and classes, one-hot ``[batch, frames, classes]``."""
    x = graph.op("MatMul", frames, _subspace(graph, code))
    x = graph.op("MatMul", x, _basis(graph, code))
    every = graph.op("Reshape", x, graph.constant([0, 0, code.classes, code.channels]))
    kept = graph.op("ReduceSum", graph.op("Mul", every, every), graph.constant([3]), keepdims=0)
    kept = graph.op("Transpose", kept, perm=[0, 2, 1])  # [batch, classes, frames]
    around = graph.op(
        "AveragePool",
        kept,
        kernel_shape=[code.frames],
        strides=[1],
        pads=[code.frames // 2] * 2,
        count_include_pad=1,
    )
    chosen = _one_hot(graph, graph.op("ArgMax", around, axis=1, keepdims=0), code.classes)
    own = graph.op("Mul", every, graph.op("Unsqueeze", chosen, graph.constant([3])))
    components = graph.op("ReduceSum", own, graph.constant([2]), keepdims=0)
    return graph.op("Div", components, _of_class(graph, chosen, code.std)), chosen


def _code_decode(graph: _Graph, code: AdaptiveCode, latents: str, chosen: str) -> str:
    """Latents and classes, as above, to ``[batch, frames, features]``."""
    components = graph.op("Mul", latents, _of_class(graph, chosen, code.std))
    every = graph.op(
        "Mul",
        graph.op("Unsqueeze", chosen, graph.constant([3])),
        graph.op("Unsqueeze", components, graph.constant([2])),
    )
    x = graph.op("Reshape", every, graph.constant([0, 0, code.classes * code.channels]))
    x = graph.op("MatMul", x, graph.op("Transpose", _basis(graph, code), perm=[1, 0]))
    return graph.op("MatMul", x, graph.op("Transpose", _subspace(graph, code), perm=[1, 0]))


def _subspace(graph: _Graph, code: AdaptiveCode) -> str:
    return graph.weight(code.subspace, "encoder.code.subspace")


def _basis(graph: _Graph, code: AdaptiveCode) -> str:
    return graph.weight(code.basis, "encoder.code.basis")


def _class_read(graph: _Graph, code: AdaptiveCode, points: str) -> str:
    """The classes whose points are nearest to ``[batch, frames, 2]``, one-hot."""
    apart = graph.op(
        "Sub", graph.op("Unsqueeze", points, graph.constant([2])), graph.constant(code.codewords)
    )
    distance = graph.op("ReduceSum", graph.op("Mul", apart, apart), graph.constant([3]), keepdims=0)
    return _one_hot(graph, graph.op("ArgMin", distance, axis=2, keepdims=0), code.classes)


def _one_hot(graph: _Graph, index: str, classes: int) -> str:
    """``[batch, frames]`` to float ``[batch, frames, classes]``."""
    off_and_on = graph.constant(np.array([0.0, 1.0]))
    return graph.op("OneHot", index, graph.constant([classes]), off_and_on, axis=-1)


def _of_class(graph: _Graph, chosen: str, values: Tensor) -> str:
    """Each frame's row of ``[classes, n]``: ``[batch, frames, n]``."""
    return graph.op("MatMul", chosen, graph.constant(values))


def _levels(graph: _Graph, envelope: EnvelopeCode, frames: str) -> str:
    """Log powers of bands, ``[batch, frames, blocks·bands]``, less their mean in music."""
    average = (envelope.bands / envelope.bands.sum(dim=1, keepdim=True)).T
    power = _per_block(graph, envelope, graph.op("Mul", frames, frames), average)
    levels = graph.op("Log", graph.op("Add", power, graph.constant(POWER_FLOOR)))
    return graph.op("Sub", levels, graph.constant(envelope.mean))


def _per_block(graph: _Graph, envelope: EnvelopeCode, x: str, matrix: Tensor) -> str:
    """``[batch, frames, blocks·n]`` times ``[n, m]``, block by block: ``[…, blocks·m]``."""
    x = graph.op("Reshape", x, graph.constant([0, 0, envelope.blocks, -1]))
    return graph.op(
        "Reshape", graph.op("MatMul", x, graph.constant(matrix)), graph.constant([0, 0, -1])
    )


def _blocks(graph: _Graph, blocks: nn.Sequential, x: str, name: str) -> str:
    """ConvNeXt blocks, ``[batch, frames, width]`` in and out."""
    for index, block in enumerate(blocks):
        x = _convnext(graph, block, x, f"{name}.{index}")
    return x


def _convnext(graph: _Graph, block: ConvNeXtBlock, x: str, name: str) -> str:
    """Depthwise convolution in time, then a pointwise network with layer scale."""
    depthwise = block.depthwise
    width, kernel = depthwise.out_channels, depthwise.kernel_size[0]
    y = graph.op(
        "Conv",
        graph.op("Transpose", x, perm=[0, 2, 1]),
        graph.weight(depthwise.weight[..., 0], f"{name}.depthwise.weight"),
        graph.weight(depthwise.bias, f"{name}.depthwise.bias"),
        kernel_shape=[kernel],
        pads=[kernel // 2] * 2,
        group=width,
    )
    y = graph.op("Transpose", y, perm=[0, 2, 1])
    y = _layer_norm(graph, block.norm.weight, block.norm.bias, y, f"{name}.norm")
    y = _gelu(graph, _linear(graph, block.expand, y, f"{name}.expand"))
    y = _linear(graph, block.contract, y, f"{name}.contract")
    return graph.op("Add", x, graph.op("Mul", y, graph.weight(block.scale, f"{name}.scale")))


def _gelu(graph: _Graph, x: str) -> str:
    """The tanh approximation of GELU: x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³)))."""
    cube = graph.op("Mul", graph.op("Mul", x, x), x)
    inner = graph.op("Add", x, graph.op("Mul", cube, graph.constant(0.044715)))
    inner = graph.op("Tanh", graph.op("Mul", inner, graph.constant(math.sqrt(2 / math.pi))))
    half = graph.op("Mul", x, graph.constant(0.5))
    return graph.op("Mul", half, graph.op("Add", inner, graph.constant(1.0)))


def _signed_sqrt(graph: _Graph, x: str) -> str:
    root = graph.op("Sqrt", graph.op("Add", graph.op("Abs", x), graph.constant(1e-3)))
    return graph.op("Div", x, root)


def _level(graph: _Graph, linear: str, frames: int) -> str:
    """RMS of ``[batch, frames, channels]`` around each frame, ``[batch, frames, 1]``."""
    power = graph.op("ReduceMean", graph.op("Mul", linear, linear), axes=[2], keepdims=1)
    power = graph.op("Transpose", power, perm=[0, 2, 1])  # [batch, 1, frames]
    power = graph.op(
        "AveragePool",
        power,
        kernel_shape=[frames],
        strides=[1],
        pads=[frames // 2] * 2,
        count_include_pad=1,
    )
    level = graph.op("Sqrt", graph.op("Add", power, graph.constant(LEVEL_FLOOR**2)))
    return graph.op("Transpose", level, perm=[0, 2, 1])


# --------------------------------------------------------------------------- transform


def _frames(graph: _Graph, transform: FrameTransform, audio: str) -> str:
    """``[batch, 2, frames·hop]`` audio to ``[batch, frames, 2·hop]`` MDCT frames."""
    block = transform.mdct.block
    hop = block * transform.blocks_per_frame
    x = graph.op("MatMul", _mid_side(graph), audio)
    x = graph.op("Reshape", x, graph.constant([0, 2, -1, block]))
    x = graph.op("MatMul", _turn(graph, transform, x, 1.0), graph.constant(transform.mdct.dct))
    x = graph.op("Reshape", x, graph.constant([0, 2, -1, hop]))
    x = graph.op("Transpose", x, perm=[0, 2, 1, 3])  # [batch, frames, 2, hop]
    return graph.op("Reshape", x, graph.constant([0, 0, 2 * hop]))


def _audio(graph: _Graph, transform: FrameTransform, frames: str) -> str:
    """``[batch, frames, 2·hop]`` MDCT frames to ``[batch, 2, frames·hop]`` audio."""
    block = transform.mdct.block
    hop = block * transform.blocks_per_frame
    x = graph.op("Reshape", frames, graph.constant([0, 0, 2, hop]))
    x = graph.op("Transpose", x, perm=[0, 2, 1, 3])  # [batch, 2, frames, hop]
    x = graph.op("Reshape", x, graph.constant([0, 2, -1, block]))
    x = graph.op("MatMul", x, graph.constant(transform.mdct.dct))
    x = graph.op("Reshape", _turn(graph, transform, x, -1.0), graph.constant([0, 2, -1]))
    return graph.op("MatMul", _mid_side(graph), x)


def _mid_side(graph: _Graph) -> str:
    return graph.constant(np.array([[1, 1], [1, -1]]) * math.sqrt(0.5))


def _turn(graph: _Graph, transform: FrameTransform, x: str, sign: float) -> str:
    """Rotate the mirrored sample pairs around every inner boundary of ``[batch, 2, n, block]``."""
    mdct, half, end = transform.mdct, transform.mdct.block // 2, np.iinfo(np.int64).max
    start, stop = graph.slice(x, 3, 0, half), graph.slice(x, 3, half, end)
    before = _reverse(graph, graph.slice(stop, 2, 0, -1))  # going back from the boundary
    after = graph.slice(start, 2, 1, end)
    own, other = graph.constant(mdct.own), graph.constant(sign * mdct.other)
    new_before = graph.op("Sub", graph.op("Mul", own, before), graph.op("Mul", other, after))
    new_after = graph.op("Add", graph.op("Mul", own, after), graph.op("Mul", other, before))
    last = graph.op("Concat", _reverse(graph, new_before), graph.slice(stop, 2, -1, end), axis=2)
    first = graph.op("Concat", graph.slice(start, 2, 0, 1), new_after, axis=2)
    return graph.op("Concat", first, last, axis=3)


def _reverse(graph: _Graph, x: str) -> str:
    """The last of four axes back to front."""
    return graph.slice(x, 3, -1, np.iinfo(np.int64).min, -1)
