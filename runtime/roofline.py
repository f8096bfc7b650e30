"""Roofline: the time that no implementation of a model on a device can go below."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from onnx import ModelProto, TensorProto, TypeProto, helper, shape_inference

from mnq.ops.body import DOMAIN
from mnq.ops.errors import InputError


@dataclass(frozen=True)
class Ceilings:
    """What a device was measured to reach, at its best: int8 multiply-accumulates and bytes of its
    memory per second.
    """

    macs_per_second: float
    bytes_per_second: float


@dataclass(frozen=True)
class Work:
    """What a model has to do: int8 multiply-accumulates, and the bytes of weights, images and
    logits, each moved once. What lies between layers may stay in a cache.
    """

    macs: int
    bytes: int

    def floor_milliseconds(self, ceilings: Ceilings) -> float:
        """The larger of the time to multiply and the time to move."""
        multiply = self.macs / ceilings.macs_per_second
        return 1e3 * max(multiply, self.bytes / ceilings.bytes_per_second)

    def to_json(self, ceilings: Ceilings) -> dict[str, float]:
        """The roofline as a JSON object."""
        floor = round(self.floor_milliseconds(ceilings), 5)
        return {**asdict(self), **asdict(ceilings), "floor_milliseconds": floor}


def work(model: ModelProto, batch: int) -> Work:
    """What an exported model does for `batch` images.

    Raises InputError if its shapes are not known for that batch.
    """
    fixed = ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    graph = shape_inference.infer_shapes(fixed, data_prop=True).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values
    }
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    macs = 0
    for node in graph.node:
        if node.domain != DOMAIN:
            continue
        made, read = shapes.get(node.output[0], [0]), shapes.get(node.input[0], [0])
        if node.op_type.startswith("QLinear"):
            w = next(weights[name] for name in node.input if len(weights.get(name, ())) == 2)
            macs += _known(made) // w[1] * math.prod(w)
        elif node.op_type == "QMatMul":
            macs += _known(made) * read[-1]
        elif node.op_type.endswith("Attention"):
            if "Window" in node.op_type:
                keys = weights[node.input[3]][1]  # the tokens of a window, from `order`
            else:
                keys = read[1] if "Packed" in node.op_type else shapes[node.input[1]][2]
            macs += 2 * _known(made) * keys
    ends = (*graph.input, *graph.output)
    moved = sum(_known(shapes[value.name]) * _size(value.type.tensor_type) for value in ends)
    moved += sum(math.prod(tensor.dims) * _size(tensor) for tensor in graph.initializer)
    return Work(macs, moved)


def _size(tensor: TypeProto.Tensor | TensorProto) -> int:
    """Bytes of an element."""
    number = tensor.data_type if isinstance(tensor, TensorProto) else tensor.elem_type
    return helper.tensor_dtype_to_np_dtype(number).itemsize


def _known(shape: list[int]) -> int:
    if 0 in shape:
        raise InputError("roofline: expected shapes that follow from the batch, found others")
    return math.prod(shape)
