"""Intervals: every primitive's range holds what torch computes, and leaves its type loudly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ops_harness import tensor
from ops_strategies import few

from mnq.ops import bounds, facts, integer
from mnq.ops.body import Writer
from mnq.ops.integer import Integers
from mnq.ops.interval import Interval, codes, constant
from mnq.ops.proof import Overflow, Trace, bits_of

FULL = (-(2**63), 2**63 - 1)
WIDE = (-(2**62), 2**62)
NATURAL = (0, 2**63 - 1)
POSITIVE, NEGATIVE = (1, 2**61), (-(2**61), -1)
MIDDLE = (-(2**33), 2**33)
SHIFTS = (0, 62)

# By name: the primitive, and the ranges that its operands are drawn from.
PRIMITIVES: dict[str, tuple[Callable[..., Integers], tuple[tuple[int, int], ...]]] = {
    "sum": (lambda x, y: x + y, (FULL, FULL)),
    "difference": (lambda x, y: x - y, (FULL, FULL)),
    "product": (lambda x, y: x * y, (MIDDLE, MIDDLE)),
    "square": (lambda x: x * x, ((-(2**31), 2**31),)),
    "negative": (lambda x: -x, (FULL,)),
    "numbers": (lambda x: 1 - (2 + x) * 3 + (5 - x), ((-(2**50), 2**50),)),
    "remainder": (lambda x, y: x % y, (WIDE, POSITIVE)),
    "remainder of the other sign": (lambda x, y: x % y, (WIDE, NEGATIVE)),
    "less": (lambda x, y: integer.where(x < y, x, y), (FULL, FULL)),
    "greater": (lambda x, y: integer.where(x > y, 3, y), (FULL, FULL)),
    "at least": (lambda x, y: integer.where(x >= y, 1, integer.where(x < 7, 2, 0)), (FULL, FULL)),
    "maximum": (integer.maximum, (FULL, FULL)),
    "minimum": (integer.minimum, (FULL, FULL)),
    "clamp": (lambda x: integer.clamp(x, -100, 100), (FULL,)),
    "power_of_two": (integer.power_of_two, (SHIFTS,)),
    "floor_divide": (integer.floor_divide, (WIDE, POSITIVE)),
    "floor_divide by the other sign": (integer.floor_divide, (WIDE, NEGATIVE)),
    "floor_divmod": (lambda x, y: integer.floor_divmod(x, y)[1], (WIDE, POSITIVE)),
    "quotient": (integer.quotient, (NATURAL, POSITIVE)),
    "quotient_remainder": (
        lambda x, y: integer.quotient_remainder(x, y)[1],
        (NATURAL, POSITIVE),
    ),
    "shift_right": (integer.shift_right, (WIDE, SHIFTS)),
    "round_shift": (integer.round_shift, (WIDE, (1, 62))),
    "shift": (integer.shift, ((-(2**31), 2**31), (-62, 31))),
    "round_half_even_divide": (integer.round_half_even_divide, (WIDE, (1, 2**61))),
    "bit_length": (integer.bit_length, (NATURAL,)),
    "isqrt": (integer.isqrt, ((0, 2**62 - 1),)),
    "wide_total": (lambda x: integer.wide_total(x + x * 0), (NATURAL,)),
}


def ranged(*ends: tuple[int, int]) -> list[Interval]:
    """A scalar Interval for each pair of ends."""
    trace = Trace()
    return [codes(f"x{i}", lo, hi, (1,), trace) for i, (lo, hi) in enumerate(ends)]


def numbers(lo: int, hi: int) -> st.SearchStrategy[int]:
    """Integers of a range, the small ones and the ends often."""
    near = [v for v in (lo, lo + 1, -1, 0, 1, 2, hi - 1, hi) if lo <= v <= hi]
    small = st.integers(max(lo, -300), min(hi, 300)) if lo <= 300 and hi >= -300 else st.nothing()
    return st.one_of(st.sampled_from(near), small, st.integers(lo, hi))


@pytest.mark.parametrize("name", PRIMITIVES)
@few
@given(st.data())
def test_every_result_is_in_the_range_of_the_ranges(name: str, data: st.DataObject) -> None:
    """For points inside of random ranges; what is refused, here or there, says nothing."""
    compute, limits = PRIMITIVES[name]
    ends, points = [], []
    for lo, hi in limits:
        first, last = sorted((data.draw(numbers(lo, hi)), data.draw(numbers(lo, hi))))
        ends.append((first, last))
        inner = st.integers(first, last)
        points.append([first, last, *data.draw(st.lists(inner, min_size=2, max_size=2))])
    try:
        proved = compute(*ranged(*ends))
    except Overflow:
        return
    grid = np.stack(np.meshgrid(*points), axis=-1).reshape(-1, len(points))
    found = compute(*(tensor(column)[:, None] for column in grid.T))
    lo, hi = proved.ends
    assert lo <= int(found.min()) and int(found.max()) <= hi


@pytest.mark.parametrize("name", ["sum", "difference", "product", "maximum", "quotient"])
@few
@given(st.data())
def test_ranges_of_single_steps_are_the_smallest(name: str, data: st.DataObject) -> None:
    """Both ends are reached at ends of the operands, and only what int64 lacks is refused."""
    compute, limits = PRIMITIVES[name]
    ends = []
    for lo, hi in limits:
        first, last = sorted((data.draw(numbers(lo, hi)), data.draw(numbers(lo, hi))))
        ends.append((first, last))
    plain = {"maximum": max, "quotient": lambda x, y: x // y}.get(name, compute)
    corners = [plain(x, y) for x in ends[0] for y in ends[1]]
    fits = bits_of(min(corners), max(corners)) <= 64
    try:
        assert compute(*ranged(*ends)).ends == (min(corners), max(corners))
        assert fits
    except Overflow as error:
        assert not fits
        assert "of 64" in error.problem


def test_a_square_is_not_negative_and_nothing_is_above_its_row() -> None:
    (x,) = ranged((-5, 3))
    (y,) = ranged((-5, 3))
    assert (x * x).ends == (0, 25)
    assert (x * y).ends == (-15, 25)
    assert (x - integer.row_max(x)).ends == (-8, 0)
    assert (integer.row_max(x) - x).ends == (0, 8)
    assert (x - integer.row_max(y)).ends == (-8, 8)


def test_constants_keep_their_channels() -> None:
    trace = Trace()
    x = codes("x", -2, 3, (-1, 5, 4), trace)
    m = constant("m", np.array([1, -2, 0, 10]), trace)
    y = x * m
    assert y.shape == (-1, 5, 4)
    assert y.lo.reshape(-1).tolist() == [-2, -6, 0, -20]
    assert y.hi.reshape(-1).tolist() == [3, 4, 0, 30]


def test_a_product_with_weights_is_exact_for_every_column() -> None:
    rng = np.random.default_rng(0)
    w = rng.integers(-128, 128, (37, 6)).astype(np.int8)
    trace = Trace()
    y = integer.matmul(codes("x", -7, 5, (-1, 3, 37), trace), constant("w", w, trace))
    assert y.shape == (-1, 3, 6)
    wide = w.astype(np.int64)
    ends = [np.where(wide > 0, lo, hi) for lo, hi in ((-7, 5), (5, -7))]
    rows = [integer.matmul(tensor(e.T).to(torch.int8), torch.from_numpy(w)) for e in ends]
    assert y.lo.reshape(-1).tolist() == rows[0].diagonal().tolist()
    assert y.hi.reshape(-1).tolist() == rows[1].diagonal().tolist()


def test_a_product_of_two_activations_has_as_many_terms_as_the_inner_axis() -> None:
    trace = Trace()
    a, b = codes("a", -3, 2, (-1, 4, 9, 10), trace), codes("b", -1, 5, (-1, 4, 10, 7), trace)
    y = integer.matmul(a, b)
    assert (y.shape, y.ends) == ((-1, 4, 9, 7), (-150, 100))


def test_sums_count_the_axis() -> None:
    trace = Trace()
    x = codes("x", -3, 2, (-1, 7, 5), trace)
    assert integer.total(x).ends == (-15, 10)
    assert integer.total(x, axis=1).ends == (-21, 14)
    assert integer.last_length(x) == 5
    with pytest.raises(Overflow, match="known length"):
        integer.total(x, axis=0)


def test_views_move_ranges_and_shapes() -> None:
    trace = Trace()
    x = codes("x", 0, 1, (-1, 6, 2), trace) * constant("m", np.array([1, 5]), trace)
    assert integer.transpose(x, (2, 0, 1)).shape == (2, -1, 6)
    assert integer.transpose(x, (2, 0, 1)).hi.reshape(-1).tolist() == [1, 5]
    assert integer.select(x, 1, axis=2).ends == (0, 5)
    assert integer.select(x, 0, axis=2).ends == (0, 1)
    order = constant("order", np.array([[1, 0, 1]]), trace)
    assert integer.gather(x, order, axis=2).shape == (-1, 6, 1, 3)
    assert integer.gather(x, order, axis=2).hi.reshape(-1).tolist() == [5, 1, 5]
    for shape, made in {
        (-1, 12): (-1, 12),
        (0, 3, -1, 2): (-1, 3, 2, 2),
        (-1, 2): (-1, 2),
        (0, -1): (-1, 12),
    }.items():
        assert integer.reshape(x, shape).shape == made
    known = constant("c", np.zeros((2, 3)), trace)
    assert integer.reshape(known, (3, -1)).shape == (3, 2)


def test_a_table_gives_the_entries_that_may_be_read() -> None:
    trace = Trace()
    table = constant("table", np.array([9, 4, 7, 1, 8]), trace)
    index = codes("q", 1, 3, (-1,), trace)
    assert integer.gather(table, index).ends == (1, 7)
    with pytest.raises(Overflow, match=r"needs an index of 0 to 4, found 3 to 5, from q"):
        integer.gather(table, index + 2)


def test_cases_follow_the_bits_and_are_not_summed() -> None:
    (x,) = ranged((0, 9))
    split = facts.by_bits(x)
    assert list(zip(split.lo.reshape(-1), split.hi.reshape(-1), strict=True)) == [
        *((0, 0), (1, 1), (2, 3), (4, 7), (8, 9)),
    ]
    inverse = integer.quotient(64, split + 1)
    assert (split * inverse).hi.max() == 7 * (64 // 5)  # 9 * 64 without cases
    for sums in (integer.total, integer.row_max, integer.wide_total):
        with pytest.raises(AssertionError, match="not all of one case"):
            sums(split)


def test_facts_narrow_a_range_and_write_nothing() -> None:
    (x,) = ranged((-10, 10))
    assert facts.known(x, lo=-3, because="a test").ends == (-3, 10)
    assert facts.known(x, hi=lambda: x * x - 99, because="a test").ends == (-10, 1)
    huge = facts.known(x, hi=lambda: (x + 2**62) * 4, because="cannot be computed")
    assert huge.ends == (-10, 10)
    writer = Writer(("a",))
    (value,) = writer.inputs
    assert facts.known(value, 0, lambda: value * 2, because="a test") is value
    assert facts.by_bits(value) is value
    assert writer.nodes == []


def test_facts_are_checked_on_tensors_only_where_asked() -> None:
    x = tensor([[1, 2, 3]])
    assert facts.known(x, hi=2, because="false") is x
    with facts.checked_facts() as seen:
        assert facts.known(x, 1, lambda: x + 1, because="true") is x
        facts.known(x, hi=2, because="for small ones", where=lambda: x < 3)
        with pytest.raises(AssertionError, match="false"):
            facts.known(x, hi=2, because="false")
    assert seen == {"true", "for small ones", "false"}
    assert facts.known(x, hi=2, because="false") is x


def test_a_definition_must_not_branch_on_a_range() -> None:
    (x,) = ranged((0, 1))
    with pytest.raises(TypeError, match="cannot branch"):
        bool(x > 0)
    with pytest.raises(TypeError, match="not defined"):
        _ = x == 1


def test_every_function_that_has_bounds_has_both() -> None:
    """`_bounded` finds the range of a function by its name."""
    bounded = [f for f in vars(integer).values() if hasattr(f, "__wrapped__")]
    assert len(bounded) > 15
    assert [f.__name__ for f in bounded if not hasattr(bounds, f.__name__)] == []
