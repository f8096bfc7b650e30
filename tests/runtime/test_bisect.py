"""The search, on a chain of additions and products whose faults are made to order."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mnq.ops.errors import InputError
from mnq.runtime.bisect import Part, Search, inside, same
from mnq.runtime.place import Arrays, Place, Runner

LENGTH = 13
X = np.arange(-8, 8, dtype=np.int64).reshape(2, 8)

Fault = Callable[[ModelProto, list[str]], str | None]
"""From a model and the tensors that are read to the node that is wrong there, or None."""


@dataclass(frozen=True)
class Faulty(Place):
    """onnx.reference, but that a node adds one where the fault says so."""

    fault: Fault = field(default=lambda model, names: None)

    def open(self, model: ModelProto, names: list[str] | None = None) -> Runner:
        wanted = [output.name for output in model.graph.output] if names is None else names
        copy = ModelProto()
        copy.CopyFrom(model)
        wrong = self.fault(copy, wanted)
        for index, node in enumerate(copy.graph.node):
            if node.output[0] == wrong:
                node.output[0] = "before"
                copy.graph.initializer.append(numpy_helper.from_array(np.array(1), "one"))
                more = helper.make_node("Add", ["before", "one"], [wrong])
                copy.graph.node.insert(index + 1, more)
                break
        return Place("reference").open(copy, wanted)


def chain(kind: str = "") -> ModelProto:
    """t0 = x + 3, t1 = t0 * 3, t2 = t1 + 3, ...; y is a copy of the last."""
    names = ["x", *(f"t{number}" for number in range(LENGTH))]
    nodes = [
        helper.make_node(("Add", "Mul")[number % 2], [name, "c"], [names[number + 1]])
        for number, name in enumerate(names[:-1])
    ]
    nodes.append(helper.make_node("Identity", [names[-1]], ["y"]))
    x, y = (helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", 8]) for n in "xy")
    graph = helper.make_graph(nodes, "chain", [x], [y], [numpy_helper.from_array(np.array(3), "c")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture(scope="module")
def right() -> Arrays:
    names = [f"t{number}" for number in range(LENGTH)]
    return {"x": X, **Place("reference").run(chain(), {"x": X}, names)}


def made(model: ModelProto) -> set[str]:
    return {name for node in model.graph.node for name in node.output}


def search(right: Arrays, fault: Fault, notes: list[str] | None = None) -> Part | None:
    note = (notes if notes is not None else []).append
    return Search(chain(), right, [f"t{LENGTH - 1}"], Faulty(fault=fault), note).run()


@pytest.mark.parametrize("number", [0, 1, 6, LENGTH - 1])
def test_a_node_that_is_wrong_by_itself_is_found_alone(right: Arrays, number: int) -> None:
    part = search(right, lambda model, names: f"t{number}")
    assert part is not None
    assert (part.piece.target, part.tensors, len(part.piece.nodes)) == (f"t{number}", 1, 1)
    before = f"t{number - 1}" if number else "x"
    assert list(part.feeds) == [before]
    assert part.expected is not None
    np.testing.assert_array_equal(part.expected, right[f"t{number}"])
    np.testing.assert_array_equal(part.found, part.expected + 1)


@pytest.mark.parametrize("first", [0, 3, 8])
@pytest.mark.parametrize("length", [2, 3, 4, 5])
def test_nodes_that_are_wrong_together_are_found_together(
    right: Arrays, first: int, length: int
) -> None:
    """As where an optimizer fuses them, even if what is between them is read."""
    block = {f"t{number}" for number in range(first, first + length)}

    def fault(model: ModelProto, names: list[str]) -> str | None:
        return f"t{first + length - 1}" if block <= made(model) else None

    part = search(right, fault)
    assert part is not None
    assert (part.tensors, {*made(part.piece.model)}) == (length, block)


@pytest.mark.parametrize("first", [0, 5, LENGTH - 2])
def test_a_fusion_that_reading_prevents_is_found(right: Arrays, first: int) -> None:
    """Every tensor is right where it is read, but the output of the model is not."""
    notes: list[str] = []

    def fault(model: ModelProto, names: list[str]) -> str | None:
        fused = {f"t{first}", f"t{first + 1}"} <= made(model) and f"t{first}" not in names
        return f"t{first + 1}" if fused else None

    part = search(right, fault, notes)
    assert part is not None
    assert (part.piece.target, part.tensors) == (f"t{first + 1}", 2)
    assert len(notes) < 15  # not every tensor is tried


def test_what_is_wrong_in_the_whole_model_only_is_the_whole_model(right: Arrays) -> None:
    part = search(right, lambda model, names: "t4" if "y" in made(model) else None)
    assert part is not None
    assert (part.piece.target, part.tensors) == ("t4", 0)
    assert "y" in made(part.piece.model)
    found = Faulty(fault=lambda *_: "t4").run(part.piece.model, part.feeds)
    np.testing.assert_array_equal(found["t4"], part.found)
    assert part.piece.model.graph.output[0].name == "t4"


def test_an_error_that_does_not_come_again_is_no_part(right: Arrays) -> None:
    left = ["t4"]
    assert search(right, lambda model, names: left.pop() if left else None) is None


def test_a_model_without_faults_has_no_part(right: Arrays) -> None:
    assert search(right, lambda model, names: None) is None


def test_a_part_that_does_not_run_alone_is_looked_for_in_more(right: Arrays) -> None:
    def fault(model: ModelProto, names: list[str]) -> str | None:
        if len(model.graph.node) < 3:
            raise InputError("too small")
        return "t6"

    part = search(right, fault)
    assert part is not None
    assert (part.piece.target, part.tensors) == ("t6", 3)


def test_same_asks_for_type_shape_and_integers() -> None:
    assert same(X, X.copy())
    assert not same(X, X.astype(np.int32))
    assert not same(X, X[None])
    assert not same(X, X + (X == 3))


# --- inside a function: two products and a maximum, wrong by one at the maximum ---


def with_function() -> ModelProto:
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(5))),
        helper.make_node("Mul", ["a", "c"], ["b"]),
        helper.make_node("Max", ["b", "c"], ["d"]),
        helper.make_node("Mul", ["d", "c"], ["e"]),
    ]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("mnq", 1)]
    function = helper.make_function("mnq", "F", ["a"], ["e"], nodes, opsets)
    node = helper.make_node("F", ["x"], ["y"], domain="mnq")
    x, y = (helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", 8]) for n in "xy")
    graph = helper.make_graph([node], "f", [x], [y])
    return helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)


def of_maximum(model: ModelProto, names: list[str]) -> str | None:
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    if model.functions and any(node.op_type == "Max" for node in nodes):
        return "y"
    return next((node.output[0] for node in nodes if node.op_type == "Max"), None)


def test_the_operator_inside_a_function_is_found() -> None:
    model, place = with_function(), Faulty(fault=of_maximum)
    right = {"x": X, "y": (np.maximum(X * 5, 5) * 5)}
    part = Search(model, right, [], place, lambda text: None).run()
    assert part is not None
    assert [node.op_type for node in part.piece.nodes] == ["F"]
    inner = inside(part, place, lambda text: None)
    assert inner is not None
    # The function's constant comes along: an optimizer may use it.
    assert [node.op_type for node in inner.piece.nodes] == ["Constant", "Max"]
    np.testing.assert_array_equal(inner.feeds[inner.piece.inputs[0]], X * 5)
    np.testing.assert_array_equal(inner.found, np.maximum(X * 5, 5) + 1)


def test_kernels_have_no_inside() -> None:
    part = Search(
        with_function(), {"x": X, "y": X}, [], Faulty(fault=of_maximum), lambda text: None
    ).run()
    assert part is not None
    assert inside(part, Place("kernels"), lambda text: None) is None
    # Nor is there one where ONNX's definition does not give what is expected.
    assert inside(part, Faulty(fault=of_maximum), lambda text: None) is None
