"""The functions of integer.py on Intervals: the range of each result, and what it must not leave.

A function has the name of that in integer.py whose result it bounds.
"""

from __future__ import annotations

import math
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from mnq.ops.interval import (
    Bounds,
    Interval,
    broadcast,
    check_divisor,
    checked,
    entry,
    exactly,
    fold,
    lift,
    made,
    product,
    remainder,
)

Given = Interval | int

_KINDS = {3: "int8", 5: "int16", 6: "int32"}  # by onnx TensorProto element type
_POWERS = np.array([2**k for k in range(63)], np.int64)


def _lifted(*values: Given) -> list[Interval]:
    trace = next(v.trace for v in values if isinstance(v, Interval))
    return [lift(v, trace) for v in values]


def within(x: Interval, lo: int, hi: int, problem: str) -> None:
    """Raise Overflow, which says `problem`, unless lo <= x <= hi."""
    if x.lo.min() < lo or x.hi.max() > hi:
        wrong = (x.lo < lo) | (x.hi > hi)
        at = entry(wrong.argmax(), wrong)
        index = tuple(i or 0 for i in at)
        first, last = (int(end[index]) for end in np.broadcast_arrays(x.lo, x.hi))
        found = f"{first} to {last}" if first < last else f"{first}"
        raise x.trace.refuse(f"{problem}, found {found}", [x], at)


def cast(x: Interval, to: int) -> Interval:
    """Checks that every value fits. int32 is the type of accumulators, and noted."""
    if to in _KINDS:
        checked([x], x.lo, x.hi, x.shape, _KINDS[to])
    if x.lo.dtype == np.int64:
        return x  # the same object: x - row_max(x) and x * x need that
    lo = x.lo.astype(np.int64)
    return replace(x, lo=lo, hi=lo if x.hi is x.lo else x.hi.astype(np.int64))


def _either(a: Interval, b: Interval, lo: Bounds, hi: Bounds) -> Interval:
    """A result that is a or b: each end is of the origin of those that it is taken from."""
    low = [x.origin[0] for x in (a, b) if (x.lo == lo).any()]
    high = [x.origin[1] for x in (a, b) if (x.hi == hi).any()]
    origin = frozenset[str]().union(*low), frozenset[str]().union(*high)
    return replace(made([a, b], lo, hi, broadcast(a.shape, b.shape)), origin=origin)


def maximum(a: Given, b: Given) -> Interval:
    """The larger ends."""
    x, y = _lifted(a, b)
    return _either(x, y, np.maximum(x.lo, y.lo), np.maximum(x.hi, y.hi))


def minimum(a: Given, b: Given) -> Interval:
    """The smaller ends."""
    x, y = _lifted(a, b)
    return _either(x, y, np.minimum(x.lo, y.lo), np.minimum(x.hi, y.hi))


def where(condition: Interval, a: Given, b: Given) -> Interval:
    """Both ranges together, where the condition may be either."""
    _, x, y = _lifted(condition, a, b)
    never, always = condition.hi == 0, condition.lo == 1
    lo = np.where(always, x.lo, np.where(never, y.lo, np.minimum(x.lo, y.lo)))
    hi = np.where(always, x.hi, np.where(never, y.hi, np.maximum(x.hi, y.hi)))
    result = _either(x, y, lo, hi)
    shape = broadcast(condition.shape, result.shape)
    return replace(result, shape=shape, cases=result.cases or condition.cases)


def power_of_two(k: Interval) -> Interval:
    """2 to the ends; k has to be an index of the table of powers."""
    within(k, 0, 62, "needs an exponent of 0 to 62")
    return made([k], _POWERS[k.lo], _POWERS[k.hi], k.shape)


def floor_divmod(x: Given, divisor: Given) -> tuple[Interval, Interval]:
    """Quotients of the ends; a body also computes x - remainder, which must not overflow."""
    a, b = _lifted(x, divisor)
    rest = remainder(a, b)
    whole = _quotient(a, b)
    lo, hi = product(whole, b)
    lo = np.maximum(lo, exactly(np.subtract, a.lo, rest.hi))
    hi = np.minimum(hi, exactly(np.subtract, a.hi, rest.lo))
    checked([a, b], lo, hi, whole.shape)
    return whole, rest


