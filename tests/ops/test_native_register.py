"""The native library inside onnxruntime: types and shapes, memory, sessions, errors."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from ops_cases import CASES
from ops_harness import Case, assert_same, functions, run_onnxruntime

from mnq.ops.body import DOMAIN, DOMAIN_VERSION, IR_VERSION, OPSET
from mnq.ops.library import library_path
from mnq.ops.registry import OPERATORS

pytestmark = [pytest.mark.onnxruntime, pytest.mark.native]

FIRST = {name.split()[0]: name for name in reversed(CASES)}
"""A case of every operator."""

GELU = "LutGelu 8 bits scale 0.03"


def between_casts(case: Case, shape: list[Any] | None) -> ModelProto:
    """The case's node between two casts, so that its memory is onnxruntime's own, as it is
    inside a model; inputs of `shape`, or of no known one.
    """
    node = case.model.graph.node[0]
    element = {
        name: helper.np_dtype_to_tensor_dtype(x.dtype) for name, x in case.activations.items()
    }
    casts = [
        helper.make_node("Cast", [f"{name}_wide"], [name], to=to) for name, to in element.items()
    ]
    inputs = [
        helper.make_tensor_value_info(
            f"{name}_wide",
            TensorProto.INT32,
            None if shape is None else [*shape, *x.shape[len(shape) :]],
        )
        for name, x in case.activations.items()
    ]
    graph = helper.make_graph(
        [*casts, node, helper.make_node("Cast", ["y"], ["y_wide"], to=TensorProto.INT32)],
        "inside",
        inputs,
        [helper.make_tensor_value_info("y_wide", TensorProto.INT32, None)],
        case.model.graph.initializer,
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    return helper.make_model(
        graph,
        opset_imports=imports,
        functions=functions(case.operator),
        ir_version=IR_VERSION,
    )


@pytest.mark.parametrize("shape", [["batch"], [None], [], None], ids=str)
@pytest.mark.parametrize("operator", OPERATORS)
def test_inside_a_model_the_integers_are_the_same(operator: str, shape: list[Any] | None) -> None:
    """Nothing says the output's type but `to`, and gelu and residual may work in place."""
    case = CASES[FIRST[operator]]()
    feeds = {f"{name}_wide": x.astype(np.int32) for name, x in case.activations.items()}
    found = run_onnxruntime(between_casts(case, shape), feeds, library=library_path())
    assert_same(found, case.expected.astype(np.int32), operator)


def session(model: ModelProto) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library_path()))
    providers = ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)


def test_the_kernel_runs_and_not_the_function() -> None:
    """A function of the same name that is wrong changes nothing."""
    case = CASES[GELU]()
    model = ModelProto()
    model.CopyFrom(case.model)
    (function,) = model.functions
    del function.node[:]
    function.node.append(helper.make_node("Identity", ["q"], [function.output[0]]))
    (found,) = session(model).run(None, dict(case.activations))
    assert_same(found, case.expected, "the kernel")


def in_threads(work: Callable[[], None], count: int = 4) -> None:
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_one_session_in_several_threads() -> None:
    case = CASES[FIRST["LutAttention"]]()
    opened = session(case.model)

    def work() -> None:
        for _ in range(5):
            assert_same(opened.run(None, dict(case.activations))[0], case.expected, "threads")

    in_threads(work)


def test_several_sessions_in_several_threads() -> None:
    case = CASES[GELU]()

    def work() -> None:
        for _ in range(3):
            found = session(case.model).run(None, dict(case.activations))[0]
            assert_same(found, case.expected, "sessions")

    in_threads(work)


def refusal(model: ModelProto) -> str:
    with pytest.raises(Exception) as caught:
        session(model)
    return str(caught.value)


def changed(case: Case, **constants: np.ndarray) -> ModelProto:
    """The case's model, its node named, with other constants."""
    model = ModelProto()
    model.CopyFrom(case.model)
    model.graph.node[0].name = "blocks.0.mlp.act"
    for tensor in model.graph.initializer:
        if tensor.name in constants:
            tensor.CopyFrom(numpy_helper.from_array(constants[tensor.name], tensor.name))
    return model


def test_a_refusal_names_operator_node_and_input_and_says_what_helps() -> None:
    case = CASES[GELU]()
    text = refusal(changed(case, table=case.constants["table"][:100]))
    assert "mnq.LutGelu node 'blocks.0.mlp.act': input 'table': expected shape (256,)" in text
    assert "; export the model again, or run it without the mnq library" in text
    model = changed(case)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT16
    assert "'blocks.0.mlp.act': input 'q': expected int8, found int16" in refusal(model)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    assert "'blocks.0.mlp.act': 'q': expected an element type of" in refusal(model)


def test_shapes_that_only_a_run_shows_are_refused_there() -> None:
    case = CASES[FIRST["QLinear"]]()
    model = changed(case)
    model.graph.input[0].type.tensor_type.shape.dim[-1].Clear()
    opened = session(model)
    with pytest.raises(Exception, match=r"mnq\.QLinear node 'blocks\.0\.mlp\.act': input 'x'"):
        opened.run(None, {"x": case.activations["x"][..., 1:]})


def test_a_path_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNQ_CPU_PATH", "sse2")
    text = refusal(CASES[GELU]().model)
    assert "MNQ_CPU_PATH: expected one of portable" in text
    assert "found 'sse2'; unset it, or choose one of these" in text


class ApiBase(ctypes.Structure):
    """OrtApiBase."""

    _fields_ = [
        ("GetApi", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)),
        ("GetVersionString", ctypes.CFUNCTYPE(ctypes.c_void_p)),
    ]


def test_an_onnxruntime_that_is_too_old_is_named() -> None:
    """Played by callbacks: it has an interface 1, whose first function is CreateStatus."""
    told: list[str] = []

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    def create_status(code: int, message: bytes) -> int:
        told.append(message.decode())
        return 1

    table = (ctypes.c_void_p * 1)(ctypes.cast(create_status, ctypes.c_void_p).value)
    get_api = ApiBase._fields_[0][1](lambda version: ctypes.addressof(table) if version == 1 else 0)
    version = ctypes.create_string_buffer(b"1.20.1")
    base = ApiBase(get_api, ApiBase._fields_[1][1](lambda: ctypes.addressof(version)))
    register = ctypes.CDLL(str(library_path())).RegisterCustomOps
    register.restype = ctypes.c_void_p
    assert register(None, ctypes.byref(base)) == 1
    assert told == ["mnq ops need onnxruntime >= 1.21, found 1.20.1"]
