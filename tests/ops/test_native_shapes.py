"""Shapes that no model of the zoo has, on every path: the integers of torch, tolerance zero.

Blocks of rows, panels of columns and tiles end somewhere: these shapes end on both sides of each.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_cases import attention, codes, layer, score_bias, signed, window_maps
from ops_harness import Case
from ops_native import PATHS, Native
from ops_strategies import few

from mnq.ops.attention.op import constants as attention_constants
from mnq.ops.integer import INT8, INT16, INT32
from mnq.ops.qlinear.op import qlinear
from mnq.ops.qmatmul.op import qmatmul
from mnq.ops.registry import (
    ATTENTION,
    GELU,
    LAYERNORM,
    PACKED_ATTENTION,
    SOFTMAX,
    WINDOW_ATTENTION,
)
from mnq.ops.requantize.op import constants as requantize_constants
from mnq.ops.requantize.op import requantize

pytestmark = pytest.mark.native

EDGES = (1, 2, 3, 4, 5, 13, 15, 16, 17, 31, 33, 47, 48, 63, 64, 65)
"""Lengths around every block size: 4, 6, 12 and 16 rows, 16 and 32 columns, 64 codes."""


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(params=PATHS)
def backend(request: pytest.FixtureRequest) -> Native:
    return Native(request.param, 2)


def head(
    rng: np.random.Generator,
    shape: tuple[int, int, int, int],
    method: str = "lut",
    form: str = "deferred",
    masked: bool = False,
) -> Case:
    """Packed attention on qkv of `shape` (B, N, H, d)."""
    batch, tokens, heads, depth = shape
    operator = PACKED_ATTENTION[ATTENTION[method][form].name]
    scale = np.float32(0.06)
    constants = attention_constants(SOFTMAX[method], form, 0.0002, scale, 0.02, 0.01, 8)
    bias = np.zeros((), np.int32)
    if masked:
        bias = np.where(rng.random((1, heads, tokens, tokens)) < 0.3, -(2**24), 40).astype(np.int32)
    qkv = codes(rng, (batch, tokens, 3, heads, depth), 8)
    return Case(operator, {"qkv": qkv}, {"bias": bias, **constants})


@pytest.mark.parametrize("inner", EDGES)
def test_layer_of_any_inner_length(rng: np.random.Generator, backend: Native, inner: int) -> None:
    layer(rng, inner, 40, 8, 37, False).check(backend)


@pytest.mark.parametrize("outer", EDGES)
def test_layer_of_any_outer_length(rng: np.random.Generator, backend: Native, outer: int) -> None:
    layer(rng, 70, outer + 5, 8, 21, True).check(backend)


@pytest.mark.parametrize("tokens", (*EDGES, 255, 256, 257, 289, 519))
def test_layer_of_any_number_of_rows(
    rng: np.random.Generator, backend: Native, tokens: int
) -> None:
    layer(rng, 64, 48, 8, tokens, True).check(backend)


def test_layer_with_int32_output_and_one_scale(rng: np.random.Generator, backend: Native) -> None:
    """A head: accumulators of all classes at one scale."""
    case = layer(rng, 96, 101, 8, 1, False)
    wide = requantize_constants(0.75, 31)
    Case(qlinear, case.activations, {**case.constants, **wide}, {"to": INT32}).check(backend)


@pytest.mark.parametrize("ratio", [0.49, 0.25, 0.2, 2.0**-20, 2.0**-31])
def test_layer_at_either_side_of_the_high_word_form(
    rng: np.random.Generator, backend: Native, ratio: float
) -> None:
    case = layer(rng, 20, 24, 8, 9, False)
    constants = {**case.constants, **requantize_constants(np.full(24, ratio), 16)}
    Case(qlinear, case.activations, constants, {"to": INT16}).check(backend)


@pytest.mark.parametrize("tokens", (*EDGES, 1030))
def test_attention_of_any_number_of_tokens(
    rng: np.random.Generator, backend: Native, tokens: int
) -> None:
    head(rng, (1, tokens, 2, 16)).check(backend)


@pytest.mark.parametrize("depth", EDGES)
@pytest.mark.parametrize("form", ["deferred", "normalized"])
def test_attention_of_any_depth(
    rng: np.random.Generator, backend: Native, depth: int, form: str
) -> None:
    head(rng, (2, 19, 1, depth), "ibert", form).check(backend)


@pytest.mark.parametrize("method", SOFTMAX)
@pytest.mark.parametrize("form", ["deferred", "normalized"])
def test_attention_with_a_mask_and_odd_lengths(
    rng: np.random.Generator, backend: Native, method: str, form: str
) -> None:
    head(rng, (2, 67, 3, 20), method, form, masked=True).check(backend)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 130), (5, 3), (33, 17), (49, 200)])
def test_attention_with_other_keys_than_queries(
    rng: np.random.Generator, backend: Native, queries: int, keys: int
) -> None:
    case = attention(rng, "ivit", "deferred", 8, max(queries, keys), False)
    q, k, v = (case.activations[name] for name in "qkv")
    cut = {"q": q[:, :, :queries], "k": k[:, :, :keys], "v": v[:, :, :keys]}
    Case(case.operator, {n: x.copy() for n, x in cut.items()}, case.constants).check(backend)


@pytest.mark.parametrize(
    ("windows", "places", "heads", "depth"),
    [(1, 1, 1, 1), (1, 70, 3, 20), (5, 1, 3, 64), (3, 49, 6, 32), (2, 64, 5, 31), (2, 16, 3, 130)],
)
def test_attention_in_windows(
    rng: np.random.Generator, backend: Native, windows: int, places: int, heads: int, depth: int
) -> None:
    """Heads that are copied together, a last group of fewer, and one head of more bytes."""
    constants = head(rng, (1, 1, heads, 1)).constants
    masked = rng.random((2, heads, places, places)) < 0.3
    bias = {"bias": np.where(masked, -(2**24), 40).astype(np.int32)}
    maps = window_maps(rng, windows, places, 2)
    qkv = {"qkv": codes(rng, (2, windows * places, 3, heads, depth), 8)}
    operator = WINDOW_ATTENTION["LutAttention"]
    Case(operator, qkv, {**constants, **bias, **maps}).check(backend)


@pytest.mark.parametrize("shape", [(2, 1, 9, 9), (2, 3, 1, 9), (2, 1, 9, 1), (2, 1, 1, 1)])
def test_window_attention_with_a_bias_that_broadcasts(
    rng: np.random.Generator, backend: Native, shape: tuple[int, ...]
) -> None:
    constants = head(rng, (1, 1, 3, 1)).constants
    bias = {"bias": rng.integers(-900, 900, shape).astype(np.int32)}
    qkv = {"qkv": codes(rng, (1, 18, 3, 3, 8), 8)}
    maps = window_maps(rng, 2, 9, 2)
    Case(WINDOW_ATTENTION["LutAttention"], qkv, {**constants, **bias, **maps}).check(backend)


@given(few_scales=st.floats(0.003, 3.0), seed=st.integers(0, 2**32 - 1), tokens=st.integers(1, 80))
@few
@pytest.mark.parametrize("path", PATHS)
def test_log2_attention_at_any_scale(path: str, few_scales: float, seed: int, tokens: int) -> None:
    """Thresholds of row sums in place of divisions, exponentials that may not fall everywhere."""
    rng = np.random.default_rng(seed)
    scale = np.float32(few_scales)
    for form in ("deferred", "normalized"):
        operator = PACKED_ATTENTION[ATTENTION["fqvit"][form].name]
        constants = attention_constants(SOFTMAX["fqvit"], form, scale * 0.01, scale, 0.02, 0.01, 8)
        qkv = rng.integers(-128, 128, (1, tokens, 3, 1, 8)).astype(np.int8)
        case = Case(operator, {"qkv": qkv}, {"bias": np.zeros((), np.int32), **constants})
        case.check(Native(path, 1))


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_product_of_any_rank(rng: np.random.Generator, backend: Native, rank: int) -> None:
    leading = (2, 3, 2)[: rank - 2]
    a, b = codes(rng, (*leading, 21, 10), 8), codes(rng, (*leading, 10, 35), 8)
    constants = {"bias": rng.integers(-500, 500, 35), **requantize_constants(0.003, 8)}
    constants["bias"] = constants["bias"].astype(np.int32)
    Case(qmatmul, {"a": a, "b": b}, constants, {"to": INT8}).check(backend)


def test_product_with_a_bias_for_every_element(rng: np.random.Generator, backend: Native) -> None:
    a, b = codes(rng, (1, 3, 19, 8), 8), codes(rng, (1, 3, 8, 19), 8)
    ratio = signed(rng, 0.001, 0.01, 3).reshape(3, 1, 1)
    constants = {"bias": score_bias(rng, 19, True), **requantize_constants(ratio, 8)}
    Case(qmatmul, {"a": a, "b": b}, constants, {"to": INT8}).check(backend)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 1), (2, 3, 600), (5, 0)])
def test_requantize_of_any_shape(
    rng: np.random.Generator, backend: Native, shape: tuple[int, ...]
) -> None:
    z = rng.integers(-(2**31), 2**31, shape).astype(np.int32)
    Case(requantize, {"z": z}, requantize_constants(2.0**-25, 8), {"to": INT8}).check(backend)


@pytest.mark.parametrize("method", GELU)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 7, 65), (70, 129)])
def test_gelu_of_any_shape(
    rng: np.random.Generator, backend: Native, method: str, shape: tuple[int, ...]
) -> None:
    constants = GELU[method].constants(0.05, 0.04, 8)
    q = rng.integers(-128, 128, shape).astype(np.int8)
    Case(GELU[method].operator, {"q": q}, constants, {"to": INT8}).check(backend)


@pytest.mark.parametrize("method", LAYERNORM)
@pytest.mark.parametrize("channels", EDGES)
def test_layernorm_of_any_length(
    rng: np.random.Generator, backend: Native, method: str, channels: int
) -> None:
    weight, bias = signed(rng, 0.01, 3.0, channels), rng.normal(size=channels)
    constants = LAYERNORM[method].constants(weight, bias, 0.03, 8)
    q = codes(rng, (2, 9, channels), 16)
    Case(LAYERNORM[method].operator, {"q": q}, constants, {"to": INT8}).check(backend)


@pytest.mark.parametrize("method", SOFTMAX)
@pytest.mark.parametrize("keys", (*EDGES, 1030))
def test_softmax_of_any_length(
    rng: np.random.Generator, backend: Native, method: str, keys: int
) -> None:
    operator, constants = SOFTMAX[method].operator, SOFTMAX[method].constants(np.float32(0.1), 8)
    q = codes(rng, (1, 2, 5, keys), 8)
    to = {"to": INT8} if operator.attributes else {}
    Case(operator, {"q": q}, constants, to).check(backend)
