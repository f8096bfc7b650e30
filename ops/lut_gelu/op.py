"""LutGelu: the GELU of every 8-bit code, from a table (SPEC.md)."""

from __future__ import annotations

import math

import numpy as np

from mnq.ops.integer import ElementType, Integers, cast, gather, i64
from mnq.ops.method import GeluMethod, gelu_reference
from mnq.ops.operator import Operator
from mnq.ops.requantize.op import Constants, code_range


def compute(q: Integers, table: Integers, *, to: ElementType) -> Integers:
    """y = table[q + 128], elementwise."""
    return cast(gather(table, i64(q) + 128), to)


def constants(scale: float, out_scale: float, bits: int) -> Constants:
    """The table of LutGelu: saturated round_half_up(gelu(q S) / S_out) in float64 (spec 4.6)."""
    x = np.arange(-128, 128) * float(scale)
    erf = np.array([math.erf(v / math.sqrt(2.0)) for v in x])
    exact = x / 2.0 * (1.0 + erf) / float(out_scale)
    return {"table": np.clip(np.floor(exact + 0.5), *code_range(bits)).astype(np.int8)}


lut_gelu = Operator("LutGelu", compute, elementwise=True)
method = GeluMethod("Lut", lut_gelu, constants, gelu_reference, None)
