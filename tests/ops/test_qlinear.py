"""QLinear and QLinearAdd: exact accumulators, then the requantizations."""

import numpy as np
import ops_reference as plain
from hypothesis import given
from hypothesis import strategies as st
from ops_harness import Case
from ops_strategies import few

from mnq.ops.integer import INT8, INT16
from mnq.ops.qlinear.op import qlinear, qlinear_add
from mnq.ops.requantize.op import constants
from mnq.ops.requantize_add.op import constants as add_constants

SEEDS = st.integers(0, 2**32 - 1)
RATIOS = np.array([0.01, -0.003, 2.0**-7])


def layer(seed: int, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[list[int]]]:
    """x (2, 3, 5), w (5, 3), bias (3), and their accumulators row by row."""
    rng = np.random.default_rng(seed)
    lo, hi = plain.code_range(bits)
    x = rng.choice([lo, lo + 1, 0, hi], (2, 3, 5)).astype(np.int8)
    w = rng.integers(lo, hi + 1, (5, 3)).astype(np.int8)
    bias = rng.integers(-(2**20), 2**20, 3).astype(np.int32)
    accumulators = [
        [
            sum(a * b for a, b in zip(row, column, strict=True)) + offset
            for column, offset in zip(w.T.tolist(), bias.tolist(), strict=True)
        ]
        for row in x.reshape(-1, 5).tolist()
    ]
    return x, w, bias, accumulators


@few
@given(SEEDS, st.sampled_from([4, 6, 8]))
def test_qlinear_equals_plain_integers(seed: int, bits: int) -> None:
    x, w, bias, accumulators = layer(seed, bits)
    values = {"w": w, "bias": bias, **constants(RATIOS, bits)}
    got = Case(qlinear, {"x": x}, values, {"to": INT8}).compute()
    want = [
        plain.saturate(plain.scaled(acc, *plain.dyadic(ratio)), *plain.code_range(bits))
        for row in accumulators
        for acc, ratio in zip(row, RATIOS, strict=True)
    ]
    assert got.dtype == np.int8 and got.shape == (2, 3, 3)
    assert got.reshape(-1).tolist() == want


@few
@given(SEEDS, st.sampled_from([0.7, 0.25, 2.0**-5]))
def test_qlinear_add_equals_plain_integers(seed: int, residual_ratio: float) -> None:
    x, w, bias, accumulators = layer(seed, 8)
    r = np.random.default_rng(seed + 1).integers(-(2**15), 2**15, (2, 3, 3)).astype(np.int16)
    values = {"w": w, "bias": bias, **add_constants(RATIOS, residual_ratio, 16)}
    got = Case(qlinear_add, {"x": x, "r": r}, values, {"to": INT16}).compute()
    want = [
        plain.saturate(
            plain.scaled(acc, *plain.dyadic(ratio))
            + plain.scaled(code, *plain.dyadic(residual_ratio)),
            -(2**15),
            2**15 - 1,
        )
        for row, codes in zip(accumulators, r.reshape(-1, 3).tolist(), strict=True)
        for acc, ratio, code in zip(row, RATIOS, codes, strict=True)
    ]
    assert got.dtype == np.int16
    assert got.reshape(-1).tolist() == want
