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
from mnq.ops.qlinear.op import qlinear, qlinear_add
from mnq.ops.qmatmul.op import qmatmul
from mnq.ops.registry import ATTENTION, GELU, LAYERNORM, SOFTMAX
from mnq.ops.requantize.op import code_range, requantize
from mnq.ops.requantize.op import constants as requantize_constants
from mnq.ops.requantize_add.op import constants as requantize_add_constants
from mnq.ops.requantize_add.op import requantize_add

CASES: dict[str, Callable[[], Case]] = {}

BITS = (8, 6, 4)
HEADS = 3
HEAD_SCALES = np.array([0.003, 0.0625, 3.0], np.float32).reshape(HEADS, 1, 1)
"""Score scales per head, from the finest to the coarsest that is expected."""


def add(name: str, build: Callable[[np.random.Generator], Case]) -> None:
    """Register a case under a new name."""
    assert name not in CASES, name
    CASES[name] = lambda: build(np.random.default_rng(zlib.crc32(name.encode())))


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


def weights(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> Array:
    lo, hi = code_range(bits)
    return rng.integers(lo, hi + 1, shape).astype(np.int8)


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


def scalars() -> None:
    """Requantize and RequantizeAdd."""
    add("Requantize every shift", requantize_every_shift)
    for bits in BITS:
        add(
            f"Requantize {bits} bits per channel",
            lambda rng, bits=bits: Case(
                requantize,
                {"z": any_int32(rng, (1, 197, 192))},
                requantize_constants(signed(rng, 2.0**-31, 0.5, 192), bits),
                {"to": INT8},
            ),
        )
        add(
            f"Requantize {bits} bits per head, from the residual",
            lambda rng, bits=bits: Case(
                requantize,
                {"z": codes(rng, (2, HEADS, 16, 64), 16)},
                requantize_constants(np.reshape([0.5, 0.003, 2.0**-7], (HEADS, 1, 1)), bits),
                {"to": INT8},
            ),
        )
    for bits, to in ((16, INT16), (8, INT8), (6, INT8), (4, INT8)):
        add(
            f"RequantizeAdd {bits} bits",
            lambda rng, bits=bits, to=to: Case(
                requantize_add,
                {"z": any_int32(rng, (1, 197, 192)), "r": codes(rng, (1, 197, 192), 16)},
                requantize_add_constants(signed(rng, 2.0**-24, 2.0**-3, 192), 0.73, bits),
                {"to": to},
            ),
        )


def layer_case(
    rng: np.random.Generator, inner: int, outer: int, bits: int, tokens: int, residual: bool
) -> Case:
    """A linear layer: codes and weights of `bits` bits, int16 residual."""
    x = codes(rng, (1, tokens, inner), bits)
    fixed = {
        "w": weights(rng, (inner, outer), bits),
        "bias": rng.integers(-(2**18), 2**18, outer).astype(np.int32),
    }
    ratios = signed(rng, 2.0**-14, 2.0**-8, outer)
    if not residual:
        return Case(qlinear, {"x": x}, fixed | requantize_constants(ratios, bits), {"to": INT8})
    r = codes(rng, (1, tokens, outer), 16)
    constants = fixed | requantize_add_constants(ratios * 256, 0.9, 16)
    return Case(qlinear_add, {"x": x, "r": r}, constants, {"to": INT16})


def product_case(rng: np.random.Generator, bits: int, bias: Array) -> Case:
    """Scores of three heads, each with its own scale."""
    a, b = codes(rng, (1, HEADS, 197, 64), bits), codes(rng, (1, HEADS, 64, 197), bits)
    ratio = np.reshape([2.0**-11, 0.001, 0.01], (HEADS, 1, 1))
    constants = {"bias": bias, **requantize_constants(ratio, bits)}
    return Case(qmatmul, {"a": a, "b": b}, constants, {"to": INT8})


def products() -> None:
    """QLinear, QLinearAdd and QMatMul."""
    for bits in BITS:
        for residual in (False, True):
            name = f"QLinear{'Add' if residual else ''}"
            add(
                f"{name} {bits} bits 192 to 96",
                lambda rng, bits=bits, residual=residual: layer_case(
                    rng, 192, 96, bits, 50, residual
                ),
            )
    add("QLinear 8 bits 384 to 1536", lambda rng: layer_case(rng, 384, 1536, 8, 197, False))
    add("QLinearAdd 8 bits 1536 to 384", lambda rng: layer_case(rng, 1536, 384, 8, 197, True))
    for bits in BITS:
        add(
            f"QMatMul {bits} bits",
            lambda rng, bits=bits: product_case(rng, bits, np.zeros((), np.int32)),
        )
    add(
        "QMatMul 8 bits with bias and mask",
        lambda rng: product_case(
            rng, 8, rng.choice([0, 500, -(2**24)], (1, HEADS, 197, 197)).astype(np.int32)
        ),
    )


def softmax_case(
    rng: np.random.Generator, method: str, scale: Array | float, bits: int, out_bits: int
) -> Case:
    chosen = SOFTMAX[method]
    to = {"to": INT8 if out_bits <= 8 else INT16} if chosen.operator.attributes else {}
    q = codes(rng, (1, HEADS, 197, 197), bits)
    return Case(chosen.operator, {"q": q}, chosen.constants(np.float32(scale), out_bits), to)


def gelu_case(rng: np.random.Generator, method: str, scale: float, bits: int) -> Case:
    constants = GELU[method].constants(scale, scale * 0.7, bits)
    return Case(GELU[method].operator, {"q": codes(rng, (1, 50, 768), bits)}, constants, {"to": INT8})


def layernorm_case(
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


def nonlinears() -> None:
    """Softmax, GELU and LayerNorm of every method."""
    for method, softmax in SOFTMAX.items():
        name = softmax.operator.name
        for bits in BITS:
            add(
                f"{name} {bits} bits per head",
                lambda rng, m=method, bits=bits: softmax_case(rng, m, HEAD_SCALES, bits, bits),
            )
        for scale in (0.003, 0.05, 3.0):
            add(
                f"{name} 16 bits scale {scale}",
                lambda rng, m=method, scale=scale: softmax_case(rng, m, scale, 8, 16),
            )
    for method, gelu in GELU.items():
        for bits, scale in ((8, 0.03), (8, 0.003), (6, 0.13), (4, 0.5)):
            add(
                f"{gelu.operator.name} {bits} bits scale {scale}",
                lambda rng, m=method, scale=scale, bits=bits: gelu_case(rng, m, scale, bits),
            )
    for method, layernorm in LAYERNORM.items():
        for channels, in_bits, out_bits in (
            (192, 16, 8), (384, 16, 8), (192, 16, 6), (192, 16, 4), (192, 16, 16), (192, 8, 8),
        ):  # fmt: skip
            add(
                f"{layernorm.operator.name} {out_bits} bits C={channels} from {in_bits} bits",
                lambda rng, m=method, c=channels, i=in_bits, o=out_bits: layernorm_case(
                    rng, m, c, i, o
                ),
            )


def attention_case(
    rng: np.random.Generator, method: str, form: str, bits: int, tokens: int, masked: bool
) -> Case:
    """Three heads with a score scale each; `masked` adds a position bias and a mask."""
    shape = (1, HEADS, tokens, 64)
    constants = attention_constants(
        SOFTMAX[method], form, HEAD_SCALES * 0.004, HEAD_SCALES, 0.02, 0.02, bits
    )
    bias = np.zeros((), np.int32)
    if masked:
        bias = rng.choice([0, 700, -(2**24)], (1, HEADS, tokens, tokens)).astype(np.int32)
    q, k, v = (codes(rng, shape, bits) for _ in range(3))
    return Case(
        ATTENTION[method][form], {"q": q, "k": k, "v": v}, {"bias": bias, **constants}
    )


def attentions() -> None:
    """Attention of every method in every form."""
    for method, forms in ATTENTION.items():
        for form, operator in forms.items():
            for bits, tokens, masked in ((8, 197, False), (6, 49, True), (4, 49, False)):
                add(
                    f"{operator.name} {bits} bits {tokens} tokens{' masked' if masked else ''}",
                    lambda rng, m=method, f=form, b=bits, t=tokens, k=masked: attention_case(
                        rng, m, f, b, t, k
                    ),
                )


scalars()
products()
nonlinears()
attentions()
