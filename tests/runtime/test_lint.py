"""Lint: every rule fires on the smallest model that breaks it, and on none that keeps it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from mnq.ops.body import DOMAIN, DOMAIN_VERSION
from mnq.runtime.lint import ERROR, WARNING, Finding, lint
from mnq.runtime.session import PROVIDERS

I8, U8, I32, I64 = TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64
U16, U32, F32 = TensorProto.UINT16, TensorProto.UINT32, TensorProto.FLOAT


def model(nodes: list[NodeProto], x: int, y: int, **constants: object) -> ModelProto:
    """Nodes from `x` (2, 2) to `y`, of these element types; constants are arrays by name."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", x, [2, 2])],
        [helper.make_tensor_value_info("y", y, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def node(kind: str, *inputs: str, y: str = "y", **attributes: object) -> NodeProto:
    return helper.make_node(kind, list(inputs), [y], name=f"{kind}_{y}", **attributes)


def rules(found: list[Finding]) -> dict[str, str]:
    return {finding.rule: finding.severity for finding in found}


W8, TWO = np.ones((2, 2), np.int8), np.int32(2)
SCALE, ZERO, ZERO8 = np.float32(0.5), np.uint8(3), np.int8(0)

FIRES: dict[str, tuple[ModelProto, dict[str, str]]] = {
    "u8 x s8": (
        model([node("MatMulInteger", "x", "w")], U8, I32, w=W8),
        {"u8-times-s8": ERROR},
    ),
    "u8 x s8 between dequantizers": (
        model(
            [
                node("DequantizeLinear", "x", "s", "z", y="a"),
                node("DequantizeLinear", "w", "s", "z8", y="b"),
                node("MatMul", "a", "b"),
            ],
            U8, F32, w=W8, s=SCALE, z=ZERO, z8=ZERO8,
        ),
        {"u8-times-s8": ERROR, "float-tensor": ERROR},
    ),
    "float": (model([node("Erf", "x")], F32, F32), {"float-tensor": ERROR}),
    "signed shift": (
        model([node("BitShift", "x", "x", direction="RIGHT")], I32, I32),
        {"signed-shift": ERROR},
    ),
    "division": (
        model([node("Div", "x", "d")], I32, I32, d=TWO),
        {"truncating-division": WARNING},
    ),
    "division of an input by a length": (
        model(
            [
                node("Shape", "x", y="n"),
                node("Add", "n", "x", y="sum"),
                node("Div", "sum", "d"),
            ],
            I64, I64, d=np.int64(2),
        ),
        {"truncating-division": WARNING},
    ),
    "64-bit maximum": (model([node("Max", "x", "x")], I64, I64), {"int64-max-min": WARNING}),
}  # fmt: skip

PASSES: dict[str, ModelProto] = {
    "s8 x s8": model([node("MatMulInteger", "x", "w")], I8, I32, w=W8),
    "u8 x u8": model([node("MatMulInteger", "x", "w")], U8, I32, w=W8.astype(np.uint8)),
    "unsigned shift": model([node("BitShift", "x", "x", direction="RIGHT")], U32, U32),
    "floor division": model(
        [node("Mod", "x", "d", y="m"), node("Sub", "x", "m", y="s"), node("Div", "s", "d")],
        I32, I32, d=TWO,
    ),
    "division of a length": model(
        [node("Shape", "x", y="n"), node("Div", "n", "d")], I32, I64, d=np.int64(2)
    ),
    "32-bit maximum": model([node("Max", "x", "x")], I32, I32),
}  # fmt: skip


@pytest.mark.parametrize("name", FIRES)
def test_rule_fires_with_cost_and_remedy(name: str) -> None:
    broken, expected = FIRES[name]
    found = lint(broken)
    assert rules(found) == expected
    assert all(f.count >= 1 and f.where and f.cost and f.remedy for f in found)


@pytest.mark.parametrize("name", PASSES)
def test_model_without_fault_has_no_finding(name: str) -> None:
    assert lint(PASSES[name]) == []


def test_division_by_another_divisor_than_the_remainder_fires() -> None:
    nodes = [node("Mod", "x", "d", y="m"), node("Sub", "x", "m", y="s"), node("Div", "s", "e")]
    assert rules(lint(model(nodes, I32, I32, d=TWO, e=np.int32(3)))) == {
        "truncating-division": WARNING
    }


def test_errors_come_first_and_three_places_are_named() -> None:
    nodes = [node("Div", "x", "d", y=f"q{i}") for i in range(5)]
    nodes += [node("BitShift", "q0", "q1", direction="RIGHT")]
    found = lint(model(nodes, I32, I32, d=TWO))
    assert [(f.rule, f.count, len(f.where)) for f in found] == [
        ("signed-shift", 1, 1),
        ("truncating-division", 5, 3),
    ]
    assert found[1].to_json()["where"] == ("Div_q0", "Div_q1", "Div_q2")


def test_operator_without_kernel_is_a_warning(proto: ModelProto) -> None:
    names = frozenset(n.op_type for n in proto.graph.node if n.domain == DOMAIN)
    assert lint(proto, names) == []
    (found,) = lint(proto, names - {"QLinear"})
    assert (found.rule, found.severity, found.where) == ("no-kernel", WARNING, ("QLinear",))
    (found,) = lint(proto)
    assert found.count == len(names)


@pytest.mark.onnxruntime
def test_a_node_that_the_provider_does_not_take_is_named(proto: ModelProto) -> None:
    shift = model([node("BitShift", "x", "x", direction="RIGHT")], U16, U16)
    assert lint(shift) == []
    (found,) = lint(shift, provider="cpu")
    assert (found.rule, found.severity, found.where) == ("not-taken", ERROR, ("BitShift_y",))
    assert "CPUExecutionProvider has no kernel" in found.cost and "refuses" in found.cost
    names = frozenset(n.op_type for n in proto.graph.node if n.domain == DOMAIN)
    assert lint(proto, names, "cpu") == []


@pytest.mark.onnxruntime
def test_what_leaves_the_gpu_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROVIDERS, "cuda", "CPUExecutionProvider")  # as if it were the GPU's
    shift = model([node("BitShift", "x", "x", direction="RIGHT")], U16, U16)
    (found,) = lint(shift, provider="cuda")
    assert (found.rule, found.severity) == ("not-taken", WARNING)
    assert "run on the CPU, with copies" in found.cost and "on the CPU" in found.remedy
