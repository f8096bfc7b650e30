"""Self-test: does the installed onnxruntime compute the integers that our models rely on?

`python -m mnq.runtime.selftest PROVIDER` prints the answer as JSON; mnq-doctor runs it as a
process of its own, which survives an onnxruntime that crashes.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mnq.ops.body import IR_VERSION, OPSET
from mnq.ops.errors import MnqError
from mnq.ops.library import library_path
from mnq.runtime.session import LEVELS, infer, load_onnxruntime, open_session, register

DOMAIN = "mnq.selftest"
ROWS, INNER, COLUMNS = 16, 64, 8

_M, _E = 1_518_500_250, 39  # the accumulator's range times M/2^E saturates at both ends
_DIVISOR = 7


def model() -> ModelProto:
    """One layer the way we write it: MatMulInteger s8 x s8, a function that shifts, a clamp.

    Outputs besides the codes: the accumulator, and its Div and Mod by 7.
    """
    constants = {"half": 1 << (_E - 1), "m": _M, "power": 1 << _E}
    shift = helper.make_function(
        DOMAIN,
        "Rescale",
        ["z"],
        ["y"],
        [
            *(helper.make_node("Constant", [], [k], value_int=v) for k, v in constants.items()),
            helper.make_node("Mul", ["z", "m"], ["product"]),
            helper.make_node("Add", ["product", "half"], ["sum"]),
            helper.make_node("Mod", ["sum", "power"], ["rest"]),
            helper.make_node("Sub", ["sum", "rest"], ["multiple"]),
            helper.make_node("Div", ["multiple", "power"], ["y"]),
        ],
        [helper.make_opsetid("", OPSET)],
    )
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w"], ["accumulator"]),
        helper.make_node("Cast", ["accumulator"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Div", ["wide", "divisor"], ["quotient"]),
        helper.make_node("Mod", ["wide", "divisor"], ["remainder"]),
        helper.make_node("Rescale", ["wide"], ["rescaled"], domain=DOMAIN),
        helper.make_node("Min", ["rescaled", "hi"], ["below"]),
        helper.make_node("Max", ["below", "lo"], ["clamped"]),
        helper.make_node("Cast", ["clamped"], ["codes"], to=TensorProto.INT8),
    ]
    scalars = {"divisor": _DIVISOR, "lo": -128, "hi": 127}
    initializers = [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in scalars.items()]
    initializers.append(numpy_helper.from_array(weights(), "w"))
    outputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(values.dtype), [None, COLUMNS]
        )
        for name, values in expected().items()
    ]
    image = helper.make_tensor_value_info("x", TensorProto.INT8, [None, INNER])
    graph = helper.make_graph(nodes, "selftest", [image], outputs, initializers)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, functions=[shift], opset_imports=opsets, ir_version=IR_VERSION)


def images() -> NDArray[np.int8]:
    """Codes over the whole int8 range; one row holds the smallest only, one the largest."""
    codes = np.arange(ROWS * INNER, dtype=np.int64).reshape(ROWS, INNER) * 101 % 256 - 128
    codes[0], codes[1] = -128, 127
    return codes.astype(np.int8)


def weights() -> NDArray[np.int8]:
    """Weights over the whole int8 range; one column holds the smallest only, one the largest."""
    codes = np.arange(INNER * COLUMNS, dtype=np.int64).reshape(INNER, COLUMNS) * 59 % 256 - 128
    codes[:, 0], codes[:, 1] = -128, 127
    return codes.astype(np.int8)


def expected() -> dict[str, NDArray[Any]]:
    """The right integers by output name, from 64-bit arithmetic."""
    wide = images().astype(np.int64) @ weights().astype(np.int64)
    rescaled = (wide * _M + (1 << (_E - 1))) >> _E
    return {
        "accumulator": wide.astype(np.int32),
        "quotient": np.sign(wide) * (np.abs(wide) // _DIVISOR),
        "remainder": wide % _DIVISOR,
        "codes": rescaled.clip(-128, 127).astype(np.int8),
    }


def check(provider: str) -> dict[str, str]:
    """By optimization level what is wrong there, "" if nothing.

    Raises EnvironmentLack if there is no usable onnxruntime or the provider does not start.
    """
    return {level: _first_difference(level, provider) for level in LEVELS}


def _first_difference(level: str, provider: str) -> str:
    session = open_session(model(), level=level, provider=provider, kernels=False)
    outputs = infer(session, images())
    for (name, right), found in zip(expected().items(), outputs, strict=True):
        if (found.dtype, found.shape) != (right.dtype, right.shape):
            return (
                f"{name}: expected {right.dtype} {right.shape}, found {found.dtype} {found.shape}"
            )
        wrong = np.argwhere(found != right)
        if len(wrong):
            at = tuple(int(i) for i in wrong[0])
            return f"{name}{list(at)}: expected {right[at]}, found {found[at]}"
    return ""


def refusal() -> str:
    """Why onnxruntime does not load the native library; "" if it does, or if there is none."""
    library = library_path()
    if library is not None:
        try:
            register(load_onnxruntime().SessionOptions(), library)
        except MnqError as error:
            return str(error)
    return ""


def main(provider: str) -> None:
    """Print {"version", "providers", "levels", "refusal"}, or {"error"}, as the last line."""
    try:
        ort = load_onnxruntime()
        answer = {
            "version": ort.__version__,
            "providers": ort.get_available_providers(),
            "levels": check(provider),
            "refusal": refusal(),
        }
    except MnqError as error:
        answer = {"error": str(error)}
    print(f"\n{json.dumps(answer)}")


if __name__ == "__main__":
    main(sys.argv[1])
