"""MeanTokens: the mean over the tokens of an image, and the requantization (SPEC.md)."""

from __future__ import annotations

import numpy as np

from mnq.ops.integer import ElementType, Integers, i64, select, total
from mnq.ops.operator import Operator
from mnq.ops.requantize.op import Constants, rescale, saturate
from mnq.ops.requantize.op import constants as requantize_constants


def compute(
    q: Integers, m: Integers, e: Integers, lo: Integers, hi: Integers, *, to: ElementType
) -> Integers:
    """y (B, C) = Requantize(sum of q (B, T, C) over T); the division by T is in m and e."""
    sums = select(total(i64(q), axis=1), 0, axis=1)
    return saturate(rescale(sums, i64(m), i64(e)), lo, hi, to)


def constants(ratio: float, tokens: int, bits: int) -> Constants:
    """Inputs of MeanTokens for `tokens` tokens and ratio = S_in / S_out, to `bits` bits."""
    return requantize_constants(np.float64(ratio) / tokens, bits)


mean_tokens = Operator("MeanTokens", compute)
