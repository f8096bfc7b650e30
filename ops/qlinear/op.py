"""QLinear and QLinearAdd: a linear layer on codes, requantized (SPEC.md)."""

from __future__ import annotations

from mnq.ops.integer import INT32, ElementType, Integers, cast, i64, matmul
from mnq.ops.operator import Operator
from mnq.ops.requantize.op import requantize
from mnq.ops.requantize_add.op import requantize_add


def accumulate(x: Integers, w: Integers, bias: Integers) -> Integers:
    """int32 accumulators of int8 x (..., K) times int8 w (K, N) plus int32 bias (N)."""
    return cast(matmul(x, w) + i64(bias), INT32)


def compute(
    x: Integers,
    w: Integers,
    bias: Integers,
    m: Integers,
    e: Integers,
    lo: Integers,
    hi: Integers,
    *,
    to: ElementType,
) -> Integers:
    """y = Requantize(x w + bias)."""
    return requantize(accumulate(x, w, bias), m, e, lo, hi, to=to)


def compute_add(
    x: Integers,
    r: Integers,
    w: Integers,
    bias: Integers,
    m: Integers,
    e: Integers,
    m_r: Integers,
    e_r: Integers,
    lo: Integers,
    hi: Integers,
    *,
    to: ElementType,
) -> Integers:
    """y = RequantizeAdd(x w + bias, r): the layer and its residual addition."""
    return requantize_add(accumulate(x, w, bias), r, m, e, m_r, e_r, lo, hi, to=to)


qlinear = Operator("QLinear", compute)
qlinear_add = Operator("QLinearAdd", compute_add)
