"""Every elementwise primitive in torch and as a body, against plain Python integers.

Operands are drawn by magnitude over the range that the primitive promises, with all powers of
two, their neighbours and the ends of the range among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import ops_reference as plain
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ops_harness import BODIES, Case, by_torch, tensor
from ops_strategies import exact

from mnq.ops import integer
from mnq.ops.integer import INT64, Integers
from mnq.ops.operator import Operator

FULL = (-(2**63), 2**63 - 1)
SYMMETRIC = (-(2**63) + 1, 2**63 - 1)
"""Without -2^63, whose remainder by -1 stops the process in onnxruntime 1.31.1 (CPU)."""
NATURAL = (0, 2**63 - 1)
PRODUCT = (-(2**62 + 2**61), 2**62 + 2**61)
"""What a requantization shifts: a product below 2^62 and half of 2^62."""


def always(*operands: int) -> bool:
    return True


def int64(*values: int) -> bool:
    return all(FULL[0] <= value <= FULL[1] for value in values)


@dataclass(frozen=True)
class Primitive:
    """`compute` under test, `plain` its meaning, the operands' ranges, and which combinations."""

    compute: Callable[..., Integers]
    plain: Callable[..., int]
    ranges: tuple[tuple[int, int], ...]
    fits: Callable[..., bool] = always

    def operator(self) -> Operator:
        return Operator("Probe", self.compute, ("a", "b", "c")[: len(self.ranges)])

    def operands(self, count: int = 3000) -> list[tuple[int, ...]]:
        """Random combinations, and all pairs of edges for the first two operands."""
        rng = np.random.default_rng(0)
        columns = [by_magnitude(rng, lo, hi, count) for lo, hi in self.ranges]
        combinations = list(zip(*columns, strict=True))
        rest = tuple(column[0] for column in columns[2:])
        first = edges(*self.ranges[0])
        second = [(b,) for b in edges(*self.ranges[1])] if len(self.ranges) > 1 else [()]
        combinations += [(a, *b, *rest) for a in first for b in second]
        return [operands for operands in combinations if self.fits(*operands)]


def edges(lo: int, hi: int) -> list[int]:
    """The ends, and powers of two with their neighbours, of both signs."""
    near = {s * (2**k + d) for k in (0, 1, 8, 24, 31, 32, 33, 53, 62) for d in (-1, 0, 1)
            for s in (1, -1)}  # fmt: skip
    return sorted({lo, hi} | {value for value in near if lo <= value <= hi})


def by_magnitude(rng: np.random.Generator, lo: int, hi: int, count: int) -> list[int]:
    """Integers in [lo, hi], uniform in the number of bits."""
    values: list[int] = []
    while len(values) < count:
        size = int(rng.integers(0, 2 ** int(rng.integers(1, 64)), dtype=np.uint64))
        values += [value for value in (size, -size) if lo <= value <= hi]
    return [values[i] for i in rng.permutation(count)]


def nonzero(x: int, divisor: int) -> bool:
    return divisor != 0


def compare(x: Integers, y: Integers) -> Integers:
    """The three comparisons as bits of one integer."""
    bit = integer.where
    return bit(x < y, 1, 0) + bit(x >= y, 2, 0) + bit(x > y, 4, 0)


def arithmetic(x: Integers, y: Integers) -> Integers:
    """Every operator of a Value, with Python integers on both sides."""
    return (1 + x * 3 - y) * (2 * y) + (5 - x) - (-y) + 7


