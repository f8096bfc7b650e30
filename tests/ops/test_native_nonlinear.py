"""LayerNorm, GELU and softmax kernels where their fast forms end, on every path: the integers of
torch, tolerance zero.

The fast forms lean on bounds (32 bits, 53 bits, an error in float32). These rows and constants lie
on both sides of them.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_harness import Array, Case
from ops_native import PATHS, Native, make_kernel
from ops_strategies import exact, few

from mnq.ops.errors import InputError
from mnq.ops.fqvit_layernorm.op import fqvit_layernorm
from mnq.ops.integer import INT8, INT16
from mnq.ops.ivit_layernorm.op import ivit_layernorm
from mnq.ops.registry import GELU, LAYERNORM, SOFTMAX
from mnq.ops.requantize.op import code_range

pytestmark = pytest.mark.native

seeds = st.integers(0, 2**32 - 1)
channel_counts = st.sampled_from([1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 129, 192, 384, 2048])


@pytest.fixture(params=PATHS)
def backend(request: pytest.FixtureRequest) -> Native:
    return Native(request.param, 2)


def hostile_rows(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> Array:
    """Rows of any deviation and mean: equal, one-hot, extreme, and of powers of two."""
    lo, hi = code_range(bits)
    rows = np.empty((math.prod(shape[:-1]), shape[-1]))
    for row in rows:
        kind = rng.integers(0, 10)
        deviation = 2.0 ** rng.uniform(-2, bits - 1)
        row[:] = rng.normal(size=row.size) * deviation
        row += rng.choice([0.0, rng.normal() * deviation, rng.uniform(lo, hi)])
        if kind == 0:
            row[:] = rng.integers(lo, hi + 1)
        elif kind == 1:
            row[:] = rng.choice([lo, hi], row.size)
        elif kind == 2:
            row[:] = rng.choice([0, lo, hi])
            row[rng.integers(row.size)] += rng.choice([1, -1, lo, hi])
        elif kind == 3:
            row[:] = rng.choice([-1, 1], row.size) * 2 ** rng.integers(0, bits - 1)
        elif kind == 4:
            row[:] = rng.integers(lo, 0, row.size)
    x = np.clip(np.rint(rows), lo, hi).reshape(shape)
    return x.astype(np.int8 if bits == 8 else np.int16)


def hostile_weights(rng: np.random.Generator, channels: int) -> tuple[Array, Array]:
    """Weights close together or orders apart, equal, of powers of two, zero; large biases."""
    weight = 2.0 ** (rng.uniform(-1, 1, channels) * rng.choice([0.01, 1, 4, 15]) - 1)
    kind = rng.integers(0, 5)
    if kind == 0:
        weight = 2.0 ** rng.integers(-6, 4, channels)
    elif kind == 1:
        weight = np.full(channels, rng.choice([1, 0.5, 0.3, 3]))
    weight *= np.where(rng.random(channels) < rng.choice([0, 0.3]), -1, 1)
    weight[rng.random(channels) < rng.choice([0, 0.1])] = 0
    bias = rng.normal(size=channels) * rng.choice([0, 0.1, 2])
    bias[rng.random(channels) < rng.choice([0, 0.1])] *= 1000
    return weight, bias


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", LAYERNORM)
@given(seed=seeds, channels=channel_counts)
@exact
def test_layernorm_of_hostile_rows(method: str, path: str, seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    bits, out_bits = rng.choice([8, 16]), rng.choice([4, 6, 8, 8, 16])
    weight, bias = hostile_weights(rng, channels)
    out_scale = 2.0 ** rng.uniform(-7, 0)
    constants = LAYERNORM[method].constants(weight, bias, out_scale, int(out_bits))
    q = hostile_rows(rng, (int(rng.integers(1, 35)), channels), int(bits))
    to = {"to": INT8 if out_bits <= 8 else INT16}
    Case(LAYERNORM[method].operator, {"q": q}, constants, to).check(Native(path, 1))


@pytest.mark.parametrize("path", PATHS)
@given(seed=seeds, channels=channel_counts)
@few
def test_layernorm_with_any_multiplier_and_shift(path: str, seed: int, channels: int) -> None:
    """Biases up to 51 bits, and shifts below 33 among others: some columns need 64 bits."""
    rng = np.random.default_rng(seed)
    bq = rng.integers(-(2**62), 2**62, channels) >> rng.integers(11, 62, channels)
    spare = np.maximum(np.ceil(np.log2(np.abs(bq) + 2.0**30)) - 31, 0).astype(np.int64)
    m = (rng.integers(2**30, 2**31, channels) >> spare) * rng.choice([1, -1, 0], channels)
    constants: dict[str, Array] = {
        "bq": bq,
        "m": m.astype(np.int32),
        "e": rng.integers(rng.choice([1, 30, 33]), 63, channels).astype(np.int32),
        "lo": np.array(-100, np.int32),
        "hi": np.array(77, np.int32),
    }
    q = hostile_rows(rng, (7, channels), 16)
    Case(ivit_layernorm, {"q": q}, constants, {"to": INT8}).check(Native(path, 1))


def next_to_boundaries(rng: np.random.Generator, row: list[int]) -> dict[str, Array]:
    """Constants of FqVitLayerNorm for which many multipliers A of this row are next to a change of
    their 8 bits, and many codes next to a tie.
    """
    total, channels = sum(row), len(row)
    variance = channels * sum(x * x for x in row) - total * total
    h = (62 - variance.bit_length()) // 2
    root, p = math.isqrt(variance << 2 * h), int(rng.integers(5, 40))
    w = h - p - 31
    mant, bq = [], []
    for x in row:
        size = (int(rng.integers(128, 257)) << int(rng.integers(12, 24))) * root >> 31
        size = min(max(size + int(rng.integers(-1, 3)), 0), 2**31 - 1)
        sign = int(rng.choice([1, -1]))
        a = (size << 31) // root
        n = min(max(8 - a.bit_length() - w, 0), 31)
        multiplier = min(a << n + w if n + w >= 0 else a >> -n - w, 255)
        value = sign * (multiplier * x / 2**n - total * a * 2.0**w / channels)
        tie = int(rng.integers(-140, 140)) + 0.5
        step = max(2.0 ** (19 - n + int(rng.integers(-9, 2))), 1)
        bias = round((tie - value) * 2**20) + int(rng.integers(-3, 4)) * int(step)
        mant.append(sign * size)
        bq.append(bias if abs(bias) < 2**43 else 0)
    return {
        "mant": np.array(mant, np.int32),
        "p": np.array(p, np.int32),
        "bq": np.array(bq, np.int64),
        "lo": np.array(-128, np.int32),
        "hi": np.array(127, np.int32),
    }


@pytest.mark.parametrize("path", PATHS)
@given(seed=seeds, channels=st.sampled_from([16, 33, 100, 192]), bits=st.sampled_from([8, 16]))
@exact
def test_fqvit_layernorm_next_to_its_boundaries(
    path: str, seed: int, channels: int, bits: int
) -> None:
    rng = np.random.default_rng(seed)
    deviation = 2.0 ** rng.uniform(1, bits - 2)
    lo, hi = code_range(bits)
    q = np.rint(rng.normal(size=(2, channels)) * deviation + rng.normal() * deviation)
    q = np.clip(q, lo, hi).astype(np.int8 if bits == 8 else np.int16)
    q[0, 0] += 1 if (q[0] == q[0, 0]).all() else 0
    constants = next_to_boundaries(rng, [int(x) for x in q[0]])
    Case(fqvit_layernorm, {"q": q}, constants, {"to": INT8}).check(Native(path, 1))


@pytest.mark.parametrize("shift", [0, 1, 5])
def test_ibert_layernorm_with_roots_that_are_powers_of_two(backend: Native, shift: int) -> None:
    """F * d reaches 2^31 in the first of them, one more than 32 bits hold."""
    q = np.zeros((60, 64), np.int16)
    for i, row in enumerate(q):  # 1, 4, 16 or 64 codes of +-2^k
        row[: 4 ** (i % 4)] = 2 ** (i // 4)
        row[1 : 4 ** (i % 4) : 2] *= -1
    method = LAYERNORM["ibert"]
    constants = method.constants(np.ones(64), np.linspace(-1, 1, 64), 0.03, 8)
    constants["shift"] = np.array(shift, np.int32)
    Case(method.operator, {"q": q}, constants, {"to": INT8}).check(backend)


@pytest.mark.parametrize("method", ["ivit", "ibert"])
def test_layernorm_of_a_very_long_row(backend: Native, method: str) -> None:
    """Longer than what 32-bit lanes can add up."""
    channels = 600_001
    q = np.full((3, channels), -(2**15), np.int16)
    q[1, ::3], q[2] = 2**15 - 1, 2**15 - 1
    constants = LAYERNORM[method].constants(np.ones(channels), np.zeros(channels), 0.03, 8)
    Case(LAYERNORM[method].operator, {"q": q}, constants, {"to": INT8}).check(backend)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", GELU)
@given(seed=seeds, length=st.sampled_from([1, 31, 64, 65, 129, 200]))
@few
def test_gelu_of_hostile_rows(method: str, path: str, seed: int, length: int) -> None:
    """Rows without a positive code among them, where IVitGelu's exponential grows past 31 bits."""
    rng = np.random.default_rng(seed)
    scale = 2.0 ** rng.uniform(-8, 1)
    bits = int(rng.choice([4, 8, 16])) if method != "lut" else 8
    constants = GELU[method].constants(scale, scale * 2.0 ** rng.uniform(-6, 2), bits)
    to = INT16 if bits == 16 or rng.random() < 0.3 else INT8
    q = hostile_rows(rng, (5, length), 8)
    Case(GELU[method].operator, {"q": q}, constants, {"to": to}).check(Native(path, 1))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", SOFTMAX)
