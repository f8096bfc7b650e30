"""IVitLayerNorm against plain integers, and its constants against the exact line."""

import math
from fractions import Fraction

import numpy as np
import ops_reference as plain
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ops_harness import by_torch, tensor
from ops_strategies import exact, few, layernorm_lines, rows

from mnq.ops.integer import INT64
from mnq.ops.ivit_layernorm.op import constants, ivit_layernorm, raw, raw_constants


@exact
@given(st.sampled_from([6, 8, 16]).flatmap(lambda bits: rows(bits, 64)))
@example([7] * 12)
@example([-(2**15), 2**15 - 1] * 32)
@example([2**15 - 1] + [-(2**15)] * 63)
@example([1, 2])  # the mean is a tie
@example([-1, 0])
def test_i_layernorm_equals_plain_integers(row: list[int]) -> None:
    bias = [(-1) ** i * i * 2**40 for i in range(len(row))]
    assert raw(tensor(row), tensor(bias)).tolist() == plain.i_layernorm(row, bias)


@few
@given(st.integers(0, 2**32 - 1))
def test_long_rows_equal_plain_integers(seed: int) -> None:
    row = np.random.default_rng(seed).integers(-(2**15), 2**15, 1536).tolist()
    bias = [0] * 1536
    assert raw(tensor(row), tensor(bias)).tolist() == plain.i_layernorm(row, bias)


def test_a_row_without_variance_gives_the_bias() -> None:
    got = raw(tensor([[-5] * 3, [9] * 3]), tensor([1, -2, 3])).tolist()
    assert got == [[1, -2, 3], [1, -2, 3]]


@exact
@given(
    st.lists(st.floats(-2.0, 2.0, width=32), min_size=1, max_size=20),
    st.lists(st.floats(0.0625, 2.0, width=32), min_size=1, max_size=20),
    st.booleans(),
)
def test_bias_is_the_formula_of_the_specification(
    bias: list[float], weight: list[float], negative: bool
) -> None:
    count = min(len(bias), len(weight))
    b, w = bias[:count], [-x if negative else x for x in weight[:count]]
    unit = plain.f32(plain.f32(math.sqrt(count)) / 2.0**30)
    values, scale = raw_constants(np.array(w, np.float32), np.array(b, np.float32))
    assert values["bq"].tolist() == [
        math.floor(plain.f32(plain.f32(x / y) / unit)) for x, y in zip(b, w, strict=True)
    ]
    assert scale.tolist() == [y * unit for y in w]
    assert values["bq"].dtype == np.int64


@exact
@given(layernorm_lines(), st.sampled_from([4, 6, 8]))
def test_the_output_is_the_exact_line_within_one_code(
    line: tuple[list[int], list[float], list[float], float], bits: int
) -> None:
    """Bias over weight may be of any size: zero weights, and products beyond int64 without care."""
    row, weight, bias, out_scale = line
    values = constants(weight, bias, out_scale, bits)
    got = by_torch(ivit_layernorm, row, *(values[n] for n in ivit_layernorm.inputs[1:]), to=INT64)
    want = plain.layernorm_line(plain.i_layernorm(row, [0] * len(row)), weight, bias, out_scale)
    for code, exact_value in zip(got, want, strict=True):
        nearest = plain.saturate(plain.half_up(exact_value), *plain.code_range(bits))
        assert abs(code - nearest) <= 1


@pytest.mark.parametrize("weight", [0.0, 1e-30, -1e-9, 1e-6, 1e-4])
def test_a_channel_with_next_to_no_weight_is_its_bias(weight: float) -> None:
    weights, biases = np.full(8, 1.0), np.full(8, 0.5)
    weights[3], biases[3] = weight, 1.0
    values = constants(weights, biases, 0.0625, 8)
    row = [100, -100, 3000, 5000, -5000, 70, 80, 90]
    got = by_torch(ivit_layernorm, row, *(values[n] for n in ivit_layernorm.inputs[1:]), to=INT64)
    assert got[3] == 16


@pytest.mark.parametrize("weight", [1e-6, 1e-3, 0.03, 1.0, 1000.0])
def test_products_stay_within_int64(weight: float) -> None:
    values = constants(np.full(192, weight), np.ones(192), 0.03, 8)
    largest = 2**30 + int(np.abs(values["bq"]).max())
    assert largest * int(np.abs(values["m"].astype(np.int64)).max()) <= 2**62
    assert int(values["m"].max()) > 2**14
    assert Fraction(1) <= int(values["e"].min()) and int(values["e"].max()) <= 62
