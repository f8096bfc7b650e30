"""IBertLayerNorm against plain integers."""

import numpy as np
import ops_reference as plain
from hypothesis import example, given
from hypothesis import strategies as st
from ops_harness import by_torch, tensor
from ops_strategies import exact, few, layernorm_lines, rows

from mnq.ops.ibert_layernorm.op import constants, ibert_layernorm, raw
from mnq.ops.integer import INT64
from mnq.ops.ivit_layernorm.op import constants as ivit_constants


@exact
@given(
    st.sampled_from([6, 8, 16, 22]).flatmap(lambda bits: rows(bits, 64)), st.sampled_from([0, 1, 5])
)
@example([7] * 12, 0)  # no variance
@example([2, 0, -2], 5)  # no variance after the shift
@example([-(2**15), 2**15 - 1] * 32, 0)
@example([2**15 - 1] + [-(2**15)] * 63, 0)
@example([1, 2], 0)  # the mean is a tie
@example([-1, 0], 0)
def test_i_layernorm_equals_plain_integers(row: list[int], shift: int) -> None:
    bias = [(-1) ** i * i * 2**40 for i in range(len(row))]
    got = raw(tensor(row), tensor(bias), tensor(shift)).tolist()
    assert got == plain.bert_layernorm(row, bias, shift)


@few
@given(st.integers(0, 2**32 - 1))
def test_long_rows_equal_plain_integers(seed: int) -> None:
    row = np.random.default_rng(seed).integers(-(2**15), 2**15, 1536).tolist()
    bias = [0] * 1536
    got = raw(tensor(row), tensor(bias), tensor(0)).tolist()
    assert got == plain.bert_layernorm(row, bias)


def test_a_row_without_variance_gives_the_bias() -> None:
    got = raw(tensor([[-5] * 3, [9] * 3]), tensor([1, -2, 3]), tensor(0)).tolist()
    assert got == [[1, -2, 3], [1, -2, 3]]


@exact
@given(layernorm_lines(), st.sampled_from([4, 6, 8]))
def test_the_output_is_the_exact_line_within_one_code(
    line: tuple[list[int], list[float], list[float], float], bits: int
) -> None:
    row, weight, bias, out_scale = line
    values = constants(weight, bias, out_scale, bits)
    got = by_torch(ibert_layernorm, row, *(values[n] for n in ibert_layernorm.inputs[1:]), to=INT64)
    want = plain.layernorm_line(plain.bert_layernorm(row, [0] * len(row)), weight, bias, out_scale)
    for code, exact_value in zip(got, want, strict=True):
        nearest = plain.saturate(plain.half_up(exact_value), *plain.code_range(bits))
        assert abs(code - nearest) <= 1


def test_constants_are_those_of_ivit_with_a_shift_of_zero() -> None:
    weight, bias = np.array([1.0, -0.5, 0.0]), np.array([0.5, 3.0, 1.0])
    values = constants(weight, bias, 0.05, 8)
    assert int(values.pop("shift")) == 0
    want = ivit_constants(weight, bias, 0.05, 8)
    assert {n: v.tolist() for n, v in values.items()} == {n: v.tolist() for n, v in want.items()}
