"""Cases whose bit-widths and scales differ from head to head; `CASES` as in `ops_cases`."""

from __future__ import annotations

import numpy as np
from ops_cases import HEAD_SCALES, HEADS, codes
from ops_harness import Case

from mnq.ops.attention.op import constants as attention_constants
from mnq.ops.integer import INT8
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
