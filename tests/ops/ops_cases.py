"""Inputs for every operator: realistic shapes and constants, edge rows, 8, 6 and 4 bits.

`CASES` maps a name to a function that builds the case; names begin with the operator's name.
Data depend on the name alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from ops_harness import Array, Case

from mnq.ops.attention.op import constants as attention_constants
from mnq.ops.integer import INT8, INT16
from mnq.ops.l2_normalize.op import constants as l2_normalize_constants
from mnq.ops.l2_normalize.op import l2_normalize
from mnq.ops.mean_tokens.op import constants as mean_tokens_constants
from mnq.ops.mean_tokens.op import mean_tokens
from mnq.ops.patches.op import constants as patches_constants
from mnq.ops.patches.op import patches
from mnq.ops.qlinear.op import qlinear, qlinear_add
from mnq.ops.qlinear_lut.op import qlinear_lut
from mnq.ops.qmatmul.op import qmatmul
from mnq.ops.registry import (
    ATTENTION,
    GELU,
    LAYERNORM,
    PACKED_ATTENTION,
    SOFTMAX,
    WINDOW_ATTENTION,
)
from mnq.ops.requantize.op import code_range, requantize
from mnq.ops.requantize.op import constants as requantize_constants
from mnq.ops.requantize_add.op import constants as requantize_add_constants
from mnq.ops.requantize_add.op import requantize_add

CASES: dict[str, Callable[[], Case]] = {}

BITS = (8, 6, 4)
HEADS = 3
HEAD_SCALES = np.array([0.003, 0.0625, 3.0], np.float32).reshape(HEADS, 1, 1)
"""Score scales per head, from the finest to the coarsest that is expected."""


def add(name: str, build: Callable[..., Case], *arguments: object) -> None:
    """Register `build(rng, *arguments)` under a new name."""
    assert name not in CASES, name
    CASES[name] = lambda: build(np.random.default_rng(zlib.crc32(name.encode())), *arguments)


def codes(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> Array:
    """Codes as activations have them, a few rows replaced by all-equal and extreme ones."""
    lo, hi = code_range(bits)
    spread = rng.choice([0.05, 0.2, 0.6], (*shape[:-1], 1)) * hi
    x = np.clip(np.rint(rng.normal(size=shape) * spread), lo, hi)
    rows = x.reshape(-1, shape[-1])
    if len(rows) > 8:
        rows[0], rows[1], rows[2], rows[3] = 0, lo, hi, lo
        rows[3, 0] = hi
        rows[4] = rng.choice([lo, hi], shape[-1])
        rows[5] = rng.integers(lo, 0, shape[-1])
        rows[6] = hi
        rows[6, 1:] = hi - 1
        rows[7] = np.arange(shape[-1]) % 2
    return x.astype(np.int8 if bits <= 8 else np.int16)


def any_int32(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Integers over all of int32, both ends included, uniform in the number of bits."""
    z = rng.integers(-(2**31), 2**31, shape) >> rng.integers(0, 31, shape)
    flat = z.reshape(-1)
    flat[:4] = -(2**31), 2**31 - 1, 0, -1
    return z.astype(np.int32)


def signed(rng: np.random.Generator, low: float, high: float, count: int) -> Array:
    """Numbers uniform in the exponent, one in ten negative."""
    sizes = 2.0 ** rng.uniform(np.log2(low), np.log2(high), count)
    return sizes * np.where(rng.random(count) < 0.1, -1, 1)


def requantize_every_shift(rng: np.random.Generator) -> Case:
    """m of both signs over its range, and e from 1 to 62, per channel."""
    m = rng.integers(2**30, 2**31, 62) * rng.choice([1, -1], 62)
    m[:2] = 2**30, -(2**31) + 1
    constants = requantize_constants(1.0, 16) | {
        "m": m.astype(np.int32),
        "e": np.arange(1, 63, dtype=np.int32),
    }
    return Case(requantize, {"z": any_int32(rng, (2, 197, 62))}, constants, {"to": INT16})


def requantize_per_channel(rng: np.random.Generator, bits: int) -> Case:
    """All of int32, ratios over the range that keeps something of it."""
    z = any_int32(rng, (1, 197, 192))
    constants = requantize_constants(signed(rng, 2.0**-31, 0.5, 192), bits)
    return Case(requantize, {"z": z}, constants, {"to": INT8})


