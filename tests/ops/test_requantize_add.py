"""RequantizeAdd: two roundings, one saturation."""

import ops_reference as plain
from hypothesis import given
from hypothesis import strategies as st
from ops_harness import by_torch
from ops_strategies import exact

from mnq.ops.integer import INT64
from mnq.ops.requantize_add.op import constants, requantize_add

RATIOS = st.one_of(st.floats(2.0**-20, 4.0), st.sampled_from([0.5, 0.25, 1.0, -0.5]))
CODES = st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**15), 2**15 - 1))


@exact
@given(CODES, CODES, RATIOS, RATIOS, st.sampled_from([4, 6, 8, 16]))
def test_requantize_add_equals_plain_integers(
    z: int, r: int, ratio: float, residual: float, bits: int
) -> None:
    values = constants(ratio, residual, bits)
    lo, hi = plain.code_range(bits)
    both = plain.scaled(z, *plain.dyadic(ratio)) + plain.scaled(r, *plain.dyadic(residual))
    inputs = [values[name] for name in requantize_add.inputs[2:]]
    got = by_torch(requantize_add, z, r, *inputs, to=INT64)
    assert got == [plain.saturate(both, lo, hi)]


def test_each_operand_is_rounded_for_itself() -> None:
    halves = constants(0.5, 0.5, 8)
    inputs = [halves[name] for name in requantize_add.inputs[2:]]
    assert by_torch(requantize_add, [1, 3, -1], [1, 1, -1], *inputs, to=INT64) == [2, 3, 0]


def test_saturation_comes_after_the_addition() -> None:
    ones = constants(1.0, 1.0, 8)
    inputs = [ones[name] for name in requantize_add.inputs[2:]]
    got = by_torch(requantize_add, [200, 300, -200], [-100, -100, 50], *inputs, to=INT64)
    assert got == [100, 127, -128]
