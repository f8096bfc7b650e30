"""Coverage: what onnxruntime's registry says is what onnxruntime does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from runtime_tiny import Tiny

from mnq.ops.errors import EnvironmentLack, InputError
from mnq.runtime import coverage
from mnq.runtime.coverage import Coverage
from mnq.runtime.purity import element_types, inferred, nodes_of
from mnq.runtime.session import open_session

pytestmark = pytest.mark.onnxruntime

KINDS = {
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint64": TensorProto.UINT64,
    "float": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
}


def binary(op: str, kind: str, **attributes: Any) -> ModelProto:
    """One node of two tensors of the same type."""
    x, z, y = (helper.make_tensor_value_info(n, KINDS[kind], [2]) for n in "xzy")
    node = helper.make_node(op, ["x", "z"], ["y"], **attributes)
    if op in ("Less", "Equal"):
        y = helper.make_tensor_value_info("y", TensorProto.BOOL, [2])
    graph = helper.make_graph([node], "g", [x, z], [y])
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def missing(model: ModelProto, provider: str = "cpu") -> list[str]:
    graph = inferred(model)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    found = Coverage(provider).missing(nodes_of(graph), element_types(graph), opsets)
    return [node.op_type for node in found]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("op", ["Add", "Max", "Mod", "Less", "Equal", "MatMul", "Div"])
def test_a_node_is_missing_where_onnxruntime_refuses_it(op: str, kind: str) -> None:
    model = binary(op, kind, **({"fmod": 1} if op == "Mod" and "float" in kind else {}))
    try:
        open_session(model, level="disabled", kernels=False)
        runs = True
    except InputError:
        runs = False
    assert missing(model) == ([] if runs else [op])


def test_an_exported_model_is_taken_whole(tiny: Tiny) -> None:
    assert missing(tiny.copy()) == []


def fake(monkeypatch: pytest.MonkeyPatch, **kinds: list[str]) -> None:
    """A CUDA provider whose operators take these types."""
    kernels = [
        SimpleNamespace(
            provider="CUDAExecutionProvider",
            domain="",
            op_name=name,
            version_range=(1, 2**31 - 1),
            type_constraints={"T": [f"tensor({kind})" for kind in types]},
        )
        for name, types in kinds.items()
    ]
    monkeypatch.setattr(coverage, "_registry", lambda: kernels)


def test_kernels_of_another_provider_count_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, Add=["int32"])
    assert missing(binary("Add", "int32"), "cuda") == []
    assert missing(binary("Add", "int8"), "cuda") == ["Add"]
    assert missing(binary("Sub", "int32"), "cuda") == ["Sub"]
    with pytest.raises(EnvironmentLack, match="the kernels of CPUExecutionProvider, found"):
        Coverage("cpu")


def test_without_cuda_in_onnxruntime_that_is_said() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime has CUDA")
    with pytest.raises(EnvironmentLack, match=r"without them; pip install 'mnq\[gpu\]'"):
        Coverage("cuda")


def test_constants_and_standard_functions_need_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, Add=["float"])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy")
    value = helper.make_tensor("v", TensorProto.FLOAT, [2], np.zeros(2, np.float32))
    nodes = [
        helper.make_node("Constant", [], ["c"], value=value),
        helper.make_node("Gelu", ["x"], ["g"]),
        helper.make_node("Add", ["g", "c"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [y])
    opsets = [helper.make_opsetid("", 21)]
    assert missing(helper.make_model(graph, opset_imports=opsets, ir_version=10), "cuda") == []