def requantize_per_head(rng: np.random.Generator, bits: int) -> Case:
    """16-bit codes, ratios of which two are dyadic."""
    z = codes(rng, (2, HEADS, 16, 64), 16)
    ratios = np.reshape([0.5, 0.003, 2.0**-7], (HEADS, 1, 1))
    return Case(requantize, {"z": z}, requantize_constants(ratios, bits), {"to": INT8})


def requantize_sum(rng: np.random.Generator, bits: int) -> Case:
    """int32 accumulators and a 16-bit residual."""
    operands = {"z": any_int32(rng, (1, 197, 192)), "r": codes(rng, (1, 197, 192), 16)}
    constants = requantize_add_constants(signed(rng, 2.0**-24, 2.0**-3, 192), 0.73, bits)
    return Case(requantize_add, operands, constants, {"to": INT8 if bits <= 8 else INT16})


def layer(
    rng: np.random.Generator, inner: int, outer: int, bits: int, tokens: int, residual: bool
) -> Case:
    """A linear layer: codes and weights of `bits` bits, int16 residual."""
    lo, hi = code_range(bits)
    x = codes(rng, (1, tokens, inner), bits)
    bias = rng.integers(-(2 ** (2 * bits + 2)), 2 ** (2 * bits + 2), outer)
    fixed: dict[str, Array] = {
        "w": rng.integers(lo, hi + 1, (inner, outer)).astype(np.int8),
        "bias": bias.astype(np.int32),
    }
    ratios = signed(rng, 2.0**-14, 2.0**-8, outer) * 2 ** (8 - bits)
    if not residual:
        return Case(qlinear, {"x": x}, fixed | requantize_constants(ratios, bits), {"to": INT8})
    r = codes(rng, (1, tokens, outer), 16)
    constants = fixed | requantize_add_constants(ratios * 2**bits, 0.9, 16)
    return Case(qlinear_add, {"x": x, "r": r}, constants, {"to": INT16})


def looked_up(rng: np.random.Generator, inner: int, outer: int, bits: int, tokens: int) -> Case:
    """The same layer without a residual, and a GELU of its codes."""
    case = layer(rng, inner, outer, bits, tokens, False)
    scale = 0.03 * 2 ** (8 - bits)
    table = GELU["lut"].constants(scale, scale * 0.7, bits)
    return Case(qlinear_lut, case.activations, {**case.constants, **table})


def product(rng: np.random.Generator, bits: int, masked: bool) -> Case:
    """Scores of three heads, each with its own scale; `masked` adds a position bias and a mask."""
    a, b = codes(rng, (1, HEADS, 197, 64), bits), codes(rng, (1, HEADS, 64, 197), bits)
    ratio = np.reshape([2.0**-11, 0.001, 0.01], (HEADS, 1, 1)) * 2 ** (8 - bits)
    constants = {"bias": score_bias(rng, 197, masked), **requantize_constants(ratio, bits)}
    return Case(qmatmul, {"a": a, "b": b}, constants, {"to": INT8})


def score_bias(rng: np.random.Generator, tokens: int, masked: bool) -> Array:
    if not masked:
        return np.zeros((), np.int32)
    return rng.choice([0, 700, -(2**24)], (1, HEADS, tokens, tokens)).astype(np.int32)


def softmax(
    rng: np.random.Generator, method: str, scale: Array, bits: int, out_bits: int, keys: int
) -> Case:
    """Scores of three heads, `keys` long; `scale` is one number or one per head."""
    operator, constants = SOFTMAX[method].operator, SOFTMAX[method].constants(scale, out_bits)
    to = {"to": INT8 if out_bits <= 8 else INT16} if operator.attributes else {}
    return Case(operator, {"q": codes(rng, (1, HEADS, keys, keys), bits)}, constants, to)


def gelu(rng: np.random.Generator, method: str, bits: int, scale: float) -> Case:
    constants = GELU[method].constants(scale, scale * 0.7, bits)
    q = codes(rng, (1, 50, 768), bits)
    return Case(GELU[method].operator, {"q": q}, constants, {"to": INT8})


