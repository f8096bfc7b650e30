"""IBertSoftmax (i-softmax) against plain integers."""

import ops_reference as plain
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ops_harness import by_torch, tensor
from ops_strategies import exact, float32s, rows, score_scales

from mnq.ops.errors import InputError
from mnq.ops.ibert_softmax.op import (
    constants,
    i_exp,
    ibert_softmax,
    method,
    polynomial_constants,
    weigh,
    weight_constants,
)
from mnq.ops.integer import INT64


@exact
@given(rows(), score_scales, st.sampled_from([4, 6, 8, 16]))
@example([-128] * 20 + [127], 3.0, 8)
@example([7] * 40, 0.003, 16)
@example([90, -90], 0.0625, 16)  # the sum is 32767 + 1, a divisor of 2^32
def test_i_softmax_equals_plain_integers(row: list[int], scale: float, bits: int) -> None:
    values = constants(scale, bits)
    got = by_torch(ibert_softmax, row, *(values[n] for n in ibert_softmax.inputs[1:]), to=INT64)
    want = plain.i_softmax(row, *plain.i_exp_constants(scale), bits)
    assert got == [p - 2 ** (bits - 1) for p in want]
    assert max(want) < 2**bits


def test_a_one_hot_row_gives_the_largest_code() -> None:
    row = [127] + [-128] * 196
    values = constants(0.5, 8)
    got = by_torch(ibert_softmax, row, *(values[n] for n in ibert_softmax.inputs[1:]), to=INT64)
    assert got == [127] + [-128] * 196


@exact
@given(st.integers(-255, 0), float32s(4e-5, 3.0))
def test_i_exp_equals_plain_integers(q: int, scale: float) -> None:
    x0, b, c = plain.i_exp_constants(scale)
    z, k = i_exp(tensor(q), tensor(x0), tensor(b), tensor(c))
    assert (int(z), int(k)) == plain.i_exp(q, x0, b, c)
    assert 0 <= k <= 30


@exact
@given(float32s(4e-5, 3.0))
@example(3.0)  # c is 1 at least
@example(0.1)
def test_constants_are_the_formulas_of_the_specification(scale: float) -> None:
    x0, b, c = plain.i_exp_constants(scale)
    got = polynomial_constants(scale)
    assert {name: int(v) for name, v in got.items()} == {"x0": x0, "b": b, "c": c}
    values, weights = constants(scale, 8), weight_constants(scale)
    # The operator's shift is by k, the specification's by k - 30.
    assert (int(values["m_p"]), int(values["e_p"]) + 30) == plain.mantissa(32767.0 / (c * 2.0**30))
    assert (int(weights["m_w"]), int(weights["e_w"])) == plain.dyadic(255.0 / c)
    assert (int(values["shift"]), int(values["zp"])) == (24, 128)


@pytest.mark.parametrize("scale", [3.5e-5, 2.0**-23])
def test_a_scale_too_fine_for_32_bits_is_refused(scale: float) -> None:
    with pytest.raises(InputError, match="expected a score scale of at least"):
        polynomial_constants(scale)


@exact
@given(rows(), score_scales)
def test_weights_are_exponentials_in_255ths_of_the_largest(row: list[int], scale: float) -> None:
    x0, b, c = plain.i_exp_constants(scale)
    m, e = plain.dyadic(255.0 / c)
    d = [q - max(row) for q in row]
    pairs = [plain.i_exp(x, x0, b, c) for x in d]
    want = [plain.scaled(z, m, e + k) for z, k in pairs]
    got, normalizer = weigh(tensor(d), *(tensor(v) for v in weight_constants(scale).values()))
    assert got.tolist() == want
    assert normalizer.tolist() == [sum(want)]
    assert max(want) == 255


def test_probability_takes_the_offset_back() -> None:
    assert method.probability(tensor([-(2**15), 0, 2**15 - 1])).tolist() == [0, 2**15, 2**16 - 1]
    assert method.probability_scale(16) == 2.0**-16
