"""Requantize: the dyadic constants, the rounding and the saturation."""

from fractions import Fraction

import numpy as np
import ops_reference as plain
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ops_harness import by_torch, tensor
from ops_strategies import exact

from mnq.ops.errors import InputError
from mnq.ops.integer import INT64
from mnq.ops.requantize.op import constants, dyadic, requantize, rescale

MANTISSAS = st.one_of(
    st.integers(2**30, 2**31 - 1), st.sampled_from([2**30, 2**30 + 1, 2**31 - 1])
).flatmap(lambda m: st.sampled_from([m, -m]))
INT32_CODES = st.one_of(
    st.integers(-(2**31), 2**31 - 1), st.sampled_from([-(2**31), -1, 0, 1, 2**31 - 1])
)


@st.composite
def ties(draw: st.DrawFn) -> tuple[int, int, int]:
    """(z, m, e) with z * m / 2^e exactly between two integers."""
    e = draw(st.integers(1, 61))
    odd = st.integers(-(2**14), 2**14).map(lambda k: 2 * k + 1)
    if e >= 31:
        z = draw(odd) * 2 ** min(e - 31, 16)
        m = 2**30 * draw(st.sampled_from([1, -1]))
        return z, m, 31 + min(e - 31, 16)
    m = 2 ** (e - 1) * (2 ** (31 - e) + 2 * draw(st.integers(0, 2 ** (30 - e) - 1)) + 1)
    return draw(odd), m * draw(st.sampled_from([1, -1])), e


@exact
@given(
    st.floats(2.0**-40, 2.0**29).flatmap(lambda r: st.sampled_from([r, -r])),
)
@example(2.0**-32 * (1 - 2.0**-53))  # rounds up to the smallest ratio that counts
@example(1.0 - 2.0**-33)  # the fraction rounds up to 1: m = 2^31 becomes (2^30, e - 1)
@example(-1.0 + 2.0**-40)
@example((2.0**31 + 1) * 2.0**-32)  # a tie, rounded away from zero
@example(-(2.0**31 + 1) * 2.0**-32)
@example(0.0)
@example(0.75)
def test_dyadic_is_the_nearest_31_bit_multiplier(ratio: float) -> None:
    m, e = (int(v) for v in dyadic(ratio))
    assert (m, e) == plain.dyadic(ratio)
    assert 1 <= e <= 62
    if m == 0:
        assert abs(ratio) < 2.0**-32 and e == 62
    else:
        assert 2**30 <= abs(m) < 2**31
        assert abs(m * plain.power(-e) - Fraction(ratio)) <= abs(Fraction(ratio)) / 2**31


def test_dyadic_keeps_the_shape_and_takes_every_element_for_itself() -> None:
    ratios = np.array([[[0.5]], [[-3.0]], [[1e-12]]])
    m, e = dyadic(ratios)
    assert m.dtype == e.dtype == np.int32
    assert m.shape == e.shape == ratios.shape
    assert list(zip(m.flat, e.flat, strict=True)) == [plain.dyadic(r) for r in ratios.flat]


@exact
@given(st.floats(2.0**-60, 2.0**10), st.integers(1, 20))
def test_dyadic_with_spare_bits_is_as_near_as_its_bits_allow(ratio: float, spare: int) -> None:
    m, e = (int(v) for v in dyadic(ratio, spare))
    assert m <= 2 ** (31 - spare)
    error = abs(m * plain.power(-e) - Fraction(ratio))
    assert error <= Fraction(ratio) * plain.power(spare - 30) or (m == 0 and e == 62)
    if m == 0:
        assert ratio < 2.0 ** -(32 + spare) * (1 + 2.0 ** -(30 - spare))


@pytest.mark.parametrize("ratio", [2.0**30, -(2.0**31), np.inf, np.nan])
def test_dyadic_refuses_what_it_cannot_say(ratio: float) -> None:
    with pytest.raises(InputError, match="expected a finite ratio of scales below 2"):
        dyadic(np.array([1.0, ratio]))


@exact
@given(INT32_CODES, MANTISSAS, st.integers(1, 62), st.sampled_from([4, 6, 8, 16, 32]))
def test_requantize_equals_plain_integers(z: int, m: int, e: int, bits: int) -> None:
    lo, hi = plain.code_range(bits)
    want = plain.saturate(plain.scaled(z, m, e), lo, hi)
    assert by_torch(requantize, z, m, e, lo, hi, to=INT64) == [want]


@exact
@given(INT32_CODES, MANTISSAS, st.integers(33, 62))
def test_rescale_equals_the_high_word_form_of_the_kernels(z: int, m: int, e: int) -> None:
    high = (z * m) >> 32
    assert int(rescale(tensor(z), tensor(m), tensor(e))) == (high + 2 ** (e - 33)) >> (e - 32)


@exact
@given(ties())
def test_rescale_rounds_ties_toward_plus_infinity(tie: tuple[int, int, int]) -> None:
    z, m, e = tie
    value = z * m * plain.power(-e)
    assert value.denominator == 2, "the strategy has to draw ties"
    assert int(rescale(tensor(z), tensor(m), tensor(e))) == value + Fraction(1, 2)


@pytest.mark.parametrize("bits", [4, 6, 8, 16])
def test_constants_hold_the_ratio_and_the_code_range(bits: int) -> None:
    values = constants(np.array([0.01, -0.02]), bits)
    assert list(values) == ["m", "e", "lo", "hi"]
    assert [plain.dyadic(0.01), plain.dyadic(-0.02)] == list(
        zip(values["m"], values["e"], strict=True)
    )
    assert (int(values["lo"]), int(values["hi"])) == plain.code_range(bits)


def test_requantize_saturates_at_every_width() -> None:
    for bits in (2, 4, 6, 8, 16):
        lo, hi = plain.code_range(bits)
        codes = [lo - 1, lo, hi, hi + 1]
        one = constants(1.0, bits)
        got = by_torch(requantize, codes, *(one[n] for n in ("m", "e", "lo", "hi")), to=INT64)
        assert got == [lo, lo, hi, hi]
