"""IVitLayerNorm: I-ViT's I-LayerNorm, the square root by ten Newton steps (SPEC.md)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnq.ops.facts import known
from mnq.ops.integer import (
    ElementType,
    Integers,
    i64,
    last_length,
    quotient,
    round_half_even_divide,
    shift_right,
    total,
)
from mnq.ops.method import LayerNormMethod, layernorm_reference
from mnq.ops.operator import Operator
from mnq.ops.requantize.op import Constants, code_range, dyadic, rescale, saturate

NEWTON_STEPS = 10
FIRST_ROOT = 2**16

_SMALLEST_WEIGHT = 2.0**-20  # relative to the bias; below it the channel is its bias
_PRODUCT_BITS = 62  # |raw| * |m| stays below 2^62


def centre(q: Integers) -> Integers:
    """int64 codes minus their row's mean, which is rounded half to even."""
    q = i64(q)
    return q - round_half_even_divide(total(q), last_length(q))


def raw(q: Integers, bq: Integers) -> Integers:
    """LayerNorm before requantization, scale sqrt(C) * weight / 2^30 per channel (spec 2.5)."""
    y = centre(q)
    variance = total(y * y)
    root: Integers = FIRST_ROOT
    for _ in range(NEWTON_STEPS):
        root = quotient(root + quotient(variance, root), 2)
    t = known(
        y * quotient(2**31 - 1, root),
        lo=-(2**31),
        hi=2**31,
        because="no Newton step leads below floor(sqrt(V)), and V is at least y^2",
    )
    return shift_right(t, 1) + i64(bq)


def compute(
    q: Integers,
    bq: Integers,
    m: Integers,
    e: Integers,
    lo: Integers,
    hi: Integers,
    *,
    to: ElementType,
) -> Integers:
    """y = Requantize(LayerNorm(q)) over the last axis."""
    return saturate(rescale(raw(q, bq), i64(m), i64(e)), lo, hi, to)


def raw_constants(weight: ArrayLike, bias: ArrayLike) -> tuple[Constants, NDArray[np.float64]]:
    """Input bq (int64) for float32 weight and bias (C,), and the raw codes' scale per channel.

    A weight below 2^-20 of its channel's bias counts as that: the channel is the constant
    bias, and a weight of 0 needs no case of its own (spec 2.5).
    """
    w, b = np.asarray(weight, np.float32), np.asarray(bias, np.float32)
    least = np.abs(b) * np.float32(_SMALLEST_WEIGHT)
    w = np.where(np.abs(w) < least, np.where(w < 0, -least, least), w)
    unit = np.float32(np.sqrt(np.float32(w.size))) / np.float32(2**30)
    ratio = np.divide(b, w, out=np.zeros_like(b), where=w != 0)
    bq = np.floor(ratio / unit).astype(np.int64)
    return {"bq": bq}, w.astype(np.float64) * np.float64(unit)


def constants(weight: ArrayLike, bias: ArrayLike, out_scale: float, bits: int) -> Constants:
    """Inputs of IVitLayerNorm for `bits`-bit output codes at `out_scale`.

    Where bias / weight is so large that raw * m would leave int64, m keeps fewer bits.
    """
    values, raw_scale = raw_constants(weight, bias)
    largest = np.abs(values["bq"].astype(np.float64)) + 2.0**30
    spare = np.maximum(np.ceil(np.log2(largest)) + 31 - _PRODUCT_BITS, 0)
    m, e = dyadic(raw_scale / out_scale, spare.astype(np.int64))
    lo, hi = code_range(bits)
    return {
        **values,
        "m": m,
        "e": e,
        "lo": np.array(lo, np.int32),
        "hi": np.array(hi, np.int32),
    }


ivit_layernorm = Operator("IVitLayerNorm", compute)
method = LayerNormMethod("IVit", ivit_layernorm, constants, layernorm_reference, raw)