def _quotient(x: Interval, divisor: Interval) -> Interval:
    """floor(x / divisor): monotone in both, as long as the divisor keeps its sign."""
    corners = [np.floor_divide(n, d) for n in (x.lo, x.hi) for d in (divisor.lo, divisor.hi)]
    lo, hi = fold(np.minimum, corners), fold(np.maximum, corners)
    return made([x, divisor], lo, hi, broadcast(x.shape, divisor.shape))


def quotient(x: Given, divisor: Given) -> Interval:
    """Quotients of the ends; needs x >= 0 and divisor > 0."""
    a, b = _lifted(x, divisor)
    check_divisor(a, b)
    within(a, 0, 2**63 - 1, "needs a dividend of at least 0")
    within(b, 1, 2**63 - 1, "needs a divisor of at least 1")
    return _quotient(a, b)


def quotient_remainder(x: Given, divisor: Given) -> tuple[Interval, Interval]:
    """The product of divisor and quotient in a body is at most x."""
    a, b = _lifted(x, divisor)
    return quotient(a, b), remainder(a, b)


def round_shift(x: Given, k: Given) -> Interval:
    """The rounded ends: monotone in x, and of each x nearer to 0 the larger k is."""
    a, b = _lifted(x, k)
    half, unit = power_of_two(b - 1), power_of_two(b)
    floor_divmod(a + half, unit)
    corners = [(n + h) >> e for n in (a.lo, a.hi) for h, e in ((half.lo, b.lo), (half.hi, b.hi))]
    lo, hi = fold(np.minimum, corners), fold(np.maximum, corners)
    return made([a, b], lo, hi, broadcast(a.shape, b.shape))


def row_max(x: Interval) -> Interval:
    """The largest ends of a row."""
    _no_cases(x)
    lo, hi = x.lo.max(-1, keepdims=True), x.hi.max(-1, keepdims=True)
    return replace(made([x], lo, hi, (*x.shape[:-1], 1)), top_of=x)


def total(x: Interval, axis: int = -1) -> Interval:
    """The sums of the ends; no partial sum may reach 2^53."""
    _no_cases(x)
    reach = _sums(x, np.minimum(x.lo, 0), axis), _sums(x, np.maximum(x.hi, 0), axis)
    shape = [*x.shape]
    shape[axis] = 1
    lo, hi = (_sums(x, ends, axis) for ends in (x.lo, x.hi))
    what = f" for {x.shape[axis]} terms"
    return checked([x], lo, hi, tuple(shape), "sum", reach, what)


def _sums(x: Interval, ends: Bounds, axis: int) -> Bounds:
    length = np.array(_length(x, axis), np.int64)
    if ends.shape[axis] == 1:
        return exactly(np.multiply, ends, length)
    return np.asarray(ends.astype(object).sum(axis=axis, keepdims=True), object)


def wide_total(x: Interval) -> Interval:
    """The sums of the ends; no partial sum of a half may reach 2^53."""
    _no_cases(x)
    for half in (quotient(x, 2**31), remainder(*_lifted(x, 2**31))):
        total(half)
    lo, hi = (_sums(x, ends, -1) for ends in (x.lo, x.hi))
    return checked([x], lo, hi, (*x.shape[:-1], 1), what=f" for {x.shape[-1]} terms")


def last_length(x: Interval) -> int:
    """Known: no last axis grows with the batch."""
    return _length(x, -1)


def _length(x: Interval, axis: int) -> int:
    if x.shape[axis] < 0:
        raise x.trace.refuse("needs an axis of known length, found the batch", [x])
    return x.shape[axis]


def _no_cases(x: Interval) -> None:
    assert not x.cases, "the entries of a row are not all of one case"