def layernorm(
    rng: np.random.Generator, method: str, channels: int, in_bits: int, out_bits: int
) -> Case:
    """Weights of both signs, some zero or next to it, biases up to 1000 times the weight."""
    weight = signed(rng, 0.01, 3.0, channels)
    weight[:4] = 0.0, 1e-30, 1e-3, -1e-3
    bias = rng.normal(size=channels)
    bias[:5] = 1.0, -1.0, 1.0, 1.0, 1000 * weight[4]
    constants = LAYERNORM[method].constants(weight, bias, 0.03, out_bits)
    to = {"to": INT8 if out_bits <= 8 else INT16}
    q = codes(rng, (1, 197, channels), in_bits)
    return Case(LAYERNORM[method].operator, {"q": q}, constants, to)


def attention(
    rng: np.random.Generator, method: str, form: str, bits: int, tokens: int, masked: bool
) -> Case:
    """Three heads with a score scale each; `masked` adds a position bias and a mask."""
    score_ratio = 0.004 * 2 ** (8 - bits)
    constants = attention_constants(
        SOFTMAX[method], form, HEAD_SCALES * score_ratio, HEAD_SCALES, 0.02, 0.004, bits
    )
    qkv = {name: codes(rng, (1, HEADS, tokens, 64), bits) for name in ("q", "k", "v")}
    bias = {"bias": score_bias(rng, tokens, masked)}
    return Case(ATTENTION[method][form], qkv, bias | constants)


def packed_attention(
    rng: np.random.Generator, method: str, form: str, bits: int, tokens: int, masked: bool
) -> Case:
    """The same for two images, their queries, keys and values side by side."""
    constants = attention(rng, method, form, bits, tokens, masked).constants
    qkv = {"qkv": codes(rng, (2, tokens, 3, HEADS, 64), bits)}
    return Case(PACKED_ATTENTION[ATTENTION[method][form].name], qkv, constants)


def window_maps(
    rng: np.random.Generator, windows: int, places: int, kinds: int
) -> dict[str, Array]:
    """`kind`, `order` and `inverse` for tokens in any order."""
    order = rng.permutation(windows * places).reshape(windows, places)
    kind = rng.integers(0, kinds, windows)
    return {"kind": kind, "order": order, "inverse": np.argsort(order.reshape(-1))}


def window_attention(
    rng: np.random.Generator, method: str, form: str, bits: int, shape: tuple[int, int], kinds: int
) -> Case:
    """Two images in `shape` (windows, places); `kinds` > 1: so many position biases with masks."""
    constants = attention(rng, method, form, bits, 1, False).constants
    windows, places = shape
    bias = np.zeros((1, 1, 1, 1), np.int32)
    if kinds > 1:
        bias = rng.choice([0, 700, -(2**24)], (kinds, HEADS, places, places)).astype(np.int32)
    qkv = {"qkv": codes(rng, (2, windows * places, 3, HEADS, 32), bits)}
    operator = WINDOW_ATTENTION[ATTENTION[method][form].name]
    maps = window_maps(rng, windows, places, kinds)
    return Case(operator, qkv, {**constants, "bias": bias, **maps})


def cut(rng: np.random.Generator, bits: int, pixels: bool, patch: tuple[int, int]) -> Case:
    """Two images of three channels, as pixels or as codes of `bits` bits."""
    x = codes(rng, (2, 3, 48, 32), bits)
    if pixels:
        x = (x.astype(np.int16) + 128).astype(np.uint8)
    constants = patches_constants(128 if pixels else 0, (3, 48, 32), patch)
    return Case(patches, {"x": x}, constants)


def unit_rows(rng: np.random.Generator, bits: int, out_bits: int) -> Case:
    """Queries of three heads; the codes of the longest entries saturate, and one row is zero."""
    constants = l2_normalize_constants(0.9 * 2.0 ** (1 - out_bits), out_bits)
    to = {"to": INT8 if out_bits <= 8 else INT16}
    return Case(l2_normalize, {"q": codes(rng, (2, HEADS, 49, 32), bits)}, constants, to)


