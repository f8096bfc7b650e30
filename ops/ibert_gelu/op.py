"""IBertGelu: I-BERT's i-GELU, a second-order polynomial for the error function (SPEC.md)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnq.ops.errors import InputError
from mnq.ops.facts import known
from mnq.ops.integer import ElementType, Integers, i64, maximum, minimum, shift_right, where
from mnq.ops.method import GeluMethod, gelu_reference
from mnq.ops.operator import Operator
from mnq.ops.requantize.op import Constants, rescale, saturate
from mnq.ops.requantize.op import constants as requantize_constants

_KEPT_BITS = 12  # of the polynomial after its shift by n (spec 3.3)


def raw(q: Integers, b: Integers, c: Integers, n: Integers, one: Integers) -> Integers:
    """q * (erf + 1) before requantization, scale S * Sg / 2 < 0 (see `raw_constants`)."""
    q, b = i64(q), i64(b)
    size = known(maximum(q, -q), lo=0, because="q or -q is not negative")
    inside = minimum(size, -b) + b
    y = inside * inside + i64(c)
    y = where(q < 0, -y, where(q > 0, y, 0))  # sign before the floor (spec 3.3)
    return q * (shift_right(y, i64(n)) + i64(one))


def compute(
    q: Integers,
    b: Integers,
    c: Integers,
    n: Integers,
    one: Integers,
    m: Integers,
    e: Integers,
    lo: Integers,
    hi: Integers,
    *,
    to: ElementType,
) -> Integers:
    """y = Requantize(q * (erf + 1)), elementwise."""
    return saturate(rescale(raw(q, b, c, n, one), i64(m), i64(e)), lo, hi, to)


def raw_constants(scale: ArrayLike, n: int | None = None) -> tuple[Constants, NDArray[np.float64]]:
    """Inputs of `raw` for codes at `scale` (a number or one per channel), and the output's scale.

    `n` is the right shift of the polynomial; by default it keeps 12 bits (spec 3.3), which
    is 0 for 8- and 6-bit codes and the published 14 for int32 accumulators.

    Raises InputError if the scale is so fine that c does not fit 32 bits.
    """
    s = np.asarray(scale, np.float32)
    s1 = s / np.float32(1.4142)
    b = np.floor(np.float32(-1.769) / s1)
    c = np.floor(np.float32(1.0 / -0.2888) / (s1 * s1))
    if not (c >= -(2.0**31)).all():
        raise InputError(
            f"i-GELU: expected an input scale of at least 5.7e-5, found {float(s.min())}; "
            f"choose another GELU method for this site"
        )
    if n is None:
        n = max(0, int(np.floor(np.log2(np.abs(c).max()))) - _KEPT_BITS)
    unit = np.float32(-0.2888) * (s1 * s1) * np.float32(2.0**n)
    values: Constants = {
        "b": b.astype(np.int32),
        "c": c.astype(np.int32),
        "n": np.array(n, np.int32),
        "one": np.floor(np.float32(1.0) / unit).astype(np.int32),
    }
    return values, s.astype(np.float64) * unit.astype(np.float64) / 2.0


def constants(scale: float, out_scale: float, bits: int) -> Constants:
    """Inputs of IBertGelu from codes at `scale` to `bits`-bit codes at `out_scale`."""
    values, raw_scale = raw_constants(scale)
    return {**values, **requantize_constants(raw_scale / out_scale, bits)}


ibert_gelu = Operator("IBertGelu", compute, elementwise=True)
method = GeluMethod("IBert", ibert_gelu, constants, gelu_reference, raw)
