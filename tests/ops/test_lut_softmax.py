"""LutSoftmax against plain integers and exact exponentials."""

import numpy as np
import ops_reference as plain
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ops_harness import by_torch, tensor
from ops_strategies import exact, few, rows, score_scales

from mnq.ops.integer import INT64
from mnq.ops.lut_softmax.op import (
    constants,
    exp_table,
    lut_softmax,
    method,
    weigh,
    weight_constants,
)


@exact
@given(rows(), score_scales, st.sampled_from([4, 6, 8, 16]))
@example([127] + [-128] * 39, 3.0, 8)
@example([0] * 40, 0.003, 16)
@example([90, -90], 0.0625, 16)  # the sum is 65535 + 1, a divisor of 2^32
def test_lut_softmax_equals_plain_integers(row: list[int], scale: float, bits: int) -> None:
    values = constants(scale, bits)
    got = by_torch(lut_softmax, row, *(values[n] for n in lut_softmax.inputs[1:]), to=INT64)
    want = plain.lut_softmax(row, scale, bits)
    assert got == [p - 2 ** (bits - 1) for p in want]
    assert max(want) < 2**bits


@few
@given(score_scales, st.sampled_from([255, 65535]))
def test_the_table_is_the_exact_exponential_rounded_half_up(scale: float, top: int) -> None:
    values = exp_table(scale, top)
    assert values["table"].tolist() == plain.exp_table(scale, top)
    assert int(values["base"]) == 0


def test_a_scale_per_head_has_a_table_per_head() -> None:
    scales = np.array([0.01, 0.2, 1.5]).reshape(3, 1, 1)
    values = constants(scales, 8)
    assert values["base"].shape == scales.shape
    q = np.random.default_rng(0).integers(-128, 128, (1, 3, 4, 9))
    got = by_torch(lut_softmax, q, *(values[n] for n in lut_softmax.inputs[1:]), to=INT64)
    want = [
        p - 128
        for head, scale in enumerate(scales.flat)
        for row in q[0, head].tolist()
        for p in plain.lut_softmax(row, float(scale), 8)
    ]
    assert got == want


@exact
@given(rows(), score_scales)
def test_weights_are_read_from_a_table_of_255ths(row: list[int], scale: float) -> None:
    table = plain.exp_table(scale, 255)
    d = [q - max(row) for q in row]
    values = weight_constants(scale)
    got, normalizer = weigh(tensor(d), tensor(values["table"]), tensor(values["base"]))
    assert got.tolist() == [table[-x] for x in d]
    assert normalizer.tolist() == [sum(table[-x] for x in d)]


@pytest.mark.parametrize("bits", [8, 16])
def test_the_output_code_is_a_probability_minus_half_its_range(bits: int) -> None:
    values = constants(0.1, bits)
    assert (int(values["shift"]), int(values["zp"])) == (32 - bits, 2 ** (bits - 1))
    assert method.probability(tensor([-(2**15)])).tolist() == [0]
    assert method.probability_scale(bits) == 2.0**-bits
