"""One operator lowered alone: the integers of its step, tolerance zero."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import toolchain_models as models
import torch
from toolchain_harness import FORMS, METHODS, Quantized

from mnq.ops.registry import OPERATORS
from mnq.runtime.purity import float_tensors
from mnq.runtime.session import open_session
from mnq.toolchain.lower import lower_step
from mnq.toolchain.program import Step


def steps_of_sites(
    quantized: Quantized, method: str, form: str, bits: int
) -> list[tuple[Step, list[torch.Tensor], torch.Tensor]]:
    """The first step of each operator at a site, with inputs and output for three images."""
    program, images = quantized.program(method, form, bits), models.pixels(3, seed=8)
    found: dict[str, tuple[Step, list[torch.Tensor], torch.Tensor]] = {}
    for s, inputs, value in program.walk(program.start(images), 3):
        if s.site:
            found.setdefault(s.operator, (s, inputs, value))
    return list(found.values())


@pytest.mark.onnxruntime
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_operator_alone_computes_the_integers_of_its_step(
    quantized: Quantized, method: str, form: str, bits: int
) -> None:
    found = steps_of_sites(quantized, method, form, bits)
    assert len(found) == 3  # softmax, GELU, LayerNorm
    for s, inputs, expected in found:
        arrays = [x.contiguous().numpy() for x in inputs]
        session = open_session(lower_step(s, arrays), threads=1, kernels=False)
        names = OPERATORS[s.operator].inputs[: len(arrays)]
        (result,) = session.run(None, dict(zip(names, arrays, strict=True)))
        assert [i.name for i in session.get_inputs()] == list(names)
        assert [o.name for o in session.get_outputs()] == ["y"]
        np.testing.assert_array_equal(result, expected.numpy(), strict=True, err_msg=s.output)


@pytest.mark.parametrize("method", METHODS)
def test_model_of_an_operator_is_valid_and_holds_integers_only(
    quantized: Quantized, method: str
) -> None:
    for s, inputs, _ in steps_of_sites(quantized, method, "deferred", 8):
        proto = lower_step(s, [x.numpy() for x in inputs])
        onnx.checker.check_model(proto, full_check=True)
        assert float_tensors(proto) == []
        assert proto.ir_version == 10
        assert {o.domain: o.version for o in proto.opset_import} == {"": 21, "mnq": 1}
        constants = {entry.name for entry in proto.graph.initializer}
        assert constants == set(OPERATORS[s.operator].inputs[len(inputs) :])
        for made, x in zip(proto.graph.input, inputs, strict=True):
            dims = [d.dim_value for d in made.type.tensor_type.shape.dim]
            assert dims == list(x.shape)
