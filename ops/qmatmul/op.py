"""QMatMul: a product of two activations, requantized (SPEC.md)."""

from __future__ import annotations

from mnq.ops.integer import INT32, ElementType, Integers, cast, i64, matmul
from mnq.ops.operator import Operator
from mnq.ops.requantize.op import requantize


def compute(
    a: Integers,
    b: Integers,
    bias: Integers,
    m: Integers,
    e: Integers,
    lo: Integers,
    hi: Integers,
    *,
    to: ElementType,
) -> Integers:
    """y = Requantize(a b + bias); bias is at the accumulators' scale and broadcasts."""
    accumulators = cast(matmul(a, b) + i64(bias), INT32)
    return requantize(accumulators, m, e, lo, hi, to=to)


qmatmul = Operator("QMatMul", compute)
