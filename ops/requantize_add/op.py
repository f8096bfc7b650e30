"""RequantizeAdd: the residual addition of two codes at different scales (SPEC.md)."""

from __future__ import annotations

from numpy.typing import ArrayLike

from mnq.ops.integer import ElementType, Integers, i64
from mnq.ops.operator import Operator
from mnq.ops.requantize.op import Constants, dyadic, rescale, saturate
from mnq.ops.requantize.op import constants as requantize_constants


def constants(ratio: ArrayLike, residual_ratio: ArrayLike, bits: int) -> Constants:
    """Inputs m, e, m_r, e_r, lo, hi: ratios of both operands' scales to the output's."""
    m_r, e_r = dyadic(residual_ratio)
    return {**requantize_constants(ratio, bits), "m_r": m_r, "e_r": e_r}


def compute(
    z: Integers,
    r: Integers,
    m: Integers,
    e: Integers,
    m_r: Integers,
    e_r: Integers,
    lo: Integers,
    hi: Integers,
    *,
    to: ElementType,
) -> Integers:
    """y = saturate(round(z*m/2^e) + round(r*m_r/2^e_r)): two roundings, one saturation."""
    left = rescale(i64(z), i64(m), i64(e))
    right = rescale(i64(r), i64(m_r), i64(e_r))
    return saturate(left + right, lo, hi, to)


requantize_add = Operator("RequantizeAdd", compute)
