"""FqVitSoftmax: FQ-ViT's Log-Int-Softmax, 4-bit base-2 logarithms (SPEC.md)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mnq.ops.errors import InputError
from mnq.ops.facts import known
from mnq.ops.ibert_softmax.op import N, i_exp, polynomial_constants
from mnq.ops.integer import (
    INT8,
    Integers,
    bit_length,
    cast,
    i64,
    last_length,
    maximum,
    minimum,
    power_of_two,
    quotient,
    quotient_remainder,
    row_max,
    where,
    wide_total,
)
from mnq.ops.method import SoftmaxMethod, softmax_reference
from mnq.ops.operator import Operator
from mnq.ops.requantize.op import Constants

ZERO_CODE = 15
"""The code that stands for probability 0; code k < 15 stands for 2^-k."""

_NEVER = 63  # logarithm given to an exponential of 0; larger than any real one


def negative_log2(d: Integers, x0: Integers, b: Integers, c: Integers) -> Integers:
    """round(log2(sum exp / exp)) of int64 d = q - max <= 0, rounded at 1.5 * 2^L (spec 4.1).

    exp = z * 2^(N-k); the row sum needs int64: c * 2^N * (row length) < 2^63.
    """
    z, k = i_exp(d, i64(x0), i64(b), i64(c))
    exp = z * power_of_two(N - k)
    divisor = maximum(exp, 1)
    row = wide_total(exp)
    whole, rest = quotient_remainder(row, divisor)
    beyond = divisor - rest  # compares rest with divisor / 2 without doubling it
    ratio = whole + where(rest > beyond, 1, where(rest < beyond, 0, whole % 2))
    last = bit_length(ratio) - 1
    below = quotient(ratio, power_of_two(maximum(last - 1, 0))) % 2
    more = last > 0
    log = where(more, known(last + below, lo=1, because="last > 0", where=lambda: more), 0)
    return where(exp > 0, log, _NEVER)


def compute(q: Integers, x0: Integers, b: Integers, c: Integers) -> Integers:
    """4-bit codes of softmax over the last axis: code k is probability 2^-k, 15 is 0."""
    d = i64(q)
    log = negative_log2(d - row_max(d), x0, b, c)
    return cast(minimum(log, ZERO_CODE), INT8)


def constants(scale: ArrayLike, bits: int = 4) -> Constants:
    """Inputs of FqVitSoftmax for codes at `scale`; `bits` is 4 by definition.

    Raises InputError if the scale is so fine that a row sum could pass int64.
    """
    values = polynomial_constants(scale)
    if int(values["c"].max()) >= 2**23:  # times 2^30 and 2^10 keys reaches 2^63
        raise InputError(
            f"FqVitSoftmax: expected a score scale of at least 6e-4, found "
            f"{float(np.min(np.asarray(scale)))}; choose another softmax method for this site"
        )
    return values


def weigh(d: Integers, x0: Integers, b: Integers, c: Integers) -> tuple[Integers, Integers]:
    """Deferred form (spec 4.7): weights 2^(7 - (L - L_min)), and 2^(L_min + 7) as normalizer.

    FQ-ViT does not renormalize its probabilities, so the divisor is not the weights' sum.
    """
    log = negative_log2(d, x0, b, c)
    least = known(
        -row_max(-log),
        hi=lambda: where(i64(c) > 0, last_length(log).bit_length(), _NEVER),
        because="the largest of n exponentials is at least an n-th of their sum",
    )
    behind = known(log - least, lo=0, because="least is the row's least log")
    w = where(behind < 8, power_of_two(maximum(7 - behind, 0)), 0)
    return w, power_of_two(least + 7)


def probability(code: Integers) -> Integers:
    """The unsigned probability of an int64 code: 2^(15 - code), and 0 for code 15."""
    return where(code < ZERO_CODE, power_of_two(ZERO_CODE - code), 0)


def probability_scale(bits: int) -> float:
    """Value of one unit of `probability`; `bits` does not matter."""
    return 2.0**-15


fqvit_softmax = Operator("FqVitSoftmax", compute)
method = SoftmaxMethod(
    prefix="FqVit",
    operator=fqvit_softmax,
    constants=constants,
    probability=probability,
    probability_scale=probability_scale,
    weigh=weigh,
    weight_constants=constants,
    reference=softmax_reference,
    largest_sum=lambda p, *constants: 3 * 2**14,
)
