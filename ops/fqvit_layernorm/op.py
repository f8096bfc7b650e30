"""FqVitLayerNorm: FQ-ViT's integer LayerNorm with 8-bit multipliers (SPEC.md)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mnq.ops.errors import InputError
from mnq.ops.facts import by_bits, known
from mnq.ops.integer import (
    ElementType,
    Integers,
    bit_length,
    clamp,
    floor_divide,
    i64,
    isqrt,
    last_length,
    maximum,
    minimum,
    power_of_two,
    quotient,
    round_half_even_divide,
    shift,
    total,
    where,
)
from mnq.ops.method import LayerNormMethod, layernorm_reference
from mnq.ops.operator import Operator
from mnq.ops.requantize.op import Constants, code_range, saturate

BIAS_BITS = 20
"""Fractional bits of bq."""

_GUARD_BITS = 8  # of the offset B before its one rounding (spec 4.4)
_LARGEST_STEPS = 2.0**23  # |bq| * 2^(31 + 8 - 20) and |sum X| * A * 2^8 stay below 2^63
_LARGEST_P = 60  # keeps every shift below 63


def raw(q: Integers, mant: Integers, p: Integers, bq: Integers) -> Integers:
    """LayerNorm at the output's scale before saturation (spec 4.4, the M, N form)."""
    x, mant, p, bq = i64(q), i64(mant), i64(p), i64(bq)
    channels = last_length(x)
    s1 = total(x)
    d = known(total(x * x) * channels - s1 * s1, lo=0, because="Cauchy and Schwarz")
    spread = by_bits(
        known(
            d,
            lo=lambda: max(last_length(x) - 1, 1),
            because="d is the sum of (x - x')^2 over all pairs, and C - 1 pairs or more differ",
            where=lambda: d > 0,
        )
    )
    t = quotient(62 - bit_length(spread), 2)
    root = maximum(isqrt(spread * power_of_two(t * 2)), 1)
    a = quotient(maximum(mant, -mant) * 2**31, root)  # |A| = a * 2^(t - p - 31)
    unit = t - p - 31
    n = clamp(8 - bit_length(a) - unit, 0, 31)
    multiplier = minimum(shift(a, n + unit), 255)
    sign = where(mant < 0, -1, 1)
    guard = n + unit + _GUARD_BITS
    mean_part = floor_divide(
        sign * s1 * a * power_of_two(maximum(guard, 0)),
        channels * power_of_two(maximum(-guard, 0)),
    )
    bias_part = shift(bq, n + (_GUARD_BITS - BIAS_BITS))
    offset = round_half_even_divide(bias_part - mean_part, 2**_GUARD_BITS)
    y = round_half_even_divide(sign * multiplier * x + offset, power_of_two(n))
    return where(d > 0, y, round_half_even_divide(bq, 2**BIAS_BITS))


def compute(
    q: Integers,
    mant: Integers,
    p: Integers,
    bq: Integers,
    lo: Integers,
    hi: Integers,
    *,
    to: ElementType,
) -> Integers:
    """y = saturate(LayerNorm(q)) over the last axis, already at the output's scale."""
    return saturate(raw(q, mant, p, bq), lo, hi, to)


def raw_constants(weight: ArrayLike, bias: ArrayLike, out_scale: float) -> Constants:
    """Inputs mant, p, bq of `raw` for float32 weight and bias (C,).

    mant = weight * C / S_out * 2^p with one p, chosen so that the largest fills 31 bits (or
    is below 2^-29, which adds nothing to any output).

    Raises InputError if weight / S_out or bias / S_out is so large that int64 could overflow
    for int16 codes in rows of up to 2048.
    """
    w, b = np.asarray(weight, np.float64), np.asarray(bias, np.float64)
    steps = np.abs(np.stack([w, b])) / out_scale
    if not (steps < _LARGEST_STEPS).all():
        raise InputError(
            f"FqVitLayerNorm: expected weights and biases below 2^23 output steps, found "
            f"{float(steps.max())}; check the weights and the calibrated output scale"
        )
    gain = w * w.size / out_scale
    top = float(np.abs(gain).max())
    p = min(31 - int(np.frexp(top)[1]), _LARGEST_P) if top > 0 else 0
    mant = np.rint(gain * 2.0**p)
    if np.abs(mant).max() >= 2**31:  # rounded up to the next power of two
        p -= 1
        mant = np.rint(gain * 2.0**p)
    return {
        "mant": mant.astype(np.int32),
        "p": np.array(p, np.int32),
        "bq": np.rint(b / out_scale * 2.0**BIAS_BITS).astype(np.int64),
    }


def constants(weight: ArrayLike, bias: ArrayLike, out_scale: float, bits: int) -> Constants:
    """Inputs of FqVitLayerNorm for `bits`-bit output codes at `out_scale`."""
    lo, hi = code_range(bits)
    return {
        **raw_constants(weight, bias, out_scale),
        "lo": np.array(lo, np.int32),
        "hi": np.array(hi, np.int32),
    }


fqvit_layernorm = Operator("FqVitLayerNorm", compute)
method = LayerNormMethod("FqVit", fqvit_layernorm, constants, layernorm_reference, raw)
