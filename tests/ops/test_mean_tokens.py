"""MeanTokens against plain integers and the float mean; its kernel at its edges."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import ops_reference as plain
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from ops_harness import Case, by_torch
from ops_native import PATHS, Native, make_kernel
from ops_strategies import exact, float32s, rows

from mnq.ops.errors import InputError
from mnq.ops.integer import INT8, INT16, INT32, INT64
from mnq.ops.mean_tokens.op import constants, mean_tokens

BITS = st.sampled_from([4, 6, 8, 16])
RATIOS = float32s(2.0**-12, 2.0**12)

native = pytest.mark.native


@exact
@given(st.sampled_from([8, 16]).flatmap(rows), RATIOS, BITS)
@example([0] * 40, 1.0, 8)
@example([-128], 1.0, 8)
@example([5], 0.5, 8)  # a tie
@example([-5], 0.5, 8)
@example([-(2**15)] * 40, 1.0, 16)
def test_codes_equal_plain_integers_and_the_mean(row: list[int], ratio: float, bits: int) -> None:
    """A row is one channel, token by token."""
    tokens = len(row)
    values = constants(ratio, tokens, bits)
    m, e = plain.dyadic(ratio / tokens)
    lo, hi = plain.code_range(bits)
    want = plain.saturate(plain.scaled(sum(row), m, e), lo, hi)
    q = [[[code] for code in row]]
    assert by_torch(mean_tokens, q, *values.values(), to=INT64) == [want]
    mean = Fraction(sum(row), tokens) * Fraction(ratio)
    assert abs(want - plain.saturate(mean, lo, hi)) <= Fraction(1, 2) + abs(mean) / 2**30


def test_images_and_channels_have_their_own_mean() -> None:
    q = np.random.default_rng(3).integers(-128, 128, (3, 5, 7)).astype(np.int8)
    made = Case(mean_tokens, {"q": q}, constants(1.0, 5, 8), {"to": INT8}).compute()
    assert made.shape == (3, 7) and made.dtype == np.int8
    for image, channel in np.ndindex(made.shape):
        mean = Fraction(int(q[image, :, channel].astype(int).sum()), 5)
        assert made[image, channel] == plain.half_up(mean)


def test_inputs_are_codes_and_a_requantization() -> None:
    assert mean_tokens.inputs == ("q", *constants(1.0, 49, 8)) == ("q", "m", "e", "lo", "hi")
    assert mean_tokens.attributes == ("to",)


@native
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize("channels", [1, 15, 16, 17, 63, 64, 65, 511, 512, 513, 1100])
def test_channels_of_any_number(path: str, dtype: type[np.generic], channels: int) -> None:
    """The sums of 512 are in memory at a time; tasks are 64 channels or more."""
    rng, limits = np.random.default_rng(channels), np.iinfo(dtype)
    for tokens in (1, 2, 49):  # of one token the shift is below 33
        q = rng.integers(limits.min, limits.max + 1, (3, tokens, channels)).astype(dtype)
        for bits, to in ((8, INT8), (6, INT8), (16, INT16)):
            case = Case(mean_tokens, {"q": q}, constants(0.8, tokens, bits), {"to": to})
            case.check(Native(path, 3))


@native
@pytest.mark.parametrize("path", PATHS)
def test_sums_reach_the_ends_of_int32(path: str) -> None:
    q = np.full((1, 2**16, 3), -(2**15), np.int16)
    q[..., 1], q[..., 2] = 2**15 - 1, 1
    case = Case(mean_tokens, {"q": q}, constants(1.0, 2**16, 16), {"to": INT16})
    assert case.expected.tolist() == [[-(2**15), 2**15 - 1, 1]]
    case.check(Native(path, 2))


@native
@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 4, 0), (2, 0, 3)])
def test_nothing_to_add_up(shape: tuple[int, ...]) -> None:
    q = np.zeros(shape, np.int8)
    Case(mean_tokens, {"q": q}, constants(1.0, 4, 8), {"to": INT8}).check(Native("portable", 2))


@native
def test_what_is_outside_the_contract_is_refused() -> None:
    q, values = np.zeros((1, 4, 8), np.int8), constants(1.0, 4, 8)
    with pytest.raises(InputError, match="'q': expected int8 or int16, found int32"):
        make_kernel(mean_tokens, {"q": q.astype(np.int32)}, values)
    with pytest.raises(InputError, match="'to': expected int8 or int16, found int32"):
        make_kernel(mean_tokens, {"q": q}, values, INT32)
    several = {**values, "m": np.full(8, 2**30, np.int32), "e": np.full(8, 50, np.int32)}
    with pytest.raises(InputError, match=r"'m': expected one number, found shape \(8,\)"):
        make_kernel(mean_tokens, {"q": q}, several)
    kernel = make_kernel(mean_tokens, {"q": q}, values)
    for shape in ((4, 8), (1, 2, 4, 8), (1, 2**16 + 1, 1)):
        with pytest.raises(InputError, match=r"expected shape \(B, T, C\) with at most 65536"):
            kernel.run({"q": np.zeros(shape, np.int8)})
