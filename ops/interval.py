"""`Interval`: the third world of the operators' definitions, ranges in place of integers.

Fed Intervals, an operator's `compute` gives the range of its output, and every step is checked: an
intermediate that its type may not hold raises Overflow (proof.py). Ranges are exact integers. The
functions of integer.py on Intervals are in bounds.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnq.ops.proof import LIMITS, Entry, Trace, bits_of

Bounds = NDArray[Any]
"""int64; Python integers (dtype object) where a bound may not fit."""

_SAFE = 2.0**63 * (1 - 2.0**-50)  # a float64 estimate below it is that of an int64

_CODE_BITS = {"int8": 8, "int16": 16}


@dataclass(frozen=True, eq=False)
class Interval:
    """The range of a tensor.

    lo, hi: int64 (of constants their own type, before cast), each axis as long as in `shape`, or 1
        where all entries share a range.
    shape: of the tensor, -1 where it grows with the batch.
    origin: names of the operator's inputs that lo comes from, and hi.
    top_of: the tensor whose row maximum this is.
    cases: whether the first axis holds cases (facts.by_bits); rows must not be summed then.
    """

    lo: Bounds
    hi: Bounds
    shape: tuple[int, ...]
    trace: Trace
    origin: tuple[frozenset[str], frozenset[str]] = (frozenset(), frozenset())
    top_of: Interval | None = None
    cases: bool = False

    def __add__(self, other: Interval | int) -> Interval:
        b = lift(other, self.trace)
        return _checked([self, b], exactly(np.add, self.lo, b.lo), exactly(np.add, self.hi, b.hi))

    def __radd__(self, other: int) -> Interval:
        return lift(other, self.trace) + self

    def __sub__(self, other: Interval | int) -> Interval:
        b = lift(other, self.trace)
        lo, hi = exactly(np.subtract, self.lo, b.hi), exactly(np.subtract, self.hi, b.lo)
        if b.top_of is self:  # nothing is above its row's maximum
            hi = np.minimum(hi, 0)
        if self.top_of is b:
            lo = np.maximum(lo, 0)
        return _checked([self, b], lo, hi)

    def __rsub__(self, other: int) -> Interval:
        return lift(other, self.trace) - self

    def __mul__(self, other: Interval | int) -> Interval:
        b = lift(other, self.trace)
        lo, hi = product(self, b)
        if b is self:  # a square
            lo = np.maximum(lo, 0)
        return _checked([self, b], lo, hi)

    def __rmul__(self, other: int) -> Interval:
        return lift(other, self.trace) * self

    def __neg__(self) -> Interval:
        return 0 - self

    def __mod__(self, divisor: Interval | int) -> Interval:
        return remainder(self, lift(divisor, self.trace))

    def __lt__(self, other: Interval | int) -> Interval:
        b = lift(other, self.trace)
        return _truth(self, b, self.hi < b.lo, self.lo < b.hi)

    def __ge__(self, other: Interval | int) -> Interval:
        b = lift(other, self.trace)
        return _truth(self, b, self.lo >= b.hi, self.hi >= b.lo)

    def __gt__(self, other: Interval | int) -> Interval:
        return lift(other, self.trace) < self

    def __bool__(self) -> bool:
        raise TypeError("a definition cannot branch on a tensor; use where()")

    def __eq__(self, other: object) -> bool:
        raise TypeError("== on a tensor is not defined; compare with < or >")

    __hash__ = None  # type: ignore[assignment]

    @property
    def ends(self) -> tuple[int, int]:
        """The smallest and the largest integer of all entries."""
        return int(self.lo.min()), int(self.hi.max())


def codes(name: str, lo: int, hi: int, shape: tuple[int, ...], trace: Trace) -> Interval:
    """An activation with integers lo..hi, the operator's input `name`."""
    trace.activations[name] = shape
    one = (1,) * len(shape)
    least, most = np.full(one, lo, np.int64), np.full(one, hi, np.int64)
    return Interval(least, most, shape, trace, (frozenset([name]),) * 2)


def constant(name: str, value: NDArray[Any], trace: Trace) -> Interval:
    """A constant input. Where it has three axes or more, the last two share a range."""
    trace.constants[name] = value
    lo = hi = value
    if value.ndim > 2:
        lo, hi = (f(lo, axis=(-2, -1), keepdims=True) for f in (np.min, np.max))
    return Interval(lo, hi, value.shape, trace, (frozenset([name]),) * 2)


def lift(value: Interval | int, trace: Trace) -> Interval:
    """A Python integer as an Interval."""
    if isinstance(value, Interval):
        return value
    end = np.array(value, np.int64)
    return Interval(end, end, (), trace)


