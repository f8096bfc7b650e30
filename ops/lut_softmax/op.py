"""LutSoftmax: softmax with the exact exponential of every code, from a table (SPEC.md)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnq.ops.facts import row_total
from mnq.ops.integer import (
    ElementType,
    Integers,
    cast,
    gather,
    i64,
    quotient,
    row_max,
    shift_right,
)
from mnq.ops.method import (
    SoftmaxMethod,
    largest_weight,
    offset_largest_sum,
    offset_probability,
    offset_probability_scale,
    softmax_reference,
)
from mnq.ops.operator import Operator
from mnq.ops.requantize.op import Constants

_ENTRIES = 256


def exp_table(scale: ArrayLike, top: ArrayLike) -> Constants:
    """Inputs `table` and `base`: round_half_up(top * exp(-S t)), t = 0..255, in float64.

    One table per scale and top, laid end to end; `base`, of their shape, is where each begins.
    """
    s, tops = np.broadcast_arrays(np.asarray(scale, np.float64), np.asarray(top, np.float64))
    steps = np.arange(_ENTRIES, dtype=np.float64)
    rows: NDArray[np.float64] = tops.reshape(-1, 1) * np.exp(-s.reshape(-1, 1) * steps)
    table = np.floor(rows + 0.5).astype(np.int32).reshape(-1)
    base = (np.arange(s.size, dtype=np.int32) * _ENTRIES).reshape(s.shape)
    return {"table": table, "base": base}


def compute(
    q: Integers, table: Integers, base: Integers, shift: Integers, zp: Integers, *, to: ElementType
) -> Integers:
    """Codes of softmax over the last axis: ((w * (2^32 // sum w)) >> shift) - zp."""
    d = i64(q)
    w = i64(gather(table, row_max(d) - d + i64(base)))
    row = row_total(w, lambda: i64(gather(table, i64(base))))
    out = shift_right(w * quotient(2**32, row), i64(shift))
    return cast(out - i64(zp), to)


def constants(scale: ArrayLike, bits: int) -> Constants:
    """Inputs of LutSoftmax for codes at `scale` and `bits` unsigned output bits.

    The output code is P - 2^(bits-1), so that it fits a signed type.
    """
    return {
        **exp_table(scale, 65535),
        "shift": np.array(32 - bits, np.int32),
        "zp": np.array(2 ** (bits - 1), np.int32),
    }


def weigh(d: Integers, table: Integers, base: Integers) -> tuple[Integers, Integers]:
    """Deferred form (spec 4.7): weights of d = q - max <= 0, and their row sum."""
    w = i64(gather(table, i64(base) - d))
    return w, row_total(w, lambda: i64(gather(table, i64(base))))


def weight_constants(scale: ArrayLike, bits: ArrayLike = 8) -> Constants:
    """Inputs of `weigh` for codes at `scale` and weights of `bits` unsigned bits."""
    return exp_table(scale, largest_weight(bits))


lut_softmax = Operator("LutSoftmax", compute)
method = SoftmaxMethod(
    prefix="Lut",
    operator=lut_softmax,
    constants=constants,
    probability=offset_probability,
    probability_scale=offset_probability_scale,
    weigh=weigh,
    weight_constants=weight_constants,
    reference=softmax_reference,
    largest_sum=offset_largest_sum,
)