def mean(rng: np.random.Generator, in_bits: int, out_bits: int) -> Case:
    """Two images of 49 tokens, the means' scale a sixth of the tokens'."""
    q = codes(rng, (2, 49, 96), in_bits)
    constants = mean_tokens_constants(6.0 * 2.0 ** (out_bits - in_bits), 49, out_bits)
    return Case(mean_tokens, {"q": q}, constants, {"to": INT8 if out_bits <= 8 else INT16})


add("Requantize every shift", requantize_every_shift)
add("RequantizeAdd 16 bits", requantize_sum, 16)
for bits in BITS:
    add(f"Requantize {bits} bits per channel", requantize_per_channel, bits)
    add(f"Requantize {bits} bits per head", requantize_per_head, bits)
    add(f"RequantizeAdd {bits} bits", requantize_sum, bits)
    add(f"QLinear {bits} bits 192 to 96", layer, 192, 96, bits, 50, False)
    add(f"QLinearAdd {bits} bits 192 to 96", layer, 192, 96, bits, 50, True)
    add(f"QLinearLut {bits} bits 192 to 96", looked_up, 192, 96, bits, 50)
    add(f"QMatMul {bits} bits", product, bits, False)
add("QLinear 8 bits 384 to 1536", layer, 384, 1536, 8, 197, False)
add("QLinearAdd 8 bits 1536 to 384", layer, 1536, 384, 8, 197, True)
add("QLinearLut 8 bits 384 to 1536", looked_up, 384, 1536, 8, 197)
add("QMatMul 8 bits masked", product, 8, True)

for method in SOFTMAX:
    name = SOFTMAX[method].operator.name
    for bits, keys in zip(BITS, (197, 32, 8), strict=True):  # few bits tell few keys apart
        add(f"{name} {bits} bits per head", softmax, method, HEAD_SCALES, bits, bits, keys)
    for scale in (0.003, 0.05, 3.0):
        add(f"{name} 16 bits scale {scale}", softmax, method, np.float32(scale), 8, 16, 197)
    for form, operator in ATTENTION[method].items():
        for bits, tokens, masked in ((8, 197, False), (6, 49, True), (4, 16, False)):
            also = " masked" if masked else ""
            name = f"{operator.name} {bits} bits {tokens} tokens{also}"
            add(name, attention, method, form, bits, tokens, masked)
        operator = PACKED_ATTENTION[operator.name]
        for bits, tokens, masked in ((8, 65, False), (6, 17, True), (4, 16, False)):
            also = " masked" if masked else ""
            name = f"{operator.name} {bits} bits {tokens} tokens{also}"
            add(name, packed_attention, method, form, bits, tokens, masked)
        operator = WINDOW_ATTENTION[ATTENTION[method][form].name]
        for bits, shape, kinds in ((8, (4, 49), 3), (6, (6, 4), 2), (4, (2, 16), 1)):
            name = f"{operator.name} {bits} bits {shape[0]} windows of {shape[1]}"
            add(name, window_attention, method, form, bits, shape, kinds)
add("Patches 8 bits pixels", cut, 8, True, (16, 16))
add("Patches 6 bits", cut, 6, False, (8, 8))
add("Patches 4 bits wide", cut, 4, False, (4, 32))
for bits in BITS:
    add(f"L2Normalize {bits} bits", unit_rows, bits, bits)
    add(f"MeanTokens {bits} bits", mean, bits, bits)
add("L2Normalize 16 bits from 8 bits", unit_rows, 8, 16)
add("MeanTokens 8 bits from 16 bits", mean, 16, 8)
add("MeanTokens 16 bits from 16 bits", mean, 16, 16)
for method in GELU:
    for bits, scale in ((8, 0.03), (8, 0.003), (6, 0.13), (4, 0.5)):
        name = f"{GELU[method].operator.name} {bits} bits scale {scale}"
        add(name, gelu, method, bits, scale)
for method in LAYERNORM:
    for channels, bits, out_bits in (
        (192, 16, 8), (384, 16, 8), (192, 16, 6), (192, 16, 4), (192, 16, 16), (192, 8, 8),
    ):  # fmt: skip
        name = f"{LAYERNORM[method].operator.name} {out_bits} bits C={channels} from {bits} bits"
        add(name, layernorm, method, channels, bits, out_bits)
