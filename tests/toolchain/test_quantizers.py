"""Scales and quantizers (spec 0.2, 1.1, 1.2): what rounding a range or a value does."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from toolchain_harness import exact

from mnq.toolchain.quantizers import (
    RANGES,
    activation_scale,
    quantize,
    round_up_to_bf16,
    steps,
    weight_scale,
)

SMALLEST = 2.0**-23  # scale of an all-zero tensor

# bf16 scales over all that calibration can give; 128..255 is the significand with its first bit.
SCALES = st.builds(
    lambda significand, exponent: np.float32(significand * 2.0**exponent),
    st.integers(128, 255),
    st.integers(-30, 20),
)
POSITIVE = st.floats(2.0**-120, 2.0**120, exclude_min=True)


def codes_of(x: ArrayLike, scale: ArrayLike, bits: int) -> NDArray[np.int32]:
    return quantize(torch.from_numpy(np.asarray(x, np.float32)), scale, bits).numpy()


def scale_of(weight: ArrayLike, bits: int, form: str = "ivit") -> NDArray[np.float32]:
    return weight_scale(torch.from_numpy(np.asarray(weight, np.float32)), bits, form)


def significant_bits(x: np.float32) -> int:
    mantissa = int(np.frexp(np.float64(x))[0] * 2**24)
    return 24 - ((mantissa & -mantissa).bit_length() - 1)


@exact
@given(POSITIVE)
def test_bf16_is_the_smallest_with_8_significant_bits_that_is_not_below(scale: float) -> None:
    up = round_up_to_bf16(scale)
    assert up.dtype == np.float32 and significant_bits(np.float32(up)) <= 8
    assert float(up) >= scale
    below = (up.view(np.uint32) - np.uint32(1 << 16)).view(np.float32)  # the next bf16 down
    assert float(below) < scale


@exact
@given(SCALES)
def test_bf16_numbers_are_rounded_to_themselves(scale: np.float32) -> None:
    assert round_up_to_bf16(scale) == scale


def test_rounding_up_sees_what_float32_drops() -> None:
    """A float64 just above a bf16 number is not that number, although its float32 is."""
    assert round_up_to_bf16(1.0 + 2.0**-50) == np.float32(1.0 + 2.0**-7)


def test_rounding_up_crosses_a_power_of_two() -> None:
    assert round_up_to_bf16(2.0 - 2.0**-20) == 2.0
    assert round_up_to_bf16([0.75, 2.0 - 2.0**-20]).tolist() == [0.75, 2.0]


@exact
@given(SCALES)
def test_code_to_float32_to_code_is_exact_for_every_16_bit_code(scale: np.float32) -> None:
    codes = np.arange(-(2**15), 2**15, dtype=np.int32)
    values = codes.astype(np.float32) * scale
    assert np.array_equal(values.astype(np.float64), codes * np.float64(scale))  # no rounding
    assert np.array_equal(codes_of(values, scale, 16), codes)


@pytest.mark.parametrize(("bits", "plain"), [(8, 127), (6, 31), (4, 7), (2, 1), (16, 32767)])
def test_steps_are_those_of_the_two_forms(bits: int, plain: int) -> None:
    assert steps(bits) == steps(bits, "ivit") == plain
    assert steps(bits, "paper") == plain + 0.5  # Eq. 1: S = 2a / (2^b - 1)


@exact
@given(st.floats(2.0**-20, 2.0**20), st.sampled_from([4, 6, 8, 16]), st.sampled_from(RANGES))
def test_activation_scale_is_the_range_over_the_steps_rounded_up(
    largest: float, bits: int, form: str
) -> None:
    scale = float(activation_scale(largest, bits, form))
    exact = max(largest / steps(bits, form), SMALLEST)
    assert exact <= scale <= exact * (1 + 2.0**-7)


@exact
@given(st.floats(2.0**-10, 2.0**20), st.sampled_from([4, 6, 8, 16]))
def test_calibrated_maximum_is_representable(largest: float, bits: int) -> None:
    scale = activation_scale(largest, bits)
    ends = codes_of(np.float32([largest, -largest]), scale, bits)
    assert np.abs(ends).max() <= 2 ** (bits - 1) - 1
    # Half a step, and what float32 rounds of `largest` and of the reciprocal.
    error = np.abs(ends * np.float64(scale) - [largest, -largest])
    assert error.max() <= float(scale) / 2 + largest * 2.0**-22


def test_scale_of_an_all_zero_tensor_is_positive() -> None:
    assert activation_scale(0.0, 8) == SMALLEST
    assert scale_of(np.zeros((2, 3), np.float32), 8).tolist() == [SMALLEST, SMALLEST]


def test_weight_scale_is_per_output_channel_and_float32() -> None:
    weight = np.float32([[1.0, -3.0, 2.0], [0.5, 0.25, -0.125], [0.0, 0.0, 0.0]])
    scale = scale_of(weight, 8)
    assert scale.dtype == np.float32 and scale.shape == (3,)
    assert scale[:2].tolist() == [np.float32(3 / 127), np.float32(0.5 / 127)]
    codes = codes_of(weight, scale[:, None], 8)
    assert codes.tolist() == [[42, -127, 85], [127, 64, -32], [0, 0, 0]]  # 63.5 and 31.75


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_eq_1_of_the_paper_is_finer_and_its_maximum_is_half_a_step_off(bits: int) -> None:
    weight = np.float32([[1.0, -1.0, 0.3]])
    scale = scale_of(weight, bits, "paper")
    assert scale[0] == np.float32(2 / (2**bits - 1))
    codes = codes_of(weight, scale[:, None], bits)
    assert codes[0, 0] == 2 ** (bits - 1) - 1  # 127.5 saturates
    error = np.abs(codes * np.float64(scale[0]) - weight)
    assert error.max() == pytest.approx(scale[0] / 2, rel=1e-4)  # S is float32


def test_ties_go_to_even() -> None:
    halves = np.float32([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5])
    assert codes_of(halves, 1.0, 8).tolist() == [-2, -2, 0, 0, 2, 2, 126]


@pytest.mark.parametrize("bits", [2, 4, 6, 8, 16])
def test_values_outside_saturate_at_every_width(bits: int) -> None:
    lo, hi = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    values = np.float32([-np.inf, -1e30, lo - 0.6, lo, hi, hi + 0.6, 1e30, np.inf])
    found = codes_of(values * np.float32(0.25), 0.25, bits)
    assert found.dtype == np.int32
    assert found.tolist() == [lo, lo, lo, lo, hi, hi, hi, hi]


def test_quantizer_multiplies_by_the_float32_reciprocal() -> None:
    """f32(f32(1/S) * x), computed here from exact float64 products (spec 1.1)."""
    scale = (np.arange(128, 256) * 2.0**-13).astype(np.float32)[:, None]
    x = (np.arange(-300, 300) / 2).astype(np.float32) * scale
    x = np.concatenate([np.nextafter(x, np.float32(-9)), x, np.nextafter(x, np.float32(9))], 1)
    inverse = (1.0 / scale.astype(np.float64)).astype(np.float32)
    product = (x.astype(np.float64) * inverse).astype(np.float32)
    expected = np.clip(np.rint(product), -128, 127)
    assert np.array_equal(codes_of(x, scale, 8), expected)
    divided = np.clip(np.rint(x / scale), -128, 127)
    assert (divided != expected).any()  # as ONNX QuantizeLinear would have it
