"""Pieces of a graph between tensors whose integers are known, each a model of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper

from mnq.runtime.place import Arrays


@dataclass(frozen=True)
class Piece:
    """Part of a graph: `model` computes `target`, its only output, from `inputs`."""

    model: ModelProto
    inputs: tuple[str, ...]
    target: str

    @property
    def nodes(self) -> list[NodeProto]:
        """Its nodes, in the order of execution."""
        return list(self.model.graph.node)

    @property
    def constants(self) -> list[str]:
        """Names of the initializers that it reads."""
        return [tensor.name for tensor in self.model.graph.initializer]


def image_name(graph: GraphProto) -> str:
    """The input that the image goes to: the first that is no initializer."""
    constants = {tensor.name for tensor in graph.initializer}
    return next((v.name for v in graph.input if v.name not in constants), "")


class Pieces:
    """A graph that can be cut at `known` tensors, whose right values are `values`."""

    def __init__(self, model: ModelProto, known: Iterable[str], values: Arrays) -> None:
        self._model = model
        self._values = values
        self._producer = {
            name: index for index, node in enumerate(model.graph.node) for name in node.output
        }
        self._types = {
            value.name: value
            for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
        }
        self._constants = {tensor.name for tensor in model.graph.initializer}
        wanted = set(known)
        self.known = [n for node in model.graph.node for n in node.output if n in wanted]
        """The known tensors in the order of execution."""

    def cut(self, target: str, inside: Collection[str] = ()) -> Piece:
        """The nodes that make `target` from known tensors; those `inside` are not fed to it."""
        borders = {*self.known}.difference(inside)
        indices, inputs = self._behind(target, borders)
        graph = self._model.graph
        nodes = [graph.node[index] for index in sorted(indices)]
        read = {name for node in nodes for name in node.input}
        made = {name for node in nodes for name in node.output} - {target}
        model = helper.make_model(
            helper.make_graph(
                nodes,
                target,
                [self._type(name) for name in inputs],
                [self._type(target)],
                [tensor for tensor in graph.initializer if tensor.name in read],
                value_info=[self._types[name] for name in sorted(made & set(self._types))],
            ),
            functions=_functions(self._model, nodes),
            opset_imports=self._model.opset_import,
            ir_version=self._model.ir_version,
        )
        return Piece(model, tuple(inputs), target)

    def window(self, target: str, size: int) -> Piece:
        """`target` with the size - 1 known tensors before it that it depends on, all computed."""
        before = self.ancestors(target)
        return self.cut(target, before[len(before) - size + 1 :])

    def ancestors(self, target: str) -> list[str]:
        """The known tensors that `target` depends on, in the order of execution."""
        indices, _ = self._behind(target, set())
        made = {name for index in indices for name in self._model.graph.node[index].output}
        return [name for name in self.known if name in made and name != target]

    def _behind(self, target: str, borders: Collection[str]) -> tuple[set[int], list[str]]:
        """Indices of the nodes behind `target` up to the borders, and the inputs read there."""
        nodes = self._model.graph.node
        indices: set[int] = set()
        inputs: list[str] = []
        waiting = [target]
        while waiting:
            name = waiting.pop()
            if name not in self._producer or (name in borders and name != target):
                if name and name not in self._constants and name not in inputs:
                    inputs.append(name)
                continue
            index = self._producer[name]
            if index not in indices:
                indices.add(index)
                waiting += reversed(nodes[index].input)
        return indices, inputs

    def _type(self, name: str) -> ValueInfoProto:
        """What the graph says of a tensor; if nothing, or another type, what its value says."""
        declared, value = self._types.get(name), self._values.get(name)
        if value is None:
            return declared or helper.make_empty_tensor_value_info(name)
        number = helper.np_dtype_to_tensor_dtype(value.dtype)
        if declared is not None:
            tensor = declared.type.tensor_type
            if tensor.elem_type == number and len(tensor.shape.dim) == value.ndim:
                return declared
        shape = [None, *value.shape[1:]] if value.ndim else []
        return helper.make_tensor_value_info(name, number, shape)


def _functions(model: ModelProto, nodes: Iterable[NodeProto]) -> list[object]:
    """The model's functions that the nodes call, directly or not."""
    bodies = {(f.domain, f.name): f for f in model.functions}
    called: set[tuple[str, str]] = set()
    waiting = [(node.domain, node.op_type) for node in nodes]
    while waiting:
        key = waiting.pop()
        if key in bodies and key not in called:
            called.add(key)
            waiting += [(node.domain, node.op_type) for node in bodies[key].node]
    return [f for key, f in bodies.items() if key in called]
