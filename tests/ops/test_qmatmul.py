"""QMatMul: exact accumulators with a broadcast bias, then the requantization per head."""

import numpy as np
import ops_reference as plain
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_harness import Case
from ops_strategies import few

from mnq.ops.integer import INT8
from mnq.ops.qmatmul.op import qmatmul
from mnq.ops.requantize.op import constants


@few
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(), (1, 2, 3, 4), (1, 1, 3, 4), (2, 1, 1, 4), (1, 2, 1, 1)]),
    st.sampled_from([4, 6, 8]),
)
def test_qmatmul_equals_plain_integers(seed: int, bias_shape: tuple[int, ...], bits: int) -> None:
    rng = np.random.default_rng(seed)
    lo, hi = plain.code_range(bits)
    a = rng.choice([lo, lo + 1, 0, hi], (2, 2, 3, 5)).astype(np.int8)
    b = rng.integers(lo, hi + 1, (2, 2, 5, 4)).astype(np.int8)
    bias = np.array(rng.integers(-5000, 5000, bias_shape), np.int32)
    ratios = [0.01, 0.002]
    values = {"bias": bias, **constants(np.reshape(ratios, (2, 1, 1)), bits)}
    got = Case(qmatmul, {"a": a, "b": b}, values, {"to": INT8}).compute()
    everywhere = np.broadcast_to(bias, (2, 2, 3, 4))
    want = np.empty((2, 2, 3, 4), np.int8)
    for batch, head, row, column in np.ndindex(want.shape):
        acc = sum(
            x * y
            for x, y in zip(
                a[batch, head, row].tolist(), b[batch, head, :, column].tolist(), strict=True
            )
        ) + int(everywhere[batch, head, row, column])
        y = plain.scaled(acc, *plain.dyadic(ratios[head]))
        want[batch, head, row, column] = plain.saturate(y, lo, hi)
    assert got.tolist() == want.tolist()


@pytest.mark.parametrize("masked", [-(2**23), -(2**30)])
def test_a_masked_score_is_the_smallest_code(masked: int) -> None:
    a, b = np.full((1, 1, 2, 64), 127, np.int8), np.full((1, 1, 64, 2), 127, np.int8)
    bias = np.array([[0, masked], [0, 0]], np.int32)
    values = {"bias": bias, **constants(2.0**-14, 8)}
    got = Case(qmatmul, {"a": a, "b": b}, values, {"to": INT8}).compute()
    assert got[0, 0].tolist() == [[63, -128], [63, 63]]
