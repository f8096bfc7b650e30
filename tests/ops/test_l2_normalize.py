"""L2Normalize against plain integers and the float function; its kernel at its edges."""

from __future__ import annotations

import math

import numpy as np
import ops_reference as plain
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from ops_harness import Case, by_torch
from ops_native import PATHS, Native, make_kernel
from ops_strategies import exact, float32s, rows

from mnq.ops.errors import InputError
from mnq.ops.integer import INT8, INT16, INT32, INT64
from mnq.ops.l2_normalize.op import constants, l2_normalize, reference
from mnq.ops.requantize.op import constants as requantize_constants

BITS = st.sampled_from([4, 6, 8, 16])
OUT_SCALES = float32s(2.0**-20, 8.0)
"""From scales at which every code saturates to those that leave zeros."""

native = pytest.mark.native


def factor(row: list[int]) -> int:
    """Lines 1 and 2: floor(2^30 / norm)."""
    return math.isqrt(2**60 // max(sum(q * q for q in row), 1))


def row_of(n: int) -> list[int]:
    """A row whose squares add up to n, its largest code first."""
    row = []
    while n > 0:
        row.append(-min(math.isqrt(n), 128))
        n -= row[-1] ** 2
    return row


@exact
@given(rows(), OUT_SCALES, BITS)
@example([0] * 40, 2.0**-7, 8)
@example([0], 2.0**-20, 8)
@example([-128] * 40, 2.0**-7, 8)
@example([127], 2.0**-7, 8)  # one code too large for its scale
@example([-128], 2.0**-7, 8)  # the smallest code
@example([1] + [0] * 39, 2.0**-7, 8)
@example([-128, 1], 2.0**-15, 16)
def test_codes_equal_plain_integers(row: list[int], out_scale: float, bits: int) -> None:
    values = constants(out_scale, bits)
    m, e = plain.dyadic(2.0**-30 / out_scale)
    want = [
        plain.saturate(plain.scaled(q * factor(row), m, e), *plain.code_range(bits)) for q in row
    ]
    assert by_torch(l2_normalize, row, *values.values(), to=INT64) == want


@exact
@given(st.one_of(st.integers(1, 2**22), st.integers(0, 11).map(lambda k: 4**k)))
@example(2)
@example(4**11 - 1)
@example(4**11 + 1)
def test_the_factor_is_the_floor_of_the_exact_quotient_and_fits_int32(n: int) -> None:
    row = row_of(n)
    m, e, lo, hi = 2**30, 30, -(2**31), 2**31 - 1  # nothing but line 3
    first, *rest = by_torch(l2_normalize, row, m, e, lo, hi, to=INT64)
    found = first // row[0]
    assert [first, *rest] == [found * q for q in row]
    assert found**2 * n <= 2**60 < (found + 1) ** 2 * n
    assert abs(first) <= 2**30


@exact
@given(rows(), OUT_SCALES, BITS)
@example([-128] + [1] * 39, 2.0**-15, 16)
@example([-1, 1], 2.0**-15, 16)
def test_codes_are_those_of_the_float_function_within_the_bound(
    row: list[int], out_scale: float, bits: int
) -> None:
    codes = by_torch(l2_normalize, row, *constants(out_scale, bits).values(), to=INT64)
    values = (reference(torch.tensor(row, dtype=torch.float64)) / out_scale).tolist()
    lo, hi = plain.code_range(bits)
    for q, code, value in zip(row, codes, values, strict=True):
        bound = 0.5 + (abs(q) + 1 + 2.0**-20) * 2.0**-30 / out_scale  # 2^-50: float64
        assert abs(code - min(max(value, lo), hi)) <= bound


def test_the_float_function_is_that_of_torch() -> None:
    x = torch.randn(5, 3, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[1, 1] = 0
    torch.testing.assert_close(reference(x), torch.nn.functional.normalize(x, dim=-1))


def test_a_row_of_zeros_has_a_finite_gradient() -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    reference(x).backward(torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, -1.0, 0.0, 0.0]]))
    assert x.grad is not None
    assert x.grad.tolist() == [[1.0, 2.0, 3.0, 4.0], [0.0, -1.0, 0.0, 0.0]]


def test_inputs_are_codes_and_a_requantization() -> None:
    assert l2_normalize.inputs == ("q", *constants(0.01, 8)) == ("q", "m", "e", "lo", "hi")
    assert l2_normalize.attributes == ("to",)


