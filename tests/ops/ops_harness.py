"""One operator as a one-node ONNX model, run by every back end and compared with torch.

A back end is an entry of `BACKENDS`; those of `BODIES` take any operator, having no kernels.
`Case.run` gives what it returns, `assert_same` compares.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import FunctionProto, ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from ops_native import PATHS, Native, make_kernel

from mnq.ops.body import DOMAIN, DOMAIN_VERSION, IR_VERSION, OPSET
from mnq.ops.facts import checked_facts
from mnq.ops.integer import INT8, INT16, INT32, INT64
from mnq.ops.library import library_path
from mnq.ops.operator import Operator
from mnq.ops.registry import OPERATORS, with_calls

Array = NDArray[np.generic]

ELEMENT_TYPE = {
    np.uint8: int(TensorProto.UINT8), np.int8: INT8, np.int16: INT16, np.int32: INT32,
    np.int64: INT64,
}  # fmt: skip

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
REFERENCE = "onnx.reference"
KERNELS = "kernels in onnxruntime"
BODIES = [
    *(pytest.param(level, marks=pytest.mark.onnxruntime, id=level) for level in LEVELS),
    pytest.param(REFERENCE, id=REFERENCE),
]
BACKENDS = [
    *BODIES,
    pytest.param(KERNELS, marks=[pytest.mark.onnxruntime, pytest.mark.native], id=KERNELS),
    *(
        pytest.param(Native(path, threads), marks=pytest.mark.native, id=f"{path} x{threads}")
        for path in PATHS
        for threads in (1, 3)
    ),
]


def functions(operator: Operator) -> list[FunctionProto]:
    """The operator's function and all that it calls; an unregistered operator calls none."""
    if OPERATORS.get(operator.name) is operator:
        return [each.function for each in with_calls([operator.name])]
    return [operator.function]


def value_info(name: str, array: Array) -> ValueInfoProto:
    """The type of an input or output; from rank 2 on the first axis is dynamic."""
    shape = ["batch", *array.shape[1:]] if array.ndim > 1 else array.shape
    return helper.make_tensor_value_info(name, ELEMENT_TYPE[array.dtype.type], shape)


@dataclass(frozen=True, eq=False)
class Case:
    """An operator with its inputs: activations are fed, constants are initializers."""

    operator: Operator
    activations: Mapping[str, Array]
    constants: Mapping[str, Array] = field(default_factory=dict)
    attributes: Mapping[str, int] = field(default_factory=dict)

    def compute(self, device: str = "cpu") -> Array:
        """The result of the definition on torch tensors, on which its facts are checked."""
        arrays = {**self.activations, **self.constants}
        tensors = [
            torch.from_numpy(np.array(arrays[name])).to(device) for name in self.operator.inputs
        ]
        with checked_facts():
            result: torch.Tensor = self.operator(*tensors, **self.attributes)
        return result.cpu().numpy()

    @functools.cached_property
    def expected(self) -> Array:
        """`compute()`, once."""
        return self.compute()

    @functools.cached_property
    def model(self) -> ModelProto:
        """The one-node model."""
        inputs = [value_info(name, array) for name, array in self.activations.items()]
        initializers = [
            numpy_helper.from_array(np.asarray(array), name)
            for name, array in self.constants.items()
        ]
        names = list(self.operator.inputs)
        node = helper.make_node(self.operator.name, names, ["y"], domain=DOMAIN, **self.attributes)
        return helper.make_model(
            helper.make_graph(
                [node], "one_operator", inputs, [value_info("y", self.expected)], initializers
            ),
            opset_imports=[
                helper.make_opsetid("", OPSET),
                helper.make_opsetid(DOMAIN, DOMAIN_VERSION),
            ],
            functions=functions(self.operator),
            ir_version=IR_VERSION,
        )

    def run(self, backend: str | Native) -> Array:
        """What the back end returns."""
        if backend == REFERENCE:
            return ReferenceEvaluator(self.model).run(None, dict(self.activations))[0]
        if backend == KERNELS:
            return run_onnxruntime(self.model, self.activations, library=library_path())
        if isinstance(backend, Native):
            to = self.attributes.get("to", 0)
            kernel = make_kernel(self.operator, self.activations, self.constants, to, backend.path)
            return kernel.run(self.activations, backend.threads)
        return run_onnxruntime(self.model, self.activations, backend)

    def check(self, backend: str | Native) -> None:
        """Fail unless the back end returns the integers of torch."""
        assert_same(self.run(backend), self.expected, f"{self.operator.name} on {backend}")

    def check_cuda(self) -> None:
        """Fail unless torch gives the same integers on a GPU."""
        assert_same(self.compute("cuda"), self.expected, f"{self.operator.name} on a GPU")


def run_onnxruntime(
    model: ModelProto,
    feeds: Mapping[str, Array],
    level: str = "ORT_ENABLE_ALL",
    library: Path | None = None,
) -> Array:
    """The model's output on onnxruntime's CPU provider at one of `LEVELS`, with kernels of a
    library or without.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    if library is not None:
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, dict(feeds))[0]


def assert_same(actual: Array, expected: Array, what: str) -> None:
    """Fail, naming the first differing element, unless dtype, shape and integers are equal."""
    assert actual.dtype == expected.dtype, f"{what}: {actual.dtype}, expected {expected.dtype}"
    assert actual.shape == expected.shape, f"{what}: {actual.shape}, expected {expected.shape}"
    different = np.argwhere(actual != expected)
    if different.size:
        at = tuple(int(i) for i in different[0])
        pytest.fail(
            f"{what}: {len(different)} of {actual.size} integers differ, first at {at}: "
            f"{actual[at]}, expected {expected[at]}",
            pytrace=False,
        )


def tensor(values: object) -> torch.Tensor:
    """`values` as an int64 tensor."""
    return torch.from_numpy(np.array(values, dtype=np.int64))


def by_torch(operator: Operator, *values: object, **attributes: int) -> list[int]:
    """All integers that the operator returns in torch for int64 inputs, in order."""
    with checked_facts():
        result: torch.Tensor = operator(*(tensor(value) for value in values), **attributes)
    return [int(v) for v in result.reshape(-1)]
