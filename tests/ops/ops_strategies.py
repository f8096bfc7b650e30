"""What hypothesis draws for the operators: rows of codes with their edges, scales, ratios."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from ops_reference import code_range

exact = settings(deadline=None, derandomize=True, max_examples=150, database=None)
"""Settings of every drawn test: the same examples in every run."""

few = settings(exact, max_examples=40)
"""The same, for tests whose single example is slow."""


@st.composite
def rows(
    draw: st.DrawFn, bits: int = 8, largest: int = 40, smallest: int = 1, negative: bool = False
) -> list[int]:
    """A row of codes: all equal, one-hot, of extremes only, close together, or any."""
    lo, hi = code_range(bits)
    hi = -1 if negative else hi
    code = st.one_of(st.sampled_from([lo, lo + 1, hi - 1, hi]), st.integers(lo, hi))
    length = draw(st.integers(smallest, largest))
    kind = draw(st.sampled_from(["equal", "one-hot", "extremes", "close", "any"]))
    if kind == "equal":
        return [draw(code)] * length
    if kind == "one-hot":
        row = [draw(code)] * length
        row[draw(st.integers(0, length - 1))] = draw(code)
        return row
    if kind == "extremes":
        code = st.sampled_from([lo, hi])
    elif kind == "close":
        low = draw(st.integers(lo, hi - 1))
        code = st.integers(low, min(low + 3, hi))
    return draw(st.lists(code, min_size=length, max_size=length))


def float32s(smallest: float, largest: float, powers: bool = True) -> st.SearchStrategy[float]:
    """Positive float32 numbers, uniform in the exponent, powers of two among them."""
    low, high = float(np.log2(smallest)), float(np.log2(largest))
    spread = st.floats(low, high).map(lambda x: float(np.float32(2.0**x)))
    exact_powers = st.integers(int(np.ceil(low)), int(np.floor(high))).map(lambda k: 2.0**k)
    return st.one_of(spread, exact_powers) if powers else spread


score_scales = float32s(0.003, 3.0)
"""Scales of softmax input: the design's range from fine to coarse."""


@st.composite
def layernorm_lines(
    draw: st.DrawFn,
) -> tuple[list[int], list[float], list[float], float]:
    """(row, weight, bias, out_scale): weights of both signs and zero, biases up to 1000 of them."""
    row = draw(rows(draw(st.sampled_from([8, 16])), largest=24))
    sizes = st.one_of(float32s(2.0**-24, 1000.0), st.just(0.0))
    signed = sizes.flatmap(lambda size: st.sampled_from([size, -size]))
    numbers = st.lists(signed, min_size=len(row), max_size=len(row))
    return row, draw(numbers), draw(numbers), draw(float32s(0.001, 1.0))