def gather(table: Given, index: Given, axis: int = 0) -> Interval:
    """The ends of the entries that the index may choose."""
    values, chosen = _lifted(table, index)
    length = _length(values, axis)
    within(chosen, 0, length - 1, f"needs an index of 0 to {length - 1}")
    shape = (*values.shape[:axis], *chosen.shape, *values.shape[axis + 1 :])
    if len(values.shape) == 1:
        pairs = [*zip(chosen.lo.ravel(), chosen.hi.ravel(), strict=True)]
        lo, hi = (
            np.array([f(ends[i : j + 1]) for i, j in pairs], np.int64).reshape(chosen.lo.shape)
            for f, ends in ((np.min, values.lo), (np.max, values.hi))
        )
    elif values.lo.shape[axis] > 1 and np.array_equal(chosen.lo, chosen.hi):
        lo, hi = (np.take(ends, chosen.lo, axis) for ends in (values.lo, values.hi))
    else:
        at = (*range(axis, axis + len(chosen.shape)),)
        lo = np.expand_dims(values.lo.min(axis), at)
        hi = np.expand_dims(values.hi.max(axis), at)
    return made([values], lo, hi, shape)


def transpose(x: Interval, perm: tuple[int, ...]) -> Interval:
    """The same ranges in another order."""
    shape = tuple(x.shape[axis] for axis in perm)
    return replace(x, lo=x.lo.transpose(perm), hi=x.hi.transpose(perm), shape=shape, top_of=None)


def select(x: Interval, index: int, axis: int = 0) -> Interval:
    """The range of one entry."""
    lo, hi = (end.take(index if end.shape[axis] > 1 else 0, axis) for end in (x.lo, x.hi))
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    return replace(x, lo=lo, hi=hi, shape=shape, top_of=None)


def reshape(x: Interval, shape: Any) -> Interval:
    """One range for all entries."""
    wanted = shape.lo.tolist() if isinstance(shape, Interval) else [*shape]
    given = [x.shape[axis] if n == 0 else n for axis, n in enumerate(wanted)]
    rest = prod(n for n in x.shape if n > 0) // prod(n for n in given if n > 0)
    grows = -1 in x.shape and -1 not in (n for n, w in zip(given, wanted, strict=True) if w == 0)
    lengths = [rest if w == -1 and not grows else n for n, w in zip(given, wanted, strict=True)]
    one = (1,) * len(lengths)
    lo, hi = np.full(one, x.ends[0], np.int64), np.full(one, x.ends[1], np.int64)
    return replace(x, lo=lo, hi=hi, shape=tuple(lengths), top_of=None)


def matmul(a: Given, b: Given) -> Interval:
    """The sum of the products' ends: of constant b (K, N) exactly, for each of its columns."""
    x, y = _lifted(a, b)
    _no_cases(x)
    _no_cases(y)
    for operand in (x, y):
        within(operand, -128, 127, "needs signed bytes")
    inner = _length(x, -1)
    shape = (*broadcast(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1])
    if y.lo is y.hi and len(y.shape) == 2:
        lo, hi = (end.reshape(*(1,) * (len(shape) - 1), -1) for end in _weighted(*x.ends, y.lo))
    else:
        rows = replace(x, lo=x.lo.min(-1, keepdims=True), hi=x.hi.max(-1, keepdims=True))
        columns = replace(y, lo=y.lo.min(-2, keepdims=True), hi=y.hi.max(-2, keepdims=True))
        lo, hi = (end * inner for end in product(rows, columns))
    return checked([y, x], lo, hi, shape, "int32", what=f" for {inner} terms")


def _weighted(lo: int, hi: int, w: Bounds) -> tuple[Bounds, Bounds]:
    """Ends of x w for w (K, N) and any row x of integers lo..hi."""
    total, size = (each.sum(0, dtype=np.int64) for each in (w, np.abs(w.astype(np.int16))))
    plus, minus = (total + size) // 2, (total - size) // 2
    return lo * plus + hi * minus, hi * plus + lo * minus


def bit_length(x: Interval) -> Interval:
    """Bits of the ends."""
    within(x, 0, 2**63 - 1, "needs a number of at least 0")
    lo, hi = (np.searchsorted(_POWERS, e, side="right").astype(np.int64) for e in (x.lo, x.hi))
    return made([x], lo, hi, x.shape)


def isqrt(x: Interval) -> Interval:
    """Roots of the ends. No step of Newton's in a body is above x + 2^32."""
    within(x, 0, 2**62 - 1, "needs a number from 0 to below 2^62")
    root = np.frompyfunc(math.isqrt, 1, 1)
    lo, hi = (np.asarray(root(end.astype(object)), np.int64) for end in (x.lo, x.hi))
    return made([x], lo, hi, x.shape)
