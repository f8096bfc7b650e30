"""QLinearLut: a linear layer whose codes are looked up in a table (SPEC.md)."""

from __future__ import annotations

from mnq.ops.integer import INT8, Integers
from mnq.ops.lut_gelu.op import lut_gelu
from mnq.ops.operator import Operator
from mnq.ops.qlinear.op import qlinear


def compute(
    x: Integers,
    w: Integers,
    bias: Integers,
    m: Integers,
    e: Integers,
    lo: Integers,
    hi: Integers,
    table: Integers,
) -> Integers:
    """y = table[QLinear(x) + 128]: the layer and the elementwise function behind it."""
    return lut_gelu(qlinear(x, w, bias, m, e, lo, hi, to=INT8), table, to=INT8)


qlinear_lut = Operator("QLinearLut", compute)
