"""IBertSoftmax: I-BERT's i-softmax, exponentials by a second-order polynomial (SPEC.md)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mnq.ops.errors import InputError
from mnq.ops.facts import row_total
from mnq.ops.integer import (
    ElementType,
    Integers,
    cast,
    floor_divmod,
    i64,
    maximum,
    minimum,
    quotient,
    row_max,
    shift_right,
)
from mnq.ops.method import (
    SoftmaxMethod,
    largest_weight,
    offset_largest_sum,
    offset_probability,
    offset_probability_scale,
    softmax_reference,
)
from mnq.ops.operator import Operator
from mnq.ops.requantize.op import Constants, dyadic, rescale

N = 30
"""Largest number of halvings: exp is z * 2^(N-k) with 0 <= k <= N (spec 3.1)."""


def polynomial_constants(scale: ArrayLike) -> Constants:
    """Inputs x0, b, c of `i_exp` for codes at `scale` (spec 3.1), each rounded in float32.

    0.35815147 r^2 + 0.96963238 r + 1 approximates e^r on (-ln 2, 0].

    Raises InputError if the scale is so fine that c does not fit 32 bits.
    """
    s = np.asarray(scale, np.float32)
    x0 = np.floor(np.float32(-0.6931) / s)
    b = np.floor(np.float32(0.96963238 / 0.35815147) / s)
    c = np.floor(np.float32(1.0 / 0.35815147) / (s * s))
    if not (c < 2.0**31).all():
        raise InputError(
            f"i-exp: expected a score scale of at least 3.7e-5, found {float(s.min())}; "
            f"choose another softmax method for this site"
        )
    return {
        "x0": x0.astype(np.int32),
        "b": b.astype(np.int32),
        "c": np.maximum(c, 1).astype(np.int32),
    }


def i_exp(d: Integers, x0: Integers, b: Integers, c: Integers) -> tuple[Integers, Integers]:
    """(z, k) with exp(S d) ~ z * 2^-k / c for int64 d <= 0 (spec 3.1); 0 <= z, 0 <= k <= N."""
    p = maximum(d, x0 * N)
    k, r = floor_divmod(p, x0)
    return maximum(r * (r + b) + c, 0), k


def compute(
    q: Integers,
    x0: Integers,
    b: Integers,
    c: Integers,
    m_p: Integers,
    e_p: Integers,
    shift: Integers,
    zp: Integers,
    *,
    to: ElementType,
) -> Integers:
    """Codes of softmax over the last axis: ((code * (2^32 // sum)) >> shift) - zp."""
    d = i64(q)

    def codes(d: Integers) -> Integers:
        z, k = i_exp(d, i64(x0), i64(b), i64(c))
        # Beyond 62 every code is 0 already: z * m < 2^61.
        return minimum(rescale(z, i64(m_p), minimum(k + i64(e_p), 62)), 32767)

    code = codes(d - row_max(d))
    row = row_total(code, lambda: codes(d * 0))
    out = shift_right(code * quotient(2**32, row), i64(shift))
    return cast(out - i64(zp), to)


def constants(scale: ArrayLike, bits: int) -> Constants:
    """Inputs of IBertSoftmax for codes at `scale` and `bits` unsigned output bits.

    The output code is P - 2^(bits-1), so that it fits a signed type.
    """
    values = polynomial_constants(scale)
    m, e = dyadic(32767.0 / values["c"].astype(np.float64))
    return {
        **values,
        "m_p": m,
        "e_p": e,
        "shift": np.array(32 - bits, np.int32),
        "zp": np.array(2 ** (bits - 1), np.int32),
    }


def weigh(
    d: Integers, x0: Integers, b: Integers, c: Integers, m_w: Integers, e_w: Integers
) -> tuple[Integers, Integers]:
    """Deferred form (spec 4.7): weights of d = q - max <= 0, and their row sum."""

    def weights(d: Integers) -> Integers:
        z, k = i_exp(d, i64(x0), i64(b), i64(c))
        return rescale(z, i64(m_w), minimum(k + i64(e_w), 62))

    w = weights(d)
    return w, row_total(w, lambda: weights(d * 0))


def weight_constants(scale: ArrayLike, bits: ArrayLike = 8) -> Constants:
    """Inputs of `weigh` for codes at `scale` and weights of `bits` unsigned bits."""
    values = polynomial_constants(scale)
    m, e = dyadic(largest_weight(bits) / values["c"].astype(np.float64))
    return {**values, "m_w": m, "e_w": e}


ibert_softmax = Operator("IBertSoftmax", compute)
method = SoftmaxMethod(
    prefix="IBert",
    operator=ibert_softmax,
    constants=constants,
    probability=offset_probability,
    probability_scale=offset_probability_scale,
    weigh=weigh,
    weight_constants=weight_constants,
    reference=softmax_reference,
    largest_sum=offset_largest_sum,
)