def exactly(function: Callable[..., Bounds], a: Bounds, b: Bounds) -> Bounds:
    """function(a, b) for a sum, difference or product; Python integers where int64 may wrap."""
    estimate = np.abs(function(a.astype(np.float64), b.astype(np.float64)))
    if estimate.size == 0 or estimate.max() < _SAFE:
        return function(a, b)
    return np.asarray(function(a.astype(object), b.astype(object)), object)


def product(a: Interval, b: Interval) -> tuple[Bounds, Bounds]:
    """Smallest and largest product, not checked."""
    if a.lo is a.hi and b.lo is b.hi:
        only = exactly(np.multiply, a.lo, b.lo)
        return only, only
    corners = [exactly(np.multiply, x, y) for x in (a.lo, a.hi) for y in (b.lo, b.hi)]
    return fold(np.minimum, corners), fold(np.maximum, corners)


def remainder(x: Interval, divisor: Interval) -> Interval:
    """x - divisor * floor(x / divisor), which has the divisor's sign."""
    check_divisor(x, divisor)
    a, b, lo, hi = divisor.lo, divisor.hi, x.lo, x.hi
    least, most = np.where(b < 0, a + 1, 0), np.where(b < 0, 0, b - 1)
    first = np.floor_divide(lo, a)
    within = (a == b) & (first == np.floor_divide(hi, a))  # one quotient for all of x
    least, most = np.where(within, lo - first * a, least), np.where(within, hi - first * a, most)
    below = (lo >= 0) & (hi < a)  # the quotient is 0
    return _checked([x, divisor], np.where(below, lo, least), np.where(below, hi, most))


def check_divisor(x: Interval, divisor: Interval) -> None:
    """Raise Overflow if a division of x might stop: by 0, or of -2^63 by -1."""
    stops = (divisor.lo <= 0) & (divisor.hi >= 0)
    if stops.any():
        raise x.trace.refuse("may divide by 0", [divisor], entry(stops.argmax(), stops))
    if x.lo.min() == -(2**63) and divisor.lo.min() < 0:
        raise x.trace.refuse("may divide -2^63 by -1", [x])


def entry(place: np.intp, array: Bounds) -> Entry:
    """What argmax found."""
    index = np.unravel_index(int(place), array.shape)
    return tuple(int(i) if n > 1 else None for i, n in zip(index, array.shape, strict=True))


def fold(function: Callable[[Bounds, Bounds], Bounds], arrays: Sequence[Bounds]) -> Bounds:
    """The smallest or largest of arrays, entry by entry."""
    first, *rest = arrays
    for each in rest:
        first = function(first, each)
    return first


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The common shape; -1 gives way to a known length."""
    rank = max(map(len, shapes))
    aligned = ([1] * (rank - len(shape)) + [*shape] for shape in shapes)
    return tuple(
        next((n for n in lengths if n > 1), -1 if -1 in lengths else 1)
        for lengths in zip(*aligned, strict=True)
    )


def checked(
    operands: Sequence[Interval],
    lo: Bounds,
    hi: Bounds,
    shape: tuple[int, ...],
    kind: str = "int64",
    reach: tuple[Bounds, Bounds] | None = None,
    what: str = "",
) -> Interval:
    """The result of a step, lo..hi, made of `operands`.

    kind: of LIMITS, or "int8" or "int16". reach: what partial results may be, by default lo..hi.
    what: for the error, how many terms there are.

    Raises Overflow if the kind has too few bits.
    """
    trace = operands[0].trace
    least, most = reach or (lo, hi)
    bits = bits_of(int(least.min()), int(most.max()))
    limit = LIMITS.get(kind) or _CODE_BITS[kind]
    if bits > limit:
        end = int(bits_of(0, int(most.max())) == bits)
        at = entry(most.argmax(), most) if end else entry(least.argmin(), least)
        raise trace.refuse(f"needs {bits} bits of {limit}{what}", operands, at, end)
    if kind in LIMITS:
        trace.note(kind, bits)
    return made(operands, lo.astype(np.int64), hi.astype(np.int64), shape)


def made(operands: Sequence[Interval], lo: Bounds, hi: Bounds, shape: tuple[int, ...]) -> Interval:
    """The range lo..hi of what is made of `operands`."""
    origin = frozenset[str]().union(*(end for each in operands for end in each.origin))
    cases = any(each.cases for each in operands)
    return Interval(lo, hi, shape, operands[0].trace, (origin, origin), cases=cases)


def _checked(operands: Sequence[Interval], lo: Bounds, hi: Bounds) -> Interval:
    return checked(operands, lo, hi, broadcast(*(each.shape for each in operands)))


def _truth(a: Interval, b: Interval, always: Bounds, ever: Bounds) -> Interval:
    """A comparison: 1 where it always holds, 0 where it never does, else 0..1."""
    lo, hi = always.astype(np.int64), ever.astype(np.int64)
    return made([a, b], lo, hi, broadcast(a.shape, b.shape))
