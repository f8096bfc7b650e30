"""FqVitLayerNorm against plain integers."""

from fractions import Fraction

import numpy as np
import ops_reference as plain
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ops_harness import by_torch, tensor
from ops_strategies import exact, few, layernorm_lines, rows

from mnq.ops.errors import InputError
from mnq.ops.fqvit_layernorm.op import constants, fqvit_layernorm, raw, raw_constants
from mnq.ops.integer import INT64

Line = tuple[list[int], list[float], list[float], float]


@exact
@given(
    st.sampled_from([6, 8, 12, 16]).flatmap(lambda bits: rows(bits, 48)),
    st.integers(-6, 31),
    st.data(),
)
@example([7] * 12, 20, None)  # no variance
@example([-(2**15), 2**15 - 1] * 24, 20, None)
@example([1, 2], 20, None)
@example([5], 20, None)
def test_fq_layernorm_equals_plain_integers(
    row: list[int], p: int, data: st.DataObject | None
) -> None:
    count = len(row)
    mant = [(-1) ** i * (2**31 - 1) // (i + 1) for i in range(count)]
    bias = [(-3) ** (i % 20) for i in range(count)]
    if data is not None:
        size = st.one_of(st.integers(-(2**31) + 1, 2**31 - 1), st.sampled_from([0, 1, -1, 2**20]))
        mant = data.draw(st.lists(size, min_size=count, max_size=count))
        offset = st.integers(-(2**36), 2**36)
        bias = data.draw(st.lists(offset, min_size=count, max_size=count))
    got = raw(tensor(row), tensor(mant), tensor(p), tensor(bias)).tolist()
    assert got == plain.fq_layernorm(row, mant, p, bias)


@pytest.mark.parametrize(("bias", "offset"), [(2**19 + 2**12, 1), (2**19 + 2**11, 0), (2**19, 0)])
def test_the_offset_is_rounded_once_from_eight_more_bits(bias: int, offset: int) -> None:
    """A gain of 128 has N = 0; a half and one unit of the eighth bit rounds up, less is a tie."""
    got = raw(tensor([1, -1]), tensor([2**30] * 2), tensor(22), tensor([bias] * 2)).tolist()
    assert got == [128 + offset, -128 + offset]


@few
@given(st.integers(0, 2**32 - 1), st.sampled_from([192, 1536]))
def test_long_rows_equal_plain_integers(seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    row = rng.integers(-(2**15), 2**15, channels).tolist()
    values = raw_constants(rng.normal(size=channels), rng.normal(size=channels), 0.03)
    got = raw(tensor(row), *(tensor(v) for v in values.values())).tolist()
    mant, p, bq = (v.tolist() for v in values.values())
    assert got == plain.fq_layernorm(row, mant, p, bq)


@exact
@given(layernorm_lines(), st.sampled_from([4, 6, 8, 16]))
def test_the_operator_saturates_the_raw_value(line: Line, bits: int) -> None:
    row, weight, bias, out_scale = line
    values = constants(weight, bias, out_scale, bits)
    got = by_torch(fqvit_layernorm, row, *(values[n] for n in fqvit_layernorm.inputs[1:]), to=INT64)
    mant, p, bq = (values[name].tolist() for name in ("mant", "p", "bq"))
    want = plain.fq_layernorm(row, mant, p, bq)
    assert got == [plain.saturate(y, *plain.code_range(bits)) for y in want]


@exact
@given(layernorm_lines())
def test_constants_are_the_formulas_of_the_specification(line: Line) -> None:
    _, weight, bias, out_scale = line
    values = raw_constants(weight, bias, out_scale)
    p, channels = int(values["p"]), len(weight)
    gains = [Fraction(w) * channels / Fraction(out_scale) for w in weight]
    for mant, gain in zip(values["mant"].tolist(), gains, strict=True):
        assert abs(mant - gain * plain.power(p)) <= Fraction(1, 2) + Fraction(1, 2**20)
    if any(weight):
        largest = int(np.abs(values["mant"].astype(np.int64)).max())
        assert 2**30 <= largest < 2**31, "the largest fills 31 bits"
    for bq, b in zip(values["bq"].tolist(), bias, strict=True):
        exact_value = Fraction(b) / Fraction(out_scale) * 2**20
        assert abs(bq - exact_value) <= Fraction(1, 2) + abs(exact_value) / 2**50


@pytest.mark.parametrize("weight", [0.0, 1e-30, 1e-9, 1.0])
@pytest.mark.parametrize("steps", [-(2.0**22), -1000.0, 0.0, 33.0, 2.0**22])
def test_a_bias_of_any_accepted_size_saturates_and_never_wraps(weight: float, steps: float) -> None:
    values = constants(np.array([weight] * 4), np.array([steps] * 4), 1.0, 16)
    row = [-3, 5, 1, -3]
    got = by_torch(fqvit_layernorm, row, *(values[n] for n in fqvit_layernorm.inputs[1:]), to=INT64)
    nearest = plain.saturate(int(steps), *plain.code_range(16))
    assert all(abs(code - nearest) <= 2 for code in got)


@pytest.mark.parametrize("steps", [2.0**23, -(2.0**40), np.inf, np.nan])
def test_a_weight_or_bias_too_large_for_the_arithmetic_is_refused(steps: float) -> None:
    for weight, bias in ((1.0, steps), (steps, 1.0)):
        with pytest.raises(InputError, match="expected weights and biases below"):
            constants(np.array([1.0, weight]), np.array([0.0, bias]), 1.0, 8)


def test_a_weight_that_rounds_up_to_32_bits_takes_a_smaller_p() -> None:
    weight = np.array([1.0 - 2.0**-40, 0.25])
    values = raw_constants(weight, np.zeros(2), 2.0)  # gain 1 - 2^-40
    assert values["mant"].tolist() == [2**30, 2**28]
    assert int(values["p"]) == 30
