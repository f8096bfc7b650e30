"""Attention of every softmax method, in the deferred and the normalized form (SPEC.md).

Shapes: q (B, H, N, d), k and v (B, H, M, d), bias broadcastable to (B, H, N, M), y (B, H, N, d).
Packed: qkv (B, N, 3, H, d), y (B, N, H, d).
Window: qkv (B, T, 3, H, d), y (B, T, H, d), and inside W windows of N tokens, T = W N, every tensor
has an axis W after B.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mnq.ops.facts import known
from mnq.ops.integer import (
    INT8,
    INT16,
    INT32,
    INT64,
    Integers,
    cast,
    gather,
    i64,
    matmul,
    quotient,
    reshape,
    row_max,
    select,
    shift_right,
    total,
    transpose,
)
from mnq.ops.method import SoftmaxMethod
from mnq.ops.operator import Operator
from mnq.ops.qmatmul.op import qmatmul
from mnq.ops.requantize.op import Constants, requantize
from mnq.ops.requantize.op import constants as requantize_constants

PROBABILITY_BITS = 16
"""Output bits of the softmax inside the normalized form (spec 1.7)."""

DEFERRED_SCALE = 2.0**-15
"""Scale of the deferred quotient relative to that of V (spec 4.7)."""

_BEFORE = ("q", "k", "v", "bias", "m_s", "e_s", "lo_s", "hi_s")
_AFTER = ("m", "e", "lo", "hi")


def _product_with_unsigned(p: Integers, v: Integers) -> Integers:
    """p (..., N, M) in 0..255 times int8 v (..., M, d): s8 x s8 plus column sums of v."""
    return known(
        matmul(cast(p - 128, INT8), v) + total(i64(v), axis=-2) * 128,
        lo=lambda: total(p) * -128,
        hi=lambda: total(p) * 127,
        because="it is the sum of p v, with p >= 0 and v in int8",
    )


def scores(
    q: Integers,
    k: Integers,
    bias: Integers,
    m_s: Integers,
    e_s: Integers,
    lo_s: Integers,
    hi_s: Integers,
    *,
    rank: int = 4,
) -> Integers:
    """int8 codes (B, H, N, M) that the softmax reads: q k^T and bias, requantized.

    rank: axes of q and k, 5 in windows: a body does not know it.
    """
    transposed = transpose(k, (*range(rank - 2), rank - 1, rank - 2))
    return qmatmul(q, transposed, bias, m_s, e_s, lo_s, hi_s, to=INT8)


def _deferred(method: SoftmaxMethod, rank: int) -> Operator:
    names = tuple(method.weight_constants(np.float32(0.125)))

    def compute(*arguments: Integers) -> Integers:
        """Attention with one division per row, after the product with V."""
        (q, k, v, *score), softmax, after = arguments[:8], arguments[8:-4], arguments[-4:]
        s = i64(scores(q, k, *score, rank=rank))
        w, normalizer = method.weigh(s - row_max(s), *softmax)
        acc = _product_with_unsigned(w, v)
        mean = known(
            acc * quotient(2**31, normalizer),
            lo=-3 * 2**37,
            hi=3 * 2**37,
            because="a row's weights sum to at most 3/2 of its normalizer",
        )
        u = shift_right(mean + 2**15, 16)
        return requantize(cast(u, INT32), *after, to=INT8)

    return Operator(f"{method.prefix}Attention", compute, (*_BEFORE, *names, *_AFTER))


def _normalized(method: SoftmaxMethod, rank: int) -> Operator:
    names = tuple(method.constants(np.float32(0.125), PROBABILITY_BITS))
    takes_type = bool(method.operator.attributes)

    def compute(*arguments: Integers) -> Integers:
        """Attention with 16-bit probabilities, multiplied by V as two byte planes."""
        (q, k, v, *score), softmax, after = arguments[:8], arguments[8:-4], arguments[-4:]
        attributes = {"to": INT16} if takes_type else {}
        code = method.operator(scores(q, k, *score, rank=rank), *softmax, **attributes)
        p = method.probability(cast(code, INT64))
        high = quotient(p, 256)
        upper = _product_with_unsigned(high, v) * 256
        low = known(p - high * 256, lo=0, hi=255, because="it is the remainder of p by 256")
        acc = known(
            upper + _product_with_unsigned(low, v),
            lo=lambda: method.largest_sum(p, *softmax) * -128,
            hi=lambda: method.largest_sum(p, *softmax) * 127,
            because="a row's probabilities sum to at most that, and v is in int8",
        )
        return requantize(cast(acc, INT32), *after, to=INT8)

    return Operator(f"{method.prefix}NormalizedAttention", compute, (*_BEFORE, *names, *_AFTER))


def attention(method: SoftmaxMethod, rank: int = 4) -> dict[str, Operator]:
    """The operators of a method by form: "deferred" and "normalized".

    rank: axes of q, k and v; the registered operators have 4.
    """
    return {"deferred": _deferred(method, rank), "normalized": _normalized(method, rank)}


def unpack(qkv: Integers) -> tuple[Integers, Integers, Integers]:
    """q, k and v, each (B, H, N, d), of qkv (B, N, 3, H, d)."""
    planes = transpose(qkv, (2, 0, 3, 1, 4))
    return select(planes, 0), select(planes, 1), select(planes, 2)


def packed(operator: Operator) -> Operator:
    """The attention operator on the tensor that a fused qkv layer writes, token by token."""

    def compute(*arguments: Integers) -> Integers:
        """Attention whose queries, keys and values stand side by side, token by token."""
        qkv, *rest = arguments
        return transpose(operator(*unpack(qkv), *rest), (0, 2, 1, 3))

    name = operator.name.replace("Attention", "PackedAttention")
    return Operator(name, compute, ("qkv", *operator.inputs[3:]))


def unpack_windows(qkv: Integers, order: Integers) -> tuple[Integers, Integers, Integers]:
    """q, k and v, each (B, W, H, N, d), of qkv (B, T, 3, H, d) and order (W, N)."""
    planes = transpose(gather(qkv, order, axis=1), (3, 0, 1, 4, 2, 5))
    return select(planes, 0), select(planes, 1), select(planes, 2)


def window(operator: Operator) -> Operator:
    """The attention operator of rank 5, on what a fused qkv layer writes: inside windows of tokens.

    Cutting the windows out, any cyclic shift, and putting their tokens back are the maps `order`
    and `inverse`; `kind` says which plane of the bias a window has.
    """

    def compute(*arguments: Integers) -> Integers:
        """Attention inside windows of tokens whose queries, keys and values stand side by side."""
        qkv, bias, kind, order, inverse, *rest = arguments
        y = operator.compute(*unpack_windows(qkv, order), gather(bias, kind), *rest)
        placed = reshape(transpose(y, (0, 1, 3, 2, 4)), (0, -1, 1, 0, 0))  # (B, W N, 1, H, d)
        return select(gather(placed, inverse, axis=1), 0, axis=2)

    name = operator.name.replace("Attention", "WindowAttention")
    inputs = ("qkv", "bias", "kind", "order", "inverse", *operator.inputs[4:])
    return Operator(name, compute, inputs)


def constants(
    method: SoftmaxMethod,
    form: str,
    accumulator_scale: ArrayLike,
    score_scale: ArrayLike,
    value_scale: ArrayLike,
    out_scale: ArrayLike,
    bits: int,
    weight_bits: ArrayLike = 8,
) -> Constants:
    """Constant inputs of an attention operator, without `bias`.

    accumulator_scale: S_q * S_k * (1/sqrt(d)); score_scale: of the b-bit scores; value_scale: of v;
    out_scale: of the `bits`-bit output codes; weight_bits: of the deferred form's weights. Each is
    one number, or one per head as (H, 1, 1).
    """
    score = requantize_constants(np.asarray(accumulator_scale) / score_scale, bits)
    if form == "deferred":
        softmax, unit = method.weight_constants(score_scale, weight_bits), DEFERRED_SCALE
    else:
        softmax = method.constants(score_scale, PROBABILITY_BITS)
        unit = method.probability_scale(PROBABILITY_BITS)
    out = requantize_constants(
        np.asarray(value_scale, np.float64) * unit / np.asarray(out_scale), bits
    )
    return {**{f"{name}_s": value for name, value in score.items()}, **softmax, **out}