@given(seed=seeds, keys=st.sampled_from([1, 2, 31, 64, 65, 200, 1500]))
@few
def test_softmax_of_hostile_rows(method: str, path: str, seed: int, keys: int) -> None:
    """1500 keys: every score that 8 bits have is in some rows."""
    rng = np.random.default_rng(seed)
    heads = int(rng.integers(1, 4))
    scale = 2.0 ** rng.uniform(-7, 1, (heads, 1, 1) if rng.random() < 0.5 else ())
    bits = int(rng.choice([6, 8, 16]))
    constants = SOFTMAX[method].constants(scale.astype(np.float32), bits)
    operator = SOFTMAX[method].operator
    to = {"to": INT16 if bits == 16 else INT8} if operator.attributes else {}
    q = hostile_rows(rng, (2, heads, 3, keys), 8)
    q[0, 0, 0] = rng.integers(-128, 128, keys)
    Case(operator, {"q": q}, constants, to).check(Native(path, 1))


def test_constants_outside_the_contract_are_refused() -> None:
    q = np.zeros((2, 3, 5, 8), np.int8)
    lut = SOFTMAX["lut"].constants(np.float32(0.1), 8)
    with pytest.raises(InputError, match="'base': expected numbers from 0 to 0, found 1"):
        make_kernel(SOFTMAX["lut"].operator, {"q": q}, {**lut, "base": np.array(1, np.int32)})
    heads = SOFTMAX["ivit"].constants(np.full((4, 1, 1), 0.1, np.float32), 8)
    with pytest.raises(InputError, match="expected 4 heads on the third axis from the end"):
        make_kernel(SOFTMAX["ivit"].operator, {"q": q}, heads).run({"q": q})
    gelu = GELU["ivit"].constants(0.1, 0.1, 8)
    with pytest.raises(InputError, match="'x0': expected a number from -65535 to -1, found 0"):
        make_kernel(GELU["ivit"].operator, {"q": q}, {**gelu, "x0": np.array(0, np.int32)})
    norm = LAYERNORM["fqvit"].constants(np.ones(4096), np.zeros(4096), 0.1, 8)
    wide = np.zeros((1, 4096), np.int16)
    with pytest.raises(InputError, match="at most 2048 channels of int16 codes, found 4096"):
        make_kernel(fqvit_layernorm, {"q": wide}, norm)
    norm = LAYERNORM["ivit"].constants(np.ones(8), np.zeros(8), 0.1, 8)
    with pytest.raises(InputError, match="expected rows of 8 as in 'bq'"):
        make_kernel(ivit_layernorm, {"q": q[..., 1:]}, norm)
