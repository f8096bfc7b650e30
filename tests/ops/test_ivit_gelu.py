"""IVitGelu (ShiftGELU) against plain integers."""

import ops_reference as plain
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ops_harness import by_torch, tensor
from ops_strategies import exact, float32s, rows

from mnq.ops.integer import INT64
from mnq.ops.ivit_gelu.op import constants, ivit_gelu, raw

SCALES = float32s(0.001, 1.0)


def unit(scale: float) -> int:
    """x0 of the scale times 1.702 [2.4]."""
    stretched = plain.f32(plain.f32(1.702) * plain.f32(scale))
    return int(plain.f32(-1.0 / stretched) // 1)


@exact
@given(rows(), SCALES, st.sampled_from([2**31, 2**31 - 1]))
@example([127] * 5, 0.001, 2**31)  # the sigmoid runs past 127
def test_shift_gelu_equals_plain_integers(row: list[int], scale: float, numerator: int) -> None:
    x0 = unit(scale)
    got = raw(tensor(row), tensor(x0), tensor(numerator))
    assert got.tolist() == plain.shift_gelu(row, x0, numerator)


@exact
@given(rows(negative=True), SCALES)
@example([-128] * 3, 1.0)  # e2 = 2^23 * 2^183
@example([-128, -1], 0.5)
@example([-128, -127], 0.1)
def test_a_row_without_positive_codes_gives_e2_a_positive_argument(
    row: list[int], scale: float
) -> None:
    x0 = unit(scale)
    assert -max(row) > 0
    got = raw(tensor(row), tensor(x0), tensor(2**31))
    assert got.tolist() == plain.shift_gelu(row, x0, 2**31)


@exact
@given(rows(), float32s(0.01, 0.3), float32s(0.005, 0.1), st.sampled_from([4, 6, 8]))
def test_the_operator_is_the_raw_value_requantized(
    row: list[int], scale: float, out_scale: float, bits: int
) -> None:
    values = constants(scale, out_scale, bits)
    m, e = plain.dyadic(scale * 2.0**-7 / out_scale)
    want = [plain.scaled(y, m, e) for y in plain.shift_gelu(row, unit(scale), 2**31)]
    got = by_torch(ivit_gelu, row, *(values[n] for n in ivit_gelu.inputs[1:]), to=INT64)
    assert got == [plain.saturate(y, *plain.code_range(bits)) for y in want]


@exact
@given(SCALES)
def test_constants_are_the_formulas_of_the_specification(scale: float) -> None:
    values = constants(scale, 0.05, 8)
    assert (int(values["x0"]), int(values["numerator"])) == (unit(scale), 2**31)


@pytest.mark.parametrize("rows_apart", [True, False])
def test_the_row_maximum_enters_so_rows_do_not_mix(rows_apart: bool) -> None:
    a, b = [10, -20, 30], [-5, -60, -128]
    x = [a, b] if rows_apart else [*a, *b]
    got = raw(tensor(x), tensor(-12), tensor(2**31)).reshape(-1).tolist()
    apart = plain.shift_gelu(a, -12, 2**31) + plain.shift_gelu(b, -12, 2**31)
    assert (got == apart) is rows_apart