@native
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("depth", [1, 2, 7, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 200])
def test_rows_of_any_length(path: str, depth: int) -> None:
    """Batches of 32 rows end before, at and behind the last of them."""
    rng = np.random.default_rng(depth)
    for count in (1, 31, 32, 67):
        q = rng.integers(-128, 128, (count, depth)).astype(np.int8)
        q[::5] = rng.choice([0, -128, 127, 1], (len(q[::5]), 1))
        for bits, to in ((8, INT8), (5, INT8), (16, INT16), (8, INT16)):
            case = Case(l2_normalize, {"q": q}, constants(2.0 ** (1 - bits), bits), {"to": to})
            case.check(Native(path, 2))


@native
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("shape", [(8,), (0, 8), (3, 0), (2, 3, 5, 8)])
def test_rows_of_any_rank(path: str, shape: tuple[int, ...]) -> None:
    q = np.random.default_rng(1).integers(-128, 128, shape).astype(np.int8)
    Case(l2_normalize, {"q": q}, constants(2.0**-7, 8), {"to": INT8}).check(Native(path, 2))


@native
@pytest.mark.parametrize("path", PATHS)
def test_shifts_below_33_need_64_bits(path: str) -> None:
    q = np.random.default_rng(2).integers(-128, 128, (40, 33)).astype(np.int8)
    for e in (1, 20, 32, 33, 34):
        values = {**constants(2.0**-7, 8), "m": np.array(-(2**30) - 5), "e": np.array(e)}
        typed = {name: value.astype(np.int32) for name, value in values.items()}
        Case(l2_normalize, {"q": q}, typed, {"to": INT8}).check(Native(path, 1))


@native
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "n", [2**20, 2**20 + 1, 2**20 - 1, 2**26, 1556245, 6224980, 14006205, 56024820]
)
def test_the_factor_is_exact_where_the_quotient_is_next_to_an_integer(path: str, n: int) -> None:
    """The kernel divides in doubles. The last four n have a factor f with abs(f * f * n - 2^60)
    below 2^9; other numbers of that kind are larger than any row's, or powers of 4.
    """
    row = row_of(n)
    f, q = factor(row), np.array([row], np.int8)
    # Multipliers for which the first code changes between f - 1 and f, then between f and f + 1.
    for boundary, want in ((f - 0.5, -20001), (f + 0.5, -20000)):
        values = requantize_constants(20000.5 / (-row[0] * boundary), 16)
        case = Case(l2_normalize, {"q": q}, values, {"to": INT16})
        assert case.expected[0, 0] == want
        case.check(Native(path, 1))


@native
@pytest.mark.parametrize("path", PATHS)
def test_sums_of_squares_of_a_very_long_row(path: str) -> None:
    """Longer than what 32 bits can add up."""
    q = np.full((2, 2**21 - 1), -128, np.int8)
    q[1, ::3] = 127
    values = constants(2.0**-20, 16)
    Case(l2_normalize, {"q": q}, values, {"to": INT16}).check(Native(path, 1))


@native
def test_what_is_outside_the_contract_is_refused() -> None:
    q, values = np.zeros((3, 8), np.int8), constants(2.0**-7, 8)
    with pytest.raises(InputError, match="'q': expected int8, found int16"):
        make_kernel(l2_normalize, {"q": q.astype(np.int16)}, values)
    with pytest.raises(InputError, match="'to': expected int8 or int16, found int32"):
        make_kernel(l2_normalize, {"q": q}, values, INT32)
    several = {**values, "m": np.full(8, 2**30, np.int32), "e": np.full(8, 50, np.int32)}
    with pytest.raises(InputError, match=r"'m': expected one number, found shape \(8,\)"):
        make_kernel(l2_normalize, {"q": q}, several)
    with pytest.raises(InputError, match="'e': expected shifts from 1 to 62, found 63"):
        make_kernel(l2_normalize, {"q": q}, {**values, "e": np.array(63, np.int32)})
    kernel = make_kernel(l2_normalize, {"q": q}, values)
    for refused in (np.zeros((), np.int8), np.zeros((1, 2**21), np.int8)):
        with pytest.raises(InputError, match="'q': expected rows of at most 2097151 codes"):
            kernel.run({"q": refused})
