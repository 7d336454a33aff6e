"""ONNX graphs, written node by node: tensors as values that one computes with.

    graph = Graph(vae)
    x = graph.input("audio", ["batch", 2, "samples"])
    graph.output("mean", (x * 0.5).op("Tanh"), ["batch", 2, "samples"])
    model = graph.model({"part": "encoder"})

Arithmetic on a :class:`Value` adds a node. Numbers, arrays and tensors among the operands become
constants of the graph: float32, or int64 where they are whole.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

OPSET = 17  # the first with LayerNormalization
IR_VERSION = 8  # what came with it
HALF_LIMIT = float(np.finfo(np.float16).max)
LAST = int(np.iinfo(np.int64).max)  # as the end of a slice: to the end of the axis
BEFORE_FIRST = int(np.iinfo(np.int64).min)  # the same of a slice with a negative step


class Graph:
    """The nodes and tensors of one graph, in the order they are added.

    Args:
        model: whose modules give their names to the weights.
        half: store weight matrices in float16; None: those that lose nothing by it.
    """

    def __init__(self, model: nn.Module, half: bool | None = False) -> None:
        self.half = half
        self._names = {module: name for name, module in model.named_modules()}
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[tuple, Value] = {}
        self._weights: dict[str, Value] = {}

    def input(self, name: str, shape: list[str | int], dtype: int = TensorProto.FLOAT) -> Value:
        """An input; axes are named where their length is free."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return Value(self, name)

    def output(self, name: str, value: Value, shape: list[str | int]) -> None:
        """Give ``value`` out under ``name``."""
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        self._nodes.append(helper.make_node("Identity", [value.name], [name], name=name))

    def op(self, kind: str, *inputs: object, **attributes: object) -> Value:
        """Add a node of one output."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: object, **attributes: object) -> list[Value]:
        """Add a node of several outputs."""
        name = f"{kind}_{len(self._nodes)}"
        names = [f"{name}_{index}" if index else name for index in range(outputs)]
        operands = [self._value(operand).name for operand in inputs]
        self._nodes.append(helper.make_node(kind, operands, names, name=name, **attributes))
        return [Value(self, output) for output in names]

    def concat(self, *parts: object, axis: int) -> Value:
        """The parts joined along ``axis``."""
        return self.op("Concat", *parts, axis=axis)

    def weight(self, module: nn.Module, name: str, tensor: Tensor) -> Value:
        """A learned tensor, named as ``name`` of ``module`` in the state dict; stored once."""
        name = f"{self._names[module]}.{name}"
        if name not in self._weights:
            values = _array(tensor)
            if self._is_halved(values):
                stored = self._tensor(values.astype(np.float16), name)
                self._weights[name] = stored.op("Cast", to=TensorProto.FLOAT)
            else:
                self._weights[name] = self._tensor(values, name)
        return self._weights[name]

    def _is_halved(self, values: np.ndarray) -> bool:
        if self.half is False or values.ndim < 2 or np.abs(values).max(initial=0) > HALF_LIMIT:
            return False
        return self.half or bool((values.astype(np.float16) == values).all())

    def name_of(self, module: nn.Module) -> str:
        """The name of a module of the model, such as ``encoder.layers.2``."""
        return self._names[module]

    def model(self, properties: dict[str, str]) -> onnx.ModelProto:
        """The checked model with its metadata, among which is ``part``, the graph's name."""
        name = f"earvae_{properties['part']}"
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._tensors)
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(
            graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="earvae"
        )
        helper.set_model_props(model, properties)
        onnx.checker.check_model(model)
        return model

    def _value(self, operand: object) -> Value:
        """A value as it is; anything else as a constant, stored once."""
        if isinstance(operand, Value):
            return operand
        array = _array(operand)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._tensor(array, f"constant_{len(self._constants)}")
        return self._constants[key]

    def _tensor(self, values: np.ndarray, name: str) -> Value:
        self._tensors.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return Value(self, name)


class Value:
    """A tensor within a graph, by its name there. Shapes are as in torch."""

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name

    def op(self, kind: str, *others: object, **attributes: object) -> Value:
        """A node whose first input this is."""
        return self.graph.op(kind, self, *others, **attributes)

    def __add__(self, other: object) -> Value:
        return self.op("Add", other)

    def __sub__(self, other: object) -> Value:
        return self.op("Sub", other)

    def __mul__(self, other: object) -> Value:
        return self.op("Mul", other)

    def __truediv__(self, other: object) -> Value:
        return self.op("Div", other)

    def __matmul__(self, other: object) -> Value:
        return self.op("MatMul", other)

    def __neg__(self) -> Value:
        return self.op("Neg")

    def reshape(self, *shape: int) -> Value:
        """Another shape; 0 keeps an axis's length, −1 takes what is left."""
        return self.op("Reshape", list(shape))

    def transpose(self, *axes: int) -> Value:
        """The axes in this order."""
        return self.op("Transpose", perm=axes)

    def unsqueeze(self, axis: int) -> Value:
        """One more axis, of length 1."""
        return self.op("Unsqueeze", [axis])

    def sum(self, axis: int) -> Value:
        """The sum along ``axis``, which goes."""
        return self.op("ReduceSum", [axis], keepdims=0)

    def split(self, parts: int, axis: int) -> list[Value]:
        """Equal parts along ``axis``."""
        return self.graph.ops("Split", parts, self, axis=axis)

    def slice(self, axis: int, start: int, stop: int = LAST, step: int = 1) -> Value:
        """As ``x[..., start:stop:step]`` along ``axis``."""
        return self.op("Slice", [start], [stop], [axis], [step])

    def flip(self, axis: int) -> Value:
        """Back to front along ``axis``."""
        return self.slice(axis, -1, BEFORE_FIRST, -1)


def _array(values: object) -> np.ndarray:
    """Float32 or int64."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return array.astype(np.int64 if array.dtype.kind == "i" else np.float32)
