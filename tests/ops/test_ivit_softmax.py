"""IVitSoftmax (Shiftmax) against plain integers."""

import ops_reference as plain
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ops_harness import by_torch, tensor
from ops_strategies import exact, rows, score_scales

from mnq.ops.errors import InputError
from mnq.ops.integer import INT64
from mnq.ops.ivit_softmax.op import (
    constants,
    ivit_softmax,
    method,
    shift_exp,
    shift_exp_unit,
    weigh,
    weight_constants,
)


def unit(scale: float) -> int:
    """x0 [2.1]."""
    return int(plain.f32(-1.0 / plain.f32(scale)) // 1)


@exact
@given(rows(), score_scales, st.sampled_from([8, 16]))
@example([0] * 40, 0.003, 16)  # the sum saturates: 40 * 334 * 2^15
@example([-128] * 39 + [127], 3.0, 8)
def test_shiftmax_equals_plain_integers(row: list[int], scale: float, bits: int) -> None:
    values = constants(scale, bits)
    got = by_torch(ivit_softmax, row, values["x0"], values["shift"], to=INT64)
    assert got == plain.shiftmax(row, unit(scale), bits)
    assert min(got) >= 0 and max(got) < 2 ** (bits - 1)


def test_shiftmax_of_a_long_flat_row_saturates_its_sum() -> None:
    row = [5] * 197
    assert 197 * 400 * 2**15 > 2**31
    got = by_torch(ivit_softmax, row, -400, 16, to=INT64)
    assert got == plain.shiftmax(row, -400, 16)


@exact
@given(st.integers(-600, 600), st.integers(-400, -1), st.sampled_from([15, 23]))
@example(128, -1, 23)  # the largest argument: far beyond 2^31
def test_shift_exp_equals_plain_integers_or_both_saturate(q: int, x0: int, n: int) -> None:
    got, want = int(shift_exp(tensor(q), tensor(x0), n)), plain.shift_exp(q, x0, n)
    assert got == want or min(got, want) >= 2**31


@exact
@given(score_scales)
@example(1.0)
@example(1.0 / 3.0)
@example(0.1)
def test_constants_are_the_formulas_of_the_specification(scale: float) -> None:
    assert int(shift_exp_unit(scale)) == unit(scale)
    assert [int(constants(scale, bits)["shift"]) for bits in (8, 16)] == [24, 16]
    values = weight_constants(scale)
    m, e = plain.dyadic(255.0 / (-unit(scale) * 2.0**15))
    assert {name: int(v) for name, v in values.items()} == {"x0": unit(scale), "m_w": m, "e_w": e}


@pytest.mark.parametrize("scale", [1.5e-5, 2.0**-23])
def test_a_scale_too_fine_for_31_bits_is_refused(scale: float) -> None:
    with pytest.raises(InputError, match="expected an input scale of at least"):
        shift_exp_unit(scale)


@pytest.mark.parametrize(("bits", "code"), [(8, 127), (16, 2**15 - 1)])
def test_the_finest_accepted_scale_stays_within_the_output_type(bits: int, code: int) -> None:
    x0 = int(shift_exp_unit(1.6e-5))
    got = by_torch(ivit_softmax, [0, 0, -255], x0, 32 - bits, to=INT64)
    assert got == plain.shiftmax([0, 0, -255], x0, bits)
    assert max(got) <= code


@exact
@given(rows(), score_scales)
def test_weights_are_exponentials_in_255ths_of_the_largest(row: list[int], scale: float) -> None:
    x0 = unit(scale)
    d = [q - max(row) for q in row]
    m, e = plain.dyadic(255.0 / (-x0 * 2.0**15))
    want = [plain.scaled(plain.shift_exp(x, x0, 15), m, e) for x in d]
    values = weight_constants(scale)
    got, normalizer = weigh(tensor(d), *(tensor(v) for v in values.values()))
    assert got.tolist() == want
    assert normalizer.tolist() == [sum(want)]
    assert max(want) == 255 and min(want) >= 0


@pytest.mark.parametrize("bits", [8, 16])
def test_probability_is_the_code_itself(bits: int) -> None:
    assert method.probability(tensor([0, 5])).tolist() == [0, 5]
    assert method.probability_scale(bits) == 2.0 ** -(bits - 1)
