"""IVitGelu: I-ViT's ShiftGELU, x * sigmoid(1.702 x) with a sigmoid by shifts (SPEC.md)."""

from __future__ import annotations

import numpy as np

from mnq.ops.facts import by_bits
from mnq.ops.integer import (
    ElementType,
    Integers,
    i64,
    minimum,
    quotient,
    row_max,
    shift_right,
)
from mnq.ops.ivit_softmax.op import shift_exp, shift_exp_unit
from mnq.ops.method import GeluMethod, gelu_reference
from mnq.ops.operator import Operator
from mnq.ops.requantize.op import Constants, rescale, saturate
from mnq.ops.requantize.op import constants as requantize_constants

N = 23
"""Fractional bits of the exponential (spec 2.4)."""

SIGMOID_BITS = 8
"""The sigmoid is 0..127, at scale 2^-7."""

NUMERATOR = 2**31
"""What the published float32 code computes; its source text says 2^31 - 1 (spec 2.4)."""


def raw(q: Integers, x0: Integers, numerator: Integers) -> Integers:
    """q * sigmoid before requantization, scale S * 2^-7. The row maximum enters: a row operator."""
    q, x0 = i64(q), i64(x0)
    top = row_max(q)
    e = by_bits(shift_exp(q - top, x0, N))
    both = minimum(e + shift_exp(-top, x0, N), 2**31 - 1)
    sigmoid = shift_right(e * quotient(i64(numerator), both), 32 - SIGMOID_BITS)
    return q * sigmoid


def compute(
    q: Integers,
    x0: Integers,
    numerator: Integers,
    m: Integers,
    e: Integers,
    lo: Integers,
    hi: Integers,
    *,
    to: ElementType,
) -> Integers:
    """y = Requantize(q * sigmoid) over rows of the last axis."""
    return saturate(rescale(raw(q, x0, numerator), i64(m), i64(e)), lo, hi, to)


def raw_constants(scale: float) -> Constants:
    """Inputs of `raw` for codes at `scale`."""
    stretched = np.float32(1.702) * np.float32(scale)
    return {"x0": shift_exp_unit(stretched), "numerator": np.array(NUMERATOR, np.int64)}


def constants(scale: float, out_scale: float, bits: int) -> Constants:
    """Inputs of IVitGelu from codes at `scale` to `bits`-bit codes at `out_scale`."""
    ratio = float(np.float32(scale)) * 2.0 ** -(SIGMOID_BITS - 1) / out_scale
    return {**raw_constants(scale), **requantize_constants(ratio, bits)}


ivit_gelu = Operator("IVitGelu", compute)
method = GeluMethod("IVit", ivit_gelu, constants, gelu_reference, raw)
