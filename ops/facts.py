"""Facts that an operator's definition states for the proof that nothing overflows.

Ranges forget how tensors depend on each other: that a sum of squares is at least each square, say.
Where a proof needs that, the definition says it, with the reason. Neither torch nor a body computes
anything for it; tests check every fact on the tensors that they run on (`checked_facts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch

from mnq.ops.bounds import within
from mnq.ops.integer import Integers, last_length, maximum, row_max, total
from mnq.ops.interval import Interval, lift
from mnq.ops.proof import Overflow, Trace

Bound: TypeAlias = int | Callable[[], Integers] | None
"""A number, or a function that computes one, called only where it is wanted."""

_checked: set[str] | None = None


@contextmanager
def checked_facts() -> Iterator[set[str]]:
    """Inside, every fact is checked on the torch tensors that it is stated of.

    Yields the reasons of the facts that were checked.
    """
    global _checked
    before, _checked = _checked, set[str]()
    seen = _checked
    try:
        yield seen
    finally:
        _checked = before
        if before is not None:
            before |= seen


def known(
    x: Integers,
    lo: Bound = None,
    hi: Bound = None,
    *,
    because: str,
    where: Callable[[], Integers] | None = None,
) -> Integers:
    """`x`, of which lo <= x <= hi is known, because of what the ranges of its parts do not show.

    It must hold whatever the constants are. A bound may be computed from other values.
    where: the entries that the fact is about; the others' x is not used for the result.
    """
    if isinstance(x, Interval):
        return _narrowed(x, lo, hi)
    if _checked is not None and isinstance(x, torch.Tensor):
        _checked.add(because)
        least, most = (each() if callable(each) else each for each in (lo, hi))
        wrong = torch.zeros_like(x, dtype=torch.bool)
        wrong = wrong if least is None else wrong | (x < least)
        wrong = wrong if most is None else wrong | (x > most)
        assert not (wrong if where is None else wrong & where()).any(), because
    return x


def row_total(w: Integers, top: Callable[[], Integers]) -> Integers:
    """Sum of w over the last axis. `top` computes the entry that every row has at its maximum."""

    def least() -> Integers:
        return top() - row_max(maximum(-w, 0)) * (last_length(w) - 1)

    return known(total(w), lo=least, because="a sum is at least a term, if the others are not < 0")


def by_bits(x: Integers) -> Integers:
    """`x` >= 0. A proof treats each number of bits that it may have as a case of its own, up to the
    result; sums over rows must not be made of it.
    """
    if not isinstance(x, Interval):
        return x
    within(x, 0, 2**63 - 1, "needs a number of at least 0")
    first, last = (end.bit_length() for end in x.ends)
    cases = range(first, last + 1)
    one = (1,) * x.lo.ndim
    lows = np.array([2**n >> 1 for n in cases], np.int64).reshape(-1, *one)
    highs = np.array([2**n - 1 for n in cases], np.int64).reshape(-1, *one)
    lo, hi = np.clip(lows, x.lo, x.hi), np.clip(highs, x.lo, x.hi)
    return replace(x, lo=lo, hi=hi, shape=(len(cases), *x.shape), cases=True, top_of=None)


def _narrowed(x: Interval, lo: Bound, hi: Bound) -> Interval:
    """The part of a range that a fact leaves."""
    least, most = _range(lo, x.trace), _range(hi, x.trace)
    lows = x.lo if least is None else np.maximum(x.lo, least.lo)
    highs = x.hi if most is None else np.minimum(x.hi, most.hi)
    lows, highs = np.broadcast_arrays(lows, highs)
    return replace(x, lo=np.minimum(lows, highs), hi=highs, top_of=None)


def _range(bound: Bound, trace: Trace) -> Interval | None:
    """A bound's own range; None if there is none, or it cannot be computed in int64."""
    if not callable(bound):
        return None if bound is None else lift(bound, trace)
    with trace.muted():
        try:
            return lift(bound(), trace)
        except Overflow:
            return None
