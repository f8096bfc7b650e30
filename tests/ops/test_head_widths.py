"""Bit-widths and scales that differ from head to head: the same integers on every back end."""

from __future__ import annotations

import numpy as np
import pytest
from ops_cases import HEADS
from ops_harness import BACKENDS, Case
from ops_head_widths import BITS, CASES, DEPTH, Limits, attention, layer
from ops_native import Native

from mnq.ops.errors import InputError
from mnq.ops.integer import INT8
from mnq.ops.kernels import run
from mnq.ops.registry import SOFTMAX


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]()


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_gives_the_integers_of_torch(case: Case, backend: str | Native) -> None:
    case.check(backend)


def test_every_head_uses_all_of_its_codes() -> None:
    y = layer().expected.reshape(-1, 3, HEADS, DEPTH)
    found = [(int(y[:, :, head].min()), int(y[:, :, head].max())) for head in range(HEADS)]
    assert found == [(-2, 1), (-16, 15), (-128, 127)]
    y = attention("lut", "separate").expected
    assert [int(y[:, head].max()) <= 2 ** (int(b) - 1) - 1 for head, b in enumerate(BITS.flat)]


@pytest.mark.parametrize("method", ["ivit", "ibert", "lut"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_have_the_bits_they_should(method: str, bits: int) -> None:
    import torch

    softmax = SOFTMAX[method]
    constants = softmax.weight_constants(np.float32(0.03125), bits)
    distances = -torch.arange(256).reshape(1, -1)
    w, _ = softmax.weigh(distances, *map(torch.as_tensor, constants.values()))
    assert int(w.max()) == int(w[0, 0]) == 2**bits - 1
    wanted = (2**bits - 1) * torch.exp(distances * 0.03125)
    assert float((w - wanted).abs().max()) <= 0.5 + 0.06 * 2**bits  # ShiftExp is 6 % off


@pytest.mark.native
@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"lo": np.zeros(4, np.int32)}, "expected equal shapes"),
        ({"lo": np.zeros(4, np.int32), "hi": np.ones(4, np.int32)}, "one number or shape"),
        ({"lo": np.array(-129, np.int32), "hi": np.array(1, np.int32)}, "within int8"),
        ({"lo": np.array(3, np.int32), "hi": np.array(2, np.int32)}, "within int8"),
    ],
)
def test_kernel_refuses_limits_that_do_not_fit(change: Limits, found: str) -> None:
    case = layer()
    with pytest.raises(InputError, match=found):
        run("QLinear", case.activations, {**case.constants, **change}, INT8)