PRIMITIVES = {
    "maximum": Primitive(integer.maximum, max, (FULL, FULL)),
    "minimum": Primitive(integer.minimum, min, (FULL, FULL)),
    "clamp": Primitive(
        integer.clamp, plain.saturate, (FULL, FULL, FULL), lambda x, lo, hi: lo <= hi
    ),
    "comparisons": Primitive(
        compare, lambda x, y: (x < y) + 2 * (x >= y) + 4 * (x > y), (FULL, FULL)
    ),
    "where": Primitive(
        lambda x, y, z: integer.where(x > 0, y, z),
        lambda x, y, z: y if x > 0 else z,
        (FULL, FULL, FULL),
    ),
    "arithmetic": Primitive(arithmetic, arithmetic, ((-(2**29), 2**29), (-(2**29), 2**29))),
    "modulus": Primitive(lambda x, y: x % y, lambda x, y: x % y, (SYMMETRIC, FULL), nonzero),
    "power_of_two": Primitive(integer.power_of_two, lambda k: 2**k, ((0, 62),)),
    "floor_divide": Primitive(
        integer.floor_divide,
        lambda x, y: x // y,
        (PRODUCT, (-(2**62), 2**62)),
        lambda x, y: y != 0 and int64(x // y * y),
    ),
    "floor_divmod": Primitive(
        lambda x, y: integer.floor_divmod(x, y)[1],
        lambda x, y: x % y,
        (PRODUCT, (-(2**62), 2**62)),
        nonzero,
    ),
    "quotient": Primitive(integer.quotient, lambda x, y: x // y, (NATURAL, (1, 2**63 - 1))),
    "quotient_remainder": Primitive(
        lambda x, y: integer.quotient_remainder(x, y)[1],
        lambda x, y: x % y,
        (NATURAL, (1, 2**63 - 1)),
    ),
    "round_shift": Primitive(
        integer.round_shift,
        lambda x, k: (x + 2 ** (k - 1)) >> k,
        (PRODUCT, (1, 62)),
        lambda x, k: abs(x) < PRODUCT[1],
    ),
    "shift_right": Primitive(integer.shift_right, lambda x, k: x >> k, (PRODUCT, (0, 62))),
    "shift_right by a number": Primitive(
        lambda x: integer.shift_right(x, 16), lambda x: x >> 16, (PRODUCT,)
    ),
    "shift": Primitive(
        integer.shift,
        lambda x, k: math.floor(x * plain.power(k)),
        (PRODUCT, (-62, 62)),
        lambda x, k: int64(x * 2 ** max(k, 0)),
    ),
    "round_half_even_divide": Primitive(
        integer.round_half_even_divide,
        lambda x, y: plain.half_even(Fraction(x, y)),
        ((-(2**62), 2**62), (1, 2**62 - 1)),
    ),
    "round_half_even_divide at ties": Primitive(
        lambda x, y: integer.round_half_even_divide(x * y, y * 2),
        lambda x, y: plain.half_even(Fraction(x, 2)),
        ((-(2**20), 2**20), (1, 2**40)),
    ),
    "bit_length": Primitive(integer.bit_length, int.bit_length, (NATURAL,)),
    "isqrt": Primitive(integer.isqrt, math.isqrt, ((0, 2**62 - 1),)),
    "isqrt at squares": Primitive(
        lambda x, d: integer.isqrt(x * x + d),
        lambda x, d: math.isqrt(x * x + d),
        ((1, 2**31 - 1), (-1, 1)),
    ),
}


def case(name: str) -> tuple[Case, list[int]]:
    """All operands of a primitive, as one case, and what plain integers say."""
    primitive = PRIMITIVES[name]
    operands = primitive.operands()
    columns = [np.array(column, np.int64) for column in zip(*operands, strict=True)]
    probe = primitive.operator()
    made = Case(probe, dict(zip(probe.inputs, columns, strict=True)))
    return made, [primitive.plain(*each) for each in operands]


@pytest.fixture(scope="module", params=PRIMITIVES)
def primitive_case(request: pytest.FixtureRequest) -> tuple[Case, list[int]]:
    return case(request.param)


def test_torch_equals_plain_integers(primitive_case: tuple[Case, list[int]]) -> None:
    made, want = primitive_case
    wrong = [i for i, y in enumerate(made.expected.tolist()) if y != want[i]]
    operands = [[int(a[i]) for a in made.activations.values()] for i in wrong[:3]]
    assert not wrong, f"{len(wrong)} of {len(want)} differ, for example at {operands}"


@pytest.mark.parametrize("backend", BODIES)
def test_body_gives_the_integers_of_torch(
    primitive_case: tuple[Case, list[int]], backend: str
) -> None:
    primitive_case[0].check(backend)


@pytest.mark.gpu
def test_torch_gives_the_same_integers_on_a_gpu() -> None:
    for name in PRIMITIVES:
        case(name)[0].check_cuda()


@pytest.mark.parametrize("name", PRIMITIVES)
@exact
@given(st.data())
def test_drawn_operands_equal_plain_integers(name: str, data: st.DataObject) -> None:
    primitive = PRIMITIVES[name]
    operands = [data.draw(st.integers(lo, hi)) for lo, hi in primitive.ranges]
    assume(primitive.fits(*operands))
    assert by_torch(primitive.operator(), *operands) == [primitive.plain(*operands)]


@pytest.mark.parametrize("value", [2**31, 2**31 + 1, 2**40 + 2**31, 2**62 + 2**31])
@pytest.mark.parametrize("backend", BODIES)
def test_maximum_does_not_compare_low_halves(backend: str, value: int) -> None:
    """The low half of these values is negative as a signed 32-bit number.

    onnxruntime 1.31.1 (CPU) says Max(2^31, 1) = 1; bodies use Less and Where instead.
    """
    for compute, want in (
        (lambda x: integer.maximum(x, 1), value),
        (lambda x: integer.minimum(x, 1), 1),
        (lambda x: integer.clamp(x, 0, value), value),
    ):
        probe = Case(Operator("Probe", compute, ("a",)), {"a": np.array([value], np.int64)})
        assert probe.run(backend).tolist() == [want]


def test_isqrt_of_every_small_number() -> None:
    numbers = list(range(5000))
    got = by_torch(Operator("Probe", integer.isqrt, ("a",)), numbers)
    assert got == [math.isqrt(number) for number in numbers]


def test_casts_keep_the_value() -> None:
    values = np.array([-128, 127], np.int64)
    for to in (integer.INT8, integer.INT16, integer.INT32, INT64):
        narrow = integer.cast(integer.cast(tensor(values), to), INT64)
        assert narrow.tolist() == values.tolist()
        assert integer.cast(tensor(values), to).dtype is integer.TORCH_DTYPE[to]
