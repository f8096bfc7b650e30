"""Packed weights: codes of at most 4 bits as INT4 initializers, two in a byte, with a Cast to int8.

onnxruntime folds the Casts when it loads a model (from 1.23 on, which is the first that knows
them), so that nothing is unpacked while it runs. Kernels read constants: where no optimizer runs,
`unpack` does the same before.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mnq.ops.body import DOMAIN

LOW, HIGH = -8, 7
"""What INT4 holds."""

# Where their weight is among the inputs.
_OPERATORS = {"QLinear": 1, "QLinearAdd": 2, "QLinearLut": 1}
_LEAST = 256  # weights that are worth a node of their own


def pack(model: ModelProto) -> None:
    """Put the weights of linear layers in INT4 where they fit.

    Heads may have bits of their own: columns (one output channel each) that fit are packed, runs of
    others stay int8, and a Concat puts them together.
    """
    graph = model.graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.domain == DOMAIN and node.op_type in _OPERATORS:
            weight = initializers[node.input[_OPERATORS[node.op_type]]]
            nodes.extend(_packed(graph, weight))
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def unpack(model: ModelProto) -> ModelProto:
    """The model with int8 weights in the place of packed ones; the model itself if it has none."""
    if all(tensor.data_type != TensorProto.INT4 for tensor in model.graph.initializer):
        return model
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        made = _unpacked(node, known)
        if made is None:
            kept.append(node)
        else:
            known[node.output[0]] = numpy_helper.from_array(made, node.output[0])
    read = {name for node in kept for name in node.input} | {o.name for o in graph.output}
    for field, values in ((graph.node, kept), (graph.initializer, known.values())):
        copies = [v for v in values if not isinstance(v, TensorProto) or v.name in read]
        copies = [type(v).FromString(v.SerializeToString()) for v in copies]
        del field[:]
        field.extend(copies)
    return result


def _packed(graph: GraphProto, weight: TensorProto) -> list[NodeProto]:
    """Pack an int8 weight (K, N); the nodes that make it of what is stored."""
    codes, name = numpy_helper.to_array(weight), weight.name
    runs = _runs(codes)
    if not any(fits for _, fits in runs):
        return []
    graph.initializer.remove(weight)
    if len(runs) == 1:
        graph.initializer.append(_int4(codes, f"{name}.int4"))
        return [_cast(f"{name}.int4", name)]
    nodes, parts = [], []
    for number, (columns, fits) in enumerate(runs):
        part, stored = f"{name}.{number}", codes[:, columns]
        parts.append(part)
        if fits:
            graph.initializer.append(_int4(stored, f"{part}.int4"))
            nodes.append(_cast(f"{part}.int4", part))
        else:
            graph.initializer.append(numpy_helper.from_array(stored.copy(), part))
    return [*nodes, helper.make_node("Concat", parts, [name], name, axis=1)]


def _runs(codes: NDArray[np.int8]) -> list[tuple[slice, bool]]:
    """Runs of columns, and whether all their codes fit: short ones join what is before them."""
    fits = (codes.min(axis=0) >= LOW) & (codes.max(axis=0) <= HIGH)
    ends = [0, *(np.flatnonzero(fits[1:] != fits[:-1]) + 1).tolist(), len(fits)]
    runs: list[tuple[slice, bool]] = []
    for first, last in itertools.pairwise(ends):
        good = bool(fits[first]) and codes.shape[0] * (last - first) >= _LEAST
        if runs and not (good or runs[-1][1]):
            runs[-1] = slice(runs[-1][0].start, last), False
        else:
            runs.append((slice(first, last), good))
    return runs


def _int4(codes: NDArray[np.int8], name: str) -> TensorProto:
    """Two codes in a byte, the first in the low bits, as ONNX has it."""
    flat = codes.reshape(-1)
    flat = np.append(flat, np.zeros(len(flat) % 2, np.int8)).astype(np.uint8) & 15
    data = (flat[::2] | flat[1::2] << 4).astype(np.uint8).tobytes()
    return helper.make_tensor(name, TensorProto.INT4, codes.shape, data, raw=True)


def _cast(source: str, output: str) -> NodeProto:
    return helper.make_node("Cast", [source], [output], output, to=TensorProto.INT8)


def _unpacked(node: NodeProto, known: dict[str, TensorProto]) -> NDArray[np.int8] | None:
    """What a node of `pack` makes of stored weights; None for any other node."""
    if node.domain or not all(name in known for name in node.input):
        return None
    if node.op_type == "Cast" and known[node.input[0]].data_type == TensorProto.INT4:
        return numpy_helper.to_array(known[node.input[0]]).astype(np.int8)
    if node.op_type == "Concat" and any(f"{name}.int4" in known for name in node.input):
        parts = [numpy_helper.to_array(known[name]) for name in node.input]
        result: NDArray[np.int8] = np.concatenate(parts, axis=1)
        return result
    return None
