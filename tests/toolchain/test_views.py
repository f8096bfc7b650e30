"""Views: torch and ONNX move the same codes to the same places, and change none."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mnq.ops.body import IR_VERSION, OPSET
from mnq.runtime.session import open_session
from mnq.toolchain.views import VIEWS

SHAPE = (3, 4, 6, 5)
LAST = 2**63 - 1  # what torch.export gives for an open end

CASES: list[tuple[str, dict[str, Any], int]] = [
    ("reshape", {"shape": (-1, 24, 5)}, 1),
    ("reshape", {"shape": (3, 2, 2, -1, 1)}, 1),
    ("transpose", {"perm": (0, 2, 1, 3)}, 1),
    ("transpose", {"perm": (3, 0, 2, 1)}, 1),
    ("select", {"axis": 1, "index": 0}, 1),
    ("select", {"axis": 3, "index": 4}, 1),
    ("select", {"axis": 2, "index": -1}, 1),
    ("slice", {"axis": 1, "start": 1, "stop": 3, "step": 1}, 1),
    ("slice", {"axis": 2, "start": 1, "stop": LAST, "step": 2}, 1),
    ("slice", {"axis": 3, "start": -3, "stop": -1, "step": 1}, 1),
    ("slice", {"axis": 0, "start": 0, "stop": 100, "step": 1}, 1),
    ("gather", {"axis": 1, "order": (3, 0, 1, 2)}, 1),
    ("gather", {"axis": 3, "order": (4, 4, 0)}, 1),
    ("pad", {"before": (0, 1, 0, 2), "after": (0, 0, 3, 0)}, 1),
    ("concat", {"axis": 1}, 2),
    ("concat", {"axis": 3}, 3),
    ("expand", {"shape": (-1, 4, 6, 5)}, 1),
]


def codes(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Codes over the whole type, ends included."""
    info = np.iinfo(dtype)
    values = rng.integers(info.min, info.max + 1, shape).astype(dtype)
    values.reshape(-1)[:2] = info.min, info.max
    return values


def onnx_model(
    name: str, settings: dict[str, Any], inputs: list[NDArray[Any]], shape: tuple[int, ...]
) -> onnx.ModelProto:
    kind, constants, attributes = VIEWS[name].emit(settings)
    if name == "expand":  # its shape is made from the batch of the model's input, see lower.py
        constants = {"shape": np.array([3, *settings["shape"][1:]], np.int64)}
    element_type = helper.np_dtype_to_tensor_dtype(inputs[0].dtype)
    names = [f"x{i}" for i in range(len(inputs))]
    nodes = [helper.make_node(kind, [*names, *constants], ["y"], **attributes)]
    if name == "pad":  # of int16 by way of int32, see lower.py
        nodes = [
            helper.make_node("Cast", names, ["wide"], to=TensorProto.INT32),
            helper.make_node(kind, ["wide", *constants], ["padded"], **attributes),
            helper.make_node("Cast", ["padded"], ["y"], to=element_type),
        ]
    graph = helper.make_graph(
        nodes,
        name,
        [
            helper.make_tensor_value_info(n, element_type, x.shape)
            for n, x in zip(names, inputs, strict=True)
        ],
        [helper.make_tensor_value_info("y", element_type, shape)],
        [numpy_helper.from_array(value, n) for n, value in constants.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize(
    "backend", ["reference", pytest.param("onnxruntime", marks=pytest.mark.onnxruntime)]
)
@pytest.mark.parametrize(("name", "settings", "count"), CASES)
def test_onnx_moves_codes_as_torch_does(
    name: str, settings: dict[str, Any], count: int, backend: str, dtype: Any
) -> None:
    rng = np.random.default_rng(len(name))
    shape = (1, *SHAPE[1:]) if name == "expand" else SHAPE
    inputs = [codes(rng, shape, dtype) for _ in range(count)]
    settings = {"shape": (), **settings}  # every step of a program carries its shape
    expected = VIEWS[name].run([torch.from_numpy(x) for x in inputs], 3, settings).numpy()
    model = onnx_model(name, settings, inputs, expected.shape)
    feeds = {f"x{i}": x for i, x in enumerate(inputs)}
    if backend == "reference":
        found = ReferenceEvaluator(model).run(None, feeds)[0]
    else:
        found = open_session(model, threads=1, kernels=False).run(None, feeds)[0]
    assert found.dtype == expected.dtype == dtype
    np.testing.assert_array_equal(found, expected, strict=True)
    given = {*np.concatenate(inputs).reshape(-1).tolist(), *([0] if name == "pad" else [])}
    assert set(expected.reshape(-1).tolist()) <= given


def test_every_view_is_compared() -> None:
    assert {name for name, _, _ in CASES} == set(VIEWS)
