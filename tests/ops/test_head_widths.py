"""Bit-widths and scales that differ from head to head: the same integers on every back end."""

from __future__ import annotations

import numpy as np
import pytest
from ops_cases import HEAD_SCALES, HEADS, codes
from ops_harness import BACKENDS, Case
from ops_native import Native

from mnq.ops.attention.op import constants as attention_constants
from mnq.ops.errors import InputError
from mnq.ops.integer import INT8
from mnq.ops.kernels import run
from mnq.ops.qlinear.op import qlinear
from mnq.ops.registry import ATTENTION, PACKED_ATTENTION, SOFTMAX, WINDOW_ATTENTION
from mnq.ops.requantize.op import constants as requantize_constants

BITS = np.array([2, 5, 8]).reshape(HEADS, 1, 1)
DEPTH = 24  # no multiple of a vector's length

Limits = dict[str, np.ndarray]


def limits(bits: np.ndarray) -> Limits:
    lo = -(2 ** (bits - 1))
    return {"lo": lo.astype(np.int32), "hi": (-lo - 1).astype(np.int32)}


def layer() -> Case:
    """A qkv layer whose heads have 2, 5 and 8 bits."""
    rng = np.random.default_rng(0)
    columns = np.repeat(np.tile(BITS.ravel(), 3), DEPTH)
    ratios = rng.uniform(0.5, 1, len(columns)) * 2.0 ** (columns - 17)
    fixed = {
        "w": rng.integers(-128, 128, (96, len(columns))).astype(np.int8),
        "bias": rng.integers(-9999, 9999, len(columns)).astype(np.int32),
        **requantize_constants(ratios, 8),
        **limits(columns),
    }
    return Case(qlinear, {"x": codes(rng, (2, 70, 96), 8)}, fixed, {"to": INT8})


def attention(method: str, layout: str) -> Case:
    """Heads with their own scales, output widths and weight widths."""
    rng = np.random.default_rng(1)
    q, v = HEAD_SCALES * 0.004, np.reshape([0.02, 0.3, 0.001], (HEADS, 1, 1))
    fixed = attention_constants(
        SOFTMAX[method], "deferred", q, HEAD_SCALES, v, v * 2.0 ** (9 - BITS), 8, BITS
    )
    fixed |= limits(BITS) | {"bias": np.zeros((1, 1, 1, 1), np.int32)}
    operator = ATTENTION[method]["deferred"]
    if layout == "separate":
        operands = {name: codes(rng, (2, HEADS, 40, DEPTH), 8) for name in ("q", "k", "v")}
        return Case(operator, operands, {"bias": fixed.pop("bias"), **fixed})
    operands = {"qkv": codes(rng, (2, 40, 3, HEADS, DEPTH), 8)}
    if layout == "packed":
        packed = PACKED_ATTENTION[operator.name]
        return Case(packed, operands, {name: fixed[name] for name in packed.inputs[1:]})
    window = WINDOW_ATTENTION[operator.name]
    order = rng.permutation(40).reshape(4, 10)
    fixed |= {"kind": np.zeros(4, np.int64), "order": order}
    fixed["inverse"] = np.argsort(order.reshape(-1))
    return Case(window, operands, {name: fixed[name] for name in window.inputs[1:]})


CASES = {"layer": layer} | {
    f"{method} {layout}": lambda method=method, layout=layout: attention(method, layout)
    for method in SOFTMAX
    for layout in ("separate", "packed", "window")
}


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
