"""IVitSoftmax: I-ViT's Shiftmax, base-2 exponentials by shifts (SPEC.md)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mnq.ops.errors import InputError
from mnq.ops.facts import known, row_total
from mnq.ops.integer import (
    ElementType,
    Integers,
    cast,
    floor_divmod,
    i64,
    last_length,
    maximum,
    minimum,
    power_of_two,
    quotient,
    row_max,
    shift_right,
    where,
)
from mnq.ops.method import SoftmaxMethod, largest_weight, softmax_reference
from mnq.ops.operator import Operator
from mnq.ops.requantize.op import Constants, dyadic, rescale

N = 15
"""Fractional bits of the exponential (spec 2.2)."""

_LARGEST_SHIFT = 40  # keeps int64; only a positive argument of ShiftGELU gets there, saturated


def shift_exp_unit(scale: ArrayLike) -> np.ndarray:
    """x0 = floor(-1 / S) <= -1, the code distance that divides by e (spec 2.1), int32.

    Raises InputError if the scale is so fine that exponentials would pass 31 bits.
    """
    s = np.asarray(scale, np.float32)
    x0 = np.floor(np.float32(-1.0) / s)
    if not (x0 > -(2.0**16)).all():
        raise InputError(
            f"ShiftExp: expected an input scale of at least 1.6e-5, found {float(s.min())}; "
            f"choose another method for this site"
        )
    return x0.astype(np.int32)


def shift_exp(q: Integers, x0: Integers, n: int) -> Integers:
    """ShiftExp of spec 2.1: about |x0| 2^n exp(S q), for int64 codes q.

    A positive q (only in ShiftGELU) may exceed |x0| 2^n; far above 2^31 its growth stops.
    """
    p = known(
        q + shift_right(q, 1) - shift_right(q, 4),
        lo=lambda: minimum(q, q + shift_right(q, 1)),
        hi=lambda: maximum(q, q + shift_right(q, 1)),
        because="q >> 4 has the sign of q >> 1 and is not larger",
    )
    p = maximum(p, x0 * n)
    k, r = floor_divmod(p, x0)
    line = r - x0 * 2
    left = minimum(maximum((n - 1) - k, 0), _LARGEST_SHIFT)
    return where(k < n, line * power_of_two(left), shift_right(line, 1))


def compute(q: Integers, x0: Integers, shift: Integers, *, to: ElementType) -> Integers:
    """Codes of softmax over the last axis: (e * ((2^31-1) // sum e)) >> shift, scale 2^-(B-1)."""
    d = i64(q)
    e = shift_exp(d - row_max(d), i64(x0), N)
    row = row_total(e, lambda: shift_exp(d * 0, i64(x0), N))
    factor = quotient(2**31 - 1, minimum(row, 2**31 - 1))
    return cast(shift_right(e * factor, i64(shift)), to)


def constants(scale: ArrayLike, bits: int) -> Constants:
    """Inputs of IVitSoftmax for codes at `scale` and `bits` output bits (codes < 2^(bits-1))."""
    return {"x0": shift_exp_unit(scale), "shift": np.array(32 - bits, np.int32)}


def weigh(d: Integers, x0: Integers, m_w: Integers, e_w: Integers) -> tuple[Integers, Integers]:
    """Deferred form (spec 4.7): weights of d = q - max <= 0, and their row sum."""

    def weights(d: Integers) -> Integers:
        return rescale(shift_exp(d, i64(x0), N), i64(m_w), i64(e_w))

    w = weights(d)
    return w, row_total(w, lambda: weights(d * 0))


def weight_constants(scale: ArrayLike, bits: ArrayLike = 8) -> Constants:
    """Inputs of `weigh` for codes at `scale` and weights of `bits` unsigned bits."""
    x0 = shift_exp_unit(scale)
    m, e = dyadic(largest_weight(bits) / (np.abs(x0.astype(np.float64)) * 2**N))
    return {"x0": x0, "m_w": m, "e_w": e}


def probability(code: Integers) -> Integers:
    """The unsigned probability code of an int64 output code."""
    return code


def largest_sum(p: Integers, x0: Integers, shift: Integers) -> Integers:
    """What a row of codes sums to at most: more than 1 where the sum of e passes 2^31."""
    return shift_right(maximum(i64(x0) * -(2**N * last_length(p)), 2**31 - 1), i64(shift))


def probability_scale(bits: int) -> float:
    """Value of one unit of `probability`."""
    return 2.0 ** -(bits - 1)


ivit_softmax = Operator("IVitSoftmax", compute)
method = SoftmaxMethod(
    prefix="IVit",
    operator=ivit_softmax,
    constants=constants,
    probability=probability,
    probability_scale=probability_scale,
    weigh=weigh,
    weight_constants=weight_constants,
    reference=softmax_reference,
    largest_sum=largest_sum,
)
