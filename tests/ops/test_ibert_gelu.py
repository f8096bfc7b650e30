"""IBertGelu (i-GELU) against plain integers."""

import math

import ops_reference as plain
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ops_harness import by_torch, tensor
from ops_strategies import exact, float32s

from mnq.ops.errors import InputError
from mnq.ops.ibert_gelu.op import constants, ibert_gelu, raw, raw_constants
from mnq.ops.integer import INT64

SCALES = float32s(6e-5, 1.0)
CODES = st.lists(
    st.one_of(st.sampled_from([-128, -1, 0, 1, 127]), st.integers(-128, 127)), min_size=1
)


def polynomial(scale: float, n: int | None = None) -> tuple[dict[str, int], float]:
    """(b, c, n, one) and the output's scale [3.3], each step rounded to float32."""
    s1 = plain.f32(plain.f32(scale) / plain.f32(1.4142))
    square = plain.f32(s1 * s1)
    b = int(plain.f32(plain.f32(-1.769) / s1) // 1)
    c = int(plain.f32(plain.f32(1.0 / -0.2888) / square) // 1)
    if n is None:
        n = max(0, math.floor(math.log2(-c)) - 12)
    unit = plain.f32(plain.f32(-0.2888) * square) * 2.0**n
    one = int(plain.f32(1.0 / unit) // 1)
    return {"b": b, "c": c, "n": n, "one": one}, plain.f32(scale) * unit / 2.0


@exact
@given(CODES, SCALES)
@example(list(range(-128, 128)), 0.05)
@example(list(range(-128, 128)), 1.0)
def test_i_gelu_equals_plain_integers(codes: list[int], scale: float) -> None:
    values, _ = polynomial(scale)
    got = raw(tensor(codes), *(tensor(values[name]) for name in ("b", "c", "n", "one")))
    assert got.tolist() == [plain.i_gelu(q, **values) for q in codes]


@exact
@given(st.lists(st.integers(-(2**25), 2**25), min_size=1, max_size=20), float32s(1e-4, 1e-3))
def test_the_published_form_on_accumulators_equals_plain_integers(
    codes: list[int], scale: float
) -> None:
    values, _ = polynomial(scale, 14)
    got = raw(tensor(codes), *(tensor(values[name]) for name in ("b", "c", "n", "one")))
    assert got.tolist() == [plain.i_gelu(q, **values) for q in codes]


@exact
@given(CODES, float32s(0.01, 0.3), float32s(0.005, 0.1), st.sampled_from([4, 6, 8]))
def test_the_operator_is_the_raw_value_requantized(
    codes: list[int], scale: float, out_scale: float, bits: int
) -> None:
    numbers, raw_scale = polynomial(scale)
    m, e = plain.dyadic(raw_scale / out_scale)
    assert m < 0
    want = [plain.scaled(plain.i_gelu(q, **numbers), m, e) for q in codes]
    values = constants(scale, out_scale, bits)
    got = by_torch(ibert_gelu, codes, *(values[n] for n in ibert_gelu.inputs[1:]), to=INT64)
    assert got == [plain.saturate(y, *plain.code_range(bits)) for y in want]


@exact
@given(SCALES, st.sampled_from([None, 0, 14]))
@example(0.05, None)
def test_constants_are_the_formulas_of_the_specification(scale: float, n: int | None) -> None:
    want, want_scale = polynomial(scale, n)
    got, raw_scale = raw_constants(scale, n)
    assert {name: int(v) for name, v in got.items()} == want
    assert float(raw_scale) == want_scale


def test_the_shift_keeps_twelve_bits_and_is_none_for_8_bit_codes() -> None:
    assert int(raw_constants(0.03)[0]["n"]) == 0
    assert int(raw_constants(3e-4)[0]["n"]) == 14
    assert 2**12 <= -int(raw_constants(3e-4)[0]["one"]) < 2**13


@pytest.mark.parametrize("scale", [5e-5, 2.0**-23])
def test_a_scale_too_fine_for_32_bits_is_refused(scale: float) -> None:
    with pytest.raises(InputError, match="expected an input scale of at least"):
        raw_constants(scale)
