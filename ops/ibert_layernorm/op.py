"""IBertLayerNorm: I-BERT's i-LayerNorm, with an exact integer square root (SPEC.md)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mnq.ops.facts import known
from mnq.ops.integer import (
    ElementType,
    Integers,
    i64,
    isqrt,
    maximum,
    power_of_two,
    quotient,
    shift_right,
    total,
)
from mnq.ops.ivit_layernorm.op import centre
from mnq.ops.ivit_layernorm.op import constants as ivit_constants
from mnq.ops.method import LayerNormMethod, layernorm_reference
from mnq.ops.operator import Operator
from mnq.ops.requantize.op import Constants, rescale, saturate


def raw(q: Integers, bq: Integers, shift: Integers) -> Integers:
    """LayerNorm before requantization, scale sqrt(C) * weight / 2^30 per channel (spec 3.4)."""
    y = centre(q)
    shift = i64(shift)
    shifted = shift_right(y, shift)
    root = maximum(isqrt(total(shifted * shifted)) * power_of_two(shift), 1)
    t = known(
        y * quotient(2**31, root),
        lo=lambda: power_of_two(shift) * -(2**31),
        hi=lambda: power_of_two(shift) * 2**31,
        because="V is at least (y >> shift)^2, so that |y| is at most root 2^shift",
    )
    return shift_right(t, 1) + i64(bq)


def compute(
    q: Integers,
    bq: Integers,
    shift: Integers,
    m: Integers,
    e: Integers,
    lo: Integers,
    hi: Integers,
    *,
    to: ElementType,
) -> Integers:
    """y = Requantize(LayerNorm(q)) over the last axis."""
    return saturate(rescale(raw(q, bq, shift), i64(m), i64(e)), lo, hi, to)


def constants(weight: ArrayLike, bias: ArrayLike, out_scale: float, bits: int) -> Constants:
    """Inputs of IBertLayerNorm for `bits`-bit output codes at `out_scale`.

    `shift` is 0: sums of squares are int64, so the published 32-bit guard is not needed.
    """
    return {**ivit_constants(weight, bias, out_scale, bits), "shift": np.array(0, np.int32)}


ibert_layernorm = Operator("IBertLayerNorm", compute)
method = LayerNormMethod("IBert", ibert_layernorm, constants, layernorm_reference, raw)
