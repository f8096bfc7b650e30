"""`Operator`: names of inputs and attributes, the function it writes, calls between operators."""

import numpy as np
import pytest
import torch
from onnx import AttributeProto, TensorProto
from ops_harness import Case, by_torch, tensor

from mnq.ops.body import DOMAIN, DOMAIN_VERSION, OPSET
from mnq.ops.integer import INT8, INT32, ElementType, Integers, cast, i64
from mnq.ops.operator import Operator
from mnq.ops.registry import OPERATORS


def weighted(x: Integers, m: Integers, *, to: ElementType) -> Integers:
    """y = x * m."""
    return cast(i64(x) * i64(m), to)


def plain(*arguments: Integers) -> Integers:
    return arguments[0] + arguments[1]


def test_inputs_and_attributes_are_read_from_the_signature() -> None:
    operator = Operator("Weighted", weighted)
    assert operator.inputs == ("x", "m")
    assert operator.attributes == ("to",)


def test_input_names_are_given_where_the_signature_has_none() -> None:
    operator = Operator("Plain", plain, ("left", "right"))
    assert operator.inputs == ("left", "right")
    assert operator.attributes == ()
    assert list(operator.function.input) == ["left", "right"]
    assert by_torch(operator, [1, 2], 3) == [4, 5]


def test_the_function_carries_names_versions_and_documentation() -> None:
    function = Operator("Weighted", weighted).function
    assert (function.domain, function.name) == (DOMAIN, "Weighted")
    assert list(function.input) == ["x", "m"]
    assert list(function.output) == ["y"]
    assert list(function.attribute) == ["to"]
    assert function.doc_string == "y = x * m."
    imports = {each.domain: each.version for each in function.opset_import}
    assert imports == {"": OPSET, DOMAIN: DOMAIN_VERSION}


def test_an_element_type_is_passed_on_by_reference() -> None:
    (last,) = (
        node.attribute[0]
        for node in Operator("Weighted", weighted).function.node
        if node.op_type == "Cast" and node.attribute[0].ref_attr_name
    )
    assert (last.name, last.ref_attr_name, last.type) == ("to", "to", AttributeProto.INT)


def test_the_function_is_written_once() -> None:
    operator = Operator("Weighted", weighted)
    assert operator.function is operator.function


def test_torch_tensors_are_computed() -> None:
    y = Operator("Weighted", weighted)(tensor([3, -4]), tensor(5), to=INT8)
    assert y.dtype is torch.int8
    assert y.tolist() == [15, -20]


def test_a_call_in_a_body_is_one_node_with_its_attributes() -> None:
    inner = Operator("Weighted", weighted)

    def twice(x: Integers, m: Integers) -> Integers:
        return inner(inner(x, m, to=INT32), m, to=INT8)

    outer = Operator("Twice", twice)
    calls = [node for node in outer.function.node if node.domain == DOMAIN]
    assert [node.op_type for node in calls] == ["Weighted", "Weighted"]
    assert [node.attribute[0].i for node in calls] == [TensorProto.INT32, TensorProto.INT8]
    assert outer.calls == ("Weighted",)
    assert by_torch(outer, [2], 3) == [18]


def test_an_operator_without_calls_names_none() -> None:
    assert Operator("Weighted", weighted).calls == ()


@pytest.mark.onnxruntime
def test_an_attribute_decides_the_element_type_at_every_call() -> None:
    operator = Operator("Weighted", weighted)
    x, m = np.array([[3, -4]], np.int8), np.array(5, np.int32)
    for to, dtype in ((INT8, np.int8), (INT32, np.int32)):
        made = Case(operator, {"x": x}, {"m": m}, {"to": to})
        y = made.run("ORT_ENABLE_ALL")
        assert y.dtype == dtype
        assert y.tolist() == [[15, -20]]


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_documents_itself_and_uses_all_its_inputs(name: str) -> None:
    function = OPERATORS[name].function
    used = {each for node in function.node for each in node.input}
    assert set(function.input) <= used
    assert function.doc_string and "\n  " not in function.doc_string
    assert list(function.attribute) in ([], ["to"])
