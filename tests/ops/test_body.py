"""`Writer` and `Value`: the nodes that arithmetic leaves behind."""

from collections.abc import Callable

import numpy as np
import pytest
from onnx import NodeProto, numpy_helper

from mnq.ops.body import DOMAIN, AttributeReference, Value, Writer


def computing(writer: Writer) -> list[NodeProto]:
    """The nodes that are no constants."""
    return [node for node in writer.nodes if node.op_type != "Constant"]


def constants(writer: Writer) -> dict[str, np.ndarray]:
    return {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in writer.nodes
        if node.op_type == "Constant"
    }


@pytest.fixture
def writer() -> Writer:
    return Writer(("a", "b"))


@pytest.mark.parametrize(
    ("op_type", "compute"),
    [
        ("Add", lambda a, b: a + b),
        ("Sub", lambda a, b: a - b),
        ("Mul", lambda a, b: a * b),
        ("Mod", lambda a, b: a % b),
        ("Less", lambda a, b: a < b),
        ("Greater", lambda a, b: a > b),
        ("GreaterOrEqual", lambda a, b: a >= b),
    ],
)
def test_an_operator_of_two_values_is_one_node(
    writer: Writer, op_type: str, compute: Callable[..., Value]
) -> None:
    a, b = writer.inputs
    result = compute(a, b)
    (node,) = writer.nodes
    assert (node.op_type, list(node.input), list(node.output)) == (
        op_type,
        ["a", "b"],
        [result.name],
    )


@pytest.mark.parametrize(
    ("op_type", "compute"),
    [("Add", lambda a: 7 + a), ("Sub", lambda a: 7 - a), ("Mul", lambda a: 7 * a)],
)
def test_a_number_on_the_left_stays_on_the_left(
    writer: Writer, op_type: str, compute: Callable[..., Value]
) -> None:
    compute(writer.inputs[0])
    (node,) = computing(writer)
    seven, a = node.input
    assert (node.op_type, a) == (op_type, "a")
    assert constants(writer)[seven] == 7


def test_negation_subtracts_from_zero(writer: Writer) -> None:
    _ = -writer.inputs[1]
    (node,) = computing(writer)
    assert (node.op_type, node.input[1]) == ("Sub", "b")
    assert constants(writer)[node.input[0]] == 0


def test_a_value_has_no_truth_and_no_equality(writer: Writer) -> None:
    """Both would answer for the object, not for the tensor, and write nothing."""
    a, b = writer.inputs
    with pytest.raises(TypeError, match="cannot branch on a tensor"):
        bool(a < b)
    with pytest.raises(TypeError, match="compare with < or >"):
        _ = a == 0
    with pytest.raises(TypeError, match="unhashable"):
        hash(a)


def test_numbers_are_int64_scalars_and_tuples_vectors(writer: Writer) -> None:
    writer.constant(2**62)
    writer.constant((-1,))
    scalar, vector = constants(writer).values()
    assert (scalar.dtype, scalar.shape, int(scalar)) == (np.int64, (), 2**62)
    assert (vector.dtype, vector.shape, vector.tolist()) == (np.int64, (1,), [-1])


def test_equal_constants_are_written_once(writer: Writer) -> None:
    assert writer.constant(5) is writer.constant(5)
    _ = writer.inputs[0] + 5 + 5
    assert len(constants(writer)) == 1
    assert writer.constant((5,)) is not writer.constant(5)


def test_constants_come_before_the_node_that_reads_them_and_names_differ(writer: Writer) -> None:
    a, b = writer.inputs
    _ = (a * 3 - b) % 4 + (a < 3)
    seen = {"a", "b"}
    for node in writer.nodes:
        assert set(node.input) <= seen
        assert not set(node.output) & seen
        seen |= set(node.output)


def test_calls_are_collected_once_each_in_order(writer: Writer) -> None:
    a, b = writer.inputs
    for name in ("Second", "First", "Second"):
        writer.emit(name, a, b, domain=DOMAIN)
    writer.emit("Add", a, b)
    assert writer.calls == ["Second", "First"]


def test_attributes_are_written_and_references_kept(writer: Writer) -> None:
    writer.emit("Transpose", writer.inputs[0], perm=(0, 1, 3, 2))
    writer.emit("Cast", writer.inputs[0], to=AttributeReference("kind"))
    transpose, cast = writer.nodes
    assert list(transpose.attribute[0].ints) == [0, 1, 3, 2]
    assert (cast.attribute[0].name, cast.attribute[0].ref_attr_name) == ("to", "kind")


def test_finish_names_the_output_y(writer: Writer) -> None:
    a, b = writer.inputs
    function = writer.finish("Sum", a + b, ("to",), "a sum")
    assert list(function.input) == ["a", "b"]
    assert list(function.output) == ["y"]
    assert (function.node[-1].op_type, list(function.node[-1].output)) == ("Identity", ["y"])
    assert (list(function.attribute), function.doc_string) == (["to"], "a sum")


def test_an_input_may_be_the_output(writer: Writer) -> None:
    function = writer.finish("Same", writer.inputs[1], (), "")
    assert list(function.node[-1].input) == ["b"]
    assert isinstance(writer.inputs[1], Value)
