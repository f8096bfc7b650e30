"""Every operator on every back end: the same integers as torch, tolerance zero."""

from __future__ import annotations

import collections
import functools

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, ModelProto, TensorProto
from onnx.inliner import inline_local_functions
from ops_cases import BITS, CASES
from ops_harness import BACKENDS, Case
from ops_native import Native

from mnq.ops.body import DOMAIN
from mnq.ops.registry import OPERATORS

ALLOWED = {
    "Add", "Cast", "Constant", "Div", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less",
    "MatMulInteger", "Mod", "Mul", "ReduceMax", "ReduceSum", "Reshape", "Shape", "Sub", "Transpose",
    "Where",
}  # fmt: skip
"""All that a body may use; Max and Min are wrong for int64 in onnxruntime 1.31.1 (CPU)."""

INTEGERS = {
    TensorProto.UINT8, TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.BOOL,
}  # fmt: skip


def operator_of(name: str) -> str:
    return name.split()[0]


FIRST = {operator_of(name): name for name in reversed(CASES)}
"""A case of every operator."""


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]()


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_gives_the_integers_of_torch(case: Case, backend: str | Native) -> None:
    case.check(backend)


def test_results_vary(case: Case) -> None:
    """A comparison of constants would prove nothing."""
    assert len(np.unique(case.expected)) >= 3


@pytest.mark.gpu
def test_torch_gives_the_same_integers_on_a_gpu() -> None:
    for build in CASES.values():
        build().check_cuda()


def test_no_operator_is_missed() -> None:
    assert {operator_of(name) for name in CASES} == set(OPERATORS)
    widths: dict[str, set[int]] = collections.defaultdict(set)
    for name, build in CASES.items():
        widths[operator_of(name)] |= {bits for bits in BITS if f" {bits} bits" in name}
        assert build().operator is OPERATORS[operator_of(name)]
    assert {name for name, bits in widths.items() if bits != set(BITS)} == set()


@functools.cache
def inlined(name: str) -> ModelProto:
    """The case's model as standard operators only, with every inferred type."""
    model = inline_local_functions(CASES[name]().model)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


@pytest.mark.parametrize("operator", OPERATORS)
def test_model_passes_the_full_check(operator: str) -> None:
    onnx.checker.check_model(CASES[FIRST[operator]]().model, full_check=True)
    onnx.checker.check_model(inlined(FIRST[operator]), full_check=True)


@pytest.mark.parametrize("operator", OPERATORS)
def test_body_uses_the_allowed_operators_only(operator: str) -> None:
    nodes = OPERATORS[operator].function.node
    assert {node.op_type for node in nodes if node.domain == ""} <= ALLOWED
    called = {node.op_type for node in nodes if node.domain != ""}
    assert called <= set(OPERATORS)
    assert {node.domain for node in nodes} <= {"", DOMAIN}
    assert {node.op_type for node in inlined(FIRST[operator]).graph.node} <= ALLOWED


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_float_tensor_exists(operator: str) -> None:
    graph = inlined(FIRST[operator]).graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    made = {name for node in graph.node for name in node.output}
    assert made <= set(types), "a tensor without a type could hide a float"
    assert {name for name, kind in types.items() if kind not in INTEGERS} == set()
    floats = {AttributeProto.FLOAT, AttributeProto.FLOATS}
    assert not [node for node in graph.node for a in node.attribute if a.type in floats]


@pytest.mark.parametrize("operator", OPERATORS)
def test_products_are_of_signed_8_bit_codes(operator: str) -> None:
    graph = inlined(FIRST[operator]).graph
    types = {
        value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info)
    }
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulInteger"]
    assert bool(products) == any(part in operator for part in ("QLinear", "QMatMul", "Attention"))
    for node in products:
        assert [types[name] for name in node.input] == [TensorProto.INT8] * 2
